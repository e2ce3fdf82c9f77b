"""The course of a training, a line an epoch and a CSV file."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from monai.utils import CommonKeys
from torch import Tensor

from dcd_components.distributed import all_reduce_mean
from dcd_components.handlers.checkpoints import dated
from dcd_components.handlers.kept_state import keep
from dcd_components.tables import write_csv

#: Mark in ``state.output`` of an iteration whose loss counts for nothing.
SKIPPED = "skipped"


class TrainingLog:
    """Log one line an epoch with the time left, and keep the figures of all epochs in a CSV file.

    Acts at ``ITERATION_COMPLETED`` (adds up, without waiting for the device) and ``EPOCH_COMPLETED`` (logs and
    writes). List it after the validation handler, whose last metrics it takes along, and before
    :class:`dcd_components.LossesForTrackers`. Attached in every process: losses are means over all of them, rank 0 logs
    and writes. From the end of an epoch to the start of the next its figures are in ``state.metrics``, where the
    handlers of TensorBoard and MLflow look for them. It changes nothing else. Iterations that
    :class:`dcd_components.TrainingGuard` skips do not count.

    Args:
        path: CSV file to write: epoch, iteration, seconds, learning rate, loss, its parts by segmentation and
            distillation, the latter also of each stage, its weight, metrics. One that another training left gets the
            date of its writing into its name.
        validator: engine whose ``state.metrics`` are taken along on the epochs in which it ran.
    """

    def __init__(self, path: str | Path, validator: Engine | None = None) -> None:
        self.path = Path(path)
        self.validator = validator
        self.rows: list[dict[str, float]] = []
        self._sums: dict[str, Tensor] = {}
        self._iterations = 0  # in the sums
        self._start = 0.0

    def attach(self, engine: Engine) -> None:
        """Register at the engine's events."""
        keep(engine, "log", self, own=True)
        engine.add_event_handler(Events.STARTED, self._begin)
        engine.add_event_handler(Events.EPOCH_STARTED, self._forget)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._add)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._report)

    def state_dict(self) -> dict[str, Any]:
        """Figures of the epochs so far, sums of the running one, and seconds."""
        sums = {name: one.clone() for name, one in self._sums.items()}
        seconds = time.monotonic() - self._start
        return {"rows": self.rows, "sums": sums, "iterations": self._iterations, "seconds": seconds}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on in the run that has started."""
        self.rows, self._sums = [*state["rows"]], dict(state["sums"])
        self._iterations, self._start = state["iterations"], time.monotonic() - state["seconds"]

    def _begin(self, engine: Any) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._start = time.monotonic()

    def _forget(self, engine: Engine) -> None:
        # MONAI's ThreadContainer fails in the midst of an epoch where a trainer has metrics.
        for name in self.rows[-1] if self.rows else ():
            engine.state.metrics.pop(name, None)

    def _add(self, engine: Engine) -> None:
        if SKIPPED in engine.state.output:
            return
        self._iterations += 1
        for name, value in losses_of(engine.state.output).items():
            self._sums[name] = self._sums.get(name, torch.zeros(())).to(value.device) + value

    def _report(self, engine: Any) -> None:
        state, seconds = engine.state, time.monotonic() - self._start
        row = {"epoch": state.epoch, "iteration": state.iteration, "seconds": round(seconds, 2)}
        row["learning_rate"] = engine.optimizer.param_groups[0]["lr"]
        row |= {name: all_reduce_mean(total).item() / self._iterations for name, total in self._sums.items()}
        self._sums, self._iterations = {}, 0
        if idist.get_rank() > 0:
            return
        state.metrics.update({name: row[name] for name in list(row)[3:]})
        row |= self._validation(state.epoch)
        if not self.rows and self.path.is_file():
            earlier = self.path.rename(dated(self.path, self.path))
            engine.logger.info(f"the log of another training is now {earlier}")
        self.rows.append(row)
        columns = list(dict.fromkeys(name for row in self.rows for name in row))
        write_csv([{name: row.get(name) for name in columns} for row in self.rows], self.path)
        left = seconds / len(self.rows) * (state.max_epochs - state.epoch)
        shown = [name for name in list(row)[4:] if name != "segmentation_loss" and "/" not in name]
        figures = ", ".join(f"{name.replace('_', ' ')} {row[name]:.4g}" for name in shown)
        engine.logger.info(f"epoch {state.epoch}/{state.max_epochs}: {figures}; {clock(left)} left")

    def _validation(self, epoch: int) -> dict[str, float]:
        """Metrics of the validator if it ran in this epoch."""
        if self.validator is None or self.validator.state.epoch != epoch:
            return {}
        metrics = self.validator.state.metrics.items()
        return {name: float(value) for name, value in metrics if torch.as_tensor(value).ndim == 0}


class LossesForTrackers:
    """Leave in ``state.output`` the losses alone, as a list of one dictionary.

    That is what MONAI's handlers of TensorBoard and MLflow read, and what its trainers leave there unless they are told
    not to split the batch (``decollate: false``). Acts at ``ITERATION_COMPLETED``: list it after
    :class:`dcd_components.TrainingLog` and before the trackers.
    """

    def attach(self, engine: Engine) -> None:
        """Register at the engine's events."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Replace the output of this iteration."""
        engine.state.output = [losses_of(engine.state.output)]


def losses_of(output: Mapping[str, Any]) -> dict[str, Tensor]:
    """Losses of an iteration, detached: ``loss``, its parts by segmentation and distillation, the latter's weight.

    Args:
        output: of a trainer, with what :class:`dcd_components.DistillationHandler` adds.
    """
    loss = output[CommonKeys.LOSS].detach()
    parts = {name: one for name, one in output.items() if name.startswith(("segmentation_", "distillation_"))}
    return {"loss": loss, "segmentation_loss": loss, **parts}


def clock(seconds: float) -> str:
    """Write a duration as ``m:ss`` or ``h:mm:ss``."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"
