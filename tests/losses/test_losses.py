import logging
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dcd_components.losses.deep_supervision import DeepSupervisionLoss
from dcd_components.losses.feature import FeatureLoss
from dcd_components.losses.wavelet_detail import WaveletDetailLoss
from dcd_components.wavelets.transform import BANDS, DIRECTIONAL_BANDS

STAGE_LOSSES = [
    pytest.param(FeatureLoss, {}, id="feature"),
    pytest.param(FeatureLoss, {"normalize": True}, id="feature, normalised"),
    pytest.param(WaveletDetailLoss, {"wavelet": "haar", "levels": 2}, id="wavelet"),
    pytest.param(WaveletDetailLoss, {"wavelet": "db2", "levels": 1, "normalize": True}, id="wavelet, normalised"),
]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def stage_loss(kind: type[FeatureLoss], students: int, teachers: int, **options: Any) -> FeatureLoss:
    """Build a loss in float64 whose projection is the same every time."""
    loss = kind(students, teachers, **options).double()
    nn.init.trunc_normal_(loss.projection.weight, generator=torch.Generator().manual_seed(1))
    return loss


def as_identity(loss: FeatureLoss) -> FeatureLoss:
    nn.init.dirac_(loss.projection.weight)
    return loss


def test_default_wavelet_loss_is_the_papers() -> None:
    loss = WaveletDetailLoss(8, 32)
    assert (loss.wavelet, loss.levels, loss.bands, loss.mode) == ("db4", 3, DIRECTIONAL_BANDS, "periodization")
    assert loss.projection.bias is None


@pytest.mark.parametrize("normalize", [False, True], ids=["plain", "normalised"])
def test_feature_loss_equals_its_definition(normalize: bool) -> None:
    loss = stage_loss(FeatureLoss, 2, 3, normalize=normalize)
    student, teacher = noise(2, 2, 4, 5, 6), noise(2, 3, 4, 5, 6, seed=2)
    projected = torch.einsum("oi,bidhw->bodhw", loss.projection.weight[:, :, 0, 0, 0], student)
    expected = (projected - teacher).square().mean() / (teacher.square().mean() if normalize else 1)
    torch.testing.assert_close(loss(student, teacher), expected)


@pytest.mark.parametrize(("kind", "options"), STAGE_LOSSES)
def test_equal_maps_score_zero(kind: type[FeatureLoss], options: dict[str, Any]) -> None:
    loss = as_identity(stage_loss(kind, 3, 3, **options))
    x = noise(2, 3, 8, 8, 8)
    assert abs(loss(x, x).item()) < 1e-14
    assert loss(x, x + noise(2, 3, 8, 8, 8, seed=2)).item() > 0


@pytest.mark.parametrize("wavelet", ["haar", "db2", "db4"])
def test_all_bands_of_an_orthonormal_wavelet_score_as_the_maps_themselves(wavelet: str) -> None:
    student, teacher = noise(1, 2, 16, 8, 24), noise(1, 3, 16, 8, 24, seed=2)
    bands = stage_loss(WaveletDetailLoss, 2, 3, wavelet=wavelet, levels=1, bands=BANDS)
    maps = stage_loss(FeatureLoss, 2, 3)
    torch.testing.assert_close(bands(student, teacher), maps(student, teacher), rtol=1e-12, atol=0)


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e4])
@pytest.mark.parametrize("kind", [FeatureLoss, WaveletDetailLoss])
def test_normalised_predicting_nothing_scores_one_whatever_the_unit(kind: type[FeatureLoss], scale: float) -> None:
    loss = stage_loss(kind, 2, 3, normalize=True)
    nn.init.zeros_(loss.projection.weight)
    value = loss(noise(1, 2, 16, 16, 16), scale * noise(1, 3, 16, 16, 16, seed=2))
    assert value.item() == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize(("kind", "level"), [(FeatureLoss, 0.0), (WaveletDetailLoss, 0.0), (WaveletDetailLoss, 3.0)])
