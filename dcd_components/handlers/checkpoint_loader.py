"""Ignite handler that loads weights before a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from torch import nn

from dcd_components.networks.stage_recorder import unwrap
from dcd_components.networks.weights import TRAINING_ONLY, check_record, read_weights


class SafeCheckpointLoader:
    """Load weights into a network at ``STARTED``, strictly and without running code from their file.

    MONAI's ``CheckpointLoader`` takes NaN for weights, refuses names with the prefix of a wrapper, and explains a
    misfit by a traceback. A federated client, whose weights come from its server, disables handlers by that part of
    their name. A run that goes on, as later rounds and resumed trainings do, keeps the weights that it has, and needs
    no file: list it after :class:`.TrainingCheckpoint`.

    Args:
        network: takes the weights, on its device; also one that is wrapped for several processes.
        path: of the weights, see :func:`.read_weights`.
        left_out: parts of names whose weights are not taken, and need not fit. What only training uses never is.
        trained_on: settings of which the record of the weights must not say otherwise, see :func:`.check_record`.

    Raises:
        InputError: at ``STARTED``, for a file that is missing, cannot be read safely or does not fit.
    """

    def __init__(
        self,
        network: nn.Module,
        path: str | Path,
        left_out: Sequence[str] = (),
        trained_on: Mapping[str, Any] | None = None,
    ) -> None:
        self.network = unwrap(network)
        self.path = path
        self.left_out = left_out
        self.trained_on = trained_on or {}

    def attach(self, engine: Engine) -> None:
        """Register at the engine's events."""
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Load the weights, unless the run goes on."""
        if engine.state.iteration == 0:
            weights = read_weights(self.network, self.path, [*TRAINING_ONLY, *self.left_out])
            check_record(self.path, self.trained_on)
            self.network.load_state_dict(weights, strict=False)  # all but what was left out is known to be there
            engine.logger.info(f"weights of {self.path}")
