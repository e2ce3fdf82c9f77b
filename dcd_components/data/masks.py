"""Masks as files: whole, in exactly the geometry of their case, marked as this project's, and never over another file.

The mark stands in the NIfTI header, in ``descrip``. It tells by which weights a mask was made, and of what: the files
of the case by name, size and time of writing, and the settings that decide a mask. With it a killed run goes on where
it stopped, and a mask is taken neither for an expert's label nor for a case.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from monai.data import MetaTensor
from monai.transforms import Compose, SaveImaged
from numpy.typing import NDArray

from dcd_components.data.cache import value_hash
from dcd_components.data.case_files import IMAGE, LABEL, Case, absence
from dcd_components.data.cases import shortened
from dcd_components.data.nifti import read_header
from dcd_components.errors import InputError
from dcd_components.files import whole_file
from dcd_components.networks.weights import weights_digest
from dcd_components.tables import read_csv

logger = logging.getLogger(__name__)

#: Keys of an item: what is wrong with its case, and the mark that its mask gets.
FAULT, MARK = "fault", "mark"
UNKNOWN = "unknown"  # weights that are in no file, as those of a federated server
#: A file that a killed run left, under the name that :func:`.whole_file` gives; and its age in seconds by which it is.
LEFT = re.compile(r"\.[0-9a-f]{32}-.+")
OLD = 600
#: Fields of a header that say where the voxels lie.
GEOMETRY = (
    *("qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
    *("srow_x", "srow_y", "srow_z", "xyzt_units"),
)


@dataclass(frozen=True)
class Mark:
    """Of what a mask was made.

    Args:
        weights: digest of the network's weights, see :func:`.weights_digest`.
        case: digest of the case's files and of the settings.
    """

    weights: str
    case: str

    def __str__(self) -> str:
        """As it stands in a header, of at most 80 characters."""
        return f"dcd_components weights={self.weights} case={self.case}"

    @staticmethod
    def parse(text: str) -> Mark | None:
        """A mark from what stands in a header; None where it is no mark."""
        found = re.fullmatch(r"dcd_components weights=(\w+) case=(\w+)", text)
        return Mark(*found.groups()) if found else None


def read_mark(path: str | Path) -> Mark | None:
    """Mark in the header of a file; None where there is none, or the file cannot be read."""
    header = read_header(path).header
    return Mark.parse(header["descrip"].item().decode(errors="replace")) if header is not None else None


def mask_path(folder: str | Path, case: str) -> Path:
    """File of a case's mask.

    Raises:
        InputError: for a name that would lead out of the folder.
    """
    if "/" in case or os.sep in case or "\0" in case:
        raise InputError(f"a case may not be called {case!r}: its mask would lie outside {folder}")
    return Path(folder) / f"{case}_seg.nii.gz"


class SaveMaskd(SaveImaged):  # type: ignore[misc]
    """Write a label map as the mask of its case, ``<output_dir>/<case>_seg.nii.gz``, whole or not at all.

    MONAI's ``SaveImaged`` writes in place, sets sform and qform codes to 1, and hides why it could not write. This one
    is of its class, since MONAI Label leaves out the transforms that are.

    The mask holds unsigned integers, of 8 bits or, for labels above 255, of 16. Its geometry is that of the case's
    reference file: shape, sform, qform, codes, voxel sizes and units of the header.

    Args:
        keys: of label maps ``(1, D, H, W)``, whose ``meta`` names the case and the file of its reference.
        output_dir: folder of the masks; made when missing.

    Raises:
        InputError: when the file cannot be written, as on a full disk.
    """

    def __init__(self, keys: str | Sequence[str], output_dir: str | Path) -> None:
        super().__init__(keys, output_dir=output_dir)
        self.output_dir = Path(str(output_dir))

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Write the mask of an item, which stays as it is."""
        for key in self.key_iterator(data):
            labels: MetaTensor = data[key]
            mark = Mark.parse(data.get(MARK, "")) or Mark(UNKNOWN, UNKNOWN)
            path = mask_path(self.output_dir, labels.meta["case"])
            write_mask(labels[0].numpy(force=True), labels.meta["filename_or_obj"], path, mark)
        return dict(data)


def write_mask(labels: NDArray[Any], reference: str | Path, path: str | Path, mark: Mark) -> None:
    """Write a label map, ``(D, H, W)``, in the geometry of an image; see :class:`SaveMaskd`."""
    image = nibabel.load(reference)
    given = (
        image.header
        if isinstance(image.header, nibabel.Nifti1Header)
        else nibabel.Nifti1Image(labels, image.affine).header
    )
    large = isinstance(given, nibabel.Nifti2Header)
    header = (nibabel.Nifti2Header if large else nibabel.Nifti1Header)()
    for field in GEOMETRY:
        header[field] = given[field]
    header["pixdim"][:4] = given["pixdim"][:4]
    header["descrip"] = str(mark)
    voxels = labels.astype(np.uint8 if labels.max(initial=0) < 256 else np.uint16)
    header.set_data_dtype(voxels.dtype)
    mask = (nibabel.Nifti2Image if large else nibabel.Nifti1Image)(voxels, None, header)
    with whole_file(path) as partial:
        nibabel.save(mask, partial)


