"""Distance of two networks' spatial attention."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.modules.loss import _Loss

from dcd_components.losses.maps import wide_maps


class AttentionLoss(_Loss):
    r"""Squared distance of two attention maps: where, not in which channels, a stage responds.

    .. math:: L = \left\| \frac{a(s)}{\|a(s)\|_2} - \frac{a(t)}{\|a(t)\|_2} \right\|_2^2, \qquad
        a(x) = \frac{1}{C} \sum_{c=1}^{C} x_c^2

    The norms are over the voxels of each patch, and the mean over patches is returned. It is 0 to 2, whatever the size
    of the map. No projection is needed.

    Source: Zagoruyko and Komodakis, "Paying More Attention to Attention", ICLR 2017. The paper has the distance and
    its authors' code the mean square over voxels, which falls with the size of the map; this is the squared distance.

    Args:
        in_channels: channels of the student's map, any number.
        out_channels: channels of the teacher's map, any number.

    Shape:
        - input: ``(B, in_channels, D, H, W)``, of images without D; target: as ``input``, of ``out_channels``.
        - output: scalar, float32 also under autocast.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Return the loss; ``InputError`` when the spatial sizes or batches differ."""
        ours, theirs = (nn.functional.normalize(x.square().mean(1).flatten(1)) for x in wide_maps(input, target))
        return (ours - theirs).square().sum(1).mean()
