"""A student of several teachers."""

from __future__ import annotations

import copy
import weakref
from functools import partial

import pytest
import torch
from distilled import LOSS, OUTPUT, STAGES, Network, distiller_of, image, networks
from torch import Tensor, nn

from dcd_components.distiller import Distiller
from dcd_components.ensemble_distiller import EnsembleDistiller
from dcd_components.errors import InputError
from dcd_components.losses.logits import LogitsLoss


def teachers(count: int) -> tuple[Network, list[Network]]:
    student, first = networks()
    others = [copy.deepcopy(first) for _ in range(count - 1)]
    for seed, other in enumerate(others):
        torch.manual_seed(seed)
        for parameter in other.parameters():
            nn.init.normal_(parameter)
    return student, [first, *others]


def value_of(distiller: Distiller | EnsembleDistiller, student: Network, epoch: int = 0) -> Tensor:
    with distiller:
        student(image())
        return distiller.loss(image(), epoch)


def test_the_loss_is_the_mean_over_the_teachers() -> None:
    student, several = teachers(3)
    options = {"image_shape": image().shape[1:], "loss": LOSS, "weight": 0.3, "output_weight": 2.0, **OUTPUT}
    ensemble = EnsembleDistiller.of_teachers(student, several[0], STAGES, further=several[1:], **options)
    alone = [Distiller(student, teacher, STAGES, **options) for teacher in several]
    for one, other in zip(ensemble.distillers, alone, strict=True):
        other.load_state_dict(one.state_dict())
    values = [value_of(one, student) for one in alone]
    torch.testing.assert_close(value_of(ensemble, student), torch.stack(values).mean())
    torch.testing.assert_close(ensemble.unweighted, torch.stack([one.unweighted for one in alone]).mean())
    assert [*ensemble.terms] == [*alone[0].terms]
    for name, term in ensemble.terms.items():
        torch.testing.assert_close(term, torch.stack([one.terms[name] for one in alone]).mean())


def test_maps_of_one_teacher_at_a_time_are_held() -> None:
    student, several = teachers(3)
    seen: list[list[weakref.ref[Tensor]]] = []
    alive: list[int] = []

    def begins(*_: object) -> None:
        alive.append(sum(map_() is not None for maps in seen for map_ in maps))
        seen.append([])

    for teacher in several:
        teacher.register_forward_pre_hook(begins)
        for name in STAGES:
            teacher.get_submodule(name).register_forward_hook(lambda *found: seen[-1].append(weakref.ref(found[-1])))
    options = {"image_shape": image().shape[1:], "loss": LOSS}
    ensemble = EnsembleDistiller.of_teachers(student, several[0], STAGES, further=several[1:], **options)
    alive.clear()  # dry passes
    seen.clear()
    loss = value_of(ensemble, student)
    assert loss.requires_grad
    assert alive == [0, 0, 0]
    assert [len(maps) for maps in seen] == [len(STAGES)] * 3


def test_each_teacher_has_projections_of_its_own_that_are_trained() -> None:
    student, several = teachers(2)
    options = {"image_shape": image().shape[1:], "loss": LOSS}
    ensemble = EnsembleDistiller.of_teachers(student, several[0], STAGES, further=several[1:], **options)
    parameters = [*ensemble.parameters()]
    assert len(parameters) == 2 * len([*distiller_of(*networks()).parameters()])
    value_of(ensemble, student).backward()  # type: ignore[no-untyped-call]
    assert all(parameter.grad is not None for parameter in parameters)
    assert not any(parameter.grad is not None for teacher in several for parameter in teacher.parameters())


def test_the_divergence_has_the_gradient_of_that_from_the_mean_probabilities() -> None:
    """Of the logits, where every voxel counts alike."""
    student, several = teachers(2)
    options = {"image_shape": image().shape[1:], "loss": partial(LogitsLoss, temperature=1.0)}
    ensemble = EnsembleDistiller.of_teachers(student, several[0], ["decoder"], further=several[1:], **options)
    found = torch.autograd.grad(value_of(ensemble, student), [*student.parameters()])
    logits, known = student(image()), [teacher(image()) for teacher in several]
    mean = torch.stack([one.softmax(1) for one in known]).mean(0)
    divergence = nn.functional.kl_div(logits.log_softmax(1), mean, reduction="none").sum(1).mean()
    torch.testing.assert_close(found, torch.autograd.grad(divergence, [*student.parameters()]))


def test_teachers_of_other_architectures_are_combined_by_their_distillers() -> None:
    student, (teacher, _) = teachers(2)
    other = nn.Sequential(nn.Conv3d(1, 5, 3, padding=1), nn.Conv3d(5, 7, 3, stride=2, padding=1))
    shape = image().shape[1:]
    alone = [
        Distiller(student, teacher, STAGES, image_shape=shape, loss=LOSS),
        Distiller(student, other, STAGES[:1], image_shape=shape, loss=LOSS, teacher_stages=["0"]),
    ]
    ensemble = EnsembleDistiller(alone)
    values = [value_of(one, student) for one in alone]
    torch.testing.assert_close(value_of(ensemble, student), torch.stack(values).mean())
    with pytest.raises(InputError, match="an ensemble needs at least one teacher, got none"):
        EnsembleDistiller([])


def test_hooks_live_from_open_to_close() -> None:
    student, several = teachers(2)
    schedule = {"image_shape": image().shape[1:], "loss": LOSS, "weight": lambda epoch: float(epoch)}
    ensemble = EnsembleDistiller.of_teachers(student, several[0], STAGES, further=several[1:], **schedule)
    hooks = [len(module._forward_hooks) for module in student.modules()]
    ensemble.open(0)
    assert not ensemble.distils(0)
    assert [len(module._forward_hooks) for module in student.modules()] == hooks
    ensemble.open(1)
    assert sum(len(module._forward_hooks) for module in student.modules()) == sum(hooks) + 2 * len(STAGES)
    ensemble.close()
    assert [len(module._forward_hooks) for module in student.modules()] == hooks
