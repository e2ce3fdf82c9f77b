"""The first weights of a student, and of the projections with it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ignite.engine import Engine
from torch import Tensor, nn
from torch.nn import functional

from dcd_components.distiller import Distiller
from dcd_components.errors import InputError
from dcd_components.handlers.student_start import StudentStart
from dcd_components.losses.feature import FeatureLoss

BATCHES = 3


def network(width: int) -> nn.Sequential:
    layers = [
        nn.Conv3d(1, width, 3, padding=1),
        nn.InstanceNorm3d(width, affine=True),
        nn.ReLU(),
        nn.Conv3d(width, 2, 1),
    ]
    return nn.Sequential(*layers)


class Training:
    """An engine that does nothing, and all that the handler works on."""

    def __init__(self, init: str, weight: float = 1.0, **settings: Any) -> None:
        torch.manual_seed(0)
        self.student, self.teacher = network(2), network(5)
        nn.init.normal_(self.teacher.get_parameter("1.weight"))
        self.distiller = Distiller(
            self.student, self.teacher, ["2"], image_shape=(1, 4, 4, 4), loss=FeatureLoss, weight=weight
        )
        self.seen: list[Tensor] = []
        self.data = [
            {"image": torch.randn(2, 1, 4, 4, 4), "label": torch.randint(2, (2, 1, 4, 4, 4))} for _ in range(5)
        ]
        self.engine = Engine(lambda engine, batch: None)
        self.handler = StudentStart(
            init, self.student, self.teacher, self.distiller, self.loss, BATCHES, self.inferer, **settings
        )
        self.handler.attach(self.engine)

    def loss(self, logits: Tensor, label: Tensor) -> Tensor:
        return functional.cross_entropy(logits, label[:, 0])

    def inferer(self, image: Tensor, network: nn.Module) -> Any:
        self.seen.append(image)
        return network(image)

    def weights(self) -> list[Tensor]:
        return [x.detach().clone() for x in [*self.student.parameters(), *self.distiller.parameters()]]

    @torch.no_grad()
    def distance(self) -> Tensor:
        """Of the projected maps of the student, over the batches that are looked at."""
        (loss,) = self.distiller.losses
        maps = [(self.student[:3](one["image"]), self.teacher[:3](one["image"])) for one in self.data[:BATCHES]]
        return torch.stack([loss(*pair) for pair in maps]).sum()


def test_the_student_starts_as_channels_of_its_teacher_with_the_best_projections() -> None:
    training = Training("teacher")
    training.engine.run(training.data)
    ours, theirs = (list(one.get_parameter("0.weight")) for one in (training.student, training.teacher))
    assert all(any(torch.equal(one, other) for other in theirs) for one in ours)
    assert len(training.seen) == 3 * BATCHES  # the teacher for its channels, both networks for the projections
    best = training.distance()
    projection = training.distiller.get_parameter("losses.0.projection.weight")
    for change in (0.01, -0.01):  # up and down from the least value
        for place in range(projection.numel()):
            with torch.no_grad():
                projection.view(-1)[place] += change
                assert training.distance() > best
                projection.view(-1)[place] -= change


@pytest.mark.parametrize(("init", "epoch"), [("random", 0), ("teacher", 1)])
def test_other_weights_stay(init: str, epoch: int) -> None:
    training = Training(init)
    before = training.weights()
    training.engine.state.epoch = epoch
    training.engine.load_state_dict({"epoch": epoch, "max_epochs": 2, "epoch_length": 5})  # as one that goes on
    training.engine.run(training.data)
    assert all(torch.equal(one, other) for one, other in zip(before, training.weights(), strict=True))
    assert training.seen == []


def test_projections_that_no_epoch_uses_are_not_fitted() -> None:
    training = Training("teacher", weight=0.0)
    training.engine.run(training.data)
    assert len(training.seen) == BATCHES


@pytest.mark.parametrize("settings", [{"initial_weights": "other.pt"}, {"fl_rounds": 2}])
def test_weights_from_elsewhere_are_not_thrown_away_in_silence(settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=rf"cannot go with {next(iter(settings))} "):
        Training("teacher", **settings)
    Training("random", **settings)


def test_another_word_is_refused() -> None:
    with pytest.raises(InputError, match="init must be random or teacher, got student"):
        Training("student")
