"""The segmentation loss, over the batches of all processes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dcd_components.distributed import all_reduce_sum


class BatchDiceCELoss(nn.Module):
    """Cross-entropy plus one less the Dice of each class, from sums over the whole batch, without background.

    The same as MONAI's ``DiceCELoss(include_background=False, to_onehot_y=True, softmax=True, batch=True)``, whose
    Dice of several processes would be the mean of each one's: not what one process computes from all their patches.

    Args:
        smooth: added to numerator and denominator of Dice.

    Shape:
        - input: logits ``(B, C, D, H, W)``; target: classes ``(B, 1, D, H, W)``.
        - output: scalar; the Dice part is the same in all processes.
    """

    def __init__(self, smooth: float = 1e-5) -> None:
        super().__init__()
        self.smooth = smooth

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Return the loss."""
        truth = target == torch.arange(1, input.shape[1], device=target.device).view(-1, 1, 1, 1)
        dice = _dice(input.softmax(1)[:, 1:], truth, self.smooth)
        loss: Tensor = (1 - dice).mean() + nn.functional.cross_entropy(input, target[:, 0].long())
        return loss


class RegionDiceBCELoss(nn.Module):
    """Binary cross-entropy plus one less the Dice of each region, from sums over the whole batch.

    Regions are sets of labels, which may overlap, as the whole tumour and its core: each channel is one, by itself.
    nnU-Net trains so where its labels are regions.

    Args:
        regions: labels of each region, in the order of the channels.
        smooth: added to numerator and denominator of Dice.

    Shape:
        - input: logits ``(B, C, D, H, W)``; target: classes ``(B, 1, D, H, W)``.
        - output: scalar; the Dice part is the same in all processes.
    """

    def __init__(self, regions: Sequence[Sequence[int]], smooth: float = 1e-5) -> None:
        super().__init__()
        self.regions = regions
        self.smooth = smooth

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Return the loss."""
        truth = region_masks(target, self.regions).to(input)
        dice = _dice(input.sigmoid(), truth, self.smooth)
        loss: Tensor = (1 - dice).mean() + nn.functional.binary_cross_entropy_with_logits(input, truth)
        return loss


def region_masks(labels: Tensor, regions: Sequence[Sequence[int]]) -> Tensor:
    """Whether each voxel of a label map ``(..., 1, D, H, W)`` is in each region, ``(..., C, D, H, W)``."""
    masks = [torch.isin(labels, torch.as_tensor([*values], device=labels.device)) for values in regions]
    return torch.cat(masks, dim=-4)


def _dice(probability: Tensor, truth: Tensor, smooth: float) -> Tensor:
    """Dice of each channel over the batches of all processes."""
    axes = (0, 2, 3, 4)
    overlap, size = all_reduce_sum(
        torch.stack([(probability * truth).sum(axes), probability.sum(axes) + truth.sum(axes)])
    )
    dice: Tensor = (2 * overlap + smooth) / (size + smooth)
    return dice
