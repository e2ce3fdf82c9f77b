"""One network in several runtimes on the CPU, each a function from images to logits of any size the network takes."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.inferers import SimpleInferer
from torch import Tensor, nn

from dcd_components.deploy.onnx_network import OnnxNetwork, quiet, require
from dcd_components.errors import InputError
from dcd_components.inferers import AutocastInferer, cpu_has_bfloat16
from dcd_components.networks.torchscript import compile_or_trace

Runtime = Callable[[Tensor], Tensor]
EAGER, AUTOCAST, SCRIPT, ONNX = "eager float32", "eager bfloat16", "TorchScript float32", "ONNX Runtime float32"
OPENVINO, OPENVINO_BFLOAT16, INT8 = "OpenVINO float32", "OpenVINO bfloat16", "OpenVINO int8"
#: What each runtime needs beside torch; those that are not listed need nothing.
NEEDS: dict[str, tuple[str, ...]] = {
    ONNX: ("onnx", "onnxscript", "onnxruntime"),
    OPENVINO: ("onnx", "onnxscript", "openvino"),
    OPENVINO_BFLOAT16: ("onnx", "onnxscript", "openvino"),
    INT8: ("onnx", "onnxscript", "openvino", "nncf"),
}
#: Those whose results are as exact as bfloat16, which is also what OpenVINO does beside the int8 convolutions.
BFLOAT16 = (AUTOCAST, OPENVINO_BFLOAT16)
#: Where notes stand among what OpenVINO keeps of a model.
NOTES = "dcd"


def available() -> tuple[str, ...]:
    """Runtimes that are installed and, for bfloat16, that this processor multiplies natively."""
    every = (EAGER, AUTOCAST, SCRIPT, ONNX, OPENVINO, OPENVINO_BFLOAT16, INT8)
    installed = [name for name in every if not missing_packages(name)]
    return tuple(name for name in installed if name not in BFLOAT16 or cpu_has_bfloat16())


def missing_packages(runtime: str) -> list[str]:
    """Packages that a runtime needs and that are not installed."""
    return [package for package in NEEDS.get(runtime, ()) if not importlib.util.find_spec(package)]


def load(name: str, network: nn.Module, model: Path, patches: Sequence[Tensor]) -> Runtime:
    """Bring a network into a runtime.

    Args:
        name: one of :func:`available`.
        network: in evaluation mode, without gradients, on the CPU.
        model: the same network as an ONNX file; eager runtimes and TorchScript do not read it.
        patches: images ``(1, C, D, H, W)`` from which int8 learns the ranges of the activations; TorchScript may trace
            the network on the first.

    Raises:
        InputError: for a name that is no runtime.
    """
    loaders: dict[str, Callable[[], Runtime]] = {
        EAGER: lambda: network,
        AUTOCAST: lambda: _autocast(network),
        SCRIPT: lambda: _torchscript(network, patches),
        ONNX: lambda: OnnxNetwork(model),
        OPENVINO: lambda: _OpenVino(_read(model), "f32"),
        OPENVINO_BFLOAT16: lambda: load_openvino(model),
        INT8: lambda: _OpenVino(quantized(model, patches), "bf16" if cpu_has_bfloat16() else "f32"),
    }
    if name not in loaders:
        raise InputError(f"unknown runtime {name!r}; choose from {', '.join(loaders)}")
    return loaders[name]()


def load_openvino(model: Path) -> Runtime:
    """An ONNX file in OpenVINO, in bfloat16 where this processor multiplies it natively, else in float32.

    Raises:
        InputError: when OpenVINO is not installed.
    """
    require("openvino")
    return _OpenVino(_read(model), "bf16" if cpu_has_bfloat16() else "f32")


def _autocast(network: nn.Module) -> Runtime:
    inferer = AutocastInferer(SimpleInferer())

    def run(image: Tensor) -> Tensor:
        logits: Tensor = inferer(image, network)
        return logits

    return run


def _torchscript(network: nn.Module, patches: Sequence[Tensor]) -> Runtime:
    with quiet():
        script: Runtime = torch.jit.freeze(compile_or_trace(network, patches[0].shape[1:]))
    return script


class _OpenVino:
    """A model of OpenVINO, compiled for the first shape that it meets, and at a second one for all shapes.

    Windows have one shape, for which a model is up to a sixth faster. Whole cases have one each, and to compile the
    model for it takes longer than that saves. One compiled model is kept, since each takes memory of its own.
    """

    def __init__(self, model: Any, precision: str) -> None:
        self.model = model
        self.settings = {
            "INFERENCE_PRECISION_HINT": precision,
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "PERFORMANCE_HINT": "LATENCY",  # all threads on one image
        }
        self.compiled: Any = None
        self.shape: torch.Size | None = None  # None once it takes all

    def __call__(self, image: Tensor) -> Tensor:
        if self.compiled is None:
            self.shape, fixed = image.shape, self.model.clone()
            fixed.reshape(list(image.shape))
            self.compiled = _core().compile_model(fixed, "CPU", self.settings)
        elif self.shape not in (None, image.shape):
            self.shape, self.compiled = None, None  # freed before the next takes its memory
            self.compiled = _core().compile_model(self.model, "CPU", self.settings)
        return torch.from_numpy(self.compiled(image.numpy(force=True))[0])


@functools.cache
def _core() -> Any:
    """One for the whole process: of two, the second to end leaves Python a freed stack to take signals on."""
    return importlib.import_module("openvino").Core()


def _read(model: Path) -> Any:
    return _core().read_model(model)


def quantized(model: Path, patches: Sequence[Tensor]) -> Any:
    """OpenVINO's model of an ONNX file with int8 convolutions; the norms stay in floating point.

    Weights have 7 bits: in sums of 8 bits, processors without VNNI, such as those with AVX2 alone, would saturate.

    Args:
        model: the ONNX file.
        patches: images ``(1, C, D, H, W)`` from which the ranges of the activations are learnt.

    Raises:
        InputError: when a package that this needs is missing.
    """
    require("openvino", "nncf")
    os.environ["NNCF_CI"] = "1"  # or it would send statistics of its use over the network
    with quiet():
        nncf = importlib.import_module("nncf")
        return nncf.quantize(
            _read(model),
            nncf.Dataset([patch.numpy(force=True) for patch in patches]),
            preset=nncf.QuantizationPreset.PERFORMANCE,  # symmetric; unsymmetric ones gained no Dice and lost speed
            subset_size=len(patches),
            advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=nncf.OverflowFix.ENABLE),
        )


def save_openvino(model: Any, path: Path, notes: Mapping[str, str]) -> None:
    """Write a model of OpenVINO as two files, ``.xml`` and ``.bin``; the first, without which it is none, at the end.

    Args:
        model: what :func:`quantized` returns.
        path: of the ``.xml`` file.
        notes: texts to keep in it, by name.
    """
    for name, text in notes.items():
        model.set_rt_info(text, [NOTES, name])
    beside = path.with_suffix(".bin")
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".") as folder:
        hidden = Path(folder) / path.name
        importlib.import_module("openvino").save_model(model, hidden, compress_to_fp16=False)
        path.unlink(missing_ok=True)
        hidden.with_suffix(beside.suffix).replace(beside)
        hidden.replace(path)


class OpenVinoNetwork(_OpenVino):
    """A network that OpenVINO reads from the files that :func:`save_openvino` wrote.

    Args:
        path: of the ``.xml`` file.

    Raises:
        InputError: when OpenVINO is not installed, there is no such file, or it is none.
    """

    def __init__(self, path: Path) -> None:
        require("openvino")
        if not path.is_file():
            raise InputError(f"no model at {path}")
        try:
            model = _read(path)
            self.notes = {name: str(note) for name, note in model.get_rt_info([NOTES]).value.items()}
        except Exception as error:  # noqa: BLE001 - one class of its own for each kind of fault
            cause = " ".join(str(error).split())[:200]
            raise InputError(f"{path} must be a model of OpenVINO that dcd export wrote: {cause}") from None
        self.channels = tuple(one.partial_shape[1].get_length() for one in (model.input(0), model.output(0)))
        super().__init__(model, "bf16" if cpu_has_bfloat16() else "f32")
