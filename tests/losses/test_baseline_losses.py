"""The losses of other methods, each against a second definition, and what they have in common."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import pywt
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dcd_components.errors import InputError
from dcd_components.losses.attention import AttentionLoss
from dcd_components.losses.channel_wise import ChannelWiseLoss
from dcd_components.losses.frequency import FrequencyLoss
from dcd_components.losses.intra_class import IntraClassLoss
from dcd_components.losses.logits import LogitsLoss

Array = NDArray[np.float64]
SIZE = (4, 6, 8)
CLASSES = 3


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def classes(*shape: int, seed: int = 0, low: int = 0) -> Tensor:
    return torch.randint(low, CLASSES, shape, generator=torch.Generator().manual_seed(seed)).float()


def softmax(x: Array, axis: int) -> Array:
    powers = np.exp(x)
    return np.asarray(powers / powers.sum(axis, keepdims=True))


def divergence(student: Array, teacher: Array, axis: int) -> Array:
    """KL of the probabilities of two networks' numbers."""
    ours, theirs = softmax(student, axis), softmax(teacher, axis)
    return np.asarray((theirs * np.log(theirs / ours)).sum(axis))


def projected(loss: nn.Module, student: Tensor) -> Array:
    weight: Any = loss.get_parameter("projection.weight").detach()[:, :, 0, 0, 0]
    return np.asarray(np.einsum("oi,bidhw->bodhw", weight.numpy(), student.numpy()))


def attention(student: Array, teacher: Array) -> float:
    total = 0.0
    for one, other in zip(student, teacher, strict=True):
        ours, theirs = ((x**2).mean(0) / math.sqrt(((x**2).mean(0) ** 2).sum()) for x in (one, other))
        total += ((ours - theirs) ** 2).sum()
    return total / len(student)


def channel_wise(student: Array, teacher: Array, temperature: float) -> float:
    batch, channels = teacher.shape[:2]
    pairs = [(student[b, c], teacher[b, c]) for b in range(batch) for c in range(channels)]
    divergences = [divergence(ours.ravel() / temperature, theirs.ravel() / temperature, 0) for ours, theirs in pairs]
    return float(temperature**2 / channels * sum(divergences) / batch)


def likeness(x: Array, label: Array) -> Array:
    """Cosine of each voxel's features and the mean of its class in its patch; 0 where it has no class."""
    result = np.zeros(label.shape)
    for b, *place in np.ndindex(*label.shape):
        if label[(b, *place)] >= 0:
            mean = x[b][:, label[b] == label[(b, *place)]].mean(1)
            feature = x[(b, slice(None), *place)]
            result[(b, *place)] = feature @ mean / math.sqrt((feature @ feature) * (mean @ mean))
    return result


def frequency(student: Array, teacher: Array, mse_weight: float) -> float:
    result = mse_weight * ((student - teacher) ** 2).mean()
    axes = (2, 3, 4)
    ours, theirs = (pywt.wavedecn(x, "haar", "periodization", 2, axes=axes)[1:] for x in (student, teacher))
    for one, other in zip(ours, theirs, strict=True):
        energy = np.sqrt(np.mean([band**2 for band in other.values()], axis=0).mean(1, keepdims=True))
        mask = 1 / (1 + np.exp(-np.log(energy / energy.mean(axes, keepdims=True))))
        result += np.mean([np.abs(mask * (one[name] - other[name])).mean() for name in other])
    return float(result)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_logits_loss_is_the_mean_over_voxels_alone(temperature: float) -> None:
    student, teacher = noise(2, CLASSES, *SIZE), noise(2, CLASSES, *SIZE, seed=1)
    expected = temperature**2 * divergence(student.numpy() / temperature, teacher.numpy() / temperature, 1).mean()
    assert LogitsLoss(3, 3, temperature)(student, teacher).item() == pytest.approx(expected, rel=1e-12)


def test_logits_loss_is_hintons() -> None:
    """Nothing is divided by the number of classes: two classes more that nobody believes in change nothing."""
    student, teacher = noise(1, 2, *SIZE), noise(1, 2, *SIZE, seed=1)
    more = torch.full((1, 2, *SIZE), -100.0, dtype=torch.float64)
    wide = LogitsLoss(4, 4)(torch.cat([student, more], 1), torch.cat([teacher, more], 1))
    torch.testing.assert_close(wide, LogitsLoss(2, 2)(student, teacher))


