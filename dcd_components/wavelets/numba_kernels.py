"""One level of a wavelet transform, and its adjoint, by the few taps of the filters: compiled by numba, for CPUs.

Maps are ``(N, D, H, W)``, contiguous, with samples and channels counted together, and sub-bands ``(bands, N, d, h,
w)``. bfloat16 is read as its bits, ``uint16``. A few planes of D go through all passes at a time, so that a map comes
from memory once.

Along D and H a pass is a product with a sparse matrix: what it writes is the sum of a few planes, or rows. Along W it
is a filter at steps of two: lines are extended beyond their ends by the boundary rule, and those of all planes are then
filtered as if they were one.

``wanted`` is the place of each of the eight sub-bands by its letters for D, H and W, -1 for none. Sizes and places are
numbers without a sign: they need no test for counting from the end, which would keep loops from vector registers.

All compiled functions stand in this one file: numba makes its machine code anew when the file of a function changes,
but not when a function that it calls changes in another file.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numba import njit, types
from numba.extending import overload
from numpy.typing import NDArray

Array = NDArray[Any]
Function = Callable[..., Any]
#: What an analysis, and an adjoint, sums at once; tables and filters have a multiple of it.
EIGHT, FOUR = 8, 4
ZERO, ONE, TWO = np.uint64(0), np.uint64(1), np.uint64(2)
#: Numbers in planes that are worth the calls of all passes.
LONG = np.uint64(4096)
CONSECUTIVE = np.arange(8, dtype=np.uint64)


class Taps(NamedTuple):
    """Two sparse matrices with common columns: ``out[k] = sum_t weights[letter, k, t] * x[sources[k, t]]``."""

    sources: Array
    weights: Array


def taps(approximation: Array, detail: Array, group: int) -> Taps:
    """Taps of two dense matrices of one shape, a multiple of a group in each row, filled up with zeros."""
    matrices = np.stack([approximation, detail])
    used = np.any(matrices != 0, axis=0)
    width = -(-max(1, int(used.sum(1).max())) // group) * group
    index = np.argsort(~used, axis=1, kind="stable")[:, :width]  # columns in use come first
    index = np.pad(index, ((0, 0), (0, width - index.shape[1])), mode="edge")
    weights = np.take_along_axis(matrices, index[None], axis=2)
    weights[:, np.arange(width) >= used.sum(1)[:, None]] = 0
    return Taps(index.astype(np.uint64), weights)


class Lines(NamedTuple):
    """A line in a row of as many numbers as its filters read, and what is beyond its ends.

    Filters are ``(2, width)``. The line begins at ``left``. What is at a place of ``pads`` is the sum of ``weights``
    times what is at ``sources``, ``(pads, some)``.
    """

    filters: Array
    left: np.uint64
    pads: Array
    sources: Array
    weights: Array


def lines(filters: Array, extension: Array, left: int) -> Lines:
    """Filters ``(2, width)``, and the matrix that extends a line, which begins at row ``left``."""
    count, n = extension.shape
    pads = np.array([row for row in range(count) if not left <= row < left + n], np.int64)
    found = taps(extension[pads], np.zeros_like(extension[pads]), 1)
    return Lines(filters, np.uint64(left), pads.astype(np.uint64), found.sources + np.uint64(left), found.weights[0])


def compiled(function: Function) -> Function:
    """Compile at first use, for good where there is a folder to keep machine code in.

    Sums may be reordered and fused, so that they fill vector registers; infinities and NaN stay what they are.
    """
    options = {"nogil": True, "fastmath": {"contract", "reassoc", "nsz"}, "error_model": "numpy"}
    try:
        result: Function = njit(cache=True, **options)(function)
    except RuntimeError:
        result = njit(**options)(function)
    return result


def bf16_to_f32(value: Any) -> Any:
    """A number as it is, or the bfloat16 of which an integer has the bits."""
    return value


@overload(bf16_to_f32, inline="always")
def _bf16_to_f32(value):  # type: ignore[no-untyped-def]
    if isinstance(value, types.Integer):
        return lambda value: np.uint32(np.uint32(value) << np.uint32(16)).view(np.float32)
    return lambda value: value


@compiled
def four(values, t):  # type: ignore[no-untyped-def]
    """Four consecutive numbers."""
    return values[t], values[t + 1], values[t + 2], values[t + 3]


@compiled
def spots(sources, t, start, stride):  # type: ignore[no-untyped-def]
    """Where four rows begin that lie ``stride`` apart."""
    i, j, k, m = four(sources, t)
    return start + i * stride, start + j * stride, start + k * stride, start + m * stride


@compiled
def total(x, p, i, a):  # type: ignore[no-untyped-def]
    """Weighted sum of a number of each of four rows."""
    return a[0] * x[i[0] + p] + a[1] * x[i[1] + p] + a[2] * x[i[2] + p] + a[3] * x[i[3] + p]


@compiled
def less(x, p, i, shift):  # type: ignore[no-untyped-def]
    """A number of each of four rows, less a constant."""
    return (
        bf16_to_f32(x[i[0] + p]) - shift,
        bf16_to_f32(x[i[1] + p]) - shift,
        bf16_to_f32(x[i[2] + p]) - shift,
        bf16_to_f32(x[i[3] + p]) - shift,
    )


@compiled
def weighted(values, a):  # type: ignore[no-untyped-def]
    """Weighted sum of four numbers."""
    return a[0] * values[0] + a[1] * values[1] + a[2] * values[2] + a[3] * values[3]


@compiled
def split(x, start, n, shift, taps, row, out, begin):  # type: ignore[no-untyped-def]
    """Pass along D of ``x[start:] - shift``: a plane of each letter in ``out[:, begin:]``.

    Subtracted first, for of large numbers with a small difference sums would lose it.
    """
    sources, low, high = taps.sources[row], out[0, begin : begin + n], out[1, begin : begin + n]
    for t in range(0, sources.size, EIGHT):
        i, j = spots(sources, t, start, n), spots(sources, t + FOUR, start, n)
        a, b = four(taps.weights[0, row], t), four(taps.weights[0, row], t + FOUR)
        c, d = four(taps.weights[1, row], t), four(taps.weights[1, row], t + FOUR)
        if t > 0:
            for p in range(n):
                one, other = less(x, p, i, shift), less(x, p, j, shift)
                low[p] += weighted(one, a) + weighted(other, b)
                high[p] += weighted(one, c) + weighted(other, d)
        else:
            for p in range(n):
                one, other = less(x, p, i, shift), less(x, p, j, shift)
                low[p] = weighted(one, a) + weighted(other, b)
                high[p] = weighted(one, c) + weighted(other, d)


@compiled
def combine_rows(x, origin, n, taps, letter, out, start, stride):  # type: ignore[no-untyped-def]
    """Pass along H of a plane ``x[origin:]`` of rows of ``n`` numbers: rows ``stride`` apart in ``out[start:]``."""
    for row in range(np.uint64(taps.sources.shape[0])):
        sources, weights, begin = taps.sources[row], taps.weights[letter, row], start + row * stride
        for t in range(0, sources.size, EIGHT):
            i, j = spots(sources, t, origin, n), spots(sources, t + FOUR, origin, n)
            a, b = four(weights, t), four(weights, t + FOUR)
            if t > 0:
                for p in range(n):
                    out[begin + p] += total(x, p, i, a) + total(x, p, j, b)
            else:
                for p in range(n):
                    out[begin + p] = total(x, p, i, a) + total(x, p, j, b)


@compiled
def extend(x, count, stride, columns):  # type: ignore[no-untyped-def]
    """Extend ``count`` lines, ``stride`` apart, beyond their ends."""
    for start in range(ZERO, count * stride, stride):
        for pad in range(np.uint64(columns.pads.size)):
            value = columns.weights[pad, 0] * x[start + columns.sources[pad, 0]]
            for t in range(1, columns.sources.shape[1]):
                value += columns.weights[pad, t] * x[start + columns.sources[pad, t]]
            x[start + columns.pads[pad]] = value


@compiled
def fold(x, count, stride, columns):  # type: ignore[no-untyped-def]
    """Adjoint of the extension, in place."""
    for start in range(ZERO, count * stride, stride):
        for pad in range(np.uint64(columns.pads.size)):
            for t in range(columns.sources.shape[1]):
                x[start + columns.sources[pad, t]] += columns.weights[pad, t] * x[start + columns.pads[pad]]


@compiled
def filter_lines(x, n, weights, out):  # type: ignore[no-untyped-def]
    """Pass along W: write ``n`` numbers, each a weighted sum of consecutive ones, two further from one to the next."""
    for t in range(0, weights.size, EIGHT):
        i, j = spots(CONSECUTIVE, 0, np.uint64(t), ONE), spots(CONSECUTIVE, FOUR, np.uint64(t), ONE)
        a, b = four(weights, t), four(weights, t + FOUR)
        if t > 0:
            for p in range(n):
                out[p] += total(x, TWO * p, i, a) + total(x, TWO * p, j, b)
        else:
            for p in range(n):
                out[p] = total(x, TWO * p, i, a) + total(x, TWO * p, j, b)


@compiled
def spread_lines(x, n, weights, add, out):  # type: ignore[no-untyped-def]
    """Adjoint of the pass along W: write, or add, twice ``n`` numbers. ``x`` has half a filter of zeros before them."""
    half = weights.size // 2
    for t in range(0, half, FOUR):
        i = spots(CONSECUTIVE, 0, np.uint64(t), ONE)
        # In the order of the numbers, and so from the filter's end.
        even, odd = four(weights[weights.size - 2 :: -2], t), four(weights[::-2], t)
        if add or t > 0:
            for p in range(n):
                out[TWO * p] += total(x, p, i, even)
                out[TWO * p + ONE] += total(x, p, i, odd)
        else:
            for p in range(n):
                out[TWO * p] = total(x, p, i, even)
                out[TWO * p + ONE] = total(x, p, i, odd)


@compiled
def squares(x, start, n, shift):  # type: ignore[no-untyped-def]
    """Sum of squares of ``x[start : start + n] - shift``."""
    result = shift - shift  # a zero in the precision of the maps: products with an integer are wider
    for p in range(n):
        value = bf16_to_f32(x[start + p]) - shift
        result += value * value
    return np.float64(result)


@compiled
def energy(x, shifts, out):  # type: ignore[no-untyped-def]
    """Write sums of squares ``(N,)`` of maps ``(N, D, H, W)``, each less a constant."""
    samples, size, height, width = unsigned(x.shape)
    n, source = height * width, x.reshape(-1)
    for sample in range(samples):
        out[sample] = 0
        for d in range(size):
            out[sample] += squares(source, (sample * size + d) * n, n, shifts[sample])


@compiled
def unsigned(shape):  # type: ignore[no-untyped-def]
    """Four sizes without a sign."""
    return np.uint64(shape[0]), np.uint64(shape[1]), np.uint64(shape[2]), np.uint64(shape[3])


@compiled
def line_sizes(bands, columns):  # type: ignore[no-untyped-def]
    """Lines in a plane of sub-bands, numbers that a filter reads, and how far extended lines lie apart."""
    reach = np.uint64(columns.filters.shape[1])
    return np.uint64(bands.shape[3]), reach, TWO * np.uint64(bands.shape[4]) + reach - TWO


@compiled
def analyse(x, shifts, depth, rows, columns, wanted, out, energies):  # type: ignore[no-untyped-def]
    """Sub-bands ``out`` of maps less a constant.

    Args:
        x: maps ``(N, D, H, W)``.
        shifts: what is subtracted, ``(N,)``.
        depth: taps along D.
        rows: taps along H.
        columns: taps along W.
        wanted: see above.
        out: ``(bands, N, d, h, w)``.
        energies: sums of the squares of their planes, ``(bands, N * d)``.
    """
    samples, size, height, width = unsigned(x.shape)
    n, source, planes = height * width, x.reshape(-1), np.uint64(out.shape[2])
    together = min(samples * planes, max(ONE, LONG // n))
    lines, reach, stride = line_sizes(out, columns)
    parts = np.empty((2, together * n), out.dtype)
    half = np.zeros(together * lines * stride + reach, out.dtype)
    band = np.empty(together * lines * stride // TWO, out.dtype)
    for first in range(ZERO, samples * planes, together):
        count = min(together, samples * planes - first)
        for k in range(count):
            sample, plane = (first + k) // planes, (first + k) % planes
            split(source, sample * size * n, n, shifts[sample], depth, plane, parts, k * n)
        for u in range(2):
            _analyse_planes(parts[u], count, n, width, half, band, rows, columns, wanted[u], out, energies, first)


@compiled
def _analyse_planes(x, count, n, width, half, band, rows, columns, wanted, out, energies, first):  # type: ignore[no-untyped-def]
    """Passes along H and W of some planes."""
    result, (lines, _, stride) = out.reshape(-1), line_sizes(out, columns)
    points, planes = np.uint64(out.shape[4]), np.uint64(out.shape[1] * out.shape[2])
    zero = columns.filters[0, 0] - columns.filters[0, 0]
    for v in range(2):
        if wanted[v, 0] < 0 and wanted[v, 1] < 0:  # a reduction would take a tenth of the level
            continue
        for k in range(count):
            combine_rows(x, k * n, width, rows, v, half, columns.left + k * lines * stride, stride)
        extend(half, count * lines, stride, columns)
        for w in range(2):
            if wanted[v, w] >= 0:
                start = (np.uint64(wanted[v, w]) * planes + first) * lines * points
                filter_lines(half, count * lines * stride // TWO, columns.filters[w], band)
                copy(band, ZERO, stride // TWO, result, start, points, count * lines, points)
                for k in range(count):
                    energies[wanted[v, w], first + k] = squares(
                        result, start + k * lines * points, lines * points, zero
                    )


@compiled
def copy(x, start, step, out, begin, stride, rows, n):  # type: ignore[no-untyped-def]
    """Copy rows of ``n`` numbers, ``step`` apart in ``x``, to where they are ``stride`` apart in ``out``."""
    for i in range(rows):
        for p in range(n):
            out[begin + i * stride + p] = x[start + i * step + p]


@compiled
def add_rows(x, start, stride, n, taps, letter, out, begin):  # type: ignore[no-untyped-def]
    """Adjoint of the pass along H, added to ``out[begin:]``, of rows ``stride`` apart in ``x[start:]``."""
    for row in range(np.uint64(taps.sources.shape[0])):
        sources, weights, target = taps.sources[row], taps.weights[letter, row], begin + row * n
        for t in range(0, sources.size, FOUR):
            i, a = spots(sources, t, start, stride), four(weights, t)
            for p in range(n):
                out[target + p] += total(x, p, i, a)


@compiled
def merge(x, origin, n, taps, row, base, start, shift, scale, out):  # type: ignore[no-untyped-def]
    """Adjoint of the pass along D, added to ``scale * (base - shift)``: a plane in ``out[start:]``.

    Planes of the approximation of a sample are in the first half of ``x``, from ``origin`` on, and those of the detail
    in the second.
    """
    for p in range(n):
        out[start + p] = scale * (bf16_to_f32(base[start + p]) - shift)
    for letter in range(2):
        begin = origin + np.uint64(letter) * (np.uint64(x.size) // TWO)
        for t in range(0, taps.sources.shape[1], FOUR):
            i, a = spots(taps.sources[row], t, begin, n), four(taps.weights[letter, row], t)
            for p in range(n):
                out[start + p] += total(x, p, i, a)


@compiled
def adjoint(x, factors, depth, rows, columns, wanted, base, shifts, scale, out):  # type: ignore[no-untyped-def]
    """Adjoint of the analysis, added to ``scale * (base - shifts)``.

    Args:
        x: sub-bands ``(bands, N, d, h, w)``.
        factors: what they are multiplied by, ``(bands,)``.
        depth: taps of the adjoint along D.
        rows: taps of the adjoint along H.
        columns: taps of the adjoint along W.
        wanted: see above.
        base: maps ``(N, D, H, W)``.
        shifts: ``(N,)``.
        scale: of the maps.
        out: ``(N, D, H, W)``.
    """
    samples, size, height, width = unsigned(out.shape)
    planes, n = np.uint64(x.shape[2]), height * width
    given, result = base.reshape(-1), out.reshape(-1)
    lines, reach, stride = line_sizes(x, columns)
    group = min(samples, max(ONE, LONG // (planes * n)))
    together = min(group * planes, max(ONE, LONG // n))
    halves, half = np.zeros(TWO * group * planes * n, out.dtype), np.empty(together * lines * stride, out.dtype)
    band = np.zeros((together * lines * stride + reach) // TWO, out.dtype)
    for begin in range(ZERO, samples, group):
        end = min(samples, begin + group)
        halves[:] = 0
        for first in range(begin * planes, end * planes, together):
            count = min(together, end * planes - first)
            for u in range(2):
                start = (np.uint64(u) * group * planes + first - begin * planes) * n
                _adjoint_planes(x, factors, rows, columns, wanted[u], first, count, n, width, band, half, halves, start)
        for z in range(begin * size, end * size):
            sample = z // size
            start = (sample - begin) * planes * n
            merge(halves, start, n, depth, z % size, given, z * n, shifts[sample], scale, result)


@compiled
def _adjoint_planes(x, factors, rows, columns, wanted, first, count, n, width, band, half, out, begin):  # type: ignore[no-untyped-def]
    """Adjoint of the passes along W and H, of some planes, added to ``out[begin:]``."""
    source, (lines, reach, stride) = x.reshape(-1), line_sizes(x, columns)
    points, planes = np.uint64(x.shape[4]), np.uint64(x.shape[1] * x.shape[2])
    for v in range(2):
        begun = False
        for w in range(2):
            if wanted[v, w] >= 0:
                start = (np.uint64(wanted[v, w]) * planes + first) * lines * points
                copy(source, start, points, band, reach // TWO - ONE, stride // TWO, count * lines, points)
                filters = factors[wanted[v, w]] * columns.filters[w]
                spread_lines(band, count * lines * stride // TWO, filters, begun, half)
                begun = True
        if begun:
            fold(half, count * lines, stride, columns)
            for k in range(count):
                add_rows(half, columns.left + k * lines * stride, stride, width, rows, v, out, begin + k * n)
