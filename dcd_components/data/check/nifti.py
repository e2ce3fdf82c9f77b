"""One NIfTI file, read to its last byte: its grid, its voxels, and what is wrong with it by itself."""

from __future__ import annotations

import gzip
import hashlib
import itertools
import math
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel.affines import voxel_sizes
from numpy.typing import NDArray

Array = NDArray[Any]

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


@dataclass
class Volume:
    """What a file holds.

    Args:
        grid: none unless it is one volume with voxels.
        values: its voxels; none where they cannot be read as one volume of numbers.
        faults: why it is no sound volume.
        conflict: how sform and qform disagree.
    """

    grid: Grid | None = None
    values: Array | None = None
    faults: list[str] = field(default_factory=list)
    conflict: str | None = None

    @property
    def only_value(self) -> float | None:
        """Value of an image in which all voxels have the same, whatever is NaN or Inf left out."""
        if self.values is None:
            return None
        low, high = self.values.min(), self.values.max()
        if not np.isfinite([low, high]).all() and (finite := self.values[np.isfinite(self.values)]).size:
            low, high = finite.min(), finite.max()
        return float(low) if low == high and np.isfinite(low) else None

    @property
    def digest(self) -> bytes | None:
        """Tell contents apart; none for a single value, as all empty label maps share it."""
        if self.values is None or self.only_value is not None:
            return None
        # Transposed, the voxels lie in the order of the file, and single precision is not copied.
        return hashlib.blake2b(np.ascontiguousarray(self.values.T, np.float32).data, digest_size=16).digest()


def read_volume(path: Path) -> Volume:
    """Read a file whole, past the last voxel to the check sum of its compression.

    Voxels become single precision, as in training, unless they are stored as whole numbers.

    Raises:
        Exception: of many kinds, for a header that nibabel refuses.
    """
    if not path.is_file():
        return Volume(faults=["is not a file" if path.exists() else "missing"])
    content, fault = _content(path)
    kinds = (nibabel.Nifti1Image, nibabel.Nifti2Image)
    kind = next((kind for kind in kinds if kind.header_class.may_contain_header(content)), None)
    if fault or kind is None:
        return Volume(faults=[fault or "is not a NIfTI file: no such header at its start"])
    image = kind.from_bytes(content)
    structure = list(_structure_faults(image, len(content) - image.dataobj.offset))
    volume = Volume(faults=structure + affine_faults(image.affine))
    if len(image.shape) == 3 and min(image.shape) > 0:
        volume.grid = Grid(image.shape, image.affine)
        volume.conflict = _orientation_conflict(image.header, volume.grid)
    if not structure:
        volume.values = _read_values(image)
        volume.faults += _number_faults(volume.values)
    return volume


def _content(path: Path) -> tuple[bytes, str | None]:
    """Bytes of a file, without their compression, and why there are none."""
    content = path.read_bytes()
    if not content:
        return b"", "is empty, 0 bytes"
    if not path.name.endswith(".gz"):
        return content, None
    if not content.startswith(b"\x1f\x8b"):
        return b"", "is not compressed, though its name ends in .gz"
    try:
        return gzip.decompress(content), None
    except EOFError:
        return b"", f"truncated: its compressed data break off after {len(content)} bytes"
    except (gzip.BadGzipFile, zlib.error) as error:
        return b"", f"damaged: {error}"


def _structure_faults(image: Any, size: int) -> Iterator[str]:
    """Why an image with ``size`` bytes of voxels is not one volume of numbers."""
    shape, dtype = image.shape, image.get_data_dtype()
    if len(shape) != 3:
        volumes = f" (volumes: {math.prod(shape[3:])})" if len(shape) > 3 else ""
        yield f"is {len(shape)}D{volumes}, shape {times(shape)}, expected one 3D volume"
    if any(length < 1 for length in shape):
        yield f"has no voxels, shape {times(shape)}"
    if dtype.kind not in "iuf":
        yield f"holds {'colours' if dtype.fields else 'complex numbers'}, expected one real number in each voxel"
    if size < (expected := math.prod(shape) * dtype.itemsize):
        yield f"truncated: {max(size, 0)} bytes of voxels, expected {expected}"


def affine_faults(affine: Array) -> list[str]:
    """Why an affine places no volume in space."""
    if bad := np.count_nonzero(~np.isfinite(affine)):
        return [f"its affine holds {bad} numbers that are NaN or Inf"]
    spacing_mm, volume = voxel_sizes(affine), abs(np.linalg.det(affine[:3, :3]))
    if not volume > 1e-6 * np.prod(spacing_mm):
        return [f"its affine is singular: voxels of {times(spacing_mm)} mm have a volume of {volume:.3g} mm3"]
    return []


def _orientation_conflict(header: Any, grid: Grid) -> str | None:
    """How far the qform displaces a corner against the sform, where both are set and it matters."""
    if not (header["qform_code"] > 0 and header["sform_code"] > 0 and grid.placed):
        return None
    try:
        moved = grid.displacement_mm(header.get_qform())
    except ValueError:
        return "the qform is no rotation"
    return None if moved <= DISPLACEMENT_TOLERANCE_MM else f"by {moved:.3g} mm at a corner"


def _read_values(image: Any) -> Array:
    values = np.asarray(image.dataobj)
    if values.dtype.kind in "iu":
        return values
    with np.errstate(over="ignore"):  # what is too large for single precision is Inf in training too
        return values.astype(np.float32, copy=False)


def _number_faults(values: Array) -> Iterator[str]:
    if values.dtype.kind == "f" and not (finite := np.isfinite(values)).all():
        nans = np.count_nonzero(np.isnan(values))
        yield f"{nans} NaN and {values.size - np.count_nonzero(finite) - nans} Inf among {values.size} voxels"


def times(lengths: Iterable[float]) -> str:
    """Write a shape or a spacing, such as ``240x240x155``."""
    return "x".join(f"{length:.6g}" for length in lengths)
