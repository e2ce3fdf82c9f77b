"""Losses of maps of images, ``(B, C, H, W)``, and of volumes whose axes have come to a single voxel."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any
from unittest import mock

import numpy as np
import pytest
import pywt
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dcd_components.errors import InputError
from dcd_components.losses.attention import AttentionLoss
from dcd_components.losses.channel_wise import ChannelWiseLoss
from dcd_components.losses.feature import FeatureLoss
from dcd_components.losses.frequency import FrequencyLoss
from dcd_components.losses.intra_class import IntraClassLoss
from dcd_components.losses.logits import LogitsLoss
from dcd_components.losses.wavelet_detail import WaveletDetailLoss
from dcd_components.wavelets import dwt_matmul, dwt_numba
from dcd_components.wavelets.band_energies import BandEnergy
from dcd_components.wavelets.transform import BANDS, DIRECTIONAL_BANDS

#: Our names of the sub-bands of an image and the places of these details in a level of ``pywt.wavedec2``.
PLACES = {"ada": 0, "aad": 1, "add": 2}
MODES = ["periodization", "symmetric"]
normalised_or_not = pytest.mark.parametrize("normalize", [False, True], ids=["plain", "normalised"])


@pytest.fixture(params=["kernels", "matrices"])
def path(request: pytest.FixtureRequest) -> Iterator[None]:
    """Both ways to transform maps."""
    forced = mock.patch("dcd_components.wavelets.band_energies._cpu_passes", return_value=dwt_matmul)
    with contextlib.nullcontext() if request.param == "kernels" else forced:
        yield


on_every_path = pytest.mark.usefixtures("path")


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def wavelet_loss(**options: Any) -> WaveletDetailLoss:
    """A loss of 3 and 5 channels in float64, whose projection is the same every time."""
    loss = WaveletDetailLoss(3, 5, **{"wavelet": "db2", "levels": 2, **options}).double()
    nn.init.trunc_normal_(loss.projection.weight, generator=torch.Generator().manual_seed(1))
    return loss


def result(loss: nn.Module, student: Tensor, teacher: Tensor) -> list[Tensor]:
    """Value, and gradients of student and projection."""
    leaf = student.detach().requires_grad_()
    value = loss(leaf, teacher)
    return [value.detach(), *torch.autograd.grad(value, [leaf, *loss.parameters()])]


def squares(x: NDArray[np.float64], loss: WaveletDetailLoss, levels: int) -> NDArray[np.float64]:
    """Mean squares of the matched coefficients of a map of an image, by level and band."""
    approximation, *details = pywt.wavedec2(x, loss.wavelet, loss.mode, levels)
    chosen = [[level[PLACES[band]] for band in loss.bands if band in PLACES] for level in details]
    if "aaa" in loss.bands:
        chosen[0].append(approximation)  # coarsest first
    return np.array([np.mean([np.mean(band**2) for band in level]) for level in chosen])


@pytest.mark.filterwarnings("ignore:Level value of:UserWarning:pywt")
@on_every_path
@normalised_or_not
@pytest.mark.parametrize("size", [(16, 24), (9, 17), (32, 5), (33, 12)], ids=str)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("options", [{}, {"wavelet": "haar", "bands": ["aad", "dda"]}, {"bands": [*BANDS]}], ids=str)
def test_the_wavelet_loss_is_that_of_the_coefficients_of_wavedec2(
    options: dict[str, Any], mode: str, size: tuple[int, int], normalize: bool
) -> None:
    loss = wavelet_loss(**options, mode=mode, normalize=normalize)
    student, teacher = noise(2, 3, *size) + 1, noise(2, 5, *size, seed=2) - 3
    student = student.contiguous(memory_format=torch.channels_last)
    levels = max(1, min(2, pywt.dwt_max_level(min(size), loss.wavelet)))
    projected = np.einsum("oi,bihw->bohw", loss.projection.weight.detach().flatten(1).numpy(), student.numpy())
    terms = squares(projected - teacher.numpy(), loss, levels)
    if normalize:
        terms = terms / squares(teacher.numpy(), loss, levels)
    assert loss(student, teacher).item() == pytest.approx(np.mean(terms), rel=1e-10)


@on_every_path
@normalised_or_not
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [(6, 8), (5, 4), (1, 6)], ids=str)
def test_its_gradients_are_right(size: tuple[int, int], mode: str, normalize: bool) -> None:
    loss = wavelet_loss(mode=mode, normalize=normalize)
    teacher = noise(1, 5, *size, seed=2)

    def value(student: Tensor, weight: Tensor) -> Any:
        return torch.func.functional_call(loss, {"projection.weight": weight}, (student, teacher))

    weight = loss.projection.weight.detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(value, (noise(1, 3, *size).requires_grad_(), weight))


@on_every_path
@pytest.mark.parametrize("levels", [1, 3])
def test_normalised_it_is_that_of_a_volume_which_repeats_the_image(levels: int) -> None:
    """Also where it is not, on one level of periodization."""
    student, teacher = noise(1, 3, 16, 16), noise(1, 5, 16, 16, seed=2)
    volumes = [x[:, :, None].expand(-1, -1, 16, -1, -1) for x in (student, teacher)]
    for normalize in [True, False][: 2 if levels == 1 else 1]:
        loss = wavelet_loss(wavelet="haar", levels=levels, normalize=normalize)
        torch.testing.assert_close(loss(student, teacher), loss(*volumes), rtol=1e-10, atol=0)


@on_every_path
@normalised_or_not
@pytest.mark.parametrize("axis", [2, 3, 4])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
def test_an_image_is_a_volume_of_one_plane_along_any_axis(
    layout: torch.memory_format, axis: int, normalize: bool
) -> None:
    loss = wavelet_loss(normalize=normalize)
    student, teacher = noise(2, 3, 16, 12), noise(2, 5, 16, 12, seed=2)
    volumes = [x.unsqueeze(axis).contiguous(memory_format=layout) for x in (student, teacher)]
    found, expected = result(loss, *volumes), result(loss, student, teacher)
    found[1] = found[1].squeeze(axis)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-15)


@on_every_path
def test_a_line_of_voxels_has_one_band_of_detail() -> None:
    loss = wavelet_loss()
    student, teacher = noise(2, 3, 1, 16), noise(2, 5, 1, 16, seed=2)
    projected = np.einsum("oi,bihw->bohw", loss.projection.weight.detach().flatten(1).numpy(), student.numpy())
    _, *details = pywt.wavedec(projected - teacher.numpy(), loss.wavelet, loss.mode, 2)
    assert loss(student, teacher).item() == pytest.approx(np.mean([np.mean(x**2) for x in details]), rel=1e-10)


@on_every_path
@normalised_or_not
@pytest.mark.parametrize(
    ("size", "bands"),
    [((1, 1), None), ((1, 1, 1), None), ((1, 8, 8), ["daa", "dad"]), ((8, 8, 1), ["aad"])],
    ids=str,
)
def test_what_has_no_such_detail_scores_zero(size: tuple[int, ...], bands: list[str] | None, normalize: bool) -> None:
    """So that a stage whose map has come to a single plane hinders no other."""
    loss = wavelet_loss(normalize=normalize, **({"bands": bands} if bands else {}))
    assert not any(x.any() for x in result(loss, noise(2, 3, *size), noise(2, 5, *size, seed=2)))
    frequency = FrequencyLoss(3, 5).double()
    assert all(x.isfinite().all() for x in result(frequency, noise(2, 3, *size), noise(2, 5, *size, seed=2)))


@on_every_path
@pytest.mark.parametrize(
    ("dtype", "rtol", "offset"),
    [(torch.float32, 1e-5, 0), (torch.float32, 1e-5, 256), (torch.bfloat16, 0.01, 0), (torch.bfloat16, 0.01, 3)],
)
def test_its_precision_is_that_of_the_maps(dtype: torch.dtype, rtol: float, offset: int) -> None:
    maps = (noise(2, channels, 32, 32, seed=channels) + offset for channels in (3, 5))
    loss, (student, teacher) = wavelet_loss(), (x.to(dtype) for x in maps)
    expected = result(loss, student.double(), teacher.double())
    # In single precision an offset may cost its rounding, as in volumes.
    allowed = rtol + (offset * torch.finfo(dtype).eps if dtype == torch.float32 else 0)
    for ours, exact in zip(result(loss.float(), student, teacher), expected, strict=True):
        assert (ours.double() - exact).norm() <= allowed * exact.norm()


def test_bands_along_an_axis_that_images_do_not_have_are_refused() -> None:
    loss = wavelet_loss(bands=["daa", "dad"])
    with pytest.raises(InputError, match="images have no detail along D, and so none of the bands daa, dad"):
        loss(noise(1, 3, 8, 8), noise(1, 5, 8, 8))


def test_frequency_loss_has_the_three_details_of_an_image() -> None:
    loss = FrequencyLoss(2, 2).double()
    nn.init.dirac_(loss.projection.weight)
    student, teacher = (noise(2, 2, 8, 12, seed=seed).numpy() for seed in (0, 2))
    expected = 5 * np.mean((student - teacher) ** 2)
    ours, theirs = (pywt.wavedec2(x, "haar", "periodization", 3)[1:] for x in (student, teacher))
    for one, other in zip(ours, theirs, strict=True):
        energy = np.sqrt(np.mean(np.square(other), axis=(0, 2)))[:, None]
        mask = energy / (energy + energy.mean((2, 3), keepdims=True))
        expected += np.mean([np.abs(mask * (x - y)).mean() for x, y in zip(one, other, strict=True)])
    assert loss(torch.as_tensor(student), torch.as_tensor(teacher)).item() == pytest.approx(expected, rel=1e-10)


LOSSES: dict[str, Callable[[int, int], nn.Module]] = {
    "feature": FeatureLoss,
    "feature, normalised": partial(FeatureLoss, normalize=True),
    "wavelet": WaveletDetailLoss,
    "attention": AttentionLoss,
    "channel wise": ChannelWiseLoss,
    "frequency": FrequencyLoss,
    "intra class": partial(IntraClassLoss, num_classes=3),
    "logits": LogitsLoss,
    "logits by class": partial(LogitsLoss, by_class=True),
    "logits of regions": partial(LogitsLoss, by_class=True, overlapping=True),
}
every_loss = pytest.mark.parametrize("name", LOSSES)


def maps(name: str, size: Sequence[int]) -> list[Tensor]:
    """Student's and teacher's map, and the label if the loss needs one."""
    label = torch.randint(3, (2, 1, *size), generator=torch.Generator().manual_seed(3)).double()
    return [noise(2, 4, *size), noise(2, 4, *size, seed=2), *([label] if name == "intra class" else [])]


@every_loss
def test_every_loss_of_images_is_that_of_volumes_of_one_plane(name: str) -> None:
    loss, images = LOSSES[name](4, 4).double(), maps(name, (8, 12))
    student, plane = images[0].clone().requires_grad_(), images[0].unsqueeze(2).requires_grad_()
    values = loss(student, *images[1:]), loss(plane, *(x.unsqueeze(2) for x in images[1:]))
    assert values[0] > 0
    assert torch.equal(*values)
    gradients = [torch.autograd.grad(*one)[0] for one in zip(values, (student, plane), strict=True)]
    assert torch.equal(gradients[0], gradients[1].squeeze(2))


@every_loss
@pytest.mark.parametrize("size", [(96,), (2, 2, 2, 2)], ids=["tokens", "four axes"])
def test_what_is_no_map_is_refused(name: str, size: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"maps must be \(B, C, D, H, W\), or \(B, C, H, W\) of images, got \(2, 4, "):
        LOSSES[name](4, 4).double()(*maps(name, size))


@pytest.mark.parametrize("size", [(1, 16, 16), (16, 16, 1)], ids=str)
def test_of_an_image_the_approximation_alone_is_computed(size: tuple[int, ...]) -> None:
    """The details that count are the whole less this, as in volumes."""
    energy = BandEnergy(DIRECTIONAL_BANDS, "db2", 1, "periodization")
    with mock.patch.object(dwt_numba, "energies", wraps=dwt_numba.energies) as energies:
        energy.measure(noise(2, 3, *size))
    assert [call.args[1] for call in energies.call_args_list] == [(("aaa",),)]
