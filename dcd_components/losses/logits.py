"""Divergence of two networks' class probabilities."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.loss import _Loss

from dcd_components.distributed import all_reduce_sum
from dcd_components.errors import InputError
from dcd_components.losses.maps import wide_maps


class LogitsLoss(_Loss):
    r"""Divergence of the student's class probabilities from the teacher's, softened by a temperature :math:`T`.

    .. math:: L = \frac{T^2}{N} \sum_{i=1}^{N} d_i, \qquad
        d_i = \mathrm{KL}\big(\mathrm{softmax}(t_i / T) \,\big\|\, \mathrm{softmax}(s_i / T)\big)

    :math:`N` is the number of voxels of the batch. The sum over classes within KL is not divided by their number.

    Nearly all voxels are background, so that rare classes hardly count in this mean. With ``by_class`` it is the mean
    over the voxels of each class, and then over the classes:

    .. math:: L = \frac{T^2}{|K|} \sum_{k \in K} \frac{1}{|V_k|} \sum_{i \in V_k} d_i

    :math:`V_k` are the voxels, in the batches of all processes, to which the teacher gives the class :math:`k`, and
    :math:`K` are the classes that it gives to any. So no label is needed.

    ``overlapping`` is for channels that are regions, each by itself: :math:`d_i` is then the sum over regions of the
    divergence of being in the region or not, and ``by_class`` means over the voxels inside and those outside of each.

    Source: Hinton et al., "Distilling the Knowledge in a Neural Network", arXiv 1503.02531. ``by_class`` is this
    project's.

    Args:
        in_channels: classes of the student's logits.
        out_channels: classes of the teacher's logits, as many.
        temperature: positive number.
        by_class: count classes alike rather than voxels.
        overlapping: whether channels are regions, which may overlap, and not classes, of which a voxel has one.

    Shape:
        - input, target: logits ``(B, C, D, H, W)``, of images without D.
        - output: scalar, float32 also under autocast; with ``by_class`` the same in all processes.

    Raises:
        InputError: for unequally many classes, or a temperature that is not positive.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        temperature: float = 2.0,
        by_class: bool = False,
        overlapping: bool = False,
    ) -> None:
        super().__init__()
        if in_channels != out_channels:
            raise InputError(f"logits of {in_channels} classes cannot match those of {out_channels}")
        if temperature <= 0:
            raise InputError(f"temperature must be positive, got {temperature}")
        self.temperature = temperature
        self.by_class = by_class
        self.overlapping = overlapping

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Return the loss; ``InputError`` when the spatial sizes or batches differ."""
        student, teacher = wide_maps(input, target)
        logarithms = _of_regions if self.overlapping else _of_classes
        log_students, log_teachers = (logarithms(x / self.temperature) for x in (student, teacher))
        divergence = nn.functional.kl_div(log_students, log_teachers, log_target=True, reduction="none").sum(1)
        mean = self._mean_by_class(divergence, teacher) if self.by_class else divergence.sum(1).mean()
        return self.temperature**2 * mean

    def _mean_by_class(self, values: Tensor, logits: Tensor) -> Tensor:
        """Mean over classes of the mean over the voxels to which logits give the class."""
        if self.overlapping:
            given = torch.stack([logits > 0, logits <= 0], 1)
        else:
            classes = torch.arange(logits.shape[1], device=logits.device).view(-1, 1, 1, 1)
            given = (logits.argmax(1, keepdim=True) == classes)[:, :, None]
        values = values[:, None]
        axes = (0, 3, 4, 5)
        totals, counts = all_reduce_sum(torch.stack([(values * given).sum(axes), given.sum(axes).to(values)]))
        mean: Tensor = (totals / counts.clamp_min(1)).sum() / (counts > 0).sum()
        return mean


def _of_classes(logits: Tensor) -> Tensor:
    """Logarithms of probabilities ``(B, C, 1, D, H, W)``, of the classes of one choice."""
    return logits.log_softmax(1)[:, :, None]


def _of_regions(logits: Tensor) -> Tensor:
    """Logarithms of probabilities ``(B, 2, C, D, H, W)``, of being in each region or not."""
    return torch.stack([nn.functional.logsigmoid(logits), nn.functional.logsigmoid(-logits)], 1)
