"""Networks in TorchScript: compiled, or traced where it cannot read them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dcd_components.errors import InputError
from dcd_components.networks.torchscript import compile_or_trace


class Unreadable(nn.Module):
    """A network whose code TorchScript refuses, for its ``*further``."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv3d(2, 3, 1).requires_grad_(False)

    def forward(self, x: Tensor, *further: Any) -> Tensor:
        logits: Tensor = self.convolution(x)
        return logits


def test_what_torchscript_cannot_read_is_traced_for_any_size() -> None:
    network, image = Unreadable(), torch.randn(1, 2, 4, 6, 4)
    torch.testing.assert_close(compile_or_trace(network, (2, 4, 4, 4))(image), network(image))


class OneSize(Unreadable):
    """Its view of the map is of the size that it was traced with."""

    def forward(self, x: Tensor, *further: Any) -> Tensor:
        logits: Tensor = self.convolution(x)
        depth, height, width = (int(n) for n in logits.shape[2:])
        return logits.reshape(-1, 3, depth, height, width)


def test_a_network_that_is_traced_for_one_size_alone_is_refused() -> None:
    with pytest.raises(InputError, match="TorchScript cannot compile OneSize, and traced it is one of a single size"):
        compile_or_trace(OneSize(), (2, 4, 4, 4))
