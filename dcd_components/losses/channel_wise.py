"""Divergence of two maps' distributions over space, channel by channel."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.loss import _Loss

from dcd_components.errors import InputError
from dcd_components.losses.maps import wide_maps


class ChannelWiseLoss(_Loss):
    r"""Divergence of the distributions that the channels of two maps are over the voxels of a patch.

    .. math:: L = \frac{T^2}{C} \sum_{c=1}^{C}
        \mathrm{KL}\big(\mathrm{softmax}(t_c / T) \,\big\|\, \mathrm{softmax}((P s)_c / T)\big)

    The softmax and the sum within KL run over the :math:`D H W` voxels of a channel, and are not divided by their
    number; the mean over patches is returned. At the output the channels are classes, which count alike however rare
    they are. :math:`P` is a learnt 1x1x1 projection where the networks differ in channels, and otherwise nothing.

    Source: Shu et al., "Channel-Wise Knowledge Distillation for Dense Prediction", ICCV 2021.

    Args:
        in_channels: channels of the student's map.
        out_channels: channels of the teacher's map.
        temperature: positive number.

    Shape:
        - input: ``(B, in_channels, D, H, W)``, of images without D; target: as ``input``, of ``out_channels``.
        - output: scalar, float32 also under autocast.

    Raises:
        InputError: for a temperature that is not positive.
    """

    def __init__(self, in_channels: int, out_channels: int, temperature: float = 4.0) -> None:
        super().__init__()
        if temperature <= 0:
            raise InputError(f"temperature must be positive, got {temperature}")
        self.temperature = temperature
        same = in_channels == out_channels
        self.projection = nn.Identity() if same else nn.Conv3d(in_channels, out_channels, kernel_size=1, bias=False)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Return the loss; ``InputError`` when the spatial sizes or batches differ."""
        student, teacher = wide_maps(input, target)
        with torch.autocast(input.device.type, enabled=False):
            student = self.projection(student)
        ours, theirs = ((x / self.temperature).flatten(2).log_softmax(2) for x in (student, teacher))
        divergence = nn.functional.kl_div(ours, theirs, log_target=True, reduction="none").sum(2)
        return self.temperature**2 * divergence.mean()
