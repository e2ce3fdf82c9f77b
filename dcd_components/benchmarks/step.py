"""What a distillation step costs, against the student's own step and against one that does as the published code."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from torch import Tensor, nn

from dcd_components.benchmarks import timing
from dcd_components.benchmarks.published_loss import PublishedLoss
from dcd_components.losses.stagewise import StagewiseLoss
from dcd_components.losses.wavelet_detail import WaveletDetailLoss
from dcd_components.networks.stage_recorder import StageRecorder

COLUMNS = {
    "patch": ("Patches", ""),
    "widths": ("Teacher's widths", ""),
    "step": ("Step", ""),
    "seconds": ("Seconds", ".3f"),
    "times": ("times the student's", ".2f"),
}
STUDENT, ENCODER, OURS, PUBLISHED = "student", "+ teacher's encoder", "+ our loss", "+ whole teacher, published loss"
#: Voxels along the axes, patches in a batch, teacher's widths and what they are divided by for the student.
CASES: tuple[tuple[int, int, tuple[int, ...]], ...] = (
    (48, 2, (16, 32, 64, 128)),
    (64, 1, (32, 64, 128, 256, 320, 320)),
)


def measure(bundle: Path, repeats: int) -> list[dict[str, Any]]:
    """Time training steps of a bundle's networks in bfloat16, in turns.

    Args:
        bundle: folder of the bundle.
        repeats: rounds of which the median is taken; three for what takes more than 2 s.

    Returns:
        Rows with the keys of ``COLUMNS``.
    """
    rows = []
    for size, batch, widths in CASES:
        seconds = timing.seconds(_Training(bundle, size, batch, widths).steps(), repeats, least=2.0)
        case = {"patch": f"{batch} x {size}^3", "widths": ", ".join(map(str, widths))}
        rows += [{**case, "step": n, "seconds": s, "times": s / seconds[STUDENT]} for n, s in seconds.items()]
    return rows


class _Training:
    """A student, its teacher and one batch of noise."""

    def __init__(self, bundle: Path, size: int, batch: int, widths: Sequence[int]) -> None:
        parser = ConfigParser()
        parser.read_config([str(bundle / "configs" / f"{name}.yaml") for name in ("inference", "train", "distill")])
        parser["teacher_widths"] = list(widths)
        parser["reduction"] = 4
        parser["widths"] = [width // 4 for width in widths]
        self.device = parser.get_parsed_content("device")
        self.student = parser.get_parsed_content("network").train()
        self.teacher = parser.get_parsed_content("teacher_def").to(self.device).eval().requires_grad_(False)
        self.loss = parser.get_parsed_content("train::loss")
        self.stages = parser.get_parsed_content("stages")
        self.pairs = [(width // 4, width) for width in widths]
        channels, classes = len(parser["files"]), 1 + max(parser["labels"].values())
        self.image = torch.randn(batch, channels, size, size, size, device=self.device)
        self.label = torch.randint(classes, (batch, 1, size, size, size), device=self.device).float()

    def steps(self) -> dict[str, Callable[[], None]]:
        """What is timed, each with an optimizer of its own."""
        ours = StagewiseLoss(WaveletDetailLoss(*pair) for pair in self.pairs).to(self.device)
        theirs = StagewiseLoss(PublishedLoss(*pair) for pair in self.pairs).to(self.device)
        encoder = StageRecorder(self.teacher, self.stages, stop=True)
        return {
            STUDENT: partial(self._step, None, None, self._optimizer()),
            ENCODER: partial(self._step, partial(encoder.features, self._run), None, self._optimizer()),
            OURS: partial(self._step, partial(encoder.features, self._run), ours, self._optimizer(ours)),
            PUBLISHED: partial(self._step, self._whole_teacher, theirs, self._optimizer(theirs)),
        }

    def _optimizer(self, loss: nn.Module | None = None) -> torch.optim.Optimizer:
        parameters = [*self.student.parameters(), *(loss.parameters() if loss else ())]
        return torch.optim.SGD(parameters, lr=1e-6, momentum=0.99, nesterov=True)

    def _step(
        self, targets: Callable[[], list[Tensor]] | None, distance: nn.Module | None, optimizer: torch.optim.Optimizer
    ) -> None:
        optimizer.zero_grad()
        with StageRecorder(self.student, self.stages) as recorder:
            with torch.autocast(self.device.type, torch.bfloat16):
                total: Tensor = self.loss(self.student(self.image), self.label)
                theirs = targets() if targets else []
            maps = recorder.pop()
            if distance is not None:
                total = total + 0.01 * distance(maps, theirs)
        total.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    def _whole_teacher(self) -> list[Tensor]:
        """Maps of the teacher's stages from a pass through all of it; frozen, it keeps nothing for gradients."""
        with StageRecorder(self.teacher, self.stages) as recorder:
            self._run(self.teacher)
            return recorder.pop()

    def _run(self, network: nn.Module) -> Tensor:
        result: Tensor = network(self.image)
        return result
