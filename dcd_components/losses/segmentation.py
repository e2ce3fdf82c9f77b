"""The segmentation loss, over the batches of all processes."""

from __future__ import annotations

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
        probability = input.softmax(1)[:, 1:]
        axes = (0, 2, 3, 4)
        overlap, size = all_reduce_sum(
            torch.stack([(probability * truth).sum(axes), probability.sum(axes) + truth.sum(axes)])
        )
        dice = (2 * overlap + self.smooth) / (size + self.smooth)
        loss: Tensor = (1 - dice).mean() + nn.functional.cross_entropy(input, target[:, 0].long())
        return loss
