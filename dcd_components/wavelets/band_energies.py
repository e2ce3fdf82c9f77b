r"""Energy of chosen sub-bands of a wavelet transform, and the distance of two feature maps in it.

The energy of sub-bands :math:`B` over :math:`J` levels is a quadratic form of the signal,

.. math:: E(x) = \sum_j w_j \sum_{b \in B} \|W_{j,b}\, x\|^2 = \langle x, A x \rangle,
          \qquad A = \sum_j w_j \sum_{b \in B} W_{j,b}^\top W_{j,b}.

Where the transform keeps energy, the bands that are *not* chosen are subtracted from the whole if they are fewer: of
the paper's six directional bands, ``aaa`` and ``ddd``.

:math:`A` acts on space and a projection :math:`P` on channels, so the two commute, and with :math:`R = A s`

.. math:: E(P s - t) = \langle R,\, P^\top P s - 2 P^\top t \rangle + E(t), \qquad
          \tfrac{1}{2} \nabla_s = P^\top P R - A P^\top t, \qquad
          \tfrac{1}{2} \nabla_P = P (s R^\top) - t R^\top.

All but the constant :math:`E(t)` is computed on the student's channels, and inner products of channels are all that
the value and the gradient of :math:`P` need.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from dcd_components.precision import sum_dtype
from dcd_components.wavelets import dwt_matmul
from dcd_components.wavelets.transform import band_size, existing_bands, keeps_constants, keeps_energy

logger = logging.getLogger(__name__)
#: Voxels of which inner products are summed at once, in bfloat16 and wider.
PART, WIDE_PART = 1 << 15, 1 << 12


@dataclass(frozen=True)
class BandEnergy:
    """Energies of the same sub-bands on every level of a wavelet transform.

    Args:
        bands: of every level; ``"aaa"`` counts on the last alone.
        wavelet: discrete wavelet known to PyWavelets.
        levels: number of decompositions.
        mode: boundary rule known to PyWavelets.
    """

    bands: tuple[str, ...]
    wavelet: str
    levels: int
    mode: str

    def weights(self, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
        """One weight a level that makes of energies of ``(B, C, D, H, W)`` the mean over levels of the mean square."""
        return _weights(self, tuple(shape), dtype, device)

    def channel_offset(self, x: Tensor) -> Tensor:
        """About the mean of each channel of ``(B, C, D, H, W)``, ``(B, C)``; 0 where the energy of constants counts.

        Detail is a small difference of large sums where a map is far from zero, so what is transformed is the map
        less this constant. Any would do: a few voxels tell it well enough.
        """
        if "aaa" in self.bands or not all(keeps_constants(n, self.wavelet, self.mode) for n in x.shape[2:]):
            return torch.zeros(x.shape[:2], dtype=sum_dtype(x), device=x.device)
        depth, height, width = (math.ceil(n / 4) for n in x.shape[2:])
        some = x[:, :, ::depth, ::height, ::width]
        return some.mean((2, 3, 4), dtype=sum_dtype(x))

    def measure(self, x: Tensor) -> MeasuredMap:
        """Energies of a map ``(B, C, D, H, W)``, and what else a distance from it needs."""
        bands, _ = _plan(self, tuple(x.shape[2:]))
        offset = self.channel_offset(x)
        energies = _passes(x).energies(x, bands, self.wavelet, self.mode, offset)
        shares = _shares(self, tuple(x.shape[2:]), energies.dtype, energies.device)
        levels = (shares * energies).sum(1).to(sum_dtype(x))
        total = energies[0].to(sum_dtype(x)) + 1e-6 * x.shape[2:].numel() * offset.square().sum()
        return MeasuredMap(self, x, offset, total, levels, self.weights(x.shape, sum_dtype(x), x.device))

    def gradient(self, x: Tensor, weights: Tensor, offset: Tensor | None = None) -> Tensor:
        """Half the gradient of the energy weighted by level, ``A (x - offset)``, of ``(B, C, D, H, W)``."""
        bands, _ = _plan(self, tuple(x.shape[2:]))
        shares = _shares(self, tuple(x.shape[2:]), weights.dtype, weights.device)
        offset = x.new_zeros(x.shape[:2], dtype=sum_dtype(x)) if offset is None else offset
        of_bands = (weights[:, None] * shares).sum(0)
        out: Tensor = _passes(x).gradient(x, bands, self.wavelet, self.mode, offset, of_bands)
        return out

    def bands_of(self, level: int, size: Sequence[int]) -> set[str]:
        """Sub-bands of maps of spatial ``size`` that count on a level, from 0."""
        last = level == self.levels - 1
        return {band for band in existing_bands(size) if band in self.bands and (band != "aaa" or last)}


@dataclass
class MeasuredMap:
    """The teacher's map, and what a distance from it needs.

    Args:
        energy: of which bands.
        map: ``(B, C, D, H, W)``.
        channel_offset: constants near the means of channels, ``(B, C)``.
        total_energy: of the map less these; a millionth of it is more than rounding makes of the energy of bands.
        level_energies: of the bands of each level.
        weights: of the levels; by default those of :meth:`BandEnergy.weights`.
    """

    energy: BandEnergy
    map: Tensor
    channel_offset: Tensor
    total_energy: Tensor
    level_energies: Tensor
    weights: Tensor


class ProjectedEnergy(torch.autograd.Function):
    """``apply(s, P, t)`` is the energy of ``P s - t``, weighted by level; gradients flow to ``s`` and ``P`` alone.

    ``s`` is a map ``(B, c, D, H, W)``, ``P`` a matrix ``(C, c)``, and ``t`` a :class:`MeasuredMap`.
    """

    @staticmethod
    def forward(ctx: Any, s: Tensor, projection: Tensor, target: MeasuredMap) -> Tensor:
        """Compute the value, and both gradients with it."""
        energy, t, weights = target.energy, target.map, target.weights
        half = projection.T.to(t.dtype)  # rounded as autocast rounds weights
        middle = half @ target.channel_offset.mean(0).to(t.dtype)
        pulled = _mix(half, t, middle.expand(len(t), -1)[..., None])
        both = torch.cat([s, pulled]).contiguous()
        del pulled  # maps are most of the memory that a step needs
        response, pulled_response = energy.gradient(both, weights, energy.channel_offset(both)).chunk(2)
        del both
        rounded = response.to(t.dtype)
        inner, outer = _products(rounded, s).T, _products(rounded, t).T
        gram = projection.T @ projection
        to_student = _mix(gram, response, pulled_response.flatten(2)).to(s.dtype) if ctx.needs_input_grad[0] else None
        ctx.save_for_backward(to_student, projection @ inner - outer if ctx.needs_input_grad[1] else None)
        return (gram * inner).sum() - 2 * (projection * outer).sum() + (target.level_energies * weights).sum()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Scale the gradients."""
        if torch.is_grad_enabled():
            raise RuntimeError("the wavelet loss has no second derivative: call it without create_graph")
        return *[None if half is None else 2 * grad * half for half in ctx.saved_tensors], None


