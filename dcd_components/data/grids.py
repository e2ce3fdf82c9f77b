"""Where the voxels of a volume lie, and how two volumes may differ: the one tolerance for all that reads images."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from nibabel.affines import voxel_sizes
from numpy.typing import NDArray

Array = NDArray[Any]

MAX_MM = 1e6  # in an affine: 1 km
SPACING_TOLERANCE_MM = 1e-3
# Largest displacement of a corner. Two affines written in single precision were up to 2e-5 mm apart, an affine and its
# quaternion in a qform 0.015 mm in 99 of 100 orientations drawn near that of a head.
DISPLACEMENT_TOLERANCE_MM = 0.1


@dataclass(frozen=True)
class Grid:
    """Where the voxels of a volume lie."""

    shape: tuple[int, ...]
    affine: Array

    @property
    def spacing_mm(self) -> Array:
        """Edges of a voxel."""
        return np.asarray(voxel_sizes(self.affine))

    @property
    def placed(self) -> bool:
        """Whether the affine gives every voxel a place and a volume."""
        return not affine_faults(self.affine)

    def corners(self, affine: Array) -> Array:
        """Outer corners of the volume under some affine, ``(8, 3)``."""
        index = np.array(list(itertools.product(*((-0.5, length - 0.5) for length in self.shape))))
        return np.asarray(index @ affine[:3, :3].T + affine[:3, 3])

    def displacement_mm(self, other: Array) -> float:
        """How far another affine moves the corner that it moves most."""
        return float(np.linalg.norm(self.corners(self.affine) - self.corners(other), axis=1).max())

    def gap_mm(self, other: Grid) -> float:
        """Distance to another field of view along an axis that separates the two; 0 or less where they meet."""
        gaps = []
        for one, two in ((self, other), (other, self)):
            index = two.corners(np.linalg.inv(one.affine) @ two.affine)
            beyond = np.maximum(index.min(0) - np.array(one.shape) + 0.5, -0.5 - index.max(0))
            gaps.append((beyond * one.spacing_mm).max())
        return float(max(gaps))


def volume_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """Shape of an image without axes of length 1 behind the third, which many programs write."""
    end = next((n for n in range(len(shape), 3, -1) if shape[n - 1] != 1), min(len(shape), 3))
    return tuple(shape[:end])


def structure_faults(shape: Sequence[int], dtype: np.dtype[Any]) -> Iterator[str]:
    """Why an image is not one volume of numbers."""
    if len(shape) != 3:
        volumes = f" (volumes: {math.prod(shape[3:])})" if len(shape) > 3 else ""
        yield f"is {len(shape)}D{volumes}, shape {times(shape)}, expected one 3D volume"
    if any(length < 1 for length in shape):
        yield f"has no voxels, shape {times(shape)}"
    if dtype.kind not in "iuf":
        yield f"holds {'colours' if dtype.fields else 'complex numbers'}, expected one real number in each voxel"


def affine_faults(affine: Array) -> list[str]:
    """Why an affine places no volume in space."""
    if bad := np.count_nonzero(~np.isfinite(affine)):
        return [f"its affine holds {bad} numbers that are NaN or Inf"]
    if (largest := np.abs(affine).max()) > MAX_MM:
        return [f"its affine holds {largest:.3g}, expected at most {MAX_MM:.0f} mm"]
    spacing_mm, volume = voxel_sizes(affine), abs(np.linalg.det(affine[:3, :3]))
    if not volume > 1e-6 * np.prod(spacing_mm):
        return [f"its affine is singular: voxels of {times(spacing_mm)} mm have a volume of {volume:.3g} mm3"]
    return []


def spacing_faults(grid: Grid, stored_mm: Array) -> Iterator[str]:
    """How ``pixdim`` of a header, as it is stored, contradicts the grid; 0 mm says nothing."""
    stored_mm = np.abs(stored_mm)
    if not (np.abs(stored_mm - grid.spacing_mm)[stored_mm != 0] <= SPACING_TOLERANCE_MM).all():
        yield f"pixdim says voxels of {times(stored_mm)} mm, expected {times(grid.spacing_mm)} mm as its sform"


def grid_faults(grid: Grid, reference: Grid, name: str) -> Iterator[str]:
    """How a grid differs from that of the reference, called ``name``.

    Spacing is left out of the comparison of origin and rotation, so that either is reported by itself.
    """
    if grid.shape != reference.shape:
        yield f"shape {times(grid.shape)}, expected {times(reference.shape)} as {name}"
    if not (grid.placed and reference.placed):
        return
    ratio = reference.spacing_mm / grid.spacing_mm
    if np.abs(grid.spacing_mm - reference.spacing_mm).max() > SPACING_TOLERANCE_MM:
        yield f"spacing {times(grid.spacing_mm)} mm, expected {times(reference.spacing_mm)} mm as {name}"
    moved = reference.displacement_mm(grid.affine * np.append(ratio, 1))
    if moved > DISPLACEMENT_TOLERANCE_MM:
        yield (
            f"another origin or rotation than {name}: moves a corner by {moved:.3g} mm, "
            f"expected at most {DISPLACEMENT_TOLERANCE_MM} mm"
        )


def placement_faults(grid: Grid, reference: Grid, name: str, resampled: bool) -> Iterator[str]:
    """How a volume lies wrongly by the reference, called ``name``: on another grid, or, if resampled, apart from it."""
    return (overlap_faults if resampled else grid_faults)(grid, reference, name)


def overlap_faults(grid: Grid, reference: Grid, name: str) -> Iterator[str]:
    """Whether a grid of its own lies apart from the reference, called ``name``."""
    if grid.placed and reference.placed and (gap := grid.gap_mm(reference)) > 0:
        yield f"does not overlap {name} in space: the fields of view are {gap:.3g} mm apart"


def times(lengths: Iterable[float]) -> str:
    """Write a shape or a spacing, such as ``240x240x155``."""
    return "x".join(f"{length:.6g}" for length in lengths)
