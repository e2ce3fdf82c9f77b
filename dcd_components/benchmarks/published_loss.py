"""The wavelet loss as the authors' code is described to compute it, written plainly: what ours is measured against."""

from __future__ import annotations

import itertools

import numpy as np
import pywt
import torch
import torch.nn.functional as F  # noqa: N812  # the customary name
from torch import Tensor, nn


class PublishedLoss(nn.Module):
    """Mean squared error of the masked inverse transforms of both maps, summed over levels.

    Every level correlates each channel with eight dense three-dimensional filters at stride 2, zero-padded by the
    filter's length less one, drops ``aaa`` and ``ddd``, and puts the rest together again; both maps go through it on
    the teacher's channels. For timing: what it computes differs from the paper's description, see docs/method.md.

    Args:
        in_channels: channels of the student's map.
        out_channels: channels of the teacher's map.
        wavelet: discrete wavelet known to PyWavelets.
        levels: number of decompositions.

    Shape:
        - input: ``(B, in_channels, D, H, W)``; target: ``(B, out_channels, D, H, W)``.
        - output: scalar.
    """

    analysis: Tensor
    synthesis: Tensor

    def __init__(self, in_channels: int, out_channels: int, wavelet: str = "db4", levels: int = 3) -> None:
        super().__init__()
        self.projection = nn.Conv3d(in_channels, out_channels, kernel_size=1, bias=False)
        self.levels = levels
        filters = pywt.Wavelet(wavelet)
        self.register_buffer("analysis", _dense(filters.dec_lo, filters.dec_hi), persistent=False)
        self.register_buffer("synthesis", _dense(filters.rec_lo, filters.rec_hi), persistent=False)
        self.padding = filters.dec_len - 1

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Return the loss."""
        student, teacher = (x.flatten(0, 1)[:, None] for x in (self.projection(input.float()), target.float()))
        total = student.new_zeros(())
        for _ in range(self.levels):
            bands = [F.conv3d(x, self.analysis, stride=2, padding=self.padding) for x in (student, teacher)]
            masked = [torch.cat([torch.zeros_like(x[:, :1]), x[:, 1:7], torch.zeros_like(x[:, :1])], 1) for x in bands]
            details = [F.conv_transpose3d(x, self.synthesis, stride=2, padding=self.padding) for x in masked]
            total = total + F.mse_loss(details[0], details[1])
            student, teacher = (x[:, :1] for x in bands)
        return total


def _dense(low: list[float], high: list[float]) -> Tensor:
    """Eight filters ``(8, 1, K, K, K)``, ``aaa`` first and ``ddd`` last."""
    filters = [np.einsum("i,j,k->ijk", *axes) for axes in itertools.product((low, high), repeat=3)]
    return torch.tensor(np.stack(filters), dtype=torch.float32)[:, None]
