"""One level of a wavelet transform, and its adjoint, by the few taps of the filters: compiled by numba, for CPUs.

A pass along an axis is a product with a sparse matrix, every row a sum of a few others. Maps are ``(B, D, R, S, C)``,
contiguous, or channels counted as samples, and ``C`` is 1. So that rows are long, a few planes of D lie side by side
in a row, and for the pass along S they are transposed on their way: sub-bands are ``(bands, B, d, s, r, C)``. A few
planes go through all passes at a time, so that a map comes from memory once. bfloat16 is read as its bits, ``uint16``.

Every pass does the planes from ``first`` to ``last``, counted through all samples. ``wanted`` is the place of each of
the eight sub-bands by its letters for D, R and S, -1 for none. Sizes and places are numbers without a sign: they need
no test for counting from the end, which would keep loops from vector registers.

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
#: Rows that are summed at once; every row of a table names a multiple of them.
GROUP = 4
ZERO, ONE = np.uint64(0), np.uint64(1)
#: Numbers in a row that are worth a loop.
LONG = np.uint64(256)


class Taps(NamedTuple):
    """Two sparse matrices with common columns: ``out[k] = sum_t weights[letter, k, t] * x[sources[k, t]]``."""

    sources: Array
    weights: Array


def taps(approximation: Array, detail: Array) -> Taps:
    """Taps of two dense matrices of one shape; rows with fewer entries than others are filled up with zeros."""
    matrices = np.stack([approximation, detail])
    used = np.any(matrices != 0, axis=0)
    width = -(-max(1, int(used.sum(1).max())) // GROUP) * GROUP
    index = np.argsort(~used, axis=1, kind="stable")[:, :width]  # columns in use come first
    index = np.pad(index, ((0, 0), (0, width - index.shape[1])), mode="edge")
    weights = np.take_along_axis(matrices, index[None], axis=2)
    weights[:, np.arange(width) >= used.sum(1)[:, None]] = 0
    return Taps(index.astype(np.uint64), weights)


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
def combine_less(out, start, n, x, base, offset, taps, letter, row):  # type: ignore[no-untyped-def]
    """Write what :func:`combine` writes of ``x``, each row less ``offset``.

    Subtracted first, for of large numbers with a small difference sums would lose it.
    """
    sources, weights = taps.sources[row], taps.weights[letter, row]
    for t in range(0, sources.size, GROUP):
        a, b, c, d = weights[t], weights[t + 1], weights[t + 2], weights[t + 3]
        i, j = base + sources[t] * n, base + sources[t + 1] * n
        k, m = base + sources[t + 2] * n, base + sources[t + 3] * n
        if t > 0:
            for p in range(n):
                more = a * (bf16_to_f32(x[i + p]) - offset[p]) + b * (bf16_to_f32(x[j + p]) - offset[p])
                out[start + p] += (
                    more + c * (bf16_to_f32(x[k + p]) - offset[p]) + d * (bf16_to_f32(x[m + p]) - offset[p])
                )
        else:
            for p in range(n):
                more = a * (bf16_to_f32(x[i + p]) - offset[p]) + b * (bf16_to_f32(x[j + p]) - offset[p])
                out[start + p] = (
                    more + c * (bf16_to_f32(x[k + p]) - offset[p]) + d * (bf16_to_f32(x[m + p]) - offset[p])
                )


@compiled
def combine(out, start, n, add, x, base, taps, letter, row):  # type: ignore[no-untyped-def]
    """Write, or add, to ``out[start : start + n]`` the sum of the rows of ``x[base:]`` that a row of taps names."""
    sources, weights = taps.sources[row], taps.weights[letter, row]
    for t in range(0, sources.size, GROUP):
        a, b, c, d = weights[t], weights[t + 1], weights[t + 2], weights[t + 3]
        i, j = base + sources[t] * n, base + sources[t + 1] * n
        k, m = base + sources[t + 2] * n, base + sources[t + 3] * n
        if add or t > 0:
            for p in range(n):
                more = (
                    a * bf16_to_f32(x[i + p])
                    + b * bf16_to_f32(x[j + p])
                    + c * bf16_to_f32(x[k + p])
                    + d * bf16_to_f32(x[m + p])
                )
                out[start + p] += more
        else:
            for p in range(n):
                first = (
                    a * bf16_to_f32(x[i + p])
                    + b * bf16_to_f32(x[j + p])
                    + c * bf16_to_f32(x[k + p])
                    + d * bf16_to_f32(x[m + p])
                )
                out[start + p] = first


@compiled
def transpose(x, out, planes, rows, columns, n):  # type: ignore[no-untyped-def]
    """Write ``(rows, planes, columns, n)`` as ``(columns, planes, rows, n)``."""
    for i in range(rows):
        for g in range(planes):
            source, target = (i * planes + g) * columns * n, (g * rows + i) * n
            if n == 1:
                for j in range(columns):
                    out[target + j * planes * rows] = x[source + j]
                continue
            for j in range(columns):
                for p in range(n):
                    out[target + j * planes * rows * n + p] = x[source + j * n + p]


@compiled
def copy(x, start, step, out, begin, stride, rows, n):  # type: ignore[no-untyped-def]
    """Copy rows of ``n`` numbers, ``step`` apart in ``x``, to where they are ``stride`` apart in ``out``."""
    for i in range(rows):
        for p in range(n):
            out[begin + i * stride + p] = x[start + i * step + p]


@compiled
def scaled(x, start, row, scale, out, begin):  # type: ignore[no-untyped-def]
    """Write ``scale * (x[start:] - row)``."""
    for p in range(np.uint64(row.size)):
        out[begin + p] = scale * (bf16_to_f32(x[start + p]) - row[p])


@compiled
def squares(x, start, row):  # type: ignore[no-untyped-def]
    """Sum of squares of ``x[start:] - row``."""
    total = row[0] * 0
    for p in range(np.uint64(row.size)):
        value = bf16_to_f32(x[start + p]) - row[p]
        total += value * value
    return np.float64(total)


@compiled
def unsigned(shape):  # type: ignore[no-untyped-def]
    """Four sizes without a sign."""
    return np.uint64(shape[0]), np.uint64(shape[1]), np.uint64(shape[2]), np.uint64(shape[3])


@compiled
def analyse(x, offset, shifted, measure, depth, rows, columns, wanted, out, energies, first, last):  # type: ignore[no-untyped-def]
    """Sub-bands ``out`` of ``x - offset``.

    Args:
        x: map ``(B, D, R, S, C)``.
        offset: ``(B, R * S * C)``, one plane a sample.
        shifted: whether any of it is not 0.
        measure: whether energies are wanted.
        depth: taps along D.
        rows: taps along R.
        columns: taps along S.
        wanted: see above.
        out: ``(bands, B, d, s, r, C)``.
        energies: sums of squares ``(1 + bands, B * d)``, first those of ``x - offset``.
        first: see above.
        last: see above.
    """
    size, height, width, channels = unsigned(x.shape[1:])
    planes, n = np.uint64(out.shape[2]), width * channels
    source, plane = x.reshape(-1), np.empty(height * n, out.dtype)
    together = max(ONE, LONG // n)
    block = np.empty(together * height * n, out.dtype)
    for number in range(np.uint64(first), np.uint64(last), together):
        count = min(together, np.uint64(last) - number)
        for u in range(2):
            if wanted[u].max() < 0:
                continue
            for g in range(count):
                sample, k = (number + g) // planes, (number + g) % planes
                target = block if count == 1 else plane
                if shifted:
                    combine_less(
                        target, ZERO, height * n, source, sample * size * height * n, offset[sample], depth, u, k
                    )
                else:
                    combine(target, ZERO, height * n, False, source, sample * size * height * n, depth, u, k)
                if count > 1:
                    copy(plane, ZERO, n, block, g * n, count * n, height, n)
            _analyse_block(block, measure, rows, columns, wanted[u], width, out, energies, number, count)
        if measure:
            for g in range(count):
                sample, k = (number + g) // planes, (number + g) % planes
                for d in range(k * size // planes, (k + ONE) * size // planes):
                    energies[0, number + g] += squares(source, (sample * size + d) * height * n, offset[sample])


@compiled
def _analyse_block(block, measure, rows, columns, wanted, width, out, energies, number, count):  # type: ignore[no-untyped-def]
    """Passes along R and S of planes that lie side by side, ``(R, planes, S, C)``."""
    planes, points, lines, channels = unsigned(out.shape[2:])
    result, n, row = out.reshape(-1), count * width * channels, lines * channels
    half, transposed = np.empty(lines * n, out.dtype), np.empty(lines * n, out.dtype)
    band, zeros = np.empty(points * count * row, out.dtype), np.zeros(points * row, out.dtype)
    for v in range(2):
        if wanted[v].max() < 0:
            continue
        for j in range(lines):
            combine(half, j * n, n, False, block, ZERO, rows, v, j)
        transpose(half, transposed, count, lines, width, channels)
        for w in range(2):
            if wanted[v, w] < 0:
                continue
            for i in range(points):
                combine(band, i * count * row, count * row, False, transposed, ZERO, columns, w, i)
            for g in range(count):
                start = (np.uint64(wanted[v, w] * out.shape[1]) * planes + number + g) * points * row
                copy(band, g * row, count * row, result, start, row, points, row)
                if measure:
                    energies[1 + wanted[v, w], number + g] = squares(result, start, zeros)


@compiled
def adjoint_planes(x, rows, columns, wanted, out, skip, first, last):  # type: ignore[no-untyped-def]
    """Adjoint of the passes along S and R.

    Args:
        x: sub-bands ``(bands, B, d, s, r, C)``.
        rows: taps of the adjoint along R.
        columns: taps of the adjoint along S.
        wanted: see above.
        out: ``(2, some of B, d, R, S, C)``, by the letter of D; halves without sub-bands are left as they are.
        skip: samples before those of ``out``.
        first: see above.
        last: see above.
    """
    height, n = np.uint64(out.shape[3]), np.uint64(out.shape[4] * out.shape[5])
    planes, result = np.uint64(out.shape[1] * out.shape[2]), out.reshape(-1)
    before = np.uint64(skip) * np.uint64(x.shape[2])
    together = max(ONE, LONG // n)
    block = np.empty(together * height * n, out.dtype)
    for number in range(np.uint64(first), np.uint64(last), together):
        count = min(together, np.uint64(last) - number)
        for u in range(2):
            if wanted[u].max() >= 0:
                _adjoint_block(x, rows, columns, wanted[u], block, number, count, np.uint64(out.shape[4]))
                for g in range(count):
                    start = (np.uint64(u) * planes + number + g - before) * height * n
                    copy(block, g * n, count * n, result, start, n, height, n)


@compiled
def _adjoint_block(x, rows, columns, wanted, block, number, count, width):  # type: ignore[no-untyped-def]
    """Write planes that lie side by side, ``(R, planes, S, C)``."""
    planes, points, lines, channels = unsigned(x.shape[2:])
    source, n, row = x.reshape(-1), count * width * channels, lines * channels
    half, transposed = np.empty(lines * n, x.dtype), np.empty(lines * n, x.dtype)
    band, filled = np.empty(points * count * row, x.dtype), False
    for v in range(2):
        begun = False
        for w in range(2):
            if wanted[v, w] < 0:
                continue
            for g in range(count):
                start = (np.uint64(wanted[v, w] * x.shape[1]) * planes + number + g) * points * row
                copy(source, start, row, band, g * row, count * row, points, row)
            for i in range(width):
                combine(transposed, i * count * row, count * row, begun, band, ZERO, columns, w, i)
            begun = True
        if begun:
            transpose(transposed, half, count, width, lines, channels)
            for j in range(np.uint64(rows.sources.shape[0])):
                combine(block, j * n, n, filled, half, ZERO, rows, v, j)
            filled = True


@compiled
def adjoint_depth(x, depth, letters, base, offset, scale, out, skip, first, last):  # type: ignore[no-untyped-def]
    """Adjoint of the pass along D, added to ``scale * (base - offset)``.

    Args:
        x: ``(2, some of B, d, R, S, C)``.
        depth: taps of the adjoint.
        letters: which halves of ``x`` count.
        base: map ``(B, D, R, S, C)``.
        offset: ``(B, R * S * C)``, one plane a sample.
        scale: 0 for no base.
        out: ``(B, D, R, S, C)``.
        skip: samples before those of ``x``.
        first: see above.
        last: see above.
    """
    samples, planes = np.uint64(x.shape[1]), np.uint64(x.shape[2])
    size, n = np.uint64(out.shape[1]), np.uint64(offset.shape[1])
    source, result, given = x.reshape(-1), out.reshape(-1), base.reshape(-1)
    for number in range(np.uint64(first), np.uint64(last)):
        scaled(given, number * n, offset[number // size], scale, result, number * n)
        for u in range(2):
            if letters[u]:
                start = (np.uint64(u) * samples + number // size - np.uint64(skip)) * planes * n
                combine(result, number * n, n, True, source, start, depth, u, number % size)
