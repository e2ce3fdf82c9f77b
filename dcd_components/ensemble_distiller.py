"""Distillation of a student from several frozen teachers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dcd_components.distiller import Distiller, Inferer
from dcd_components.errors import InputError


class EnsembleDistiller(nn.Module):
    r"""Mean of the losses of a student and each of several teachers, such as those of the folds of a cross-validation.

    .. math:: L(e) = \frac{1}{J} \sum_{j=1}^{J} L_j(e)

    :math:`L_j` is the loss of :class:`.Distiller` with teacher :math:`j`, with projections of its own, since the
    features of networks that were trained apart have nothing to do with each other. The divergence of the outputs,
    where every voxel counts alike, has the gradient of that from the mean of the teachers' probabilities. The teachers
    run one after another, so that there are maps of one at a time, beside what each loss keeps for its gradient.

    It is used as a :class:`.Distiller` is, in loops and by :class:`.DistillationHandler`. Its stages and weights are
    those of the first distiller.

    Args:
        distillers: of one student, a teacher each, which may be of other architectures and have other stages.

    Attributes:
        distillers: as given.
        terms: means over the teachers of the losses by stage, detached.
        unweighted: the mean of the stages' losses, detached.
        settings: what is compared with each teacher.

    Raises:
        InputError: for no distiller.
    """

    def __init__(self, distillers: Sequence[Distiller]) -> None:
        super().__init__()
        if not distillers:
            raise InputError("an ensemble needs at least one teacher, got none")
        self._several = tuple(distillers)
        self.distillers = nn.ModuleList(distillers)  # whose parameters are those of this
        first = distillers[0]
        self.stages, self.weight, self.output_weight = first.stages, first.weight, first.output_weight
        self.settings = {"teachers": [one.settings for one in distillers]}
        self.terms: dict[str, Tensor] = {}
        self.unweighted = torch.zeros(())

    @classmethod
    def of_teachers(
        cls,
        student: nn.Module,
        teacher: nn.Module,
        stages: Iterable[str] | str,
        further: Iterable[nn.Module] = (),
        **options: Any,
    ) -> EnsembleDistiller:
        """Compare a student with several teachers in the same way, as configs say it.

        Args:
            student: network in training, on its device.
            teacher: trained network.
            stages: module paths in the student, or ``auto``.
            further: trained networks. Those of other architectures than the first need ``auto`` for their stages.
            options: those of :class:`.Distiller`.

        Raises:
            InputError: for what :class:`.Distiller` refuses.
        """
        named = stages if isinstance(stages, str) else tuple(stages)
        return cls([Distiller(student, one, named, **options) for one in [teacher, *further]])

    def open(self, epoch: int | None = None) -> None:
        """Register the hooks on the student, see :meth:`.Distiller.open`."""
        for one in self._several:
            one.open(epoch)

    def close(self) -> None:
        """Remove the hooks and forget what they recorded."""
        for one in self._several:
            one.close()

    def distils(self, epoch: int) -> bool:
        """Whether a weight of an epoch is not 0."""
        return any(one.distils(epoch) for one in self._several)

    def __enter__(self) -> EnsembleDistiller:
        """Register the hooks."""
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the hooks."""
        self.close()

    def loss(self, image: Tensor, epoch: int, inferer: Inferer | None = None, label: Tensor | None = None) -> Tensor:
        """Return the weighted loss of the student's last pass, see :meth:`.Distiller.loss`."""
        total = torch.stack([one.loss(image, epoch, inferer, label) for one in self._several]).mean()
        names = dict.fromkeys(name for one in self._several for name in one.terms)
        self.terms = {name: _mean(one.terms[name] for one in self._several if name in one.terms) for name in names}
        self.unweighted = _mean(one.unweighted for one in self._several)
        return total

    def fit(self, images: Iterable[Tensor], inferer: Inferer | None = None) -> None:
        """Set projections to the best ones for some images, see :meth:`.Distiller.fit`.

        All images are kept until the last teacher has seen them.
        """
        several = [*images]
        for one in self._several:
            one.fit(several, inferer)


def _mean(values: Iterable[Any]) -> Tensor:
    return torch.stack([*values]).mean()