def test_a_target_without_anything_to_match_scores_zero(kind: type[FeatureLoss], level: float) -> None:
    loss = stage_loss(kind, 2, 2, normalize=True)
    student = noise(1, 2, 16, 16, 16).requires_grad_()
    value = loss(student, torch.full((1, 2, 16, 16, 16), level, dtype=torch.float64))
    value.backward()
    assert value.item() == 0
    assert student.grad is not None
    assert not student.grad.any()


@pytest.mark.parametrize("normalize", [False, True], ids=["plain", "normalised"])
def test_gradients_of_the_feature_loss_to_student_and_projection_are_right(normalize: bool) -> None:
    loss = stage_loss(FeatureLoss, 2, 3, normalize=normalize)
    teacher = noise(1, 3, 4, 5, 4, seed=2)

    def value(student: Tensor, weight: Tensor) -> Any:
        return torch.func.functional_call(loss, {"projection.weight": weight}, (student, teacher))

    student = noise(1, 2, 4, 5, 4).requires_grad_()
    assert torch.autograd.gradcheck(value, (student, loss.projection.weight.detach().clone().requires_grad_()))


@pytest.mark.parametrize(("kind", "options"), STAGE_LOSSES)
def test_no_gradient_flows_to_the_teacher(kind: type[FeatureLoss], options: dict[str, Any]) -> None:
    student, teacher = noise(1, 2, 8, 8, 8).requires_grad_(), noise(1, 3, 8, 8, 8, seed=2).requires_grad_()
    stage_loss(kind, 2, 3, **options)(student, teacher).backward()
    assert student.grad is not None
    assert student.grad.abs().max() > 0
    assert teacher.grad is None


@pytest.mark.parametrize(("kind", "options"), STAGE_LOSSES)
def test_the_projection_learns(kind: type[FeatureLoss], options: dict[str, Any]) -> None:
    loss = stage_loss(kind, 2, 3, **options)
    student = noise(1, 2, 8, 8, 8)
    teacher = torch.stack([student[:, 0], student[:, 1], student[:, 0] - student[:, 1]], dim=1)
    before = loss.projection.weight.detach().clone()
    optimizer = torch.optim.Adam(loss.parameters(), lr=0.1)
    values = []
    for _ in range(30):
        optimizer.zero_grad()
        value = loss(student, teacher)
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert values[-1] < 0.1 * values[0]
    assert not torch.equal(loss.projection.weight, before)


@pytest.mark.parametrize(("kind", "options"), STAGE_LOSSES)
def test_result_is_float32_under_autocast_to_bfloat16(kind: type[FeatureLoss], options: dict[str, Any]) -> None:
    loss = kind(2, 3, **options)
    student, teacher = noise(1, 2, 8, 8, 8).bfloat16(), noise(1, 3, 8, 8, 8, seed=2).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(student, teacher)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss(student.float(), teacher.float()), rtol=0.01, atol=0)


def test_levels_are_capped_and_logged_once_for_each_size(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="dcd_components.losses.wavelet_detail")
    three = stage_loss(WaveletDetailLoss, 1, 1, wavelet="db4", levels=3)
    one = stage_loss(WaveletDetailLoss, 1, 1, wavelet="db4", levels=1)
    small, other = noise(1, 1, 14, 16, 16), noise(1, 1, 14, 16, 16, seed=2)
    for _ in range(2):
        torch.testing.assert_close(three(small, other), one(small, other))
    assert [record.getMessage() for record in caplog.records] == ["maps of (14, 16, 16) support 1 of 3 levels of db4"]
    three(noise(1, 1, 28, 28, 28), noise(1, 1, 28, 28, 28))
    assert caplog.records[-1].getMessage() == "maps of (28, 28, 28) support 2 of 3 levels of db4"


def test_levels_that_the_map_supports_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="dcd_components.losses.wavelet_detail")
    stage_loss(WaveletDetailLoss, 1, 1, wavelet="haar", levels=3)(noise(1, 1, 8, 8, 8), noise(1, 1, 8, 8, 8))
    assert not caplog.records


