r"""Energy of chosen sub-bands of a wavelet transform, and its gradient.

The energy of sub-bands :math:`B` over :math:`J` levels is a quadratic form of the signal,

.. math:: E(x) = \sum_j w_j \sum_{b \in B} \|W_{j,b}\, x\|^2 = \langle x, A x \rangle,
          \qquad A = \sum_j w_j \sum_{b \in B} W_{j,b}^\top W_{j,b}.

Where the transform keeps energy, the bands that are *not* chosen are subtracted from the whole if they are fewer: of
the paper's six directional bands, ``aaa`` and ``ddd``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import pywt
import torch
from torch import Tensor

from dcd_components.wavelets import BANDS, half_matrices, keeps_constants, keeps_energy

Bands = dict[str, Tensor]
#: Numbers that are transformed at once: few enough to stay in a processor's cache and not to need fresh memory, many
#: enough to keep any other device busy.
CHUNK, DEVICE_CHUNK = 1 << 20, 1 << 26


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

    def survey(self, x: Tensor, projection: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Read a map once, for all that a distance from it needs but its inner product with the other map.

        Args:
            x: map of shape ``(B, C, D, H, W)``.
            projection: matrix of shape ``(C, c)``.

        Returns:
            Energy of the map, and of the bands of each level, ``(levels,)``; and the map pulled back through the
            projection, ``P' x`` of shape ``(B, c, D, H, W)``, up to a constant where constants have no energy.
        """
        pulled = projection.new_zeros(len(x), projection.shape[1], math.prod(x.shape[2:]))
        parts = []
        for one, back in zip(x, pulled, strict=True):
            for rows, chunk in zip(torch.split(projection, self._count(x)), self._chunks(one), strict=True):
                parts.append(self._energies(chunk))
                back.addmm_(rows.T, chunk.flatten(1))
        whole, energies = zip(*parts, strict=True)
        return torch.stack(whole).sum(), torch.stack(energies).sum(0), pulled.view(*pulled.shape[:2], *x.shape[2:])

    def _energies(self, x: Tensor) -> tuple[Tensor, Tensor]:
        energies, first = [], (whole := _energy(x))
        for level in range(self.levels):
            sign, counted = self._plan(x.shape[-3:], level)
            bands = self._analyse(x, counted | {"aaa"})
            each = {band: _energy(coefficients) for band, coefficients in bands.items()}
            kept = torch.stack([each[band] for band in sorted(counted)]).sum() if counted else torch.zeros_like(whole)
            energies.append(kept if sign > 0 else whole - kept)
            x, whole = bands["aaa"], each["aaa"]
        return first, torch.stack(energies)

    def gradient(self, x: Tensor, weights: Tensor) -> Tensor:
        """Half the gradient of the energy weighted by level, ``A x``; of the shape of ``x``."""
        out = torch.empty(x.shape, dtype=weights.dtype, device=x.device)
        parts = torch.split(out.view(-1, *x.shape[-3:]), self._count(x))
        for part, chunk in zip(parts, self._chunks(x), strict=True):
            part.copy_(self._gradient(chunk, weights, 0))
        return out

    def _gradient(self, x: Tensor, weights: Tensor, level: int) -> Tensor:
        sign, counted = self._plan(x.shape[-3:], level)
        last = level == self.levels - 1
        bands = self._analyse(x, counted | (set() if last else {"aaa"}))
        weighted = {band: bands[band] * (sign * weights[level]) for band in counted}
        if not last:
            deeper = self._gradient(bands["aaa"], weights, level + 1)
            weighted["aaa"] = deeper + weighted["aaa"] if "aaa" in weighted else deeper
        out = self._adjoin(weighted, x.shape[-3:]) if weighted else torch.zeros_like(x)
        return out if sign > 0 else torch.addcmul(out, x, weights[level])

    def _chunks(self, x: Tensor) -> Iterator[Tensor]:
        """Parts of ``(..., D, H, W)`` as ``(K, D, H, W)``, wide enough for sums, without the mean where it is free.

        Detail is a small difference of large sums where a map's mean is far from zero.
        """
        centred = "aaa" not in self.bands and all(keeps_constants(n, self.wavelet, self.mode) for n in x.shape[-3:])
        for part in torch.split(x.reshape(-1, *x.shape[-3:]), self._count(x)):
            wide = part if part.dtype == torch.float64 else part.float()
            yield wide - wide.mean((1, 2, 3), keepdim=True) if centred else wide

    @staticmethod
    def _count(x: Tensor) -> int:
        return max(1, (CHUNK if x.device.type == "cpu" else DEVICE_CHUNK) // math.prod(x.shape[-3:]))

    def _plan(self, size: Sequence[int], level: int) -> tuple[int, set[str]]:
        """Bands to transform, and whether they count (1) or are left out of the whole (-1)."""
        chosen = self._chosen(level)
        others = set(BANDS) - chosen
        fewer = len(others) < len(chosen) and all(keeps_energy(n, self.wavelet, self.mode) for n in size)
        return (-1, others) if fewer else (1, chosen)

    def _chosen(self, level: int) -> set[str]:
        return {band for band in self.bands if band != "aaa" or level == self.levels - 1}

    def _analyse(self, x: Tensor, bands: set[str]) -> Bands:
        """Sub-bands of one level of ``(K, D, H, W)``."""
        parts = {"": x}
        for axis in range(3):
            matrices = half_matrices(x.shape[axis + 1], self.wavelet, self.mode, x.dtype, x.device)
            prefixes = sorted({band[: axis + 1] for band in bands})
            parts = {prefix: _along(matrices[prefix[-1]], parts[prefix[:-1]], axis) for prefix in prefixes}
        return parts

    def _adjoin(self, bands: Bands, size: Sequence[int]) -> Tensor:
        """Apply the adjoint of the analysis of one level; only for orthonormal transforms is it the inverse."""
        parts = bands
        for axis in (2, 1, 0):
            some = next(iter(parts.values()))
            matrices = half_matrices(size[axis], self.wavelet, self.mode, some.dtype, some.device)
            sums: Bands = {}
            for prefix, coefficients in sorted(parts.items()):
                part = _along(matrices[prefix[-1]].T, coefficients, axis)
                sums[prefix[:-1]] = sums[prefix[:-1]].add_(part) if prefix[:-1] in sums else part
            parts = sums
        return parts[""]


@lru_cache(maxsize=256)
def _weights(form: BandEnergy, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    size, counts = shape[-3:], []
    for level in range(form.levels):
        size = tuple(pywt.dwt_coeff_len(n, pywt.Wavelet(form.wavelet).dec_len, form.mode) for n in size)
        counts.append(len(form._chosen(level)) * math.prod(size) * math.prod(shape[:-3]))
    levels = sum(count > 0 for count in counts)
    with torch.inference_mode(False):  # kept, so it must serve training too
        return torch.tensor([1 / (count * levels) if count else 0.0 for count in counts], dtype=dtype, device=device)


def _along(matrix: Tensor, x: Tensor, axis: int) -> Tensor:
    """Multiply an axis of ``(K, D, H, W)`` by a matrix."""
    if axis == 2:
        return x @ matrix.T
    if axis == 1:
        return matrix @ x
    return (matrix @ x.flatten(2)).view(len(x), len(matrix), *x.shape[2:])


def _energy(x: Tensor) -> Tensor:
    flat = x.flatten()
    return torch.dot(flat, flat)
