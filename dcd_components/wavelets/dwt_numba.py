"""Sub-bands on CPUs: the compiled kernels of :mod:`dcd_components.wavelets.numba_kernels` on tensors, in threads."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dcd_components.precision import sum_dtype
from dcd_components.wavelets import numba_kernels
from dcd_components.wavelets.numba_kernels import Taps, taps
from dcd_components.wavelets.transform import half_matrices

Array = NDArray[Any]
#: Numbers below which a second thread costs more than it saves.
WORTH_SHARING = 1 << 16


class MemoryLayout(NamedTuple):
    """How ``(B, C, D, H, W)`` lies in memory: with channels last or not, and with W before H or not."""

    channels_last: bool
    transposed: bool

    @staticmethod
    def of(x: Tensor) -> MemoryLayout:
        """Layout of a map; if it has none of these, that of its contiguous copy."""
        layouts = [MemoryLayout(*flags) for flags in itertools.product((False, True), repeat=2)]
        return next((layout for layout in layouts if layout._ordered(x).is_contiguous()), layouts[0])

    def _ordered(self, x: Tensor) -> Tensor:
        x = x.transpose(-1, -2) if self.transposed else x
        return x.movedim(-4, -1) if self.channels_last else x

    def planes(self, x: Tensor) -> Tensor:
        """View ``(..., B, C, D, H, W)`` as the kernels take it: ``(..., N, D, H, W, C)``, or with W before H."""
        x = self._ordered(x).contiguous()
        return x if self.channels_last else x.flatten(-5, -4).unsqueeze(-1)

    def maps(self, x: Tensor, channels: int) -> Tensor:
        """Undo :meth:`planes`."""
        x = x.movedim(-1, -4) if self.channels_last else torch.unflatten(x.squeeze(-1), -4, (-1, channels))
        return x.transpose(-1, -2) if self.transposed else x

    def places(self, bands: Sequence[str]) -> NDArray[np.int64]:
        """Place of each sub-band by its letters along the axes of the planes; -1 for none."""
        places = np.full((2, 2, 2), -1)
        for place, band in enumerate(bands):
            places[tuple("ad".index(letter) for letter in band)] = place
        return np.ascontiguousarray(places.transpose(0, 2, 1)) if self.transposed else places


def analyse(
    x: Tensor, bands: Sequence[str], wavelet: str, mode: str, offset: Tensor | None = None, measure: bool = False
) -> tuple[Tensor, Tensor]:
    """Sub-bands of one level, and their energies; see :func:`dcd_components.wavelets.dwt_matmul.analyse`."""
    layout = MemoryLayout.of(x)
    maps = layout.planes(x)
    samples, *size, channels = maps.shape
    tables = [_taps(n, wavelet, mode, sum_dtype(x), False) for n in size]
    depth, height, width = (len(table.sources) for table in tables)
    out = torch.empty(len(bands), samples, depth, width, height, channels, dtype=sum_dtype(x), device="cpu")
    energies = np.zeros((1 + len(bands), samples * depth))
    arrays = (
        _array(maps),
        _planes_of(offset, maps),
        offset is not None,
        measure,
        *tables,
        layout.places(bands),
        out.numpy(),
        energies,
    )
    _share(lambda *span: numba_kernels.analyse(*arrays, *span), samples * depth, maps.numel())
    coefficients = layout._replace(transposed=not layout.transposed).maps(out, x.shape[1])
    return coefficients, torch.from_numpy(energies.sum(1)).to(sum_dtype(x))


def adjoint(
    coefficients: Tensor,
    bands: Sequence[str],
    wavelet: str,
    mode: str,
    base: Tensor,
    offset: Tensor | None = None,
    scale: Tensor | None = None,
) -> Tensor:
    """Adjoint of the analysis, added to a map; see :func:`dcd_components.wavelets.dwt_matmul.adjoint`."""
    layout = MemoryLayout.of(base)
    maps = layout.planes(base)
    given = layout._replace(transposed=not layout.transposed).planes(coefficients).numpy()
    samples, *size, channels = maps.shape
    tables = [_taps(n, wavelet, mode, coefficients.dtype, True) for n in size]
    places, planes = layout.places(bands), given.shape[2]
    letters, factor = places.max((1, 2)) >= 0, given.dtype.type(0 if scale is None else scale.item())
    out = torch.empty(samples, *size, channels, dtype=coefficients.dtype, device="cpu")
    base_and_target = _array(maps), _planes_of(offset, maps), factor, out.numpy()

    def part(first: int, last: int) -> None:
        halves = np.empty((2, last - first, planes, *size[1:], channels), given.dtype)
        numba_kernels.adjoint_planes(given, *tables[1:], places, halves, first, first * planes, last * planes)
        numba_kernels.adjoint_depth(
            halves, tables[0], letters, *base_and_target, first, first * size[0], last * size[0]
        )

    _share(part, samples, maps.numel())
    return layout.maps(out, base.shape[1])


def _planes_of(offset: Tensor | None, maps: Tensor) -> Array:
    """What is subtracted from every plane of ``(N, D, R, S, C)``: ``(N, numbers in a plane)``."""
    samples, _, *size, channels = maps.shape
    if offset is None:
        return _zeros(samples, math.prod(size) * channels, sum_dtype(maps))
    rows = offset.reshape(samples, 1, channels).expand(-1, math.prod(size), -1)
    return rows.reshape(samples, -1).contiguous().numpy()


def _array(x: Tensor) -> Array:
    return (x.view(torch.uint16) if x.dtype == torch.bfloat16 else x).numpy()


@lru_cache(maxsize=256)
def _zeros(samples: int, numbers: int, dtype: torch.dtype) -> Array:
    return np.zeros((samples, numbers), np.float64 if dtype == torch.float64 else np.float32)


@lru_cache(maxsize=256)
def _taps(n: int, wavelet: str, mode: str, dtype: torch.dtype, adjoint: bool) -> Taps:
    matrices = half_matrices(n, wavelet, mode, dtype, torch.device("cpu"))
    return taps(*((matrices[x].T if adjoint else matrices[x]).numpy() for x in "ad"))


def _share(work: Callable[[int, int], None], count: int, numbers: int) -> None:
    """Call ``work(first, last)`` for parts of ``count`` planes or samples, in as many threads as torch uses.

    Each takes the next part that is left, so that none waits for one that was slow to wake.
    """
    threads = torch.get_num_threads() if numbers > WORTH_SHARING else 1
    parts = min(count, 1 if threads == 1 else 4 * threads)
    spans = iter([(count * i // parts, count * (i + 1) // parts) for i in range(parts)])

    def run() -> None:
        for span in spans:
            work(*span)

    others = [_pool().submit(run) for _ in range(threads - 1)]
    run()
    for other in others:
        if not other.cancel():
            other.result()


@lru_cache(maxsize=1)
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(thread_name_prefix="sub-bands")
