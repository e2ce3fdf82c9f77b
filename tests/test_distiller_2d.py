"""Networks of images, ``(B, C, H, W)``, are distilled as those of volumes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from monai.networks.nets import BasicUNet, DynUNet, UNet
from torch import Tensor, nn

from dcd_components.distiller import Distiller
from dcd_components.ensemble_distiller import EnsembleDistiller
from dcd_components.losses.attention import AttentionLoss
from dcd_components.losses.channel_wise import ChannelWiseLoss
from dcd_components.losses.feature import FeatureLoss
from dcd_components.losses.frequency import FrequencyLoss
from dcd_components.losses.intra_class import IntraClassLoss
from dcd_components.losses.logits import LogitsLoss
from dcd_components.losses.wavelet_detail import WaveletDetailLoss
from dcd_components.networks.narrowing import start_from_teacher

CLASSES = 3
SHAPE = (2, 32, 48)
WIDE, NARROW = (16, 16, 24, 32, 32, 16), (8, 8, 12, 16, 16, 8)
NETWORKS: dict[str, Callable[[tuple[int, ...]], nn.Module]] = {
    "BasicUNet": lambda widths: BasicUNet(2, SHAPE[0], CLASSES, features=widths),
    "DynUNet": lambda widths: DynUNet(
        *(2, SHAPE[0], CLASSES, [3] * 3, [1, 2, 2], [2] * 2),
        filters=widths[1:4],
        norm_name=("INSTANCE", {"affine": True}),
        res_block=True,
    ),
    "UNet": lambda widths: UNet(2, SHAPE[0], CLASSES, widths[1:4], (2, 2), num_res_units=1),
}
LOSSES: dict[str, Callable[..., nn.Module]] = {
    "wavelet": WaveletDetailLoss,
    "wavelet, normalised": partial(WaveletDetailLoss, normalize=True),
    "feature": FeatureLoss,
    "attention": AttentionLoss,
    "channel wise": ChannelWiseLoss,
    "frequency": FrequencyLoss,
    "intra class": partial(IntraClassLoss, num_classes=CLASSES),
}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def batch(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(2, *SHAPE, generator=generator)
    return {"image": image, "label": torch.randint(CLASSES, (2, 1, *SHAPE[1:]), generator=generator)}


def pair(kind: str = "BasicUNet") -> tuple[nn.Module, nn.Module]:
    return NETWORKS[kind](NARROW), NETWORKS[kind](WIDE)


def course(distiller: Distiller | EnsembleDistiller, student: nn.Module, steps: int = 8) -> list[Tensor]:
    """Values of the loss of a batch as student and projections learn to make it small."""
    optimizer, values = torch.optim.Adam([*student.parameters(), *distiller.parameters()], lr=0.01), []
    given = batch()
    with distiller:
        for _ in range(steps):
            optimizer.zero_grad()
            student(given["image"])
            value = distiller.loss(given["image"], 0, label=given["label"])
            value.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            values.append(value.detach())
    return values


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_of_a_pair_of_unets_falls(loss: str) -> None:
    student, teacher = pair()
    values = course(Distiller(student, teacher, "auto", image_shape=SHAPE, loss=LOSSES[loss]), student)
    assert values[-1] < 0.9 * values[0]


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("by_class", [False, True])
def test_stages_and_logits_of_several_architectures_are_matched(kind: str, by_class: bool) -> None:
    student, teacher = pair(kind)
    last = {"BasicUNet": "final_conv", "DynUNet": "output_block", "UNet": "model"}[kind]
    output: dict[str, Any] = {"output": last, "output_loss": partial(LogitsLoss, by_class=by_class)}
    distiller = Distiller(student, teacher, "auto", image_shape=SHAPE, **output)
    assert len(distiller.stages) >= 2
    values = course(distiller, student)
    assert list(distiller.terms) == [*distiller.stages, last]
    assert values[-1] < 0.9 * values[0]


def test_a_teacher_s_map_is_brought_to_the_student_s_size() -> None:
    student, teacher = nn.Sequential(nn.Conv2d(2, 3, 1)), nn.Sequential(nn.Conv2d(2, 5, 2, 2))
    distiller = Distiller(student, teacher, ["0"], image_shape=SHAPE, loss=FeatureLoss)
    image = batch()["image"]
    with distiller:
        student(image)
        value = distiller.loss(image, 0)
    larger = nn.functional.interpolate(teacher(image), scale_factor=2, mode="bilinear")
    torch.testing.assert_close(value, distiller.losses[0](student(image), larger))
    fine = Distiller(teacher, student, ["0"], image_shape=SHAPE, loss=FeatureLoss)
    with fine:
        teacher.requires_grad_(True)(image)
        value = fine.loss(image, 0)
    smaller = nn.functional.avg_pool2d(student(image), 2)
    torch.testing.assert_close(value, fine.losses[0](teacher(image), smaller))


@pytest.mark.parametrize("loss", ["wavelet, normalised", "feature"])
def test_projections_are_fitted_to_where_the_loss_is_least(loss: str) -> None:
    student, teacher = pair()
    distiller = Distiller(student, teacher, "auto", image_shape=SHAPE, loss=LOSSES[loss])
    image = batch()["image"]
    student.eval()
    values = []
    for _ in range(2):
        with distiller:
            student(image)
            value = distiller.loss(image, 0)
        gradients = torch.autograd.grad(value, [*distiller.parameters()])
        values.append((value.item(), max(gradient.abs().max().item() for gradient in gradients)))
        distiller.fit([image])
    assert values[1][0] < values[0][0]
    assert values[1][1] < 0.05 * values[0][1]  # what is left is that of the small ridge


def test_a_student_of_several_teachers_learns() -> None:
    student, teacher = pair()
    distiller = EnsembleDistiller.of_teachers(
        student, teacher, "auto", further=[NETWORKS["BasicUNet"](WIDE)], image_shape=SHAPE
    )
    values = course(distiller, student)
    assert values[-1] < 0.9 * values[0]


@pytest.mark.parametrize("kind", ["BasicUNet", "DynUNet"])
def test_a_student_starts_as_channels_of_its_teacher(kind: str) -> None:
    student, teacher = pair(kind)

    def loss(logits: Tensor, label: Tensor) -> Tensor:
        return nn.functional.cross_entropy(logits, label[:, 0])

    start_from_teacher(student, teacher, [batch()], loss)
    first, wide = (next(x for x in network.parameters() if x.ndim == 4) for network in (student, teacher))
    kept = [any(torch.equal(kernel, one) for one in wide) for kernel in first]
    assert len(kept) < len(wide)
    assert all(kept)
