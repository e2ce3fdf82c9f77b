"""Mean squared distance of two feature maps."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.loss import _Loss

from dcd_components.distributed import all_reduce_mean
from dcd_components.errors import InputError
from dcd_components.precision import sum_dtype


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
        """Return the loss; ``InputError`` when the spatial sizes or batches differ."""
        check_shapes(input, target)
        with torch.autocast(input.device.type, enabled=False):
            projected = self.projection(input.to(sum_dtype(input)))
            target = target.detach().to(sum_dtype(target))
        error: Tensor = (projected - target).square().mean()
        if not self.normalize:
            return error
        whole = all_reduce_mean(target.square().mean())
        return relative(error, whole, whole)


def relative(errors: Tensor, energies: Tensor, whole: Tensor) -> Tensor:
    """Divide errors by the teacher's energies; 0 where it has next to none of its whole, and so nothing to match."""
    present = energies > 1e-6 * whole
    return torch.where(present, errors / torch.where(present, energies, 1.0), 0.0)


def check_shapes(input: Tensor, target: Tensor) -> None:
    """Raise a ``InputError`` unless two maps agree in batch and spatial size."""
    if input.shape[0] != target.shape[0] or input.shape[2:] != target.shape[2:]:
        raise InputError(
            f"student's and teacher's maps must agree in batch and spatial size, "
            f"got {tuple(input.shape)} and {tuple(target.shape)}"
        )
