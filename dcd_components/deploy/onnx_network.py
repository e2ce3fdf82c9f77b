"""Networks as ONNX files: written from PyTorch, run by ONNX Runtime on the CPU."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dcd_components.errors import InputError

#: Names of the network's input and output, those of a bundle's metadata.json.
IMAGE, PRED = "image", "pred"
#: Name of the note that says which of the bundle's overlays the weights were trained with, one word each.
OVERLAYS = "overlays"
#: Name of the note that has the digest of the weights.
WEIGHTS = "weights"
#: How the name of a file in int8 ends, beside the file that it was made from.
INT8_ENDING = "_int8.xml"


def export_onnx(
    network: nn.Module,
    channels: int,
    path: Path,
    notes: Mapping[str, str] | None = None,
    size: Sequence[int] = (64, 96, 128),
    *,
    fixed: bool = False,
) -> None:
    """Write a network as an ONNX file whose batch and spatial axes are free; this costs no speed.

    Args:
        network: in evaluation mode, without gradients, on the CPU.
        channels: of its input.
        path: of the file.
        notes: texts to keep in the file, by name; see :attr:`OnnxNetwork.notes`.
        size: of an example that the network takes; with axes of different lengths, or the exporter would hold two of
            them to be one.
        fixed: whether only images of this size are taken, in batches of any size.
    """
    example = torch.zeros(2, channels, *size)
    axes = {0: "batch"} if fixed else {0: "batch", 2: "depth", 3: "height", 4: "width"}
    with quiet():
        program: Any = torch.onnx.export(
            network,
            (example,),
            input_names=[IMAGE],
            output_names=[PRED],
            dynamic_shapes=(axes,),
            verbose=False,
            dynamo=True,
        )
        program.model.metadata_props.update(notes or {})
        program.save(path, external_data=False)


class OnnxNetwork:
    """A network that ONNX Runtime reads from a file and runs on the CPU, on as many threads as torch would take.

    Args:
        path: of the file.

    Raises:
        InputError: when ONNX Runtime is not installed.
        InputError: when there is no such file.
        InputError: when the file is no ONNX file.
    """

    def __init__(self, path: Path) -> None:
        require("onnxruntime")
        if not path.is_file():
            raise InputError(f"no model at {path}")
        onnxruntime = importlib.import_module("onnxruntime")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        try:
            self.session: Any = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # noqa: BLE001 - one class of its own for each kind of fault
            raise InputError(f"{path} must be an ONNX file: {error}") from None

    @property
    def channels(self) -> tuple[object, object]:
        """Numbers of channels of its input and its output."""
        return self.session.get_inputs()[0].shape[1], self.session.get_outputs()[0].shape[1]

    @property
    def notes(self) -> dict[str, str]:
        """Texts that were kept in the file."""
        return dict(self.session.get_modelmeta().custom_metadata_map)

    def __call__(self, image: Tensor) -> Tensor:
        """Return the logits of images ``(B, C, D, H, W)``."""
        (logits,) = self.session.run(None, {self.session.get_inputs()[0].name: image.numpy(force=True)})
        return torch.from_numpy(logits)


def require(*packages: str) -> None:
    """Make sure that packages are installed.

    Raises:
        InputError: which says how to install those that are not.
    """
    if missing := [package for package in packages if not importlib.util.find_spec(package)]:
        raise InputError(f"{' and '.join(missing)} must be installed: pip install {' '.join(missing)}")


def largest_difference(
    one: Callable[[Tensor], Tensor], other: Callable[[Tensor], Tensor], shapes: Sequence[Sequence[int]]
) -> float:
    """Largest difference of two networks' outputs on images of noise, in units of the first one's largest output."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for shape in shapes:
        image = torch.randn(*shape, generator=generator)
        expected = one(image)
        found.append((other(image) - expected).abs().max() / expected.abs().max())
    return torch.stack(found).max().item()  # NaN if any is, unlike Python's max


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep converters from printing progress and from warning of what they themselves do."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.filterwarnings("ignore", "The TorchScript type system doesn't support", UserWarning)
            warnings.filterwarnings("ignore", ".*LeafSpec", FutureWarning)
            yield
    finally:
        logging.disable(before)
