"""Losses between one stage's feature maps, and the mean over stages.

Every stage loss takes the student's map ``input`` and the teacher's map ``target``; no gradient flows to ``target``.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.loss import _Loss

from dcd_components.band_energy import BandEnergy
from dcd_components.processes import mean
from dcd_components.projected_distance import projected_distance
from dcd_components.wavelets import BANDS, DIRECTIONAL_BANDS, check_wavelet, supported_levels

logger = logging.getLogger(__name__)


class FeatureLoss(_Loss):
    r"""Mean squared distance of two feature maps after a learnt 1x1x1 projection :math:`P` of the student's.

    .. math:: L = \mathrm{MSE}(P s,\, t)

    Source: Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015.

    Args:
        in_channels: channels of the student's map.
        out_channels: channels of the teacher's map.
        normalize: divide by the teacher's mean square in the batches of all processes, so that the loss has no unit and
            a student that predicts nothing scores 1.

    Shape:
        - input: ``(B, in_channels, D, H, W)``; target: ``(B, out_channels, D, H, W)``.
        - output: scalar, float32 also under autocast.
    """

    def __init__(self, in_channels: int, out_channels: int, normalize: bool = False) -> None:
        super().__init__()
        self.projection = nn.Conv3d(in_channels, out_channels, kernel_size=1, bias=False)
        self.normalize = normalize

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Return the loss; ``ValueError`` when the spatial sizes or batches differ."""
        _check_shapes(input, target)
        with torch.autocast(input.device.type, enabled=False):
            projected, target = self.projection(_widen(input)), _widen(target.detach())
        error: Tensor = (projected - target).square().mean()
        if not self.normalize:
            return error
        whole = mean(target.square().mean())
        return _relative(error, whole, whole)


class WaveletDetailLoss(FeatureLoss):
    r"""Match the detail sub-bands of two feature maps of one encoder stage.

    .. math::
        L = \frac{1}{J} \sum_{j=1}^{J} \frac{1}{|B|} \sum_{b \in B} \mathrm{MSE}\big(W_{j,b}(P s),\, W_{j,b}(t)\big)

    :math:`W_{j,b}` is sub-band :math:`b` of level :math:`j` of an orthonormal wavelet transform, :math:`P` a learnt
    1x1x1 projection. Because the transform keeps energy, the term of each level is, up to its constant number of
    coefficients, the squared error of the masked reconstruction: no inverse transform is needed. Because it is linear
    in space and :math:`P` in channels, it is computed on the student's channels, see
    :mod:`dcd_components.projected_distance`. Levels count alike, whatever their number of coefficients.

    Source: "Detail Consistent Stage-Wise Distillation for Efficient 3D MRI Segmentation", MICCAI 2026,
    arXiv 2605.26382. The authors' code departs from it; see the README, "Where we differ".

    Args:
        in_channels: channels of the student's map.
        out_channels: channels of the teacher's map.
        wavelet: discrete wavelet known to PyWavelets.
        levels: number of decompositions, at least 1; capped, with a log line, at what the map supports.
        bands: sub-bands to match, named by axis D, H, W: ``"aad"`` is detail along W.
        mode: boundary rule known to PyWavelets.
        normalize: divide each level by the teacher's energy in the same bands, over all processes, so that the loss is
            the share of the teacher's detail that the student misses, and its weight has no unit.

    Shape:
        - input: ``(B, in_channels, D, H, W)``; target: ``(B, out_channels, D, H, W)``.
        - output: scalar, float32 also under autocast.

    Raises:
        ValueError: for ``levels`` below 1, or an unknown wavelet, mode or band.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        wavelet: str = "db4",
        levels: int = 3,
        bands: Iterable[str] = DIRECTIONAL_BANDS,
        mode: str = "periodization",
        normalize: bool = False,
    ) -> None:
        super().__init__(in_channels, out_channels, normalize)
        check_wavelet(wavelet, mode)
        if levels < 1:
            raise ValueError(f"levels must be at least 1, got {levels}")
        self.bands = tuple(bands)
        unknown = [band for band in self.bands if band not in BANDS]
        if unknown or not self.bands:
            raise ValueError(f"unknown bands {unknown or self.bands}; choose at least one from {', '.join(BANDS)}")
        self.wavelet, self.levels, self.mode = wavelet, levels, mode
        self._logged: set[tuple[int, ...]] = set()

    # Its passes are written by hand and read tables that a compiler would copy.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Return the loss; ``ValueError`` when the spatial sizes or batches differ."""
        _check_shapes(input, target)
        with torch.autocast(input.device.type, enabled=False):
            projection = self.projection.weight.flatten(1)
            maps = (input, target.detach())
            wide = torch.float64 if any(x.dtype == torch.float64 for x in (projection, *maps)) else torch.float32
            # bfloat16 has the range of float32 and is read as it is; half precision has not.
            half = all(x.dtype == torch.bfloat16 for x in maps)
            input, target = (x if half else x.to(wide) for x in maps)
            form = BandEnergy(self.bands, self.wavelet, self._levels(input), self.mode)
            survey = form.survey(target)
            weights = form.weights(target.shape, wide, target.device)
            if self.normalize:
                means = survey.energies * weights * weights.count_nonzero()
                energies = mean(torch.cat([means, survey.whole.view(1) / target.numel()]))
                weights = _relative(weights, energies[:-1], energies[-1])
            return projected_distance(input, projection.to(wide), target, survey, weights, form)

    def _levels(self, x: Tensor) -> int:
        size = tuple(x.shape[-3:])
        supported = supported_levels(size, self.wavelet)
        if supported < self.levels and size not in self._logged:
            self._logged.add(size)
            logger.info("maps of %s support %d of %d levels of %s", size, supported, self.levels, self.wavelet)
        return min(self.levels, supported)


class StagewiseLoss(nn.Module):
    """Mean of one loss per stage; ``terms`` keeps each stage's of the last call, detached.

    Args:
        losses: one stage loss per stage, in the order of the stages.
    """

    terms: Sequence[Tensor] = ()

    def __init__(self, losses: Iterable[nn.Module]) -> None:
        super().__init__()
        self.losses = nn.ModuleList(losses)

    def forward(self, inputs: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
        """Return the mean; ``ValueError`` when the number of maps is not the number of losses."""
        if not len(inputs) == len(targets) == len(self.losses):
            raise ValueError(f"{len(self.losses)} stage losses got {len(inputs)} and {len(targets)} feature maps")
        terms = [loss(x, y) for loss, x, y in zip(self.losses, inputs, targets, strict=True)]
        self.terms = [term.detach() for term in terms]
        return torch.stack(terms).mean()


def _widen(x: Tensor) -> Tensor:
    """Raise half precision to float32; energies are sums that half precision would lose."""
    return x if x.dtype == torch.float64 else x.float()


def _relative(errors: Tensor, energies: Tensor, whole: Tensor) -> Tensor:
    """Divide errors by the teacher's energies; 0 where it has next to none of its whole, and so nothing to match."""
    present = energies > 1e-6 * whole
    return torch.where(present, errors / torch.where(present, energies, 1.0), 0.0)


def _check_shapes(input: Tensor, target: Tensor) -> None:
    if input.shape[0] != target.shape[0] or input.shape[2:] != target.shape[2:]:
        raise ValueError(
            f"student's and teacher's maps must agree in batch and spatial size, "
            f"got {tuple(input.shape)} and {tuple(target.shape)}"
        )
