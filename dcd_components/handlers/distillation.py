"""Ignite handler that distils while MONAI's trainer trains."""

from __future__ import annotations

from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.engines.utils import IterationEvents
from monai.utils import CommonKeys

from dcd_components.distiller import Distiller, Inferer
from dcd_components.ensemble_distiller import EnsembleDistiller
from dcd_components.handlers.endings import at_end
from dcd_components.handlers.kept_state import keep


class DistillationHandler:
    """Add a distiller's loss to the training loss.

    Acts at ``LOSS_COMPLETED``, before backward; the student's maps are recorded during its own forward pass. The
    teacher runs there, without gradient and only as far as its last stage. While the weights are 0 nothing runs and no
    hook is registered; weights that are 0 in every epoch are warned of at ``STARTED``. The hooks are gone after the
    run, also after an exception: list this handler before others that listen to ``EXCEPTION_RAISED``, since the first
    of them that raises ends the event.

    Reads ``state.output["image"]``, ``["loss"]`` and, for losses that need it, ``["label"]``; writes
    ``state.output["loss"]``, and for records, detached: ``["segmentation_loss"]``, the loss before;
    ``["distillation_loss"]``, the unweighted mean of the stages, and its ``["distillation_weight"]``;
    ``["distillation_loss/<stage>"]``, unweighted, also of the output, and its ``["distillation_output_weight"]``. What
    a weight of 0 leaves out is not written.

    Args:
        distiller: its parameters must be in the optimizer.
        inferer: how the teacher is run, in training the trainer's own inferer, for its precision; called by default.
    """

    def __init__(self, distiller: Distiller | EnsembleDistiller, inferer: Inferer | None = None) -> None:
        self.distiller = distiller
        self.inferer = inferer

    def attach(self, engine: Engine) -> None:
        """Register at the engine's events."""
        keep(engine, "distiller", self.distiller)
        engine.add_event_handler(Events.STARTED, self._check_weight)
        engine.add_event_handler(Events.EPOCH_STARTED, self._start_epoch)
        engine.add_event_handler(IterationEvents.LOSS_COMPLETED, self)
        at_end(engine, self.distiller.close)

    def __call__(self, engine: Engine) -> None:
        """Add the term of this iteration."""
        distiller, epoch = self.distiller, engine.state.epoch - 1
        if not distiller.distils(epoch):
            return
        output: dict[str, Any] = engine.state.output
        term = distiller.loss(output[CommonKeys.IMAGE], epoch, self.inferer, output.get(CommonKeys.LABEL))
        output["segmentation_loss"] = output[CommonKeys.LOSS].detach()
        output[CommonKeys.LOSS] = output[CommonKeys.LOSS] + term
        weights = {"distillation_weight": distiller.weight(epoch)}
        weights["distillation_output_weight"] = distiller.output_weight(epoch)
        if weights["distillation_weight"]:
            output["distillation_loss"] = distiller.unweighted
        output |= {f"distillation_loss/{stage}": value for stage, value in distiller.terms.items()}
        output |= {name: torch.tensor(weight) for name, weight in weights.items() if weight}

    def _start_epoch(self, engine: Engine) -> None:
        self.distiller.open(engine.state.epoch - 1)

    def _check_weight(self, engine: Engine) -> None:
        epochs = engine.state.max_epochs or 0
        if not any(self.distiller.distils(epoch) for epoch in range(epochs)):
            engine.logger.warning(f"nothing is distilled: distillation_weight is 0 in each of the {epochs} epochs")
