"""Separable 3D discrete wavelet transform and its inverse, equal to PyWavelets.

One level filters along each axis with a low-pass (``a``) and a high-pass (``d``) filter and keeps every second
sample. That is linear, so a pass along an axis of length ``n`` is the product with one small matrix, which PyWavelets
itself writes: its transform of the unit vectors, boundary rule included.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import lru_cache
from types import EllipsisType
from typing import NamedTuple

import numpy as np
import pywt
import torch
from torch import Tensor

from dcd_components.errors import InputError

#: Sub-bands of one level by axis D, H, W: ``"aad"`` is detail along W.
BANDS = tuple("".join(letters) for letters in itertools.product("ad", repeat=3))
#: All directional details: neither the approximation ``aaa`` nor the corner band ``ddd``; the paper's bands 1 to 6.
DIRECTIONAL_BANDS = BANDS[1:-1]


class Coefficients(NamedTuple):
    """A multi-level transform: the last approximation and the details of each level, finest first."""

    approximation: Tensor
    details: list[dict[str, Tensor]]


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


def dwt3(x: Tensor, wavelet: str, levels: int = 1, mode: str = "periodization") -> Coefficients:
    """Transform the last three axes.

    Args:
        x: floating-point tensor of shape ``(..., D, H, W)``.
        wavelet: discrete wavelet known to PyWavelets.
        levels: number of decompositions, at least 1.
        mode: boundary rule known to PyWavelets.

    Returns:
        The coefficients of ``pywt.wavedecn(x, wavelet, mode, levels, axes=(-3, -2, -1))``, details finest first.

    Raises:
        InputError: for ``levels`` below 1, an unknown wavelet or an unknown mode.
    """
    check_wavelet(wavelet, mode)
    if levels < 1:
        raise InputError(f"levels must be at least 1, got {levels}")
    details = []
    for _ in range(levels):
        coefficients = analyse(x, wavelet, mode)
        bands = {band: coefficients[where(band, coefficients.shape[-3:])] for band in BANDS}
        x = bands.pop("aaa")
        details.append(bands)
    return Coefficients(x, details)


def analyse(x: Tensor, wavelet: str, mode: str) -> Tensor:
    """Transform one level, all sub-bands in one tensor: ``(..., D, H, W)`` to ``(..., 2d, 2h, 2w)``; see ``where``."""
    return _transform(x, [_analysis(n, wavelet, mode, x.dtype, x.device) for n in x.shape[-3:]])


def where(band: str, size: Sequence[int]) -> tuple[EllipsisType | slice, ...]:
    """Index of a sub-band in the tensor of spatial ``size`` that :func:`analyse` returns: ``a`` comes before ``d``."""
    halves = ({"a": slice(0, n // 2), "d": slice(n // 2, n)}[letter] for n, letter in zip(size, band, strict=True))
    return (..., *halves)


def idwt3(coefficients: Coefficients, wavelet: str, size: Sequence[int], mode: str = "periodization") -> Tensor:
    """Invert :func:`dwt3`.

    Args:
        coefficients: what ``dwt3`` returned.
        wavelet: wavelet of the forward transform.
        size: spatial size ``(D, H, W)`` of the signal: an odd and the next even length have equally many coefficients.
        mode: boundary rule of the forward transform.

    Returns:
        Tensor of shape ``(..., D, H, W)``.
    """
    check_wavelet(wavelet, mode)
    x, details = coefficients
    sizes = [tuple(size), *(tuple(bands["ddd"].shape[-3:]) for bands in details[:-1])]
    for bands, target in zip(reversed(details), reversed(sizes), strict=True):
        joined = _join({"aaa": x, **bands})
        x = _transform(joined, [_synthesis(n, wavelet, mode, x.dtype, x.device) for n in target])
    return x


def _transform(x: Tensor, matrices: Sequence[Tensor]) -> Tensor:
    """Multiply the axes D, H, W of ``x`` by one matrix each."""
    along_d, along_h, along_w = matrices
    depth, height, width = x.shape[-3:]
    x = along_d @ x.reshape(*x.shape[:-3], depth, height * width)
    return along_h @ x.reshape(*x.shape[:-1], height, width) @ along_w.T


def _join(bands: dict[str, Tensor]) -> Tensor:
    planes = {dh: torch.cat([bands[dh + "a"], bands[dh + "d"]], dim=-1) for dh in ("aa", "ad", "da", "dd")}
    return torch.cat([torch.cat([planes[d + "a"], planes[d + "d"]], dim=-2) for d in "ad"], dim=-3)


@lru_cache(maxsize=256)
def _analysis(n: int, wavelet: str, mode: str, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Matrix of shape ``(2 m, n)`` that maps a signal to its ``m`` approximation and ``m`` detail coefficients."""
    with torch.inference_mode(False):  # kept, so it must serve training too
        matrix = np.concatenate(pywt.dwt(np.eye(n), wavelet, mode, axis=0))
        return torch.as_tensor(matrix, dtype=dtype, device=device)


@lru_cache(maxsize=256)
def half_matrices(n: int, wavelet: str, mode: str, dtype: torch.dtype, device: torch.device) -> dict[str, Tensor]:
    """Matrices ``(m, n)`` of the approximation (``a``) and the detail (``d``) along an axis of length ``n``."""
    approximation, detail = _analysis(n, wavelet, mode, dtype, device).chunk(2)
    return {"a": approximation, "d": detail}


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


@lru_cache(maxsize=256)
def _synthesis(n: int, wavelet: str, mode: str, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Matrix of shape ``(n, 2 m)`` that maps coefficients back to a signal of length ``n``."""
    unit = np.eye(pywt.dwt_coeff_len(n, pywt.Wavelet(wavelet).dec_len, mode))
    halves = [pywt.idwt(unit, None, wavelet, mode, axis=0), pywt.idwt(None, unit, wavelet, mode, axis=0)]
    with torch.inference_mode(False):
        return torch.as_tensor(np.concatenate(halves, axis=1)[:n], dtype=dtype, device=device)
