"""Sub-bands on CPUs: the compiled kernels of :mod:`dcd_components.wavelets.numba_kernels` on tensors, in threads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import pywt
import torch
from numpy.typing import NDArray
from torch import Tensor

from dcd_components.precision import sum_dtype
from dcd_components.wavelets import numba_kernels
from dcd_components.wavelets.numba_kernels import EIGHT, FOUR, Lines, Taps, lines, taps
from dcd_components.wavelets.transform import band_size, half_matrices

Array = NDArray[Any]
#: Names of the sub-bands of each level.
Bands = tuple[tuple[str, ...], ...]
#: Numbers below which a second thread costs more than it saves.
WORTH_SHARING = 1 << 16


class Level(NamedTuple):
    """Tables of one level of a transform: taps along D, H and W, places of the sub-bands, and their shape."""

    analysis: tuple[Taps, Taps, Lines]
    adjoint: tuple[Taps, Taps, Lines]
    wanted: NDArray[np.int64]
    bands: int
    size: tuple[int, ...]


def energies(x: Tensor, bands: Bands, wavelet: str, mode: str, offset: Tensor) -> Tensor:
    """See :func:`dcd_components.wavelets.dwt_matmul.energies`; in float64."""
    maps, shifts = _array(x), offset.flatten().numpy()
    levels = _levels(tuple(x.shape[2:]), bands, wavelet, mode, sum_dtype(x))
    whole, found = np.zeros(len(maps)), [np.zeros((level.bands, len(maps), level.size[0])) for level in levels]

    def part(span: slice) -> None:
        given, shift = maps[span], shifts[span]
        numba_kernels.energy(given, shift, whole[span])
        for level, of_bands in zip(levels, found, strict=True):
            coefficients, each = _analyse(given, shift, level)
            of_bands[:, span] = each
            given, shift = coefficients[0] if level.bands else given, np.zeros_like(shift)

    _share(part, len(maps), maps.size)
    return torch.from_numpy(np.concatenate([whole.sum(keepdims=True), *(each.sum((1, 2)) for each in found)]))


def gradient(x: Tensor, bands: Bands, wavelet: str, mode: str, offset: Tensor, weights: Tensor) -> Tensor:
    """See :func:`dcd_components.wavelets.dwt_matmul.gradient`."""
    maps, shifts = _array(x), offset.flatten().numpy()
    levels = _levels(tuple(x.shape[2:]), bands, wavelet, mode, sum_dtype(x))
    out = torch.empty(x.shape, dtype=sum_dtype(x), device="cpu")
    results, factors = _array(out), weights.numpy()

    def part(span: slice) -> None:
        _gradient(maps[span], shifts[span], levels, factors, results[span])

    _share(part, len(maps), maps.size)
    return out


def _gradient(x: Array, shifts: Array, levels: Sequence[Level], weights: Array, out: Array) -> None:
    """Write the gradient of maps, perhaps over them."""
    level, *deeper = levels
    scale, own, rest = weights[0], weights[1 : 1 + level.bands], weights[1 + level.bands :]
    coefficients, _ = _analyse(x, shifts, level)
    if deeper:
        approximation, weights = coefficients[0], np.concatenate([own[:1], rest])
        _gradient(approximation, np.zeros_like(shifts), deeper, weights, approximation)
        own = np.concatenate([np.ones_like(own[:1]), own[1:]])
    numba_kernels.adjoint(coefficients, own, *level.adjoint, level.wanted, x, shifts, scale, out)


def _analyse(x: Array, shifts: Array, level: Level) -> tuple[Array, Array]:
    """Sub-bands ``(bands, N, d, h, w)`` and the energies of their planes, ``(bands, N, d)``."""
    coefficients = np.empty((level.bands, len(x), *level.size), shifts.dtype)
    energies = np.empty((level.bands, len(x) * level.size[0]))
    if level.bands:
        numba_kernels.analyse(x, shifts, *level.analysis, level.wanted, coefficients, energies)
    return coefficients, energies.reshape(level.bands, len(x), level.size[0])


def _array(x: Tensor) -> Array:
    """View maps ``(B, C, D, H, W)``, or a contiguous copy, as the kernels take them."""
    x = x.contiguous().flatten(0, 1)
    return (x.view(torch.uint16) if x.dtype == torch.bfloat16 else x).numpy()


@lru_cache(maxsize=256)
def _levels(size: tuple[int, ...], bands: Bands, wavelet: str, mode: str, dtype: torch.dtype) -> tuple[Level, ...]:
    levels = []
    for names in bands:
        places = np.full((2, 2, 2), -1)
        for place, band in enumerate(names):
            places[tuple("ad".index(letter) for letter in band)] = place
        depth, height, width = size
        columns = _lines(width, wavelet, mode, dtype)
        analysis, adjoint = (
            (_taps(depth, wavelet, mode, dtype, back), _taps(height, wavelet, mode, dtype, back), columns)
            for back in (False, True)
        )
        size = band_size(size, wavelet, mode)
        levels.append(Level(analysis, adjoint, places, len(names), size))
    return tuple(levels)


@lru_cache(maxsize=256)
def _taps(n: int, wavelet: str, mode: str, dtype: torch.dtype, adjoint: bool) -> Taps:
    matrices = half_matrices(n, wavelet, mode, dtype, torch.device("cpu"))
    approximation, detail = ((matrices[x].T if adjoint else matrices[x]).numpy() for x in "ad")
    return taps(approximation, detail, FOUR if adjoint else EIGHT)


@lru_cache(maxsize=256)
def _lines(n: int, wavelet: str, mode: str, dtype: torch.dtype) -> Lines:
    """Filters, in the order of the numbers that they are multiplied by, and the boundary rule as a matrix."""
    chosen = pywt.Wavelet(wavelet)
    taps = chosen.dec_len
    width = -(-taps // EIGHT) * EIGHT
    filters = np.zeros((2, width))
    if n == 1:
        filters[0, 0], left, extension = 1, 0, np.eye(width, 1)
    else:
        filters[:, :taps] = chosen.dec_lo[::-1], chosen.dec_hi[::-1]
        left = taps // 2 - 1 if mode == "periodization" else taps - 2
        (points,) = band_size((n,), wavelet, mode)
        right = 2 * points + taps - 2 - left - n
        extension = np.zeros((2 * points + width - 2, n))
        extended = [pywt.pad(unit, (left + 1, right + 1), mode) for unit in np.eye(n)]
        extension[: left + n + right] = np.stack(extended, 1)[1 : 1 + left + n + right]
    name = "float64" if dtype == torch.float64 else "float32"
    return lines(filters.astype(name), extension.astype(name), left)


def _share(work: Callable[[slice], None], count: int, numbers: int) -> None:
    """Call ``work`` for parts of ``count`` samples, in as many threads as torch uses.

    Each takes the next part that is left, so that none waits for one that was slow to wake.
    """
    threads = torch.get_num_threads() if numbers > WORTH_SHARING else 1
    parts = min(count, 1 if threads == 1 else 2 * threads)
    spans = iter([slice(count * i // parts, count * (i + 1) // parts) for i in range(parts)])

    def run() -> None:
        for span in spans:
            work(span)

    others = [_pool().submit(run) for _ in range(threads - 1)]
    run()
    for other in others:
        if not other.cancel():
            other.result()


@lru_cache(maxsize=1)
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(thread_name_prefix="sub-bands")
