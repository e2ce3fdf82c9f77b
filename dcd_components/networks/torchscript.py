"""Networks in TorchScript."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from dcd_components.errors import InputError


def compile_or_trace(network: nn.Module, shape: Sequence[int]) -> Any:
    """Compile a network, or trace it where TorchScript cannot read its code: MONAI's MedNeXt, nnU-Net's networks.

    Args:
        network: in evaluation mode.
        shape: ``(C, D, H, W)`` of an image that it takes.

    Raises:
        InputError: for a traced network that computes something else on images of another size.
    """
    channels, *patch = shape
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated, and what a trace leaves out is looked for below
        with contextlib.suppress(RuntimeError, torch.jit.frontend.FrontendError):
            return torch.jit.script(network)
        traced: Any = torch.jit.trace(network, torch.randn(1, channels, *patch))  # type: ignore[no-untyped-call]
        other = torch.randn(2, channels, patch[0], 2 * patch[1], patch[2])
        with contextlib.suppress(RuntimeError):
            if torch.allclose(traced(other), network(other), rtol=1e-4, atol=1e-4):
                return traced
    raise InputError(f"TorchScript cannot compile {type(network).__name__}, and traced it is one of a single size")
