"""One NIfTI file, read to its last byte: its grid, its voxels, and what is wrong with it by itself."""

from __future__ import annotations

import gzip
import hashlib
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from dcd_components.data.case_files import absence
from dcd_components.data.grids import (
    DISPLACEMENT_TOLERANCE_MM,
    Array,
    Grid,
    affine_faults,
    structure_faults,
    volume_shape,
)


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
    if fault := absence(path):
        return Volume(faults=[fault])
    content, fault = _content(path)
    kinds = (nibabel.Nifti1Image, nibabel.Nifti2Image)
    kind = next((kind for kind in kinds if kind.header_class.may_contain_header(content)), None)
    if fault or kind is None:
        return Volume(faults=[fault or "is not a NIfTI file: no such header at its start"])
    image = kind.from_bytes(content)
    shape = volume_shape(image.shape)
    structure = list(structure_faults(shape, image.get_data_dtype()))
    size, expected = len(content) - image.dataobj.offset, math.prod(shape) * image.get_data_dtype().itemsize
    if size < expected:
        structure.append(f"truncated: {max(size, 0)} bytes of voxels, expected {expected}")
    volume = Volume(faults=structure + affine_faults(image.affine))
    if len(shape) == 3 and min(shape) > 0:
        volume.grid = Grid(shape, image.affine)
        volume.conflict = _orientation_conflict(image.header, volume.grid)
    if not structure:
        volume.values = _read_values(image).reshape(shape)
        volume.faults += _number_faults(volume.values)
    return volume


def _content(path: Path) -> tuple[bytes, str | None]:
    """Bytes of a file, without their compression, and why there are none."""
    content = path.read_bytes()
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
