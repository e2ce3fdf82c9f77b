"""Ignite handler that gives a student its first weights."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ignite.engine import Engine, Events
from monai.utils import CommonKeys
from torch import Tensor, nn

from dcd_components.distiller import Distiller, Inferer
from dcd_components.ensemble_distiller import EnsembleDistiller
from dcd_components.errors import InputError
from dcd_components.networks.narrowing import start_from_teacher
from dcd_components.networks.nnunet_student import in_student_class
from dcd_components.networks.stage_recorder import unwrap


class StudentStart:
    """Start a student as its teacher's most important channels at ``STARTED``, see :func:`.start_from_teacher`.

    The projections of the distiller, if some epoch distils, then start as the best ones for the same batches, see
    :meth:`.Distiller.fit`: random ones would pull the student away from where it is. The batches are those of an epoch
    before the first, in float32 on a GPU.

    A run that goes on, as later rounds and resumed trainings do, keeps the weights that it has: list it after
    :class:`.TrainingCheckpoint`.

    Args:
        init: ``random``, for a student that stays as it was built, or ``teacher``.
        network: the student.
        teacher: trained, of the same architecture in other widths; or nnU-Net's plain U-Net, see
            :func:`.in_student_class`.
        distiller: of both.
        loss: of logits and label, by which channels are important.
        number: of batches.
        inferer: how the networks are run; called by default.
        initial_weights: file that other weights of the student come from; None where there is none.
        fl_rounds: rounds of a federated training, whose weights come from a server.

    Raises:
        InputError: for another word as ``init``, and for ``teacher`` where the weights come from elsewhere or the
            teacher is of another class; at ``STARTED`` where the student is no narrower copy of the teacher.
    """

    def __init__(
        self,
        init: str,
        network: nn.Module,
        teacher: nn.Module,
        distiller: Distiller | EnsembleDistiller,
        loss: Callable[[Any, Tensor], Tensor],
        number: int,
        inferer: Inferer | None = None,
        initial_weights: str | None = None,
        fl_rounds: int = 1,
    ) -> None:
        if init not in ("random", "teacher"):
            raise InputError(f"init must be random or teacher, got {init}")
        if init == "teacher" and (initial_weights is not None or fl_rounds > 1):
            other = f"initial_weights {initial_weights}" if initial_weights is not None else f"fl_rounds {fl_rounds}"
            raise InputError(f"init: teacher gives the student its weights, and so cannot go with {other}")
        self.init = init
        self.network = unwrap(network)
        self.teacher = in_student_class(unwrap(teacher), self.network) if init == "teacher" else teacher
        self.distiller = distiller
        self.loss = loss
        self.inferer = inferer
        self.number = number

    def attach(self, engine: Engine) -> None:
        """Register at the engine's events."""
        if self.init == "teacher":
            engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Set the weights, unless the run goes on."""
        if engine.state.iteration > 0:
            return
        self.start(engine.state.dataloader, engine.state.max_epochs or 0)
        engine.logger.info("the student starts as the most important channels of its teacher")

    def start(self, batches: Iterable[Mapping[str, Tensor]], epochs: int) -> None:
        """Set the weights by the first of some batches, which are made twice: many would not fit into memory."""
        first = itertools.islice(batches, self.number)
        start_from_teacher(self.network, self.teacher, first, self.loss, inferer=self.inferer)
        if not any(self.distiller.distils(epoch) for epoch in range(epochs)):
            return
        images = (batch[CommonKeys.IMAGE] for batch in itertools.islice(batches, self.number))
        self.distiller.fit(images, self.inferer)
