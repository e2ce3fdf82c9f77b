"""Small functions and transforms that the configs hand to MONAI."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from monai.transforms import MapTransform
from torch import Tensor

from dcd_components.losses.segmentation import region_masks


def nonzero_or_all(image: Tensor) -> Tensor:
    """Foreground of a skull-stripped image: its voxels other than 0, or all of an image that has none.

    ``select_fn`` of MONAI's ``CropForeground``, which finds no box in an empty image.
    """
    return (image != 0) | (image == 0).all()


class RegionMasksd(MapTransform):  # type: ignore[misc]
    """Turn label maps ``(1, D, H, W)`` into one mask for each region, ``(C, D, H, W)``.

    Args:
        keys: of the label maps.
        regions: labels of each region.
    """

    def __init__(self, keys: str | Sequence[str], regions: Sequence[Sequence[int]]) -> None:
        super().__init__(keys)
        self.regions = regions

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Replace the label maps of an item."""
        return {**data, **{key: region_masks(data[key], self.regions) for key in self.key_iterator(data)}}
