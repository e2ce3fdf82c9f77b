"""What the wavelet loss costs, forward and backward, against the published algorithm and against ptwt."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dcd_components.benchmarks import timing
from dcd_components.benchmarks.published_loss import PublishedLoss
from dcd_components.losses.wavelet_detail import WaveletDetailLoss

OURS, PUBLISHED, PTWT = "ours", "published algorithm", "the same in ptwt"
COLUMNS = {
    "patch": ("Patch", ""),
    "levels": ("Levels", ""),
    "stages": ("Stages", ""),
    "loss": ("Loss", ""),
    "seconds": ("Seconds", ".4f"),
    "times": ("times ours", ".1f"),
    "megabytes": ("Extra memory, MB", ".0f"),
    "times_memory": ("times ours", ".1f"),
}
#: Channels of the teacher's stages; the student's are a quarter.
WIDTHS = (32, 64, 128, 256, 320, 320)


class PtwtLoss(nn.Module):
    """Our loss in ptwt's transform: the mean square of the six directional bands, averaged over levels.

    Args:
        in_channels: channels of the student's map.
        out_channels: channels of the teacher's map.
        levels: number of decompositions.
    """

    def __init__(self, in_channels: int, out_channels: int, levels: int) -> None:
        super().__init__()
        self.transform = partial(importlib.import_module("ptwt").wavedec3, wavelet="db4", mode="zero", level=levels)
        self.projection = nn.Conv3d(in_channels, out_channels, kernel_size=1, bias=False)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Return the loss."""
        _, *details = self.transform(self.projection(input) - target)
        means = [torch.stack([x.square().mean() for band, x in level.items() if band != "ddd"]) for level in details]
        return torch.stack(means).mean()


def measure(sizes: Iterable[int], levels: Iterable[int], repeats: int) -> list[dict[str, Any]]:
    """Time all stages together, and the first alone, for each size of a patch and number of levels.

    Args:
        sizes: voxels along the axes of the patches.
        levels: of the wavelet transform.
        repeats: rounds of which the median is taken; three for what takes more than 2 s.

    Returns:
        Rows with the keys of ``COLUMNS``.
    """
    rows = []
    for size in sizes:
        for depth in levels:
            maps = [_maps(size >> stage, width) for stage, width in enumerate(WIDTHS) if size >> stage > 1]
            rows += _compare(maps, depth, repeats, {"patch": f"{size}^3", "levels": str(depth), "stages": "all"})
            rows += _compare(maps[:1], depth, repeats, {"patch": f"{size}^3", "levels": str(depth), "stages": "first"})
    return rows


def _maps(size: int, width: int) -> tuple[Tensor, Tensor]:
    student = torch.randn(1, width // 4, size, size, size)
    return student.requires_grad_(), torch.randn(1, width, size, size, size)


def _compare(
    maps: Sequence[tuple[Tensor, Tensor]], levels: int, repeats: int, row: dict[str, str]
) -> list[dict[str, Any]]:
    kinds: dict[str, Callable[[int, int], nn.Module]] = {
        OURS: partial(WaveletDetailLoss, levels=levels),
        PUBLISHED: partial(PublishedLoss, levels=levels),
    }
    if importlib.util.find_spec("ptwt"):
        kinds[PTWT] = partial(PtwtLoss, levels=levels)
    steps = {name: _step(maps, kind) for name, kind in kinds.items()}
    for step in steps.values():
        step()  # what is compiled and loaded at first use is no step's memory
    megabytes = {name: timing.extra_megabytes(step) for name, step in steps.items()}
    seconds = timing.seconds(steps, repeats, least=2.0)
    ratios = {name: (seconds[name] / seconds[OURS], megabytes[name] / megabytes[OURS]) for name in kinds}
    return [
        {
            **row,
            "loss": name,
            "seconds": seconds[name],
            "times": ratios[name][0],
            "megabytes": megabytes[name],
            "times_memory": ratios[name][1],
        }
        for name in kinds
    ]


def _step(maps: Sequence[tuple[Tensor, Tensor]], kind: Callable[[int, int], nn.Module]) -> Callable[[], None]:
    """Forward and backward over all stages, as in training: one sum, then its gradients."""
    losses = [kind(student.shape[1], teacher.shape[1]) for student, teacher in maps]

    def step() -> None:
        for (student, _), loss in zip(maps, losses, strict=True):
            student.grad = None
            loss.zero_grad()
        total: Tensor = torch.stack([loss(*pair) for pair, loss in zip(maps, losses, strict=True)]).mean()
        total.backward()  # type: ignore[no-untyped-call]

    return step
