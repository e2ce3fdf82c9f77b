"""Mean of one loss per stage."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from dcd_components.errors import InputError


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
        """Return the mean; ``InputError`` when the number of maps is not the number of losses."""
        if not len(inputs) == len(targets) == len(self.losses):
            raise InputError(f"{len(self.losses)} stage losses got {len(inputs)} and {len(targets)} feature maps")
        terms = [loss(x, y) for loss, x, y in zip(self.losses, inputs, targets, strict=True)]
        self.terms = [term.detach() for term in terms]
        return torch.stack(terms).mean()
