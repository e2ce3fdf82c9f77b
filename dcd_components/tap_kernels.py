"""One level of a wavelet transform, and its adjoint, by the few taps of the filters: compiled, for CPUs.

A pass along an axis is a product with a sparse matrix, every row a sum of a few others. Maps are ``(B, D, R, S, C)``,
contiguous, so that rows are long along every axis but the last; for that one a plane is turned on its way, and
sub-bands are ``(bands, B, d, s, r, C)``. Plane follows plane through all passes, so that a map comes from memory once.
bfloat16 is read as its bits, ``uint16``. Every function does the planes from ``first`` to ``last``, counted through
all samples; ``wanted`` is the place of each of the eight sub-bands by its letters for D, R and S, -1 for none.
"""

from __future__ import annotations

import numpy as np

from dcd_components.taps import combine, compiled, squares, subtract, turn, unsigned, widened

ZERO, ONE = np.uint64(0), np.uint64(1)


@compiled
def analyse(x, centre, measure, depth, rows, columns, wanted, out, energies, first, last):  # type: ignore[no-untyped-def]
    """Sub-bands ``out`` of ``x - centre``.

    Args:
        x: map ``(B, D, R, S, C)``.
        centre: ``(B, S * C)``, one row of a plane.
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
    planes, _, lines, _ = unsigned(out.shape[2:])
    n = height * width * channels
    plane = np.empty(n, out.dtype)
    half, turned = np.empty(lines * width * channels, out.dtype), np.empty(lines * width * channels, out.dtype)
    source = x.reshape(-1)
    for number in range(np.uint64(first), np.uint64(last)):
        sample, k = number // planes, number % planes
        base = sample * size * n
        if measure:
            begin, end = k * size // planes, (k + ONE) * size // planes
            energies[0, number] = squares(source, base + begin * n, (end - begin) * height, centre[sample])
        for u in range(2):
            if wanted[u].max() >= 0:
                combine(plane, ZERO, n, False, source, base, depth, u, k)
                subtract(plane, height, depth.weights[u, k].sum(), centre[sample])
                _analyse_plane(plane, half, turned, measure, rows, columns, wanted[u], out, energies, number)


@compiled
def _analyse_plane(plane, half, turned, measure, rows, columns, wanted, out, energies, number):  # type: ignore[no-untyped-def]
    planes, points, lines, channels = unsigned(out.shape[2:])
    result, row, n = out.reshape(-1), lines * channels, np.uint64(half.size) // lines
    for v in range(2):
        if wanted[v].max() < 0:
            continue
        for j in range(lines):
            combine(half, j * n, n, False, plane, ZERO, rows, v, j)
        turn(half, turned, lines, n // channels, channels)
        for w in range(2):
            if wanted[v, w] >= 0:
                start = (np.uint64(wanted[v, w] * out.shape[1]) * planes + number) * points * row
                for i in range(points):
                    combine(result, start + i * row, row, False, turned, ZERO, columns, w, i)
                if measure:
                    energies[1 + wanted[v, w], number] = squares(result, start, points, np.zeros(row, out.dtype))


@compiled
def adjoin_planes(x, rows, columns, wanted, out, first, last):  # type: ignore[no-untyped-def]
    """Adjoint of the passes along S and R.

    Args:
        x: sub-bands ``(bands, B, d, s, r, C)``.
        rows: taps of the adjoint along R.
        columns: taps of the adjoint along S.
        wanted: see above.
        out: ``(2, B, d, R, S, C)``, by the letter of D; halves without sub-bands are left as they are.
        first: see above.
        last: see above.
    """
    planes, points, lines, channels = unsigned(x.shape[2:])
    height, width = np.uint64(out.shape[3]), np.uint64(out.shape[4])
    count, row, n = np.uint64(x.shape[1]) * planes, lines * channels, width * channels
    half, turned = np.empty(lines * n, out.dtype), np.empty(lines * n, out.dtype)
    source, result = x.reshape(-1), out.reshape(-1)
    for number in range(np.uint64(first), np.uint64(last)):
        for u in range(2):
            start, filled = (np.uint64(u) * count + number) * height * n, False
            for v in range(2):
                begun = False
                for w in range(2):
                    if wanted[u, v, w] >= 0:
                        base = (np.uint64(wanted[u, v, w]) * count + number) * points * row
                        for i in range(width):
                            combine(turned, i * row, row, begun, source, base, columns, w, i)
                        begun = True
                if begun:
                    turn(turned, half, width, lines, channels)
                    for j in range(height):
                        combine(result, start + j * n, n, filled, half, ZERO, rows, v, j)
                    filled = True


@compiled
def adjoin_depth(x, depth, letters, base, centre, scale, out, first, last):  # type: ignore[no-untyped-def]
    """Adjoint of the pass along D, added to ``scale * (base - centre)``.

    Args:
        x: ``(2, B, d, R, S, C)``.
        depth: taps of the adjoint.
        letters: which halves of ``x`` count.
        base: map ``(B, D, R, S, C)``.
        centre: ``(B, S * C)``, one row of a plane.
        scale: 0 for no base.
        out: ``(B, D, R, S, C)``.
        first: see above.
        last: see above.
    """
    samples, planes, size = np.uint64(x.shape[1]), np.uint64(x.shape[2]), np.uint64(out.shape[1])
    height, row = np.uint64(out.shape[2]), np.uint64(centre.shape[1])
    n = height * row
    source, result, given = x.reshape(-1), out.reshape(-1), base.reshape(-1)
    for number in range(np.uint64(first), np.uint64(last)):
        _scale(given, number * n, height, scale, centre[number // size], result)
        for u in range(2):
            if letters[u]:
                start = (np.uint64(u) * samples + number // size) * planes * n
                combine(result, number * n, n, True, source, start, depth, u, number % size)


@compiled
def _scale(x, start, rows, scale, row, out):  # type: ignore[no-untyped-def]
    n = np.uint64(row.size)
    for i in range(rows):
        for p in range(start + i * n, start + i * n + n):
            out[p] = scale * (widened(x[p]) - row[p - start - i * n]) if scale != 0 else 0
