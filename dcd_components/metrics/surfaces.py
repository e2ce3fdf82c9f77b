"""Surfaces and boundaries of masks, and distances between surfaces in mm."""

from collections.abc import Sequence

import numpy as np
from monai.metrics import get_mask_edges
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import KDTree

__all__ = ["BOUNDARY_MM", "ROUNDING", "boundary", "hd95_by_area_mm", "surface_distances_mm"]

Mask = NDArray[np.bool_]
Distances = NDArray[np.float64]

#: Depth of the boundary.
BOUNDARY_MM = 2.0
#: Factor of every tolerance. NIfTI headers have single precision, where a voxel of 1 mm may be 1.0000001 mm wide.
ROUNDING = 1 + 1e-5


def surface_distances_mm(pred: Mask, label: Mask, spacing_mm: Sequence[float]) -> tuple[Distances, Distances]:
    """Distance of each surface voxel of one mask from the nearest surface voxel of the other, both ways.

    A surface voxel is a mask voxel with a face neighbour outside the mask or the image.

    Args:
        pred: predicted mask, not empty.
        label: true mask, not empty.
        spacing_mm: size of a voxel along each axis.
    """
    pred_edge, label_edge = get_mask_edges(pred, label, crop=False)
    return _nearest_mm(pred_edge, label_edge, spacing_mm)


def _nearest_mm(pred: Mask, label: Mask, spacing_mm: Sequence[float]) -> tuple[Distances, Distances]:
    """Distances in the order of the voxels. Here a tree of points is faster than a distance map of the image."""
    pred_mm, label_mm = (np.argwhere(mask) * np.asarray(spacing_mm) for mask in (pred, label))
    return np.asarray(KDTree(label_mm).query(pred_mm)[0]), np.asarray(KDTree(pred_mm).query(label_mm)[0])


def boundary(mask: Mask, spacing_mm: Sequence[float]) -> Mask:
    """Surface voxels of a mask, and its voxels whose centre is within ``BOUNDARY_MM`` of a voxel's outside the mask.

    What is outside the image counts as outside the mask.
    """
    steps = [max(1, int(BOUNDARY_MM * ROUNDING / size)) for size in spacing_mm]
    offsets = np.stack(np.meshgrid(*(np.arange(-n, n + 1) for n in steps), indexing="ij"), axis=-1)
    far_mm = np.linalg.norm(offsets * np.asarray(spacing_mm), axis=-1)
    near = (far_mm <= BOUNDARY_MM * ROUNDING) | (np.abs(offsets).sum(axis=-1) == 1)
    return mask & ~ndimage.binary_erosion(mask, near)


def hd95_by_area_mm(pred: Mask, label: Mask, spacing_mm: Sequence[float]) -> float:
    """Return the 95th percentile of surface distances, each element of a surface weighted by its area.

    This is the HD95 of DeepMind's surface-distance, which BraTS scores lesions with. Surfaces run between voxels, and
    the larger of the two directed percentiles is taken.

    Args:
        pred: predicted mask, not empty.
        label: true mask, not empty.
        spacing_mm: size of a voxel along each axis.
    """
    pred_edge, label_edge, *areas = map(np.asarray, get_mask_edges(pred, label, spacing=spacing_mm))
    directed = zip(_nearest_mm(pred_edge, label_edge, spacing_mm), (pred_edge, label_edge), areas, strict=True)
    return max(_percentile_95(distances_mm, area[edge]) for distances_mm, edge, area in directed)


def _percentile_95(distances_mm: Distances, areas: NDArray[np.float32]) -> float:
    order = np.argsort(distances_mm)
    shares = np.cumsum(areas[order], dtype=np.float64) / areas.sum(dtype=np.float64)
    return float(distances_mm[order[min(int(np.searchsorted(shares, 0.95)), len(order) - 1)]])
