"""Inferers that wrap another one: automatic mixed precision off the GPU, and mirrored predictions."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.inferers import Inferer
from torch import Tensor

from dcd_components.errors import InputError


def cpu_has_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 natively (AVX-512 BF16, AMX or Arm BF16)."""
    units = {"avx512_bf16", "amx_bf16", "sve_bf16", "bf16"}
    if hasattr(torch.cpu, "get_capabilities"):
        return any(there for name, there in torch.cpu.get_capabilities().items() if name in units)
    flags = Path("/proc/cpuinfo")  # an older torch does not tell
    return flags.is_file() and not units.isdisjoint(flags.read_text().split())


class AutocastInferer(Inferer):  # type: ignore[misc]
    """Run another inferer under bfloat16 autocast where the network sits on a CPU that multiplies bfloat16.

    MONAI's ``amp`` flag serves CUDA only; this is its counterpart. On other devices it changes nothing. Predictions
    come back in float32, so that losses and metrics are computed in float32.

    Args:
        inferer: the inferer that does the work.
    """

    def __init__(self, inferer: Inferer) -> None:
        super().__init__()
        self.inferer = inferer
        self.enabled = cpu_has_bfloat16()

    def __call__(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Return what the wrapped inferer returns, in float32 if it is a tensor."""
        if inputs.device.type != "cpu":
            return self.inferer(inputs, network, *args, **kwargs)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.enabled):
            outputs = self.inferer(inputs, network, *args, **kwargs)
        return outputs.float() if isinstance(outputs, Tensor) else outputs


class MirrorInferer(Inferer):  # type: ignore[misc]
    """Average the predictions of another inferer over mirrored inputs, as nnU-Net does.

    Args:
        inferer: the inferer that does the work.
        axes: spatial axes to mirror, 0 for D to 2 for W; all their combinations are averaged, so three axes cost
            eight times the work.
    """

    def __init__(self, inferer: Inferer, axes: Sequence[int] = (0, 1, 2)) -> None:
        super().__init__()
        if not set(axes) <= {0, 1, 2} or len(set(axes)) != len(axes):
            raise InputError(f"axes must be among 0, 1 and 2, each at most once, got {list(axes)}")
        self.inferer = inferer
        self.axes = tuple(axes)

    def __call__(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Tensor:
        """Return the mean prediction of shape ``(B, C, D, H, W)``."""
        flips = [
            [axis + 2 for axis in axes]
            for count in range(len(self.axes) + 1)
            for axes in itertools.combinations(self.axes, count)
        ]
        total = torch.zeros(())
        for flip in flips:
            total = total + self.inferer(inputs.flip(flip), network, *args, **kwargs).flip(flip)
        return total / len(flips)
