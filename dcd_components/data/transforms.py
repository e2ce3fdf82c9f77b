"""Small functions that the configs hand to MONAI's transforms."""

from __future__ import annotations

from torch import Tensor


def nonzero_or_all(image: Tensor) -> Tensor:
    """Foreground of a skull-stripped image: its voxels other than 0, or all of an image that has none.

    ``select_fn`` of MONAI's ``CropForeground``, which finds no box in an empty image.
    """
    return (image != 0) | (image == 0).all()
