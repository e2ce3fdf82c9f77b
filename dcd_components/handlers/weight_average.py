"""Moving average of the weights."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from ignite.engine import Engine, Events
from ignite.handlers import EMAHandler
from torch import nn

from dcd_components.handlers.kept_state import keep
from dcd_components.networks.stage_recorder import unwrap


def average_of(network: nn.Module) -> nn.Module:
    """Copy a network, less what wraps it for several processes, to take up the moving average of its weights."""
    return copy.deepcopy(unwrap(network)).eval().requires_grad_(False)


class WeightAverage(EMAHandler):  # type: ignore[misc]
    """Exponential moving average of a network's weights, that each training starts anew from those it starts with.

    Ignite's own starts from the weights at the time of its construction. Weights that come later, from a checkpoint or
    from a federated server, would be a thousandth of the average after the first iteration, and random ones the rest.

    Args:
        network: network in training.
        average: what :func:`average_of` made of the network; it takes up the average, for others to use.
        decay: what the average keeps of itself per iteration.
    """

    def __init__(self, network: nn.Module, average: nn.Module, decay: float) -> None:
        super().__init__(network, momentum=1 - decay)
        self.ema_model = average  # instead of Ignite's own copy, which no config could refer to
        self._waits = False

    def attach(self, engine: Engine, *args: Any, **kwargs: Any) -> None:
        """Register at the engine's events, with the arguments of Ignite's own."""
        keep(engine, "average", self)
        engine.add_event_handler(Events.STARTED, self._wait)
        engine.add_event_handler(Events.ITERATION_STARTED, self._restart)
        super().attach(engine, *args, **kwargs)

    def state_dict(self) -> dict[str, Any]:
        """The average."""
        weights: dict[str, Any] = self.ema_model.state_dict()
        return weights

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with an average, rather than anew, in the run that has started."""
        self.ema_model.load_state_dict(state)
        self._waits = False

    def _wait(self) -> None:
        self._waits = True  # for weights that other handlers of this event load

    def _restart(self) -> None:
        if self._waits:
            self.ema_model.load_state_dict(self.model.state_dict())
        self._waits = False
