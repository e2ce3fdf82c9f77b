"""Distance of two feature maps in the detail sub-bands of a wavelet transform."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import torch
from torch import Tensor

from dcd_components.distributed import all_reduce_mean
from dcd_components.errors import InputError
from dcd_components.losses.feature import FeatureLoss
from dcd_components.losses.maps import relative, volumes
from dcd_components.precision import sum_dtype
from dcd_components.wavelets.band_energies import BandEnergy, ProjectedEnergy
from dcd_components.wavelets.transform import BANDS, DIRECTIONAL_BANDS, check_wavelet, supported_levels

logger = logging.getLogger(__name__)


class WaveletDetailLoss(FeatureLoss):
    r"""Match the detail sub-bands of two feature maps of one encoder stage.

    .. math::
        L = \frac{1}{J} \sum_{j=1}^{J} \frac{1}{|B|} \sum_{b \in B} \mathrm{MSE}\big(W_{j,b}(P s),\, W_{j,b}(t)\big)

    :math:`W_{j,b}` is sub-band :math:`b` of level :math:`j` of an orthonormal wavelet transform, :math:`P` a learnt
    1x1x1 projection. Because the transform keeps energy, the term of each level is, up to its constant number of
    coefficients, the squared error of the masked reconstruction: no inverse transform is needed. Because it is linear
    in space and :math:`P` in channels, it is computed on the student's channels, see
    :mod:`dcd_components.wavelets.band_energies`. Levels count alike, whatever their number of coefficients.

    An axis of a single voxel is not transformed, and of :math:`B` there are the bands without detail along it. So the
    map of an image has the bands ``aad``, ``ada`` and ``add`` by default, all details of its 2D transform: ``add``,
    detail along two axes, is compared in volumes too, and normalised the loss is that of a volume which repeats the
    image along D.

    Source: "Detail Consistent Stage-Wise Distillation for Efficient 3D MRI Segmentation", MICCAI 2026,
    arXiv 2605.26382. The authors' code departs from it; see docs/method.md.

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
        - input: ``(B, in_channels, D, H, W)``, of images without D; target: as ``input``, of ``out_channels``.
        - output: scalar, float32 also under autocast.

    Raises:
        InputError: for ``levels`` below 1, or an unknown wavelet, mode or band.
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
            raise InputError(f"levels must be at least 1, got {levels}")
        self.bands = tuple(bands)
        unknown = [band for band in self.bands if band not in BANDS]
        if unknown or not self.bands:
            raise InputError(f"unknown bands {unknown or self.bands}; choose at least one from {', '.join(BANDS)}")
        self.wavelet, self.levels, self.mode = wavelet, levels, mode
        self._logged: set[tuple[int, ...]] = set()

    # Its passes are written by hand and read tables that a compiler would copy.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Return the loss; ``InputError`` when the spatial sizes or batches differ, or images have no such band."""
        if input.ndim == 4 and all(band.startswith("d") for band in self.bands):
            raise InputError(f"images have no detail along D, and so none of the bands {', '.join(self.bands)}")
        input, target = volumes(input, target)
        with torch.autocast(input.device.type, enabled=False):
            projection = self.projection.weight.flatten(1)
            maps = (input, target.detach())
            wide = sum_dtype(projection, *maps)
            # bfloat16 has the range of float32 and is read as it is; half precision has not.
            half = all(x.dtype == torch.bfloat16 for x in maps)
            input, target = (x if half else x.to(wide) for x in maps)
            teacher = BandEnergy(self.bands, self.wavelet, self._levels(input), self.mode).measure(target)
            if self.normalize:
                means = teacher.level_energies * teacher.weights * teacher.weights.count_nonzero()
                energies = all_reduce_mean(torch.cat([means, teacher.total_energy.view(1) / target.numel()]))
                teacher.weights = relative(teacher.weights, energies[:-1], energies[-1])
            value: Tensor = ProjectedEnergy.apply(input, projection.to(wide), teacher)  # type: ignore[no-untyped-call]
            return value

    def _levels(self, x: Tensor) -> int:
        size = tuple(x.shape[-3:])
        supported = supported_levels(size, self.wavelet)
        if supported < self.levels and size not in self._logged:
            self._logged.add(size)
            logger.info("maps of %s support %d of %d levels of %s", size, supported, self.levels, self.wavelet)
        return min(self.levels, supported)
