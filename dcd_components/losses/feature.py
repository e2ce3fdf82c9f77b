"""Mean squared distance of two feature maps."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.loss import _Loss

from dcd_components.distributed import all_reduce_mean
from dcd_components.losses.maps import relative, wide_maps


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
        - input: ``(B, in_channels, D, H, W)``, of images without D; target: as ``input``, of ``out_channels``.
        - output: scalar, float32 also under autocast.
    """

    def __init__(self, in_channels: int, out_channels: int, normalize: bool = False) -> None:
        super().__init__()
        self.projection = nn.Conv3d(in_channels, out_channels, kernel_size=1, bias=False)
        self.normalize = normalize

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Return the loss; ``InputError`` when the spatial sizes or batches differ."""
        student, teacher = wide_maps(input, target)
        with torch.autocast(input.device.type, enabled=False):
            projected = self.projection(student)
        error: Tensor = (projected - teacher).square().mean()
        if not self.normalize:
            return error
        whole = all_reduce_mean(teacher.square().mean())
        return relative(error, whole, whole)
