"""MONAI transforms of nnU-Net's steps before and after the network, as its plans have them.

The order is that of nnU-Net: axes in reverse, a crop to what is not 0, normalisation, resampling; and back.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform
from numpy.typing import NDArray

from dcd_components.data.nnunet_plan import NnunetPlan

Array = NDArray[Any]

#: Key of an image's meta data: the bounds of the crop along each axis of the network, ``(3, 2)``.
CROP = "crop"
#: What keys end in beside an image: of the mask of its crop, for its labels, and of its affine, which caches keep.
MASK, AFFINE = "_mask", "_affine"


class NnunetImaged(MapTransform):  # type: ignore[misc]
    """Bring images to the input of the network.

    Args:
        keys: of images ``(C, X, Y, Z)`` as :class:`.LoadCased` loads them; they become ``(C, D, H, W)`` in float32 on
            the network's grid, with the affine of this grid. The key with ``_mask`` gets the mask of what is not 0 in
            the crop, on its own grid, that with ``_affine`` the affine.
        plan: how.
    """

    def __init__(self, keys: str | Sequence[str], plan: NnunetPlan) -> None:
        super().__init__(keys)
        self.plan = plan

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Prepare the images of an item."""
        item = dict(data)
        for key in self.key_iterator(item):
            image = item[key]
            stored = _turned(np.asarray(image), self.plan)
            box, spacing = self.plan.crop_box(stored), _spacing(image, self.plan)
            cropped = np.array(stored[(slice(None), *_slices(box))], np.float32, order="C")
            item[f"{key}{MASK}"] = torch.from_numpy((cropped != 0).any(0))
            made = self.plan.prepared(cropped, spacing)
            affine = _affine(np.asarray(image.affine, np.float64), self.plan, box, made.shape[1:])
            meta = {**copy.deepcopy(image.meta), CROP: box, "affine": torch.from_numpy(affine)}
            item[f"{key}{AFFINE}"] = torch.from_numpy(affine)
            item[key] = MetaTensor(torch.from_numpy(made), meta=meta)
        return item


class _AsImaged(MapTransform):  # type: ignore[misc]
    """Goes the way of an image that :class:`NnunetImaged` has prepared, or back."""

    def __init__(self, keys: str | Sequence[str], image: str, plan: NnunetPlan) -> None:
        super().__init__(keys)
        self.image = image
        self.plan = plan


class NnunetLabeld(_AsImaged):
    """Bring label maps to the network's grid, as their image was brought there.

    Args:
        keys: of label maps ``(1, X, Y, Z)`` on the grid that the image was stored on; they become ``(1, D, H, W)``.
        image: key of what :class:`NnunetImaged` made.
        plan: how.
    """

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Prepare the label maps of an item."""
        item, image = dict(data), data[self.image]
        box, mask = np.asarray(image.meta[CROP]), np.asarray(data[f"{self.image}{MASK}"])
        for key in self.key_iterator(item):
            stored = _turned(np.asarray(item[key]), self.plan)[0]
            made = self.plan.prepared_labels(stored[_slices(box)], mask, _spacing(image, self.plan))
            meta = {**copy.deepcopy(item[key].meta), "affine": image.affine.clone()}
            item[key] = MetaTensor(torch.from_numpy(made[None].copy()), meta=meta)
        return item


class NnunetLabelMapd(_AsImaged):
    """Turn logits into label maps on the grid that the image was stored on.

    Args:
        keys: of logits ``(C, D, H, W)`` on the network's grid; they become ``(1, X, Y, Z)``, of 8 bits for values below
            256.
        image: key of what :class:`NnunetImaged` made.
        plan: how.
    """

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Replace the logits of an item."""
        item, image = dict(data), data[self.image]
        box, stored = np.asarray(image.meta[CROP]), np.asarray(image.meta["spatial_shape"])
        affine = torch.as_tensor(np.asarray(image.meta["original_affine"], np.float64))
        for key in self.key_iterator(item):
            labels = self.plan.label_map(item[key], np.diff(box)[:, 0].tolist(), _spacing(image, self.plan))
            whole = np.zeros([int(stored[axis]) for axis in self.plan.axes], labels.dtype)
            whole[_slices(box)] = labels
            back = whole.transpose(np.argsort(self.plan.axes))[None]
            meta = {**copy.deepcopy(image.meta), "affine": affine}
            item[key] = MetaTensor(torch.from_numpy(back.copy()), meta=meta)
        return item


def _turned(values: Array, plan: NnunetPlan) -> Array:
    """Axes of a file as the network has them."""
    return values.transpose(0, *(axis + 1 for axis in plan.axes))


def _spacing(image: MetaTensor, plan: NnunetPlan) -> list[float]:
    """Size of a voxel along the axes of the network in mm, by the header, which nnU-Net goes by, not by the affine."""
    edges = np.asarray(image.meta["pixdim"], np.float64)[1:4]
    return [float(edges[axis]) for axis in plan.axes]


def _slices(box: Array) -> tuple[slice, ...]:
    return tuple(slice(int(start), int(stop)) for start, stop in box)


def _affine(affine: Array, plan: NnunetPlan, box: Array, shape: Sequence[int]) -> Array:
    """Affine of the network's grid, whose outer edges are those of the crop."""
    turned = affine[:, [*plan.axes, 3]]
    scale = np.diff(box)[:, 0] / np.array(shape)
    grid = np.diag([*scale, 1.0])
    grid[:3, 3] = box[:, 0] + (scale - 1) / 2
    return turned @ grid