def test_by_class_it_is_the_mean_over_the_classes_that_the_teacher_gives() -> None:
    student, teacher = noise(2, 4, *SIZE), noise(2, 4, *SIZE, seed=1)
    teacher[:, 2] = -9.0  # given to no voxel
    given, values = teacher.argmax(1).numpy(), divergence(student.numpy() / 2, teacher.numpy() / 2, 1)
    assert set(np.unique(given)) == {0, 1, 3}
    expected = 4 * np.mean([values[given == k].mean() for k in (0, 1, 3)])
    assert LogitsLoss(4, 4, by_class=True)(student, teacher).item() == pytest.approx(expected, rel=1e-12)


def test_by_class_one_voxel_of_a_rare_class_counts_as_much_as_all_others() -> None:
    teacher = torch.zeros(1, 2, *SIZE)
    teacher[:, 0] = 5
    student = teacher.clone()
    teacher[0, :, 0, 0, 0] = torch.tensor([0.0, 5.0])
    plain, by_class = (LogitsLoss(2, 2, by_class=on)(student, teacher).item() for on in (False, True))
    assert by_class == pytest.approx(plain * math.prod(SIZE) / 2, rel=1e-5)


def binary(values: Array) -> Array:
    """Divergence of being in a region or not, for each region."""
    return np.stack([values, np.zeros_like(values)], 1)  # logits of a choice of two, of which one is 0


@pytest.mark.parametrize("by_class", [False, True])
def test_overlapping_regions_are_choices_of_their_own(by_class: bool) -> None:
    student, teacher = noise(2, 3, *SIZE), noise(2, 3, *SIZE, seed=1)
    teacher[:, 2] = -9.0  # a region without a voxel: only its outside counts
    values = divergence(binary(student.numpy() / 2), binary(teacher.numpy() / 2), 1)
    inside = teacher.numpy() > 0
    each = [values[:, k][mask].mean() for k in range(3) for mask in (inside[:, k], ~inside[:, k]) if mask.any()]
    assert len(each) == 5
    expected = 4 * (np.mean(each) if by_class else values.sum(1).mean())
    loss = LogitsLoss(3, 3, by_class=by_class, overlapping=True)
    assert loss(student, teacher).item() == pytest.approx(expected, rel=1e-12)
    assert loss(teacher, teacher).item() == pytest.approx(0, abs=1e-12)


def test_attention_loss_equals_its_definition() -> None:
    student, teacher = noise(2, 2, *SIZE), noise(2, 5, *SIZE, seed=1)
    value = AttentionLoss(2, 5)(student, teacher)
    assert value.item() == pytest.approx(attention(student.numpy(), teacher.numpy()), rel=1e-12)


def test_attention_is_of_normalised_maps_whatever_their_size() -> None:
    student, teacher = noise(1, 2, *SIZE), noise(1, 5, *SIZE, seed=1)
    value = AttentionLoss(2, 5)(student, teacher)
    torch.testing.assert_close(AttentionLoss(2, 5)(7 * student, teacher / 3), value)
    larger = [nn.functional.interpolate(x, scale_factor=2) for x in (student, teacher)]
    torch.testing.assert_close(AttentionLoss(2, 5)(*larger), value)
    apart = torch.zeros(2, 1, 1, *SIZE)
    apart[0, ..., 0], apart[1, ..., 1] = 1, 1
    assert AttentionLoss(1, 1)(*apart).item() == pytest.approx(2)


@pytest.mark.parametrize("channels", [3, 2], ids=["as many channels", "projected"])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_channel_wise_loss_equals_its_definition(channels: int, temperature: float) -> None:
    loss = ChannelWiseLoss(channels, 3, temperature).double()
    student, teacher = noise(2, channels, *SIZE), noise(2, 3, *SIZE, seed=1)
    ours = projected(loss, student) if channels < 3 else student.numpy()
    expected = channel_wise(ours, teacher.numpy(), temperature)
    assert loss(student, teacher).item() == pytest.approx(expected, rel=1e-12)
    assert len([*loss.parameters()]) == (channels < 3)


