"""What is known of a separable 3D wavelet transform before any map is: names of its sub-bands, levels, matrices.

One level filters along each axis with a low-pass (``a``) and a high-pass (``d``) filter and keeps every second
sample. That is linear, so a pass along an axis of length ``n`` is the product with one small matrix, which PyWavelets
itself writes: its transform of the unit vectors, boundary rule ``mode`` included.

An axis of a single voxel has no detail, and is not transformed: along it ``a`` is the voxel itself, and there are no
bands with ``d``. So an image is a volume of one plane, and ``aad``, ``ada`` and ``add`` are the details of its 2D
transform.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import pywt
import torch
from numpy.typing import NDArray
from torch import Tensor

from dcd_components.errors import InputError

#: Sub-bands of one level by axis D, H, W: ``"aad"`` is detail along W.
BANDS = tuple("".join(letters) for letters in itertools.product("ad", repeat=3))
#: All directional details: neither the approximation ``aaa`` nor the corner band ``ddd``; the paper's bands 1 to 6.
DIRECTIONAL_BANDS = BANDS[1:-1]


def check_wavelet(wavelet: str, mode: str) -> None:
    """Raise ``InputError`` unless ``wavelet`` is a discrete wavelet and ``mode`` a boundary rule of PyWavelets."""
    if wavelet not in pywt.wavelist(kind="discrete"):
        raise InputError(f"unknown wavelet {wavelet!r}; choose one of pywt.wavelist(kind='discrete'), such as 'db4'")
    if mode not in pywt.Modes.modes:
        raise InputError(f"unknown boundary mode {mode!r}; choose from {', '.join(pywt.Modes.modes)}")


def supported_levels(size: Sequence[int], wavelet: str) -> int:
    """Levels that maps of spatial ``size`` support, at least 1.

    Beyond ``pywt.dwt_max_level`` of the shortest axis that is transformed, every coefficient touches the border. A map
    shorter than the filter still takes part with one level, so that no stage of an encoder is left out.
    """
    shortest = min((n for n in size if n > 1), default=1)
    return max(1, int(pywt.dwt_max_level(shortest, pywt.Wavelet(wavelet).dec_len)))


def existing_bands(size: Sequence[int]) -> tuple[str, ...]:
    """Sub-bands of one level of maps of spatial ``size``: along an axis of a single voxel there is no detail."""
    return tuple(band for band in BANDS if all(n > 1 for letter, n in zip(band, size, strict=True) if letter == "d"))


def band_size(size: Sequence[int], wavelet: str, mode: str) -> tuple[int, ...]:
    """Spatial size of the sub-bands of one level of maps of spatial ``size``."""
    taps = pywt.Wavelet(wavelet).dec_len
    return tuple(pywt.dwt_coeff_len(n, taps, mode) if n > 1 else 1 for n in size)


@lru_cache(maxsize=256)
def half_matrices(n: int, wavelet: str, mode: str, dtype: torch.dtype, device: torch.device) -> dict[str, Tensor]:
    """Matrices ``(m, n)`` of the approximation (``a``) and the detail (``d``) along an axis of length ``n``."""
    with torch.inference_mode(False):  # kept, so it must serve training too
        halves = zip("ad", _halves(n, wavelet, mode), strict=True)
        return {letter: torch.as_tensor(half, dtype=dtype, device=device) for letter, half in halves}


@lru_cache(maxsize=256)
def keeps_energy(n: int, wavelet: str, mode: str) -> bool:
    """Whether the coefficients along an axis of length ``n`` have the energy of the signal, whatever it is."""
    matrix = np.concatenate(_halves(n, wavelet, mode))
    return bool(np.allclose(matrix.T @ matrix, np.eye(n), atol=1e-9))


@lru_cache(maxsize=256)
def keeps_constants(n: int, wavelet: str, mode: str) -> bool:
    """Whether a constant of length ``n`` is a constant in the approximation, and nothing in the details."""
    if n == 1:
        return True
    approximation, detail = pywt.dwt(np.ones(n), wavelet, mode)
    return bool(np.allclose(detail, 0, atol=1e-9) and np.allclose(approximation, 2**0.5, atol=1e-9))


def _halves(n: int, wavelet: str, mode: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Approximation and detail of the unit vectors of length ``n``, as columns; of a single voxel itself and 0."""
    if n == 1:
        return np.ones((1, 1)), np.zeros((1, 1))
    approximation, detail = pywt.dwt(np.eye(n), wavelet, mode, axis=0)
    return approximation, detail
