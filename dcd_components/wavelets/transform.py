"""What is known of a separable 3D wavelet transform before any map is: names of its sub-bands, levels, matrices.

One level filters along each axis with a low-pass (``a``) and a high-pass (``d``) filter and keeps every second
sample. That is linear, so a pass along an axis of length ``n`` is the product with one small matrix, which PyWavelets
itself writes: its transform of the unit vectors, boundary rule ``mode`` included.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import pywt
import torch
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

    Beyond ``pywt.dwt_max_level`` of the shortest axis, every coefficient touches the border. A map shorter than the
    filter still takes part with one level, so that no stage of an encoder is left out.
    """
    return max(1, int(pywt.dwt_max_level(min(size), pywt.Wavelet(wavelet).dec_len)))


@lru_cache(maxsize=256)
def half_matrices(n: int, wavelet: str, mode: str, dtype: torch.dtype, device: torch.device) -> dict[str, Tensor]:
    """Matrices ``(m, n)`` of the approximation (``a``) and the detail (``d``) along an axis of length ``n``."""
    with torch.inference_mode(False):  # kept, so it must serve training too
        halves = pywt.dwt(np.eye(n), wavelet, mode, axis=0)
        return {
            letter: torch.as_tensor(half, dtype=dtype, device=device) for letter, half in zip("ad", halves, strict=True)
        }


@lru_cache(maxsize=256)
def keeps_energy(n: int, wavelet: str, mode: str) -> bool:
    """Whether the coefficients along an axis of length ``n`` have the energy of the signal, whatever it is."""
    matrix = np.concatenate(pywt.dwt(np.eye(n), wavelet, mode, axis=0))
    return bool(np.allclose(matrix.T @ matrix, np.eye(n), atol=1e-9))


@lru_cache(maxsize=256)
def keeps_constants(n: int, wavelet: str, mode: str) -> bool:
    """Whether a constant of length ``n`` is a constant in the approximation, and nothing in the details."""
    approximation, detail = pywt.dwt(np.ones(n), wavelet, mode)
    return bool(np.allclose(detail, 0, atol=1e-9) and np.allclose(approximation, 2**0.5, atol=1e-9))
