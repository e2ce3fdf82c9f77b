"""A training that can learn nothing more ends, with a sentence that says why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.engines.utils import IterationEvents
from monai.utils import CommonKeys
from torch import Tensor

from dcd_components.distributed import all_reduce_sum
from dcd_components.errors import InputError
from dcd_components.handlers.kept_state import keep
from dcd_components.handlers.training_log import SKIPPED, losses_of


class TrainingGuard:
    """End a training that can learn nothing more.

    Unlike Ignite's ``TerminateOnNan``, which ends the run as if it had succeeded, it raises, and before the weights
    change. Acts at ``STARTED``, at ``LOSS_COMPLETED`` after all other handlers, and at ``BACKWARD_COMPLETED``, where
    it reads what it found before the backward pass, so that no GPU waits for it. Attached in every process, it acts in
    all of them together.

    Args:
        max_skipped: iterations in all whose loss may be NaN or Inf. They change neither weights nor the optimizer's
            state, and the log does not count them.

    Raises:
        InputError: in an iteration more whose loss is not finite, with the cases of its batch and the parts of its
            loss; and when a training goes on, as in federated rounds, whose learning rate has come to 0.
    """

    def __init__(self, max_skipped: int = 0) -> None:
        self.max_skipped = max_skipped
        self.skipped = 0
        self._listens = False

    def attach(self, engine: Engine) -> None:
        """Register at the engine's events."""
        keep(engine, "guard", self)
        engine.add_event_handler(Events.STARTED, self._begin)

    def state_dict(self) -> dict[str, int]:
        """Number of iterations that were skipped."""
        return {"skipped": self.skipped}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on with that number."""
        self.skipped = state["skipped"]

    def _begin(self, engine: Any) -> None:
        if engine.state.epoch > 0 and engine.optimizer.param_groups[0]["lr"] == 0:
            raise InputError("the learning rate has come to 0: say with fl_rounds how often the training goes on")
        if not self._listens:  # only now, to come after the handlers that add to the loss, wherever they are listed
            engine.add_event_handler(IterationEvents.LOSS_COMPLETED, self._look)
            engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self)
        self._listens = True

    def _look(self, engine: Engine) -> None:
        wrong = (~engine.state.output[CommonKeys.LOSS].detach().isfinite()).float()
        self._wrong, self._there = on_host(all_reduce_sum(wrong))

    def __call__(self, engine: Engine) -> None:
        """Raise or skip, if the loss of this iteration is not finite in any process."""
        if self._there is not None:
            self._there.synchronize()
        if not self._wrong:
            return
        self.skipped += 1
        said = _described(engine)
        if self.skipped > self.max_skipped:
            before = f", after {self.max_skipped} that were skipped" if self.max_skipped else ""
            raise InputError(f"{said}{before}: look for NaN with the command check")
        engine.logger.warning(f"{said}: skipped, {self.skipped} of {self.max_skipped}")
        engine.state.output[SKIPPED] = True
        _skip_step(engine)


def on_host(x: Tensor) -> tuple[Tensor, Any]:
    """Copy a number to where the CPU can read it, and return it with the event that says when; None: at once."""
    if not x.is_cuda:
        return x, None
    copy = torch.empty_like(x, device="cpu", pin_memory=True).copy_(x, non_blocking=True)
    there = torch.cuda.Event()  # type: ignore[no-untyped-call]
    there.record()
    return copy, there


def _skip_step(engine: Any) -> None:
    """Leave nothing to an optimizer, that it neither moves by its momentum nor decays weights."""
    if getattr(engine, "scaler", None) is not None:
        return  # it skips the steps of gradients that are not finite by itself, and insists on seeing them
    for group in engine.optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = None


def _described(engine: Engine) -> str:
    state, losses = engine.state, losses_of(engine.state.output)
    loss, where = losses.pop("loss").item(), f"in iteration {state.iteration} of epoch {state.epoch}"
    if torch.tensor(loss).isfinite():
        return f"the loss of another process is not finite {where}"
    cases = state.batch.get("case", []) if isinstance(state.batch, Mapping) else []
    named = f", {', '.join(map(str, cases))}" if cases else ""
    parts = ", ".join(f"{name} {value.item():.4g}" for name, value in losses.items())
    return f"the loss is {loss} {where}{named} ({parts})"
