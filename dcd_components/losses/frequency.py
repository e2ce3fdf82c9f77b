"""Distance of two maps in the detail sub-bands of a Haar transform, where the teacher has detail."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.loss import _Loss

from dcd_components.losses.maps import wide_maps
from dcd_components.wavelets.dwt_matmul import dwt3
from dcd_components.wavelets.transform import supported_levels

LEVELS = 3
WAVELET = "haar"


class FrequencyLoss(_Loss):
    r"""Absolute distance of detail sub-bands under the teacher's masks, plus the mean squared distance of the maps.

    .. math:: L = \sum_{j=1}^{3} \frac{1}{|B|} \sum_{b \in B}
        \mathrm{mean}\big| m_j \, W_{j,b}(P s - t) \big| + \lambda \, \mathrm{MSE}(P s, t), \qquad
        m_j = \frac{e_j}{e_j + \mathrm{mean}(e_j)}

    :math:`W_{j,b}` is sub-band :math:`b` of level :math:`j` of a Haar transform, :math:`B` are all but ``aaa``, and
    :math:`P` is a learnt 1x1x1 projection. :math:`e_j` is the teacher's detail: the root of its mean squared
    coefficient over the channels and :math:`B`, at each place of level :math:`j`. So the mask :math:`m_j` is one half
    where the teacher has detail as in the mean of the patch, more where it has more, and always below 1.

    Source: Zhang et al., "FreeKD: Knowledge Distillation via Semantic Frequency Prompt", CVPR 2024, which is for 2D
    images. What is adapted:

    - A level of a volume has seven detail sub-bands, that of an image three. As in the authors' code they share a mask,
      and the means of the levels are added.
    - The authors train prompts within the teacher, which then is trained on; a mask is the sigmoid of the product of
      a prompt and the teacher's coefficients. Here the teacher stays as it is: the mask is the sigmoid of the
      logarithm of its relative detail :math:`e_j / \mathrm{mean}(e_j)`, and there is one in place of several.
    - Levels are at most what the map supports, and an axis of odd length goes on with its last value, not with 0.
    - The stages are averaged by :class:`dcd_components.Distiller`, where the authors add them.

    Args:
        in_channels: channels of the student's map.
        out_channels: channels of the teacher's map.
        mse_weight: :math:`\lambda`.

    Shape:
        - input: ``(B, in_channels, D, H, W)``, of images without D; target: as ``input``, of ``out_channels``.
        - output: scalar, float32 also under autocast.
    """

    def __init__(self, in_channels: int, out_channels: int, mse_weight: float = 5.0) -> None:
        super().__init__()
        self.projection = nn.Conv3d(in_channels, out_channels, kernel_size=1, bias=False)
        self.mse_weight = mse_weight

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Return the loss; ``InputError`` when the spatial sizes or batches differ."""
        student, teacher = wide_maps(input, target)
        with torch.autocast(input.device.type, enabled=False):
            difference = self.projection(student) - teacher
            pairs = zip(_details(difference), _details(teacher), strict=True)
            terms = [(_mask(theirs) * ours).abs().mean() for ours, theirs in pairs]
        error: Tensor = self.mse_weight * difference.square().mean()
        return torch.stack(terms).sum() + error if terms else error


def _details(x: Tensor) -> list[Tensor]:
    """Detail sub-bands of each level, finest first, ``(B, C, 7, d, h, w)``; a single voxel has none."""
    levels = min(LEVELS, supported_levels(tuple(x.shape[-3:]), WAVELET))
    return [torch.stack([*bands.values()], 2) for bands in dwt3(x, WAVELET, levels).details if bands]


def _mask(details: Tensor) -> Tensor:
    """How strong a teacher's detail is at each place, from 0 to 1, ``(B, 1, 1, d, h, w)``; 0 where it has none."""
    strength = details.square().mean((1, 2), keepdim=True).sqrt()
    usual = strength.mean((3, 4, 5), keepdim=True)
    mask: Tensor = strength / (strength + usual).clamp_min(torch.finfo(details.dtype).tiny)
    return mask