def test_approximation_alone_is_compared_at_the_last_level() -> None:
    loss = as_identity(stage_loss(WaveletDetailLoss, 1, 1, wavelet="haar", levels=2, bands=["aaa"]))
    student, teacher = noise(1, 1, 8, 8, 8), noise(1, 1, 8, 8, 8, seed=2)
    means = nn.functional.avg_pool3d(student - teacher, 4) * 8  # each haar level scales a mean of 8 voxels by sqrt(8)
    torch.testing.assert_close(loss(student, teacher), means.square().mean())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"wavelet": "db99"}, "unknown wavelet 'db99'", id="wavelet"),
        pytest.param({"mode": "mirror"}, "unknown boundary mode 'mirror'", id="mode"),
        pytest.param({"levels": 0}, "levels must be at least 1, got 0", id="levels"),
        pytest.param(
            {"bands": ["aad", "hhh"]}, r"unknown bands \['hhh'\]; choose at least one from aaa, aad", id="band"
        ),
        pytest.param({"bands": []}, "choose at least one from aaa", id="no band"),
    ],
)
def test_wrong_settings_are_named_when_the_loss_is_built(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WaveletDetailLoss(2, 3, **options)


@pytest.mark.parametrize("kind", [FeatureLoss, WaveletDetailLoss])
@pytest.mark.parametrize("shape", [pytest.param((2, 3, 8, 8, 8), id="batch"), pytest.param((1, 3, 8, 4, 8), id="size")])
def test_maps_that_do_not_match_are_refused_with_both_shapes(kind: type[FeatureLoss], shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"agree in batch and spatial size, got \(1, 2, 8, 8, 8\) and \(\d, 3,"):
        kind(2, 3)(torch.zeros(1, 2, 8, 8, 8), torch.zeros(shape))


def mean_square(logits: Tensor, label: Tensor) -> Tensor:
    assert logits.shape == label.shape
    return (logits - label).square().mean()


def test_a_single_output_passes_straight_through() -> None:
    logits, label = noise(2, 1, 4, 6, 8), noise(2, 1, 4, 6, 8, seed=2)
    torch.testing.assert_close(DeepSupervisionLoss(mean_square)(logits, label), (logits - label).square().mean())


def test_stacked_heads_are_weighted_by_halves() -> None:
    heads, label = noise(2, 3, 1, 4, 4, 4), noise(2, 1, 4, 4, 4, seed=2)
    terms = [(heads[:, i] - label).square().mean() for i in range(3)]
    expected = (terms[0] + terms[1] / 2 + terms[2] / 4) / 1.75
    torch.testing.assert_close(DeepSupervisionLoss(mean_square)(heads, label), expected)


def test_listed_heads_of_falling_resolution_meet_a_sampled_label() -> None:
    label = noise(1, 1, 8, 4, 8, seed=2)
    heads = [noise(1, 1, 8, 4, 8), noise(1, 1, 4, 2, 4), noise(1, 1, 2, 1, 2)]
    labels = [label, label[..., ::2, ::2, ::2], label[..., ::4, ::4, ::4]]
    terms = [(head - sampled).square().mean() for head, sampled in zip(heads, labels, strict=True)]
    expected = (terms[0] + terms[1] / 2 + terms[2] / 4) / 1.75
    torch.testing.assert_close(DeepSupervisionLoss(mean_square)(heads, label), expected)


@pytest.mark.parametrize(
    "shape", [pytest.param((1, 2, 4, 4, 4), id="single"), pytest.param((1, 2, 2, 4, 4, 4), id="stack")]
)
def test_segmentation_loss_is_computed_in_float32(shape: tuple[int, ...]) -> None:
    seen = []

    def loss(logits: Tensor, label: Tensor) -> Tensor:
        seen.append(logits.dtype)
        return logits.mean()

    DeepSupervisionLoss(loss)(torch.ones(shape, dtype=torch.bfloat16), torch.ones(1, 1, 4, 4, 4))
    assert set(seen) == {torch.float32}


def test_segmentation_loss_with_parameters_is_moved_along() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, logits: Tensor, label: Tensor) -> Tensor:
            return self.scale * (logits - label).square().mean()

    loss = DeepSupervisionLoss(Scaled())
    assert math.isclose(loss(torch.ones(1, 1, 2, 2, 2), torch.zeros(1, 1, 2, 2, 2)).item(), 1)
    assert len(list(loss.parameters())) == 1
