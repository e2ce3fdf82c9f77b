r"""Energy of chosen sub-bands of a wavelet transform, and its gradient.

The energy of sub-bands :math:`B` over :math:`J` levels is a quadratic form of the signal,

.. math:: E(x) = \sum_j w_j \sum_{b \in B} \|W_{j,b}\, x\|^2 = \langle x, A x \rangle,
          \qquad A = \sum_j w_j \sum_{b \in B} W_{j,b}^\top W_{j,b}.

Where the transform keeps energy, the bands that are *not* chosen are subtracted from the whole if they are fewer: of
the paper's six directional bands, ``aaa`` and ``ddd``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType
from typing import NamedTuple

import pywt
import torch
from torch import Tensor

from dcd_components.wavelets import dwt_matmul
from dcd_components.wavelets.transform import BANDS, keeps_constants, keeps_energy


class Survey(NamedTuple):
    """What a distance from a map needs of it: constants near its means ``(B, C)`` and energies less these.

    ``energies`` are those of the bands of each level; a millionth of ``whole`` is more than rounding makes of them.
    """

    centre: Tensor
    whole: Tensor
    energies: Tensor


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

    def centre(self, x: Tensor) -> Tensor:
        """About the mean of each channel of ``(B, C, D, H, W)``, ``(B, C)``; 0 where the energy of constants counts.

        Detail is a small difference of large sums where a map is far from zero, so what is transformed is the map
        less this constant. Any would do: a few voxels tell it well enough.
        """
        if "aaa" in self.bands or not all(keeps_constants(n, self.wavelet, self.mode) for n in x.shape[2:]):
            return torch.zeros(x.shape[:2], dtype=_wide(x), device=x.device)
        some = x[:, :, *(slice(None, None, math.ceil(n / 4)) for n in x.shape[2:])]
        return some.mean((2, 3, 4), dtype=_wide(x))

    def survey(self, x: Tensor) -> Survey:
        """Read a map of shape ``(B, C, D, H, W)`` once for its energies."""
        passes, voxels, wholes, energies = _passes(x), x.shape[2:].numel(), [], []
        middle: Tensor | None = (centre := self.centre(x))
        for level in range(self.levels):
            sign, counted, bands = self._plan(x.shape[2:], level)
            coefficients, each = passes.analyse(x, bands, self.wavelet, self.mode, middle, measure=True)
            kept = each[1 + len(bands) - len(counted) :].sum()  # what is only there for the next level comes first
            wholes.append(each[0])
            energies.append(kept if sign > 0 else each[0] - kept)
            x, middle = (coefficients[0] if bands else x), None
        whole = wholes[0] + 1e-6 * voxels * centre.square().sum()
        return Survey(centre, whole, torch.stack(energies))

    def gradient(self, x: Tensor, weights: Tensor, centre: Tensor | None = None) -> Tensor:
        """Half the gradient of the energy weighted by level, ``A (x - centre)``, of ``(B, C, D, H, W)``."""
        return self._gradient(x, weights, centre, 0)

    def _gradient(self, x: Tensor, weights: Tensor, centre: Tensor | None, level: int) -> Tensor:
        sign, counted, bands = self._plan(x.shape[2:], level)
        passes = _passes(x)
        coefficients, _ = passes.analyse(x, bands, self.wavelet, self.mode, centre)
        last = level == self.levels - 1
        deeper = None if last else self._gradient(coefficients[0], weights, None, level + 1)
        coefficients *= sign * weights[level]
        if deeper is not None:
            coefficients[0] = deeper + coefficients[0] if "aaa" in counted else deeper
        scale = weights[level] if sign < 0 else None
        out: Tensor = passes.adjoin(coefficients, bands, self.wavelet, self.mode, x, centre, scale)
        return out

    def _plan(self, size: Sequence[int], level: int) -> tuple[int, list[str], list[str]]:
        """Whether bands count (1) or are left out of the whole (-1), which, and all that are needed, ``aaa`` first."""
        chosen = self._chosen(level)
        others = set(BANDS) - chosen
        fewer = len(others) < len(chosen) and all(keeps_energy(n, self.wavelet, self.mode) for n in size)
        counted = others if fewer else chosen
        needed = counted | (set() if level == self.levels - 1 else {"aaa"})
        return -1 if fewer else 1, sorted(counted), sorted(needed)

    def _chosen(self, level: int) -> set[str]:
        return {band for band in self.bands if band != "aaa" or level == self.levels - 1}


@lru_cache(maxsize=256)
def _weights(form: BandEnergy, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    size, counts = shape[-3:], []
    for level in range(form.levels):
        size = tuple(pywt.dwt_coeff_len(n, pywt.Wavelet(form.wavelet).dec_len, form.mode) for n in size)
        counts.append(len(form._chosen(level)) * math.prod(size) * math.prod(shape[:-3]))
    levels = sum(count > 0 for count in counts)
    with torch.inference_mode(False):  # kept, so it must serve training too
        return torch.tensor([1 / (count * levels) if count else 0.0 for count in counts], dtype=dtype, device=device)


def _passes(x: Tensor) -> ModuleType:
    """What transforms a map: on a CPU the compiled kernels, elsewhere matrices."""
    return _kernels() if x.device.type == "cpu" else dwt_matmul


def _kernels() -> ModuleType:
    from dcd_components.wavelets import dwt_numba  # compiled code takes a moment to load, and inference needs none

    return dwt_numba


def _wide(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32
