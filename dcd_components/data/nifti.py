"""One NIfTI file: its header, its grid and its voxels, read in one way by all that reads images.

A file of a stranger is not believed: memory is taken only for voxels that it can hold, and no more of it is unpacked.
"""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.volumeutils import apply_read_scaling

from dcd_components.data.case_files import absence
from dcd_components.data.grids import (
    DISPLACEMENT_TOLERANCE_MM,
    Array,
    Grid,
    affine_faults,
    spacing_faults,
    structure_faults,
    times,
    volume_shape,
)

KINDS = (nibabel.Nifti1Image, nibabel.Nifti2Image)
MAX_VOXELS = 1024**3  # of a volume: a head of 256 mm at 0.25 mm, 4 GiB in single precision
MAX_EXPANSION = 1032  # bytes that deflate can make of one
MAX_START = 2**26  # bytes before the voxels: the header and its extensions
MAX_REST = 2**20  # bytes behind the voxels
CHUNK = 2**24  # bytes
OTHER_UNITS = {1: "metre", 3: "micrometre"}  # by the header's code; 2 is the millimetre, and most files say nothing
#: What a damaged file raises.
UNREADABLE = (ImageFileError, HeaderDataError, OSError, EOFError, ValueError, OverflowError, zlib.error)


@dataclass
class Volume:
    """What a file holds.

    Args:
        sequences: that a 4D file must have as channels; none for a 3D file.
        kind: class of the image in nibabel; none where there is no header.
        header: nibabel's; none where there is none.
        affine: from voxels to mm.
        grid: none unless it is one volume with voxels.
        values: its voxels, in single precision or whole numbers as they are stored, with a last axis of channels for
            a 4D file; none where they cannot be read as numbers, or have not been.
        faults: why it is no sound volume.
        conflict: how sform and qform disagree.
    """

    sequences: Sequence[str] = ()
    kind: Any = None
    header: Any = None
    affine: Array = field(default_factory=lambda: np.eye(4))
    grid: Grid | None = None
    values: Array | None = None
    faults: list[str] = field(default_factory=list)
    conflict: str | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of ``values``, by the header."""
        shape = tuple(map(int, self.header.get_data_shape()))
        return shape if self.sequences else volume_shape(shape)


def read_header(path: str | Path, sequences: Sequence[str] = ()) -> Volume:
    """Read what a file says of itself, and no voxel.

    The affine is nibabel's: that of the sform if its code is above 0, else of the qform, else of ``pixdim`` alone. A
    ``pixdim`` that contradicts it is a fault, since other programs go by it.

    Args:
        path: of the file.
        sequences: that a 4D file must have as channels; none for a 3D file.
    """
    return _read_header(Path(path), sequences)[0]


def read_volume(path: str | Path, sequences: Sequence[str] = ()) -> Volume:
    """Read a file whole, past the last voxel to the check sum of its compression; see :func:`read_header`."""
    volume, readable = _read_header(Path(path), sequences)
    if readable and (fault := _caught(Path(path), lambda: _read_values(Path(path), volume))):
        volume.faults.append(fault)
    return volume


def _read_header(path: Path, sequences: Sequence[str]) -> tuple[Volume, bool]:
    """A volume without values, and whether these can be read."""
    volume = Volume(sequences)
    if fault := absence(path) or _caught(path, lambda: _parse_header(path, volume)):
        volume.faults.append(fault)
        return volume, False
    structure = list(_structure_faults(path, volume))
    volume.faults += structure + affine_faults(volume.affine)
    return volume, not structure


def _caught(path: Path, read: Callable[[], str | None]) -> str | None:
    """Fault that reading a file returns or raises."""
    try:
        with np.errstate(invalid="ignore"):  # of numbers that are none; what comes of them is a fault of its own
            return read()
    except EOFError:
        return f"truncated: its compressed data break off after {path.stat().st_size} bytes"
    except (gzip.BadGzipFile, zlib.error) as error:
        return f"damaged: {error}"
    except UNREADABLE as error:
        reason = " ".join(f"{type(error).__name__}: {error}".replace(";", ",").split())
        return f"cannot be read: {reason}"


def _compressed(path: Path) -> bool:
    return path.name.lower().endswith(".gz")


def _open(path: Path) -> Any:
    return gzip.open(path) if _compressed(path) else path.open("rb")


def _parse_header(path: Path, volume: Volume) -> str | None:
    """Fill in all but the values; the fault for which there is no header."""
    if _compressed(path):
        with path.open("rb") as file:
            if file.read(2) != b"\x1f\x8b":
                return "is not compressed, though its name ends in .gz"
    with _open(path) as stream:
        block = stream.read(max(kind.header_class.sizeof_hdr for kind in KINDS))
    volume.kind = next((kind for kind in KINDS if kind.header_class.may_contain_header(block)), None)
    if volume.kind is None:
        return "is not a NIfTI file: no such header at its start"
    block = block[: volume.kind.header_class.sizeof_hdr]
    stored = volume.kind.header_class(block, check=False)["pixdim"][1:4].astype(float)  # a check makes 0 mm 1 mm
    volume.header = volume.kind.header_class(block)
    volume.header.get_slope_inter()
    if not math.isfinite(volume.header["vox_offset"]):
        return f"its voxels begin at byte {volume.header['vox_offset']}, expected a number"
    volume.affine = np.asarray(volume.header.get_best_affine())
    if len(volume.shape[:3]) == 3 and min(volume.shape) > 0:
        volume.grid = Grid(volume.shape[:3], volume.affine)
        volume.conflict = _orientation_conflict(volume.header, volume.grid)
        if volume.grid.placed and volume.header["sform_code"] > 0:
            volume.faults += spacing_faults(volume.grid, stored)
    if unit := OTHER_UNITS.get(int(volume.header["xyzt_units"]) % 8):
        volume.faults.append(f"its unit of length is the {unit}, expected the millimetre")
    return None


def _structure_faults(path: Path, volume: Volume) -> Iterator[str]:
    """Why the voxels of a file cannot be read, or are more than it can hold."""
    shape, names = volume.shape, volume.sequences
    if names and (len(shape) != 4 or shape[3] != len(names)):
        expected = f"the name of a sequence, or 4D with {', '.join(names)}"
        yield f"is {len(shape)}D, shape {times(shape)}, expected {expected}"
        return
    if faults := list(structure_faults(shape[:3] if names else shape, volume.header.get_data_dtype())):
        yield from faults
        return
    if math.prod(shape[:3]) > MAX_VOXELS:
        yield f"has {math.prod(shape[:3])} voxels, shape {times(shape)}, expected at most {MAX_VOXELS}"
        return
    size, start, claimed = path.stat().st_size, _start(volume), _bytes_of_voxels(volume)
    if not volume.header.sizeof_hdr <= start <= MAX_START:
        yield f"its voxels begin at byte {start}, expected from {volume.header.sizeof_hdr} to {MAX_START}"
    elif _compressed(path) and start + claimed > MAX_EXPANSION * size:
        yield f"claims {claimed} bytes of voxels, more than {size} compressed bytes can hold"
    elif not _compressed(path):
        yield from _length_faults(size - start, claimed)


def _start(volume: Volume) -> int:
    return int(volume.header["vox_offset"])


def _bytes_of_voxels(volume: Volume) -> int:
    return math.prod(volume.shape) * int(volume.header.get_data_dtype().itemsize)


def _length_faults(found: int, claimed: int) -> Iterator[str]:
    if found < claimed:
        yield f"truncated: {max(found, 0)} bytes of voxels, expected {claimed}"
    if found > claimed + MAX_REST:
        yield f"goes on behind the {claimed} bytes of voxels that its header claims"


def _orientation_conflict(header: Any, grid: Grid) -> str | None:
    """How far the qform displaces a corner against the sform, where both are set and it matters."""
    if not (header["qform_code"] > 0 and header["sform_code"] > 0 and grid.placed):
        return None
    try:
        moved = grid.displacement_mm(header.get_qform())
    except (ValueError, HeaderDataError):
        return "the qform is no rotation"
    return None if moved <= DISPLACEMENT_TOLERANCE_MM else f"by {moved:.3g} mm at a corner"


def _read_values(path: Path, volume: Volume) -> str | None:
    """Fill in the values; the fault for which there are none."""
    buffer, filled = np.empty(_bytes_of_voxels(volume), np.uint8), 0
    with _open(path) as stream:
        stream.seek(_start(volume))
        while got := stream.readinto(buffer[filled : filled + CHUNK].data):
            filled += got
        rest = len(stream.read(MAX_REST + 1))  # to the check sum, but not of a stream without end
    if fault := next(_length_faults(filled + rest, len(buffer)), None):
        return fault
    stored = buffer.view(volume.header.get_data_dtype()).reshape(volume.shape, order="F")
    slope, intercept = volume.header.get_slope_inter()
    values = apply_read_scaling(stored, np.float64(1 if slope is None else slope), np.float64(intercept or 0))
    if values.dtype.kind == "f":
        with np.errstate(over="ignore"):  # what is too large for single precision is Inf
            values = values.astype(np.float32, copy=False)
    volume.values = values
    return None
