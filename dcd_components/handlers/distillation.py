"""Ignite handlers of a training: distillation, gradient clipping and the average of the weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.data import MetaTensor
from monai.engines.utils import IterationEvents
from monai.inferers import Inferer, SimpleInferer
from monai.utils import CommonKeys
from torch import Tensor, nn

from dcd_components.errors import InputError
from dcd_components.networks.stage_recorder import StageRecorder, bare


class DistillationHandler:
    """Add ``weight(epoch) * loss(student's maps, teacher's maps)`` to the training loss.

    Acts at ``LOSS_COMPLETED``, before backward; the student's maps are recorded during its own forward pass. The
    teacher runs there, without gradient and only as far as its recorder says. While the weight is 0 nothing runs and
    no hook is registered. The hooks are gone after the run, also after an exception: list this handler before others
    that listen to ``EXCEPTION_RAISED``, since the first of them that raises ends the event.

    Reads ``state.output["image"]`` and ``["loss"]``; writes ``state.output["loss"]``, and for records, detached:
    ``["segmentation_loss"]``, the loss before; ``["distillation_loss"]``, unweighted; ``["distillation_weight"]``; and
    ``["distillation_loss/<stage>"]`` where the loss has ``terms``, as :class:`dcd_components.StagewiseLoss` has.

    Args:
        student: recorder of the trained network.
        teacher: recorder of the frozen network, best with ``stop=True``.
        loss: takes the two lists of maps; its parameters must be in the optimizer.
        weight: epoch, counted from 0, to weight.
        inferer: how the teacher is run, in training the trainer's own inferer, for its precision.
    """

    def __init__(
        self,
        student: StageRecorder,
        teacher: StageRecorder,
        loss: nn.Module,
        weight: Callable[[int], float],
        inferer: Inferer | None = None,
    ) -> None:
        if len(student.stages) != len(teacher.stages):
            raise InputError(f"{len(student.stages)} student stages cannot match {len(teacher.stages)} teacher stages")
        self.student = student
        self.teacher = teacher
        self.loss = loss
        self.weight = weight
        self.inferer = inferer or SimpleInferer()

    def attach(self, engine: Engine) -> None:
        """Register at the engine's events."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._start_epoch)
        engine.add_event_handler(IterationEvents.LOSS_COMPLETED, self)
        engine.add_event_handler(Events.TERMINATE, self._stop)
        engine.add_event_handler(Events.COMPLETED, self._stop)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._abort)

    def __call__(self, engine: Engine) -> None:
        """Add the term of this iteration."""
        weight = self.weight(engine.state.epoch - 1)
        if weight == 0:
            return
        output: dict[str, Any] = engine.state.output
        image = _plain(output[CommonKeys.IMAGE])
        targets = self.teacher.features(lambda network: self.inferer(image, network))
        term = self.loss([_plain(x) for x in self.student.pop()], targets)
        output["segmentation_loss"] = output[CommonKeys.LOSS].detach()
        output[CommonKeys.LOSS] = output[CommonKeys.LOSS] + weight * term
        output["distillation_loss"] = term.detach()
        if terms := getattr(bare(self.loss), "terms", ()):
            named = zip(self.student.stages, terms, strict=True)
            output |= {f"distillation_loss/{stage}": term for stage, term in named}
        output["distillation_weight"] = torch.tensor(weight)

    def _start_epoch(self, engine: Engine) -> None:
        if self.weight(engine.state.epoch - 1) > 0:
            self.student.__enter__()
        else:
            self.student.close()

    def _stop(self, engine: Engine) -> None:
        self.student.close()

    def _abort(self, engine: Engine, error: BaseException) -> None:
        self.student.close()
        raise error  # ignite stops raising once anything listens to this event


def _plain(x: Tensor) -> Tensor:
    """Drop the meta data that MONAI's tensors carry through every operation."""
    return x.as_tensor() if isinstance(x, MetaTensor) else x
