"""How wide a student may be, by what a case takes in time and memory on this machine."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from monai.inferers import Inferer
from tabulate import tabulate
from torch import Tensor, nn

from dcd_components.benchmarks import timing
from dcd_components.bundle.configs import read_configs
from dcd_components.deploy.onnx_network import OnnxNetwork, export_onnx, require
from dcd_components.deploy.runtimes import Runtime, load_openvino
from dcd_components.errors import InputError
from dcd_components.networks.cost import cost

#: Runtimes by their names in ``dcd segment``.
LOADERS: Mapping[str, Callable[[Path], Runtime]] = {"onnxruntime": OnnxNetwork, "openvino": load_openvino}
#: By which the teacher's widths are divided, the widest student first.
DIVISORS = (1, 2, 3, 4, 6, 8, 12, 16)
ROUNDS = 5
COLUMNS = ("width_divisor", "widths", "parameters, M", "GMAC a patch", "seconds a case", "GB", "fits")


def propose(
    bundle: Path,
    seconds: float,
    gigabytes: float,
    case_size: Sequence[int] = (240, 240, 155),
    overlays: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
    runtime: str | None = None,
) -> str:
    """Measure students of several widths, and name the widest that a budget allows.

    A patch is timed, in turns, on the threads and the device that the bundle's inference would take, or in a runtime of
    ``dcd segment`` on the CPU, as inference computes it, mirrored where an overlay says so; a case takes as many as it
    has windows. The memory is that of the whole process: what a patch takes is measured where the system tells it, the
    rest is what :class:`.MemoryLimit` estimates. No weights are needed.

    Args:
        bundle: its folder.
        seconds: that a case may take, without reading and writing.
        gigabytes: of 10^9 bytes that the process may take.
        case_size: voxels of a case on the network's grid, along its axes; where it is a brain amid zeros, of its box.
        overlays: names of configs over ``inference``.
        settings: of the configs.
        runtime: ``onnxruntime`` or ``openvino``; by default eager PyTorch, in float32.

    Returns:
        A table, and the setting of the widest student that fits.

    Raises:
        InputError: for a budget or a case whose numbers are not positive, an unknown runtime or one that is not
            installed, and a budget that no student fits.
    """
    if runtime is not None and runtime not in LOADERS:
        raise InputError(f"runtime must be one of {', '.join(LOADERS)}, got {runtime}")
    require(*([runtime, "onnx", "onnxscript"] if runtime else []))
    for name, value in (("seconds", seconds), ("gigabytes", gigabytes)):
        if not 0 < value < math.inf:
            raise InputError(f"{name} must be a positive number, got {value}")
    if len(case_size) != 3 or min(case_size) < 1:
        raise InputError(f"case_size must be three positive numbers of voxels, got {list(case_size)}")
    students = {
        divisor: _Student(bundle, divisor, case_size, overlays, settings or {}, runtime) for divisor in DIVISORS
    }
    distinct = {tuple(one.widths): one for one in reversed(students.values())}  # narrow ones meet at 8 channels
    several = sorted(distinct.values(), key=lambda one: one.divisor)
    taken = timing.seconds({str(one.divisor): one.run for one in several}, ROUNDS, least=2.0)
    rows = []
    for one in several:
        case, memory = one.windows * taken[str(one.divisor)], one.gigabytes
        fits = case <= seconds and memory <= gigabytes
        figures = cost(one.network, one.patch.shape[1:])
        name = " ".join(map(str, one.widths))
        rows.append((one.divisor, name, figures["parameters"], figures["gmac"], case, memory, "yes" if fits else ""))
    formats = ("d", "", ".3f", ".2f", ".2f", ".2f", "")
    table = tabulate(rows, COLUMNS, tablefmt="simple", floatfmt=formats)
    head = f"{timing.machine()}, {runtime or 'PyTorch'}; cases of {' x '.join(map(str, case_size))} voxels"
    if chosen := next((row for row in rows if row[-1]), None):
        return f"{head}\n{table}\n\nthe widest within {seconds:g} s and {gigabytes:g} GB: width_divisor={chosen[0]}"
    raise InputError(f"no student takes at most {seconds:g} s and {gigabytes:g} GB\n{head}\n{table}")


class _Student:
    """A student of some width with weights as drawn, and what a case needs of it."""

    def __init__(
        self,
        bundle: Path,
        divisor: int,
        case_size: Sequence[int],
        overlays: Sequence[str],
        settings: Mapping[str, Any],
        runtime: str | None = None,
    ) -> None:
        parser = read_configs(bundle, ["inference", *overlays])
        parser.update({**settings, "width_divisor": divisor, **({"device": "$torch.device('cpu')"} if runtime else {})})
        self.divisor = divisor
        self.widths: list[int] = parser.get_parsed_content("widths")
        self.network: nn.Module = parser.get_parsed_content("network").eval().requires_grad_(False)
        device, channels = parser.get_parsed_content("device"), len(parser["sequences"])
        self.patch = torch.randn(1, channels, *parser.get_parsed_content("patch_size"), device=device)
        self.predict = self.network if runtime is None else self._load(LOADERS[runtime])
        self.inferer: Inferer = parser.get_parsed_content("inferer")
        limit = parser.get_parsed_content("memory")
        longest = math.prod(limit.patch_size) / self.patch[0, 0].numel()
        order = parser.get_parsed_content("file_axes") if "file_axes" in parser.get() else range(3)
        measured = timing.extra_megabytes(self.run)
        window = None if math.isnan(measured) else 1e6 * measured * longest
        self.gigabytes = limit.peak([case_size[axis] for axis in order], window) / 1e9
        self.windows = self._voxels(torch.zeros(1, 1, *case_size)) / self._voxels(self.patch[:, :1].cpu())

    def run(self) -> None:
        """One patch, as the windows of a case are computed."""
        self.inferer(self.patch, self.predict)

    def _load(self, loader: Callable[[Path], Runtime]) -> Runtime:
        with TemporaryDirectory() as folder:
            export_onnx(self.network, self.patch.shape[1], path := Path(folder, "model.onnx"))
            return loader(path)

    def _voxels(self, image: Tensor) -> int:
        """Voxels of all windows of an image, of mirrored ones too."""
        seen: list[int] = []

        def count(windows: Tensor) -> Tensor:
            seen.append(windows[:, 0].numel())
            return windows

        self.inferer(image, count)
        return sum(seen)
