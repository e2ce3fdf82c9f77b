"""What a network costs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def cost(network: nn.Module, size: Sequence[int]) -> dict[str, float]:
    """Parameters, in millions, and multiply-adds of one forward pass, in GMAC.

    Args:
        network: network to measure.
        size: shape ``(C, D, H, W)`` of one input.
    """
    network = network.cpu().eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, *size))
    return {
        "parameters": sum(p.numel() for p in network.parameters()) / 1e6,
        "gmac": counter.get_total_flops() / 2e9,
    }
