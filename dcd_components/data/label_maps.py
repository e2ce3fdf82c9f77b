"""Label maps on the grid of the input, from the logits of a network on its own grid, in little memory."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

#: Voxels that are resampled at once; each takes some 160 bytes, and 28 for each class.
SLAB = 2**20


class LabelMapd(MapTransform):  # type: ignore[misc]
    """Take the most probable label of each voxel of the input, from logits on the network's grid.

    Probabilities are interpolated linearly onto the grid of the input, as by MONAI's ``Invertd`` of ``Spacingd``, which
    would hold the probabilities of all classes there at once. Here a slab after another becomes labels, so that the
    memory does not depend on the number of classes. Where the grids differ by the order and direction of their axes
    alone, nothing is interpolated.

    Args:
        keys: of logits ``(C, d, h, w)`` on the grid that ``reference`` has in the item.
        reference: key of the image whose original grid the label maps get, ``(1, D, H, W)``, and whose ``meta``.
    """

    def __init__(self, keys: str | Sequence[str], reference: str) -> None:
        super().__init__(keys)
        self.reference = reference

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Replace the logits of an item."""
        item, reference = dict(data), data[self.reference]
        affine = np.asarray(reference.meta["original_affine"], np.float64)
        shape = [int(length) for length in np.asarray(reference.meta["spatial_shape"])]
        for key in self.key_iterator(item):
            labels = label_map(item[key], np.asarray(reference.affine, np.float64), affine, shape)
            meta = {**copy.deepcopy(reference.meta), "affine": torch.as_tensor(affine)}
            item[key] = MetaTensor(labels[None], meta=meta)
        return item


def label_map(
    logits: Tensor, affine: NDArray[Any], target: NDArray[Any], shape: Sequence[int], slab: int = SLAB
) -> Tensor:
    """Most probable label of each voxel of another grid; beyond the border as on it.

    Args:
        logits: ``(C, d, h, w)``.
        affine: of the logits' grid, ``(4, 4)``.
        target: of the other grid.
        shape: of the other grid.
        slab: voxels of either grid that are worked on at once.

    Returns:
        ``(D, H, W)``, of 8 bits for up to 256 classes.
    """
    plain = logits.as_tensor() if isinstance(logits, MetaTensor) else logits
    matrix = np.linalg.solve(affine, target)
    kind = torch.uint8 if len(plain) <= 256 else torch.int32
    if moved := _reordered(plain, matrix, shape):
        return moved[0].argmax(0).to(kind) if slab >= math.prod(shape) else _labels_of(moved[0], kind, slab)
    labels = torch.empty(*shape, dtype=kind, device=plain.device)
    for part in slabs(shape, max(math.prod(shape), plain[0].numel()), slab):
        labels[part] = _resampled(plain, matrix, part).argmax(0).to(kind)
    return labels


def slabs(shape: Sequence[int], voxels: int, slab: int) -> Iterator[tuple[slice, ...]]:
    """Cut a grid along its longest axis, so that each part has its share of ``voxels``, at most ``slab``."""
    axis = int(np.argmax(shape))
    thickness = max(1, math.floor(shape[axis] * slab / voxels))
    for start in range(0, shape[axis], thickness):
        part = [slice(0, length) for length in shape]
        part[axis] = slice(start, min(start + thickness, shape[axis]))
        yield tuple(part)


def _labels_of(logits: Tensor, kind: torch.dtype, slab: int) -> Tensor:
    labels = torch.empty(logits.shape[1:], dtype=kind, device=logits.device)
    for part in slabs(labels.shape, labels.numel(), slab):
        labels[part] = logits[(slice(None), *part)].argmax(0).to(kind)
    return labels


def _reordered(logits: Tensor, matrix: NDArray[Any], shape: Sequence[int]) -> list[Tensor]:
    """View of logits in the order of another grid, if it has the same voxels; else nothing."""
    whole = np.round(matrix)
    far = np.abs((matrix - whole)[:3] @ np.array([*shape, 1.0])) if np.isfinite(matrix).all() else np.array([1.0])
    axes = np.abs(whole[:3, :3])
    if far.max() > 1e-3 or not (axes.sum(0) == 1).all() or not (axes.sum(1) == 1).all() or axes.max() > 1:
        return []
    order = [int(np.argmax(axes[:, axis])) for axis in range(3)]  # axis of the logits for each of the other grid
    view = logits.permute(0, *(1 + axis for axis in order))
    back = [axis for axis in range(3) if whole[order[axis], axis] < 0]
    begins = all(whole[order[axis], 3] == (view.shape[1 + axis] - 1 if axis in back else 0) for axis in range(3))
    return [view.flip([1 + axis for axis in back]) if back else view] if begins and view.shape[1:] == (*shape,) else []


def _resampled(logits: Tensor, matrix: NDArray[Any], part: Sequence[slice]) -> Tensor:
    """Probabilities ``(C, ...)`` at the voxels of a part of another grid, in float64."""
    index = [torch.arange(one.start, one.stop, dtype=torch.float64, device=logits.device) for one in part]
    box, places = [], []
    for axis, length in enumerate(logits.shape[1:]):
        row = [float(one) for one in matrix[axis]]
        place = row[0] * index[0][:, None, None] + row[1] * index[1][:, None] + row[2] * index[2] + row[3]
        place = place.clamp(0, length - 1)
        low, high = int(place.min()), min(int(place.max()) + 2, length)
        box.append(slice(low, high))
        places.append((place - low) * (2 / max(high - low - 1, 1)) - 1)
    inside = logits[(slice(None), *box)].float().softmax(0).double()
    grid = torch.stack(places[::-1], -1)
    found: Tensor = functional.grid_sample(inside[None], grid[None], padding_mode="border", align_corners=True)[0]
    return found
