"""The wavelet transform on any device, by products with the matrices of PyWavelets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from dcd_components.errors import InputError
from dcd_components.precision import sum_dtype
from dcd_components.wavelets.transform import check_wavelet, existing_bands, half_matrices


class Coefficients(NamedTuple):
    """A multi-level transform: the last approximation and the details of each level, finest first."""

    approximation: Tensor
    details: list[dict[str, Tensor]]


def dwt3(x: Tensor, wavelet: str, levels: int = 1, mode: str = "periodization") -> Coefficients:
    """Transform the last three axes, as ``pywt.wavedecn`` does, but for axes of a single voxel; differentiable.

    Args:
        x: tensor of shape ``(..., D, H, W)``; half precision is raised to float32.
        wavelet: discrete wavelet known to PyWavelets.
        levels: number of decompositions, at least 1.
        mode: boundary rule known to PyWavelets.

    Returns:
        The coefficients of ``pywt.wavedecn(x, wavelet, mode, levels, axes=(-3, -2, -1))``, details finest first. An
        axis that has, or has come to, a single voxel is left as it is, and there are no details along it.

    Raises:
        InputError: for ``levels`` below 1, an unknown wavelet or an unknown mode.
    """
    check_wavelet(wavelet, mode)
    if levels < 1:
        raise InputError(f"levels must be at least 1, got {levels}")
    details = []
    for _ in range(levels):
        names = existing_bands(x.shape[-3:])
        coefficients, _ = analyse(x.reshape(1, -1, *x.shape[-3:]), names, wavelet, mode)
        parts = coefficients.view(len(names), *x.shape[:-3], *coefficients.shape[-3:])
        bands = dict(zip(names, parts, strict=True))
        x = bands.pop("aaa")
        details.append(bands)
    return Coefficients(x, details)


def analyse(
    x: Tensor, bands: Sequence[str], wavelet: str, mode: str, offset: Tensor | None = None, measure: bool = False
) -> tuple[Tensor, Tensor]:
    """Sub-bands of one level of a map less a constant.

    Args:
        x: map of shape ``(B, C, D, H, W)``.
        bands: names.
        wavelet: discrete wavelet known to PyWavelets.
        mode: boundary rule known to PyWavelets.
        offset: ``(B, C)``; 0 by default.
        measure: whether energies are wanted.

    Returns:
        Coefficients ``(bands, B, C, d, h, w)``; and energies ``(1 + bands,)``, that of ``x - offset`` first, or zeros.
    """
    wide = _less(x, offset)
    parts = {"": wide}
    for axis in range(3):
        matrices = half_matrices(x.shape[axis + 2], wavelet, mode, wide.dtype, x.device)
        prefixes = dict.fromkeys(band[: axis + 1] for band in bands)
        parts = {prefix: _along(matrices[prefix[-1]], parts[prefix[:-1]], axis) for prefix in prefixes}
    coefficients = torch.stack([parts[band] for band in bands]) if bands else wide.new_empty(0)
    if not measure:
        return coefficients, wide.new_zeros(1 + len(bands))
    return coefficients, torch.stack([torch.linalg.vector_norm(part).square() for part in (wide, *coefficients)])


def adjoint(
    coefficients: Tensor,
    bands: Sequence[str],
    wavelet: str,
    mode: str,
    base: Tensor,
    offset: Tensor | None = None,
    scale: Tensor | None = None,
) -> Tensor:
    """Adjoint of the analysis, its inverse where the transform is orthonormal, added to ``scale * (base - offset)``.

    Args:
        coefficients: ``(bands, B, C, d, h, w)``.
        bands: their names.
        wavelet: of the analysis.
        mode: of the analysis.
        base: map of shape ``(B, C, D, H, W)``.
        offset: ``(B, C)``; 0 by default.
        scale: without, ``base`` only tells the size.

    Returns:
        Map of shape ``(B, C, D, H, W)``.
    """
    parts = dict(zip(bands, coefficients, strict=True))
    for axis in (2, 1, 0):
        matrices = half_matrices(base.shape[axis + 2], wavelet, mode, coefficients.dtype, base.device)
        sums: dict[str, Tensor] = {}
        for prefix, part in parts.items():
            back = _along(matrices[prefix[-1]].T, part, axis)
            sums[prefix[:-1]] = sums[prefix[:-1]].add_(back) if prefix[:-1] in sums else back
        parts = sums
    out = parts[""] if parts else torch.zeros(base.shape, dtype=coefficients.dtype, device=base.device)
    return out if scale is None else out.addcmul_(_less(base, offset), scale)


def energies(x: Tensor, bands: Sequence[Sequence[str]], wavelet: str, mode: str, offset: Tensor) -> Tensor:
    """Energies of a map less a constant, and of its sub-bands on every level.

    Args:
        x: map of shape ``(B, C, D, H, W)``.
        bands: names on each level, ``aaa`` first where there is a deeper one.
        wavelet: discrete wavelet known to PyWavelets.
        mode: boundary rule known to PyWavelets.
        offset: ``(B, C)``.

    Returns:
        That of ``x - offset``, and those of the bands in their order.
    """
    found: list[Tensor] = []
    less: Tensor | None = offset
    for names in bands:
        coefficients, each = analyse(x, names, wavelet, mode, less, measure=True)
        found.append(each[1:] if found else each)
        x, less = (coefficients[0] if names else x), None
    return torch.cat(found)


def gradient(
    x: Tensor, bands: Sequence[Sequence[str]], wavelet: str, mode: str, offset: Tensor | None, weights: Tensor
) -> Tensor:
    """Half the gradient of the sum of the :func:`energies`, each with a weight.

    Args:
        x: map of shape ``(B, C, D, H, W)``.
        bands: as for the energies.
        wavelet: discrete wavelet known to PyWavelets.
        mode: boundary rule known to PyWavelets.
        offset: ``(B, C)``; 0 by default.
        weights: one for each energy.

    Returns:
        Map of shape ``(B, C, D, H, W)``.
    """
    names, *deeper = bands
    scale, own, rest = weights.tensor_split([1, 1 + len(names)])
    coefficients, _ = analyse(x, names, wavelet, mode, offset)
    inner = gradient(coefficients[0], deeper, wavelet, mode, None, torch.cat([own[:1], rest])) if deeper else None
    coefficients *= own.view(-1, *[1] * x.ndim) if names else 1
    if inner is not None:
        coefficients[0] = inner
    return adjoint(coefficients, names, wavelet, mode, x, offset, scale)


def _less(x: Tensor, offset: Tensor | None) -> Tensor:
    """``x - offset`` in float32 or wider."""
    return x.to(sum_dtype(x)) if offset is None else x - offset[..., None, None, None]


def _along(matrix: Tensor, x: Tensor, axis: int) -> Tensor:
    """Multiply the axis D, H or W (0 to 2) of ``(B, C, D, H, W)`` by a matrix."""
    if axis == 2:
        return x @ matrix.T
    rows = x.reshape(-1, x.shape[axis + 2], x.shape[3:].numel() if axis == 0 else x.shape[4])
    return torch.bmm(matrix.expand(len(rows), *matrix.shape), rows).view(*x.shape[: axis + 2], -1, *x.shape[axis + 3 :])
