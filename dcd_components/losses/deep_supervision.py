"""The segmentation loss of networks that predict at several resolutions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from dcd_components.precision import sum_dtype


class DeepSupervisionLoss(nn.Module):
    r"""Weighted mean of a segmentation loss over a network's heads, weights halving from head to head.

    Accepts what both families of networks return in training: MONAI's ``DynUNet`` stacks its heads, upsampled, into
    ``(B, heads, C, D, H, W)``; nnU-Net's networks return a list of maps of falling resolution, for which the label is
    sampled down by nearest neighbour. A single map ``(B, C, D, H, W)`` passes straight through.

    Args:
        loss: segmentation loss of ``(B, C, D, H, W)`` logits and a ``(B, 1, D, H, W)`` label, computed in float32.
    """

    def __init__(self, loss: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, input: Tensor | Sequence[Tensor], target: Tensor) -> Tensor:
        """Return the weighted mean over heads."""
        if isinstance(input, Tensor):
            input = input.unbind(1) if input.ndim == target.ndim + 1 else [input]
        weights = [0.5**head for head in range(len(input))]
        target = target.to(sum_dtype(target))
        terms = [
            weight * self.loss(head.to(sum_dtype(head)), nn.functional.interpolate(target, head.shape[2:]))
            for weight, head in zip(weights, input, strict=True)
        ]
        return torch.stack(terms).sum() / sum(weights)