def _mix(matrix: Tensor, x: Tensor, less: Tensor) -> Tensor:
    """Multiply the channels of ``(B, C, D, H, W)`` by a matrix, and subtract."""
    mixed = torch.baddbmm(less, matrix.expand(len(x), *matrix.shape), x.flatten(2), beta=-1)
    return mixed.view(len(x), -1, *x.shape[2:])


def _products(x: Tensor, y: Tensor) -> Tensor:
    """Inner products of the channels of two maps ``(B, channels, D, H, W)``.

    In parts: in bfloat16, products come rounded, and their sum in float32 is less so; wider, parts that caches hold are
    multiplied in one call.
    """
    pairs = zip(x.flatten(2), y.flatten(2), strict=True)
    if x.dtype == torch.bfloat16:
        spans = ((torch.split(one, PART, 1), torch.split(other, PART, 1)) for one, other in pairs)
        parts = [one @ other.T for some, others in spans for one, other in zip(some, others, strict=True)]
        return torch.stack(parts).sum(0, dtype=sum_dtype(x))
    voxels = x.shape[2:].numel()
    size = min(WIDE_PART, voxels)
    rest = voxels - voxels % size
    sums = [
        torch.bmm(one.unfold(1, size, size).transpose(0, 1), other.unfold(1, size, size).permute(1, 2, 0)).sum(0)
        + one[:, rest:] @ other[:, rest:].T
        for one, other in pairs
    ]
    return torch.stack(sums).sum(0)