def test_channel_wise_loss_does_not_vanish_with_the_volume() -> None:
    values = []
    for size in (4, 16):
        pair = (noise(1, 2, size, size, size, seed=seed) for seed in (0, 1))
        values.append(ChannelWiseLoss(2, 2, 1.0)(*pair).item())
    assert values[1] == pytest.approx(values[0], rel=0.3)


@pytest.mark.parametrize("low", [0, -1], ids=["labelled", "partly of no class"])
def test_intra_class_loss_equals_its_definition(low: int) -> None:
    student, teacher = noise(2, 2, *SIZE) + 1, noise(2, 5, *SIZE, seed=1) + 1
    label = classes(2, 1, *SIZE, low=low)
    ours, theirs = (likeness(x.numpy(), label[:, 0].numpy()) for x in (student, teacher))
    value = IntraClassLoss(2, 5, num_classes=CLASSES)(student, teacher, label)
    assert value.item() == pytest.approx(((ours - theirs) ** 2).mean(), rel=1e-12)


def test_classes_that_a_patch_lacks_play_no_part() -> None:
    student, teacher = noise(2, 2, *SIZE), noise(2, 5, *SIZE, seed=1)
    label = classes(2, 1, *SIZE)
    label[0] = 2
    few, many = (IntraClassLoss(2, 5, num_classes=count)(student, teacher, label) for count in (CLASSES, 20))
    torch.testing.assert_close(few, many)
    assert few > 0


def test_the_label_is_taken_to_the_size_of_the_map_by_nearest_neighbour() -> None:
    student, teacher = noise(2, 2, *SIZE), noise(2, 5, *SIZE, seed=1)
    label = classes(2, 1, *SIZE)
    large = label.repeat_interleave(2, 2).repeat_interleave(4, 4).to(torch.uint8)
    loss = IntraClassLoss(2, 5, num_classes=CLASSES)
    assert torch.equal(loss(student, teacher, large), loss(student, teacher, label))


@pytest.mark.parametrize("shape", [(1, 1, *SIZE), (2, *SIZE), (2, 2, *SIZE)])
def test_a_label_that_does_not_fit_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"label must be \(B, 1, D, H, W\) for maps \(2, 2, 4, 6, 8\), got"):
        IntraClassLoss(2, 2, num_classes=3)(noise(2, 2, *SIZE), noise(2, 2, *SIZE), torch.zeros(shape))


def test_a_feature_that_is_nothing_gets_no_endless_gradient() -> None:
    student = noise(1, 2, *SIZE) + 1
    student[..., 0] = 0
    student.requires_grad_()
    IntraClassLoss(2, 5, num_classes=1)(student, noise(1, 5, *SIZE), torch.zeros(1, 1, *SIZE)).backward()
    assert student.grad is not None
    assert student.grad.abs().max() < 100


@pytest.mark.parametrize("mse_weight", [5.0, 0.0])
def test_frequency_loss_equals_its_definition(mse_weight: float) -> None:
    loss = FrequencyLoss(2, 3, mse_weight).double()
    student, teacher = noise(2, 2, *SIZE), noise(2, 3, *SIZE, seed=1)
    expected = frequency(projected(loss, student), teacher.numpy(), mse_weight)
    assert loss(student, teacher).item() == pytest.approx(expected, rel=1e-12)


def test_frequency_loss_leaves_the_approximation_to_the_squared_error() -> None:
    loss = FrequencyLoss(2, 2, mse_weight=0.0).double()
    nn.init.dirac_(loss.projection.weight)
    teacher = noise(1, 2, 8, 8, 8)
    assert loss(teacher + 3, teacher).item() == pytest.approx(0, abs=1e-12)
    assert loss(teacher + noise(1, 2, 8, 8, 8, seed=1), teacher).item() > 0.1


# What all have in common.

