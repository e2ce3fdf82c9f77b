"""Small functions that the configs hand to MONAI's transforms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor


def nonzero_or_all(image: Tensor) -> Tensor:
    """Foreground of a skull-stripped image: its voxels other than 0, or all of an image that has none.

    ``select_fn`` of MONAI's ``CropForeground``, which finds no box in an empty image.
    """
    return (image != 0) | (image == 0).all()


def mask_name(meta: Mapping[str, Any], saver: object) -> dict[str, Any]:
    """Name a mask by its case: ``output_name_formatter`` of MONAI's ``SaveImage``."""
    return {"subject": meta["case"], "idx": None}
