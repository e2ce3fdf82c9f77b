"""One level of a wavelet transform, and its adjoint, by the few taps of the filters: compiled, for CPUs.

A pass along an axis is a product with a sparse matrix, every row a sum of a few others. Maps are ``(B, D, R, S, C)``,
contiguous, or channels counted as samples, and ``C`` is 1. So that rows are long, a few planes of D lie side by side
in a row, and for the pass along S they are turned on their way: sub-bands are ``(bands, B, d, s, r, C)``. A few planes
go through all passes at a time, so that a map comes from memory once. bfloat16 is read as its bits, ``uint16``.

Every function does the planes from ``first`` to ``last``, counted through all samples. ``wanted`` is the place of each
of the eight sub-bands by its letters for D, R and S, -1 for none.
"""

from __future__ import annotations

import numpy as np

from dcd_components.wavelets.numba_taps import combine, combine_less, compiled, copy, scaled, squares, turn, unsigned

ZERO, ONE = np.uint64(0), np.uint64(1)
#: Begin of the SHA-256 of numba_taps.py: numba makes machine code anew when this file changes, not when one that it
#: calls does. A test holds it.
TAPS = "942543cb10603643"
#: Numbers in a row that are worth a loop.
LONG = np.uint64(256)


@compiled
def analyse(x, centre, centred, measure, depth, rows, columns, wanted, out, energies, first, last):  # type: ignore[no-untyped-def]
    """Sub-bands ``out`` of ``x - centre``.

    Args:
        x: map ``(B, D, R, S, C)``.
        centre: ``(B, R * S * C)``, one plane a sample.
        centred: whether any of it is not 0.
        measure: whether energies are wanted.
        depth: taps along D.
        rows: taps along R.
        columns: taps along S.
        wanted: see above.
        out: ``(bands, B, d, s, r, C)``.
        energies: sums of squares ``(1 + bands, B * d)``, first those of ``x - centre``.
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
                if centred:
                    combine_less(
                        target, ZERO, height * n, source, sample * size * height * n, centre[sample], depth, u, k
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
                    energies[0, number + g] += squares(source, (sample * size + d) * height * n, centre[sample])


@compiled
def _analyse_block(block, measure, rows, columns, wanted, width, out, energies, number, count):  # type: ignore[no-untyped-def]
    """Passes along R and S of planes that lie side by side, ``(R, planes, S, C)``."""
    planes, points, lines, channels = unsigned(out.shape[2:])
    result, n, row = out.reshape(-1), count * width * channels, lines * channels
    half, turned = np.empty(lines * n, out.dtype), np.empty(lines * n, out.dtype)
    band, zeros = np.empty(points * count * row, out.dtype), np.zeros(points * row, out.dtype)
    for v in range(2):
        if wanted[v].max() < 0:
            continue
        for j in range(lines):
            combine(half, j * n, n, False, block, ZERO, rows, v, j)
        turn(half, turned, count, lines, width, channels)
        for w in range(2):
            if wanted[v, w] < 0:
                continue
            for i in range(points):
                combine(band, i * count * row, count * row, False, turned, ZERO, columns, w, i)
            for g in range(count):
                start = (np.uint64(wanted[v, w] * out.shape[1]) * planes + number + g) * points * row
                copy(band, g * row, count * row, result, start, row, points, row)
                if measure:
                    energies[1 + wanted[v, w], number + g] = squares(result, start, zeros)


@compiled
def adjoin_planes(x, rows, columns, wanted, out, skip, first, last):  # type: ignore[no-untyped-def]
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
                _adjoin_block(x, rows, columns, wanted[u], block, number, count, np.uint64(out.shape[4]))
                for g in range(count):
                    start = (np.uint64(u) * planes + number + g - before) * height * n
                    copy(block, g * n, count * n, result, start, n, height, n)


@compiled
def _adjoin_block(x, rows, columns, wanted, block, number, count, width):  # type: ignore[no-untyped-def]
    """Write planes that lie side by side, ``(R, planes, S, C)``."""
    planes, points, lines, channels = unsigned(x.shape[2:])
    source, n, row = x.reshape(-1), count * width * channels, lines * channels
    half, turned = np.empty(lines * n, x.dtype), np.empty(lines * n, x.dtype)
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
                combine(turned, i * count * row, count * row, begun, band, ZERO, columns, w, i)
            begun = True
        if begun:
            turn(turned, half, count, width, lines, channels)
            for j in range(np.uint64(rows.sources.shape[0])):
                combine(block, j * n, n, filled, half, ZERO, rows, v, j)
            filled = True


@compiled
def adjoin_depth(x, depth, letters, base, centre, scale, out, skip, first, last):  # type: ignore[no-untyped-def]
    """Adjoint of the pass along D, added to ``scale * (base - centre)``.

    Args:
        x: ``(2, some of B, d, R, S, C)``.
        depth: taps of the adjoint.
        letters: which halves of ``x`` count.
        base: map ``(B, D, R, S, C)``.
        centre: ``(B, R * S * C)``, one plane a sample.
        scale: 0 for no base.
        out: ``(B, D, R, S, C)``.
        skip: samples before those of ``x``.
        first: see above.
        last: see above.
    """
    samples, planes = np.uint64(x.shape[1]), np.uint64(x.shape[2])
    size, n = np.uint64(out.shape[1]), np.uint64(centre.shape[1])
    source, result, given = x.reshape(-1), out.reshape(-1), base.reshape(-1)
    for number in range(np.uint64(first), np.uint64(last)):
        scaled(given, number * n, centre[number // size], scale, result, number * n)
        for u in range(2):
            if letters[u]:
                start = (np.uint64(u) * samples + number // size - np.uint64(skip)) * planes * n
                combine(result, number * n, n, True, source, start, depth, u, number % size)
