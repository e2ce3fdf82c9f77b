"""Sub-bands on CPUs: the compiled kernels of :mod:`dcd_components.tap_kernels` on tensors, in threads."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dcd_components import tap_kernels
from dcd_components.taps import Taps, taps
from dcd_components.wavelets import half_matrices

#: Numbers below which a second thread costs more than it saves.
WORTH_SHARING = 1 << 16


def analyse(
    x: Tensor, bands: Sequence[str], wavelet: str, mode: str, centre: Tensor | None = None, measure: bool = False
) -> tuple[Tensor, Tensor]:
    """Sub-bands of one level, and their energies; see :func:`dcd_components.matrix_passes.analyse`."""
    maps, turned = _planes(x)
    samples, *size, channels = maps.shape
    tables = [_taps(n, wavelet, mode, _dtype(x), False) for n in size]
    depth, height, width = (len(table.index) for table in tables)
    out = torch.empty(len(bands), samples, depth, width, height, channels, dtype=_dtype(x))
    energies = np.zeros((1 + len(bands), samples * depth))
    arrays = (_array(maps), _rows(centre, maps), measure, *tables, _places(bands, turned), out.numpy())
    _share(lambda *span: tap_kernels.analyse(*arrays, energies, *span), samples * depth, maps.numel())
    return (out if turned else out.transpose(3, 4)), torch.from_numpy(energies.sum(1)).to(_dtype(x))


def adjoin(
    coefficients: Tensor,
    bands: Sequence[str],
    wavelet: str,
    mode: str,
    base: Tensor,
    centre: Tensor | None = None,
    scale: Tensor | None = None,
) -> Tensor:
    """Adjoint of the analysis, added to a map; see :func:`dcd_components.matrix_passes.adjoin`."""
    maps, turned = _planes(base)
    samples, *size, channels = maps.shape
    given = (coefficients if turned else coefficients.transpose(3, 4)).contiguous()
    tables = [_taps(n, wavelet, mode, given.dtype, True) for n in size]
    places = _places(bands, turned)
    halves = np.empty((2, samples, given.shape[2], *size[1:], channels), given.numpy().dtype)
    out = torch.empty(samples, *size, channels, dtype=given.dtype)
    planes = (_array(given), tables[1], tables[2], places, halves)
    _share(lambda *span: tap_kernels.adjoin_planes(*planes, *span), samples * given.shape[2], out.numel())
    factor = halves.dtype.type(0 if scale is None else scale.item())
    joined = (halves, tables[0], places.max((1, 2)) >= 0, _array(maps), _rows(centre, maps), factor, out.numpy())
    _share(lambda *span: tap_kernels.adjoin_depth(*joined, *span), samples * size[0], out.numel())
    return out.transpose(2, 3) if turned else out


def _dtype(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _planes(x: Tensor) -> tuple[Tensor, bool]:
    """Map ``(B, D, H, W, C)`` with its planes turned, ``(B, D, W, H, C)``, if it lies in memory so, and whether."""
    turned = x.transpose(2, 3).is_contiguous() and not x.is_contiguous()
    return (x.transpose(2, 3) if turned else x.contiguous()), turned


def _rows(centre: Tensor | None, x: Tensor) -> NDArray[Any]:
    """What is subtracted from every row ``W * C`` of each sample."""
    if centre is None:
        return _zeros(len(x), x.shape[3] * x.shape[4], _dtype(x))
    return centre.repeat(1, x.shape[3]).numpy()


@lru_cache(maxsize=256)
def _zeros(samples: int, numbers: int, dtype: torch.dtype) -> NDArray[Any]:
    return torch.zeros(samples, numbers, dtype=dtype).numpy()


def _array(x: Tensor) -> NDArray[Any]:
    return (x.view(torch.uint16) if x.dtype == torch.bfloat16 else x).numpy()


def _places(bands: Sequence[str], turned: bool) -> NDArray[np.int64]:
    places = np.full((2, 2, 2), -1)
    for place, band in enumerate(bands):
        places[tuple("ad".index(letter) for letter in band)] = place
    return np.ascontiguousarray(places.transpose(0, 2, 1)) if turned else places


@lru_cache(maxsize=256)
def _taps(n: int, wavelet: str, mode: str, dtype: torch.dtype, adjoint: bool) -> Taps:
    matrices = half_matrices(n, wavelet, mode, dtype, torch.device("cpu"))
    return taps(*((matrices[x].T if adjoint else matrices[x]).numpy() for x in "ad"))


def _share(work: Callable[[int, int], None], count: int, numbers: int) -> None:
    """Call ``work(first, last)`` for parts of ``count`` planes in as many threads as torch uses."""
    threads = min(torch.get_num_threads() if numbers > WORTH_SHARING else 1, count)
    own, *others = itertools.pairwise(count * i // threads for i in range(threads + 1))
    rest = [_pool().submit(work, *span) for span in others]
    work(*own)
    for part in rest:
        part.result()


@lru_cache(maxsize=1)
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(thread_name_prefix="sub-bands")
