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
from dcd_components.distiller import Distiller
from dcd_components.inferers import cpu_has_bfloat16
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


def precision() -> torch.dtype:
    """Of the steps: bfloat16, but on a CPU that does not multiply it natively, float32, as in a training there."""
    return torch.bfloat16 if torch.cuda.is_available() or cpu_has_bfloat16() else torch.float32


def measure(bundle: Path, repeats: int) -> list[dict[str, Any]]:
    """Time training steps of a bundle's networks, in turns, in the precision of :func:`precision`.

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
        parser.read_config(str(bundle / "configs" / "distill.yaml"))
        parser["teacher_widths"] = list(widths)
        parser["widths"] = [width // 4 for width in widths]
        self.device = parser.get_parsed_content("device")
        self.student = parser.get_parsed_content("network").train()
        self.teacher = parser.get_parsed_content("teacher_def").to(self.device).eval().requires_grad_(False)
        self.loss = parser.get_parsed_content("train::loss")
        self.stages = parser.get_parsed_content("stages")
        self.pairs = [(width // 4, width) for width in widths]
        channels, classes = len(parser["sequences"]), 1 + max(parser["labels"].values())
        self.image = torch.randn(batch, channels, size, size, size, device=self.device)
        self.label = torch.randint(classes, (batch, 1, size, size, size), device=self.device).float()

    def steps(self) -> dict[str, Callable[[], None]]:
        """What is timed, each with an optimizer of its own."""
        image_shape = self.image.shape[1:]
        ours = Distiller(self.student, self.teacher, self.stages, image_shape=image_shape, weight=0.01)
        theirs = nn.ModuleList(PublishedLoss(*pair) for pair in self.pairs).to(self.device)
        encoder = StageRecorder(self.teacher, self.stages, stop=True)
        return {
            STUDENT: partial(self._step, None, self._optimizer()),
            ENCODER: partial(self._step, partial(self._run_encoder, encoder), self._optimizer()),
            OURS: partial(self._distil, ours, self._optimizer(ours)),
            PUBLISHED: partial(self._distil_as_published, theirs, self._optimizer(theirs)),
        }

    def _optimizer(self, loss: nn.Module | None = None) -> torch.optim.Optimizer:
        parameters = [*self.student.parameters(), *(loss.parameters() if loss else ())]
        return torch.optim.SGD(parameters, lr=1e-6, momentum=0.99, nesterov=True)

    def _step(self, term: Callable[[], Tensor | float] | None, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=precision() == torch.bfloat16):
            total: Tensor = self.loss(self.student(self.image), self.label)
            total = total + term() if term else total
        total.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    def _distil(self, distiller: Distiller, optimizer: torch.optim.Optimizer) -> None:
        with distiller:
            self._step(partial(distiller.loss, self.image, 0), optimizer)

    def _run_encoder(self, encoder: StageRecorder) -> float:
        encoder.features(self._run)
        return 0.0

    def _distil_as_published(self, losses: nn.ModuleList, optimizer: torch.optim.Optimizer) -> None:
        """Run all of the teacher; frozen, it keeps nothing for gradients."""
        with StageRecorder(self.student, self.stages) as student, StageRecorder(self.teacher, self.stages) as teacher:

            def term() -> Tensor:
                self._run(self.teacher)
                pairs = zip(losses, student.pop(), teacher.pop(), strict=True)
                with torch.autocast(self.device.type, enabled=False):
                    return 0.01 * torch.stack([loss(ours, theirs) for loss, ours, theirs in pairs]).mean()

            self._step(term, optimizer)

    def _run(self, network: nn.Module) -> Tensor:
        result: Tensor = network(self.image)
        return result
