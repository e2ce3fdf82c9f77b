from typing import Any

import numpy as np
import pytest
import pywt
import torch
from numpy.typing import NDArray
from torch import Tensor

from dcd_components.wavelets.dwt_matmul import dwt3
from dcd_components.wavelets.transform import BANDS, DIRECTIONAL_BANDS, existing_bands, supported_levels

WAVELETS = ["haar", "db2", "db4", "sym4", "bior2.2"]
MODES = ["periodization", "zero", "symmetric", "reflect", "periodic"]
SIZES = [pytest.param((12, 8, 10), id="even"), pytest.param((13, 9, 7), id="odd"), pytest.param((5, 6, 16), id="mixed")]
AXES = (-3, -2, -1)


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def assert_equal(ours: Tensor, theirs: NDArray[Any], atol: float = 1e-12) -> None:
    np.testing.assert_allclose(ours.numpy(), theirs, rtol=0, atol=atol)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("wavelet", WAVELETS)
def test_one_level_equals_pywt_dwtn(wavelet: str, mode: str, size: tuple[int, ...]) -> None:
    x = noise(2, 3, *size)
    approximation, (details,) = dwt3(x, wavelet, mode=mode)
    expected = pywt.dwtn(x.numpy(), wavelet, mode, axes=AXES)
    assert {"aaa", *details} == set(expected) == set(BANDS)
    for band, ours in {"aaa": approximation, **details}.items():
        assert_equal(ours, expected[band])


@pytest.mark.filterwarnings("ignore:Level value of:UserWarning:pywt")
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("mode", ["periodization", "symmetric"])
@pytest.mark.parametrize("wavelet", WAVELETS)
def test_three_levels_equal_pywt_wavedecn(wavelet: str, mode: str, size: tuple[int, ...]) -> None:
    x = noise(2, *size)
    approximation, details = dwt3(x, wavelet, 3, mode)
    expected, *coarse_to_fine = pywt.wavedecn(x.numpy(), wavelet, mode, 3, axes=AXES)
    assert_equal(approximation, expected)
    for ours, theirs in zip(details, reversed(coarse_to_fine), strict=True):
        assert set(ours) == set(theirs)
        for band in ours:
            assert_equal(ours[band], theirs[band])


@pytest.mark.filterwarnings("ignore:Level value of:UserWarning:pywt")
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("levels", [1, 2, 3])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("wavelet", WAVELETS)
def test_pywt_makes_the_signal_of_the_coefficients(wavelet: str, mode: str, levels: int, size: tuple[int, ...]) -> None:
    x = noise(2, *size)
    approximation, details = dwt3(x, wavelet, levels, mode)
    bands = [{name: band.numpy() for name, band in level.items()} for level in reversed(details)]
    back = pywt.waverecn([approximation.numpy(), *bands], wavelet, mode, axes=AXES)
    odd = tuple(slice(n) for n in size)  # an odd and the next even length have equally many coefficients
    assert_equal(x, back[(slice(None), *odd)], atol=1e-10)  # PyWavelets tabulates sym4 to 12 digits


@pytest.mark.parametrize("wavelet", ["haar", "db2", "db4", "sym4"])
def test_periodization_of_an_orthonormal_wavelet_keeps_the_energy(wavelet: str) -> None:
    x = noise(2, 16, 8, 24)
    approximation, details = dwt3(x, wavelet, 3)
    energy = approximation.square().sum() + sum(band.square().sum() for level in details for band in level.values())
    torch.testing.assert_close(energy, x.square().sum(), rtol=1e-10, atol=0)


@pytest.mark.parametrize("axis", [0, 1, 2], ids=["D", "H", "W"])
def test_a_band_is_named_by_the_axis_along_which_there_is_detail(axis: int) -> None:
    shape = [1, 1, 1]
    shape[axis] = 8
    (details,) = dwt3(noise(*shape).expand(8, 8, 8), "haar").details
    assert {name for name, values in details.items() if values.abs().max() > 1e-12} == {
        "a" * axis + "d" + "a" * (2 - axis)
    }


@pytest.mark.parametrize("levels", [1, 2])
@pytest.mark.parametrize("axis", [0, 1, 2], ids=["D", "H", "W"])
@pytest.mark.parametrize("mode", MODES)
def test_an_axis_of_a_single_voxel_is_not_transformed(mode: str, axis: int, levels: int) -> None:
    plane = noise(2, 16, 24)
    approximation, details = dwt3(plane.unsqueeze(axis + 1), "db2", levels, mode)
    expected, *coarse_to_fine = pywt.wavedecn(plane.numpy(), "db2", mode, levels, axes=(1, 2))
    assert_equal(approximation.squeeze(axis + 1), expected)
    for ours, theirs in zip(details, reversed(coarse_to_fine), strict=True):
        assert set(ours) == {band[:axis] + "a" + band[axis:] for band in theirs}
        for band, values in theirs.items():
            assert_equal(ours[band[:axis] + "a" + band[axis:]].squeeze(axis + 1), values)


def test_a_voxel_alone_is_itself() -> None:
    assert existing_bands((1, 1, 1)) == ("aaa",)
    voxel = noise(2, 1, 1, 1)
    approximation, details = dwt3(voxel, "db2", 3, "reflect")
    assert torch.equal(approximation, voxel)
    assert details == [{}] * 3


def test_directional_bands_leave_out_the_approximation_and_the_corner() -> None:
    assert len(BANDS) == 8
    assert set(BANDS) - set(DIRECTIONAL_BANDS) == {"aaa", "ddd"}


def test_precision_of_the_input_is_kept() -> None:
    approximation, (details,) = dwt3(noise(8, 8, 8).float(), "db2")
    assert {approximation.dtype, *(band.dtype for band in details.values())} == {torch.float32}


def test_gradient_flows_through_the_transform() -> None:
    def energies(x: Tensor) -> list[Tensor]:
        approximation, details = dwt3(x, "db2", 2)
        return [approximation.square(), *(band.square() for level in details for band in level.values())]

    assert torch.autograd.gradcheck(energies, noise(5, 4, 6).requires_grad_())


def test_a_first_call_in_inference_mode_does_not_hinder_training() -> None:
    size = (18, 22, 26)  # of no other test: the matrices are cached
    with torch.inference_mode():
        dwt3(noise(*size), "haar")
    x = noise(*size).requires_grad_()
    dwt3(x, "haar").approximation.sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None


@pytest.mark.parametrize(
    ("size", "wavelet", "levels"),
    [
        pytest.param((128, 128, 128), "db4", 4, id="paper"),
        pytest.param((128, 16, 64), "db4", 1, id="shortest axis"),
        pytest.param((4, 4, 4), "db4", 1, id="shorter than the filter"),
        pytest.param((8, 8, 8), "haar", 3, id="haar"),
        pytest.param((1, 128, 64), "db4", 3, id="one plane"),
        pytest.param((1, 1, 1), "haar", 1, id="one voxel"),
    ],
)
def test_supported_levels_follow_the_shortest_axis(size: tuple[int, ...], wavelet: str, levels: int) -> None:
    assert supported_levels(size, wavelet) == levels


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"wavelet": "db99"}, "unknown wavelet 'db99'", id="wavelet"),
        pytest.param({"wavelet": "morl"}, "unknown wavelet 'morl'", id="continuous wavelet"),
        pytest.param({"wavelet": "db4", "mode": "mirror"}, "unknown boundary mode 'mirror'", id="mode"),
        pytest.param({"wavelet": "db4", "levels": 0}, "levels must be at least 1, got 0", id="levels"),
    ],
)
def test_wrong_settings_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dwt3(noise(8, 8, 8), **options)