def check_output(ckpt_path: str | Path, output_dir: str | Path, scores: str | Path | None = None) -> None:
    """Make sure, before the work of an inference, that there are weights, and that results can be written.

    Args:
        ckpt_path: the network's weights.
        output_dir: folder of the masks.
        scores: CSV file of an evaluation; if it is there, its rows must be of the same weights.

    Raises:
        InputError: when there are no weights, the folder cannot be written to, or the scores are of other weights.
    """
    if not Path(ckpt_path).is_file():
        raise InputError(f"{ckpt_path}: missing, expected the weights of the network")
    folder = Path(output_dir).absolute()
    parent = next(one for one in (folder, *folder.parents) if one.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise InputError(f"cannot write into {parent}")
    if scores is not None and os.path.lexists(scores):
        there, weights = _weights_of(Path(scores)), weights_digest(ckpt_path)
        if there != {weights}:
            other = " and ".join(sorted(str(one or "unknown") for one in there))
            raise InputError(
                f"{scores} holds scores of other weights ({other}, now {weights}): name another output_dir"
            )


def _weights_of(scores: Path) -> set[Any]:
    return {row.get("weights") for row in read_csv(scores, text=("case", "weights"))}


def check_masks(cases: Iterable[Case], output_dir: str | Path, ckpt_path: str | Path) -> None:
    """Make sure, before the work of an inference, that its masks replace nothing that must stay.

    A file that stands where a mask would be written may only be a mask of this project, by the same weights. What a
    killed run left is removed.

    Args:
        cases: items whose masks are to be written.
        output_dir: folder of the masks.
        ckpt_path: the network's weights.

    Raises:
        InputError: for any other file, and for a label to score against that is itself a mask of this project.
    """
    refuse_loss(cases, Path(output_dir), weights_digest(ckpt_path))


def refuse_loss(cases: Iterable[Case], folder: Path, weights: str) -> None:
    """As :func:`check_masks`, by the digest of the weights."""
    several = [case for case in cases if FAULT not in case]
    inputs = {os.path.realpath(path) for case in several for path in _files(case)}
    if faults := [fault for case in several for fault in _obstacles(folder, case, weights, inputs)]:
        raise InputError(f"{shortened(faults)}: name another output folder; nothing was done")
    for path in folder.glob(".*"):
        if LEFT.fullmatch(path.name) and path.is_file() and time.time() - path.stat().st_mtime > OLD:
            path.unlink(missing_ok=True)


def _obstacles(folder: Path, case: Case, weights: str, inputs: set[str]) -> Iterator[str]:
    path = mask_path(folder, case["case"])
    if LABEL in case and read_mark(case[LABEL]):
        yield f"{case[LABEL]} is a mask that this project wrote, expected a label to score against"
    elif os.path.realpath(path) in inputs:
        yield f"{path} is among the files that are read"
    elif os.path.lexists(path) and (mark := read_mark(path)) is None:
        yield f"{path} was not written by this project and is not replaced ({absence(path) or 'it bears no mark'})"
    elif os.path.lexists(path) and mark.weights != weights:  # type: ignore[union-attr]
        yield f"{path} is a mask by other weights ({mark.weights}, now {weights})"  # type: ignore[union-attr]


def planned_cases(
    cases: Sequence[Case],
    output_dir: str | Path,
    ckpt_path: str | Path,
    settings: Sequence[object] = (),
    scored: bool = False,
) -> list[Case]:
    """Leave out the cases whose masks are there already, and give each of the others its mark.

    Args:
        cases: items; one that has a ``fault`` is returned as it is.
        output_dir: folder of the masks.
        ckpt_path: the network's weights; where there is no such file, masks are marked as of unknown weights.
        settings: what decides a mask besides the files and the weights: transforms, inferer and numbers.
        scored: whether predictions are needed, and not masks alone, so that no case is left out.

    Returns:
        The items, with ``mark``. A mask of the same weights, files and settings is kept; one of other files or settings
        is made anew.
    """
    weights = weights_digest(ckpt_path) if Path(ckpt_path).is_file() else UNKNOWN
    return planned(cases, Path(output_dir), weights, settings, scored)


def planned(
    cases: Sequence[Case], folder: Path, weights: str, settings: Sequence[object], scored: bool = False
) -> list[Case]:
    """As :func:`planned_cases`, by the digest of the weights."""
    # A Compose has a random state, which decides nothing here.
    fixed = value_hash([one.flatten().transforms if isinstance(one, Compose) else one for one in settings])
    todo = [case if FAULT in case else {**case, MARK: str(Mark(weights, _digest(case, fixed)))} for case in cases]
    if scored:
        return todo
    left = [case for case in todo if FAULT in case or not is_done(folder, case)]
    if kept := len(todo) - len(left):
        logger.info(f"masks of {kept} of {len(todo)} cases stand in {folder} already and are kept")
    return left


def is_done(folder: str | Path, case: Case) -> bool:
    """Whether the mask of a case stands there, made of what its mark says."""
    return str(read_mark(mask_path(folder, case["case"]))) == str(case[MARK])


def _digest(case: Case, settings: bytes) -> str:
    """Digest of a case's files, by name, size and time of writing, and of settings."""
    stats = [(Path(path).name, os.stat(path)) for path in _files(case) if os.path.isfile(path)]
    return value_hash([[(name, one.st_size, one.st_mtime_ns) for name, one in stats], settings]).decode()[:8]


def _files(case: Case) -> list[str]:
    images = [case[IMAGE]] if isinstance(case[IMAGE], str) else [*case[IMAGE]]
    return images + ([case[LABEL]] if LABEL in case else [])
