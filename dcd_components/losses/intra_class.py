"""Distance of two maps in how their features vary within each class."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.loss import _Loss

from dcd_components.errors import InputError
from dcd_components.losses.maps import wide_maps

#: A feature or centre that is shorter counts as this long: features are of order 1, and those that are 0, of dead
#: channels, must not get an unbounded gradient.
SHORTEST = 1e-3


class IntraClassLoss(_Loss):
    r"""Mean squared difference of how alike the features of a class are to their mean, in two maps.

    .. math:: L = \frac{1}{N} \sum_{i=1}^{N} \Big(
        \cos\big(s_i, \bar s_{y_i}\big) - \cos\big(t_i, \bar t_{y_i}\big) \Big)^2

    :math:`s_i` and :math:`t_i` are the features at voxel :math:`i`, :math:`y_i` is its class, and :math:`\bar s_k` is
    the mean of the features of class :math:`k` in the patch. The label is taken to the map's size by nearest neighbour.
    Classes that a patch does not have play no part; voxels of none of the classes, such as -1, count 0. The cosines
    need no projection.

    Source: Wang et al., "Intra-class Feature Variation Distillation for Semantic Segmentation", ECCV 2020.

    Args:
        in_channels: channels of the student's map, any number.
        out_channels: channels of the teacher's map, any number.
        num_classes: number of classes, the background included.

    Attributes:
        needs_label: a loss of which it is true is also given the label by :class:`dcd_components.Distiller`.

    Shape:
        - input: ``(B, in_channels, D, H, W)``; target: ``(B, out_channels, D, H, W)``; label: classes
          ``(B, 1, D', H', W')``; of images all without D.
        - output: scalar, float32 also under autocast.
    """

    needs_label = True

    def __init__(self, in_channels: int, out_channels: int, *, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes

    def forward(self, input: Tensor, target: Tensor, label: Tensor) -> Tensor:
        """Return the loss; ``InputError`` when batches or the maps' spatial sizes differ."""
        maps = wide_maps(input, target)
        if label.ndim != input.ndim or label.shape[:2] != (len(input), 1):
            raise InputError(f"label must be (B, 1, D, H, W) for maps {tuple(input.shape)}, got {tuple(label.shape)}")
        resized = nn.functional.interpolate(label.to(maps[0]), input.shape[2:])
        classes = resized.flatten(2) == torch.arange(self.num_classes, device=label.device).view(-1, 1)
        with torch.autocast(input.device.type, enabled=False):
            ours, theirs = (_likeness(x.flatten(2), classes.to(x)) for x in maps)
        return (ours - theirs).square().mean()


def _likeness(features: Tensor, classes: Tensor) -> Tensor:
    """Cosine of features ``(B, C, N)`` and the mean of their class, one-hot ``(B, K, N)``: ``(B, N)``."""
    means = torch.einsum("bcn,bkn->bck", features, classes) / classes.sum(2).clamp_min(1)[:, None]
    features, means = (nn.functional.normalize(x, dim=1, eps=SHORTEST) for x in (features, means))
    return (torch.einsum("bcn,bck->bkn", features, means) * classes).sum(1)