@lru_cache(maxsize=256)
def _plan(energy: BandEnergy, size: tuple[int, ...]) -> tuple[tuple[tuple[str, ...], ...], Tensor]:
    """Names of the sub-bands that are needed on each level, ``aaa`` first, and what makes energies of levels of theirs.

    The energies are those of the map and of the bands; of them, the matrix ``(levels, 1 + bands)`` takes those bands
    that count, or leaves out the others of the whole if these are fewer.
    """
    needed: list[tuple[str, ...]] = []
    rows: list[dict[int, float]] = []
    whole, count = 0, 1
    for level in range(energy.levels):
        chosen = energy.bands_of(level, size)
        others = set(existing_bands(size)) - chosen
        fewer = len(others) < len(chosen) and all(keeps_energy(n, energy.wavelet, energy.mode) for n in size)
        counted = others if fewer else chosen
        needed.append(tuple(sorted(counted | (set() if level == energy.levels - 1 else {"aaa"}))))
        places = {band: count + place for place, band in enumerate(needed[-1])}
        rows.append({whole: 1.0} if fewer else {})
        rows[-1] |= {places[band]: -1.0 if fewer else 1.0 for band in counted}
        whole, count = count, count + len(needed[-1])
        size = band_size(size, energy.wavelet, energy.mode)
    with torch.inference_mode(False):  # kept, so it must serve training too
        return tuple(needed), torch.tensor([[row.get(place, 0.0) for place in range(count)] for row in rows])


@lru_cache(maxsize=256)
def _shares(energy: BandEnergy, size: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """The matrix of :func:`_plan` where it is used: to copy it in each step would make a GPU wait."""
    with torch.inference_mode(False):  # kept, so it must serve training too
        return _plan(energy, size)[1].to(device, dtype)


@lru_cache(maxsize=256)
def _weights(energy: BandEnergy, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    size, counts = shape[-3:], []
    for level in range(energy.levels):
        number = len(energy.bands_of(level, size))
        size = band_size(size, energy.wavelet, energy.mode)
        counts.append(number * math.prod(size) * math.prod(shape[:-3]))
    levels = sum(count > 0 for count in counts)
    with torch.inference_mode(False):  # kept, so it must serve training too
        return torch.tensor([1 / (count * levels) if count else 0.0 for count in counts], dtype=dtype, device=device)


def _passes(x: Tensor) -> ModuleType:
    """What transforms a map: on a CPU the compiled kernels, elsewhere matrices."""
    return _cpu_passes() if x.device.type == "cpu" else dwt_matmul


@lru_cache(maxsize=1)
def _cpu_passes() -> ModuleType:
    try:
        from dcd_components.wavelets import dwt_numba  # compiled code takes a moment to load, and inference needs none
    except ImportError as error:
        # CPU time of forward and backward, one thread, all stages of the two cases of the step benchmark: 1.6 to 2.2 in
        # bfloat16 on a processor that multiplies it, 2.9 and 3.2 in float32 on one with AVX2.
        logger.warning("%s: `pip install numba` makes the wavelet loss 1.6 to 3.2 times faster on a CPU", error)
        return dwt_matmul
    return dwt_numba
