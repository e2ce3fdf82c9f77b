"""A training that can learn nothing more ends, with a sentence that says why."""

from __future__ import annotations

import math
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.utils import CommonKeys

from dcd_components.distributed import all_reduce_mean
from dcd_components.errors import InputError


class TrainingGuard:
    """End a training that can learn nothing more.

    Unlike Ignite's ``TerminateOnNan``, which ends the run as if it had succeeded, it raises. Acts at
    ``ITERATION_COMPLETED`` (adds up the loss, without waiting for the device), at ``EPOCH_COMPLETED`` and at
    ``STARTED``. List it first, so that no network of NaN is validated or saved. Attached in every process, it ends
    all of them together.

    Raises:
        InputError: after an epoch whose loss was not finite, and when a training goes on, as in federated rounds, whose
            learning rate has come to 0.
    """

    def __init__(self) -> None:
        self._loss = torch.zeros(())

    def attach(self, engine: Engine) -> None:
        """Register at the engine's events."""
        engine.add_event_handler(Events.STARTED, self._check_learning_rate)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._check_loss)

    def __call__(self, engine: Engine) -> None:
        """Add up the loss of this iteration."""
        loss = engine.state.output[CommonKeys.LOSS].detach()
        self._loss = self._loss.to(loss.device) + loss

    def _check_loss(self, engine: Engine) -> None:
        loss = all_reduce_mean(self._loss).item() / engine.state.epoch_length
        self._loss = torch.zeros(())
        if not math.isfinite(loss):
            raise InputError(f"the loss is {loss} in epoch {engine.state.epoch}: look for NaN with the command check")

    def _check_learning_rate(self, engine: Any) -> None:
        if engine.state.epoch > 0 and engine.optimizer.param_groups[0]["lr"] == 0:
            raise InputError("the learning rate has come to 0: say with fl_rounds how often the training goes on")
