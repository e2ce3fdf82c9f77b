"""The mark that a mask of this project bears in its NIfTI header, in ``descrip``: of what it was made, and its voxels.

By it a mask is taken neither for a case nor, as long as nobody has changed it, for an expert's label. Editors of images
keep ``descrip`` when they save; the digest of the voxels tells a mask that was corrected from one that was not.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcd_components.data.nifti import Volume, read_header, read_volume

DIGEST_SIZE = 6  # bytes; twice as many hexadecimal digits


@dataclass(frozen=True)
class Mark:
    """Of what a mask was made.

    Args:
        weights: digest of the network's weights, see :func:`.weights_digest`.
        case: digest of the case's files and of the settings.
        voxels: digest of the mask's voxels, see :func:`voxels_digest`; empty for a mask that is still to be made.
    """

    weights: str
    case: str
    voxels: str = ""

    def __str__(self) -> str:
        """As it stands in a header, of at most 80 characters."""
        return f"dcd_components weights={self.weights} case={self.case} voxels={self.voxels}"

    @staticmethod
    def parse(text: str) -> Mark | None:
        """A mark from what stands in a header; None where it is no mark."""
        found = re.fullmatch(r"dcd_components weights=(\w+) case=(\w+) voxels=(\w*)", text)
        return Mark(*found.groups()) if found else None


def read_mark(path: str | Path) -> Mark | None:
    """Mark in the header of a file; None where there is none, or the file cannot be read."""
    return _mark_of(read_header(path))


def is_unchanged(volume: Volume) -> bool:
    """Whether a file that has been read bears a mark, and still has the voxels that were written with it."""
    mark = _mark_of(volume)
    return mark is not None and volume.values is not None and voxels_digest(volume.values) == mark.voxels


def is_own_mask(path: str | Path) -> bool:
    """Whether a file is a mask that this project wrote and that nobody has changed; its voxels are read if marked."""
    return read_mark(path) is not None and is_unchanged(read_volume(path))


def voxels_digest(labels: NDArray[Any]) -> str:
    """Digest of a label map, ``(D, H, W)``, whatever the data type; empty for values that no mask has."""
    digest = hashlib.blake2b(repr(labels.shape).encode(), digest_size=DIGEST_SIZE)
    for plane in labels.T:  # in the order of the file, and little memory at a time
        with np.errstate(invalid="ignore"):
            whole = plane.astype("<u2", order="C")
        if not np.array_equal(whole, plane):
            return ""
        digest.update(whole.data)
    return digest.hexdigest()


def _mark_of(volume: Volume) -> Mark | None:
    return Mark.parse(volume.header["descrip"].item().decode(errors="replace")) if volume.header is not None else None
