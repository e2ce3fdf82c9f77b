"""Clip gradients, right under mixed precision and accumulation."""

from __future__ import annotations

from typing import Any

from ignite.engine import Engine
from monai.engines.utils import IterationEvents
from torch import nn

from dcd_components.errors import InputError


class GradientClipping:
    """Clip the norm of all gradients that the optimizer is about to use, at ``BACKWARD_COMPLETED``.

    Right under mixed precision (the gradients are unscaled first) and accumulation (only on iterations that end in a
    step). The norm is taken over everything in the optimizer, so over the distillation's projections too.

    Args:
        max_norm: largest norm let through.
    """

    def __init__(self, max_norm: float) -> None:
        if max_norm <= 0:
            raise InputError(f"max_norm must be positive, got {max_norm}")
        self.max_norm = max_norm

    def attach(self, engine: Engine) -> None:
        """Register at the engine's events."""
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self)

    def __call__(self, engine: Any) -> None:
        """Clip in place."""
        if not self._steps_now(engine):
            return
        if engine.amp and engine.scaler is not None:
            engine.scaler.unscale_(engine.optimizer)
        parameters = [p for group in engine.optimizer.param_groups for p in group["params"]]
        nn.utils.clip_grad_norm_(parameters, self.max_norm)

    @staticmethod
    def _steps_now(engine: Any) -> bool:
        """Whether MONAI's trainer will step after this backward pass; the same rule as its ``_iteration``."""
        every = getattr(engine, "accumulation_steps", 1)  # MONAI before 1.6 steps after each
        in_epoch = (engine.state.iteration - 1) % engine.state.epoch_length + 1
        return bool(in_epoch % every == 0 or in_epoch == engine.state.epoch_length)
