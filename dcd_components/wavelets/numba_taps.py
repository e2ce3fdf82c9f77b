"""Sums of rows by the few taps of a filter: what the compiled passes of ``numba_kernels`` are made of.

Sizes and places are numbers without a sign: they need no test for counting from the end, which would keep loops from
vector registers.
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


def widened(value: Any) -> Any:
    """A number as it is, or the bfloat16 of which an integer has the bits."""
    return value


@overload(widened, inline="always")
def _number(value):  # type: ignore[no-untyped-def]
    if isinstance(value, types.Integer):
        return lambda value: np.uint32(np.uint32(value) << np.uint32(16)).view(np.float32)
    return lambda value: value


@compiled
def combine_less(out, start, n, x, base, centre, taps, letter, row):  # type: ignore[no-untyped-def]
    """Write what :func:`combine` writes of ``x``, each row less ``centre``.

    Subtracted first, for of large numbers with a small difference sums would lose it.
    """
    sources, weights = taps.sources[row], taps.weights[letter, row]
    for t in range(0, sources.size, GROUP):
        a, b, c, d = weights[t], weights[t + 1], weights[t + 2], weights[t + 3]
        i, j = base + sources[t] * n, base + sources[t + 1] * n
        k, m = base + sources[t + 2] * n, base + sources[t + 3] * n
        if t > 0:
            for p in range(n):
                more = a * (widened(x[i + p]) - centre[p]) + b * (widened(x[j + p]) - centre[p])
                out[start + p] += more + c * (widened(x[k + p]) - centre[p]) + d * (widened(x[m + p]) - centre[p])
        else:
            for p in range(n):
                more = a * (widened(x[i + p]) - centre[p]) + b * (widened(x[j + p]) - centre[p])
                out[start + p] = more + c * (widened(x[k + p]) - centre[p]) + d * (widened(x[m + p]) - centre[p])


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
                more = a * widened(x[i + p]) + b * widened(x[j + p]) + c * widened(x[k + p]) + d * widened(x[m + p])
                out[start + p] += more
        else:
            for p in range(n):
                first = a * widened(x[i + p]) + b * widened(x[j + p]) + c * widened(x[k + p]) + d * widened(x[m + p])
                out[start + p] = first


@compiled
def turn(x, out, planes, rows, columns, n):  # type: ignore[no-untyped-def]
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
        out[begin + p] = scale * (widened(x[start + p]) - row[p])


@compiled
def squares(x, start, row):  # type: ignore[no-untyped-def]
    """Sum of squares of ``x[start:] - row``."""
    total = row[0] * 0
    for p in range(np.uint64(row.size)):
        value = widened(x[start + p]) - row[p]
        total += value * value
    return np.float64(total)


@compiled
def unsigned(shape):  # type: ignore[no-untyped-def]
    """Four sizes without a sign."""
    return np.uint64(shape[0]), np.uint64(shape[1]), np.uint64(shape[2]), np.uint64(shape[3])