LOSSES: dict[str, tuple[Callable[..., nn.Module], int]] = {
    "logits": (LogitsLoss, 4),
    "logits by class": (partial(LogitsLoss, by_class=True), 4),
    "attention": (AttentionLoss, 3),
    "channel wise": (ChannelWiseLoss, 3),
    "channel wise, as many": (ChannelWiseLoss, 4),
    "intra class": (partial(IntraClassLoss, num_classes=CLASSES), 3),
    "frequency": (FrequencyLoss, 3),
}
every_loss = pytest.mark.parametrize("name", LOSSES)


class Case:
    """A loss with maps of its numbers of channels, and the label if it needs one."""

    def __init__(self, name: str, size: tuple[int, ...] = SIZE) -> None:
        make, channels = LOSSES[name]
        torch.manual_seed(0)
        self.loss = make(channels, 4).double()
        self.student, self.teacher = noise(2, channels, *size), noise(2, 4, *size, seed=1)
        self.label = (classes(2, 1, *size),) if getattr(self.loss, "needs_label", False) else ()

    def __call__(self, student: Tensor, teacher: Tensor) -> Tensor:
        value: Tensor = self.loss(student, teacher, *self.label)
        return value


@every_loss
def test_gradients_reach_student_and_projection_and_not_the_teacher(name: str) -> None:
    case = Case(name)
    student, teacher = case.student.requires_grad_(), case.teacher.requires_grad_()
    value = case(student, teacher)
    value.backward()  # type: ignore[no-untyped-call]
    assert value.shape == ()
    assert teacher.grad is None
    for one in (student, *case.loss.parameters()):
        assert one.grad is not None
        assert one.grad.abs().max() > 0


@every_loss
def test_gradients_are_right(name: str) -> None:
    case = Case(name, (2, 2, 4))
    assert torch.autograd.gradcheck(lambda x: case(x, case.teacher), case.student.requires_grad_())


@every_loss
def test_a_student_that_is_its_teacher_scores_zero(name: str) -> None:
    make, _ = LOSSES[name]
    loss = make(4, 4).double()
    for parameter in loss.parameters():
        nn.init.dirac_(parameter)
    case = Case(name)
    assert loss(case.teacher, case.teacher, *case.label).item() == pytest.approx(0, abs=1e-12)
    assert loss(case.teacher + noise(2, 4, *SIZE, seed=3), case.teacher, *case.label).item() > 1e-3


@every_loss
@pytest.mark.parametrize("level", [0.0, 1.0])
def test_constant_maps_give_numbers_and_small_gradients(name: str, level: float) -> None:
    case = Case(name)
    student = torch.full_like(case.student, level).float().requires_grad_()
    value = case.loss.float()(student, torch.full_like(case.teacher, level).float(), *case.label)
    value.backward()
    assert value.isfinite()
    assert student.grad is not None
    assert student.grad.abs().max() < 10


@every_loss
def test_values_are_float32_under_autocast(name: str) -> None:
    case = Case(name)
    loss = case.loss.float()
    half = [x.bfloat16() for x in (case.student, case.teacher)]
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(*half, *case.label)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss(*(x.float() for x in half), *case.label), rtol=1e-6, atol=0)


@every_loss
def test_large_half_precision_does_not_overflow(name: str) -> None:
    case = Case(name)
    maps = [(1e3 * x).half() for x in (case.student, case.teacher)]
    assert case.loss.float()(*maps, *case.label).isfinite()


@every_loss
def test_no_value_is_read(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(name)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: torch.amp.autocast("cpu", enabled=False))
    value = case.loss.to("meta")(*(x.to("meta") for x in (case.student, case.teacher, *case.label)))
    assert value.device.type == "meta"


@every_loss
def test_maps_that_do_not_fit_are_refused(name: str) -> None:
    case = Case(name)
    with pytest.raises(InputError, match="maps must agree in batch and spatial size"):
        case(case.student, case.teacher[..., :-1])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LogitsLoss(3, 4), "logits of 3 classes cannot match those of 4"),
        (lambda: LogitsLoss(3, 3, 0.0), r"temperature must be positive, got 0\.0"),
        (lambda: ChannelWiseLoss(3, 3, -1.0), r"temperature must be positive, got -1\.0"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(make: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()
