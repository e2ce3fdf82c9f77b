"""Masks as files: whole, in exactly the geometry of their case, marked as this project's, and never over another file.

The mark, see :mod:`.marks`, tells by which weights a mask was made, and of what: the files of the case by name, size
and time of writing, and the settings that decide a mask. With it a killed run goes on where it stopped. A mask whose
voxels are not those of its mark was corrected by somebody, and is as good as any other file that is not ours.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from monai.data import MetaTensor
from monai.transforms import Compose, SaveImaged
from numpy.typing import NDArray

from dcd_components.data.cache import value_hash
from dcd_components.data.case_files import FAULT, IMAGE, LABEL, MARK, Case, absence
from dcd_components.data.cases import shortened
from dcd_components.data.marks import Mark, is_own_mask, read_mark, voxels_digest
from dcd_components.distributed import rank, world_size
from dcd_components.errors import InputError
from dcd_components.files import whole_file
from dcd_components.networks.weights import weights_digest, weights_digests
from dcd_components.tables import read_csv

logger = logging.getLogger(__name__)

UNKNOWN = "unknown"  # weights that are in no file, as those of a federated server
#: A file that a killed run left, under the name that :func:`.whole_file` gives; and its age in seconds by which it is.
LEFT = re.compile(r"\.[0-9a-f]{32}-.+")
OLD = 600
#: Fields of a header that say where the voxels lie.
GEOMETRY = (
    *("qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
    *("srow_x", "srow_y", "srow_z", "xyzt_units"),
)


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
    """Write a label map, ``(D, H, W)``, in the geometry of an image; see :class:`SaveMaskd`.

    A mask that would be written anew as it is stays, even if somebody has corrected it in the meantime.
    """
    voxels = labels.astype(np.uint8 if labels.max(initial=0) < 256 else np.uint16)
    mark = replace(mark, voxels=voxels_digest(voxels))
    if mark.case != UNKNOWN and read_mark(path) == mark:
        return
    given = nibabel.load(reference).header
    large = isinstance(given, nibabel.Nifti2Header)
    header = (nibabel.Nifti2Header if large else nibabel.Nifti1Header)()
    for field in GEOMETRY:
        header[field] = given[field]
    header["pixdim"][:4] = given["pixdim"][:4]
    header["descrip"] = str(mark)
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


def weights_mark(ckpt_path: str | Path, further: Iterable[str | Path] = ()) -> str:
    """Digest of weights for the marks of their masks, of several networks if they share in them.

    Args:
        ckpt_path: file of the weights.
        further: files of those of further networks.

    Returns:
        Twelve hexadecimal digits; ``unknown`` where one of the files is not there.
    """
    paths = [ckpt_path, *further]
    if not all(Path(path).is_file() for path in paths):
        return UNKNOWN
    first, *others = weights_digests(paths)
    return value_hash([first, *others]).decode()[: len(first)] if others else first


def check_overwrite(cases: Iterable[Case], output_dir: str | Path, weights: str) -> None:
    """Make sure, before the work of an inference, that its masks replace nothing that must stay.

    A file that stands where a mask would be written may only be a mask of this project, by the same weights, that
    nobody has changed. What a killed run left is removed.

    Args:
        cases: items whose masks are to be written.
        output_dir: folder of the masks.
        weights: digest of the network's weights.

    Raises:
        InputError: for any other file, and for a label to score against that is itself a mask of this project.
    """
    folder, several = Path(output_dir), [case for case in cases if FAULT not in case]
    inputs = {os.path.realpath(path) for case in several for path in _files(case)}
    if faults := [fault for case in several for fault in _obstacles(folder, case, inputs)]:
        raise InputError(f"{shortened(faults)}: name another output folder; nothing was done")
    _refuse_other_weights([mask_path(folder, case["case"]) for case in several], folder, weights)
    for path in folder.glob(".*"):
        if LEFT.fullmatch(path.name) and path.is_file() and time.time() - path.stat().st_mtime > OLD:
            path.unlink(missing_ok=True)


def _obstacles(folder: Path, case: Case, inputs: set[str]) -> Iterator[str]:
    path = mask_path(folder, case["case"])
    if LABEL in case and is_own_mask(case[LABEL]):
        yield f"{case[LABEL]} is a mask that this project wrote, expected a label to score against"
    elif os.path.realpath(path) in inputs:
        yield f"{path} is among the files that are read"
    elif os.path.lexists(path) and not read_mark(path):
        unmarked = "bears no mark of this project (masks of before 0.6 bear none)"
        yield f"{path}: {absence(path) or unmarked}, and is not replaced"
    elif os.path.lexists(path) and not is_own_mask(path):
        yield f"{path}: was changed after it was written, and is not replaced"


def _refuse_other_weights(paths: Iterable[Path], folder: Path, weights: str) -> None:
    marks = {path: mark for path in paths if (mark := read_mark(path))}
    if others := {path: mark.weights for path, mark in marks.items() if mark.weights != weights}:
        count = "1 mask is" if len(others) == 1 else f"{len(others)} masks are"
        by = " and ".join(sorted({*others.values()}))
        raise InputError(
            f"{count} by other weights in {folder} ({by}, now {weights}), such as {next(iter(others))}: "
            "move them away, or name another output folder; nothing was done"
        )


def planned_cases(
    cases: Sequence[Case],
    output_dir: str | Path,
    weights: str,
    settings: Sequence[object] = (),
    scored: bool = False,
) -> list[Case]:
    """Leave out the cases whose masks are there already, and give each of the others its mark.

    Of ``W`` processes, the one of rank ``r`` gets cases ``r``, ``r + W``, ... less those that are done. Shares are
    taken first, so that no case falls between two processes that look at the folder at different times.

    Args:
        cases: items; one that has a ``fault`` is returned as it is.
        output_dir: folder of the masks.
        weights: digest of the network's weights.
        settings: what decides a mask besides the files and the weights: transforms, inferer and numbers.
        scored: whether predictions are needed, and not masks alone, so that every process gets all cases.

    Returns:
        The items, with ``mark``. A mask of the same weights, files and settings is kept; one of other files or settings
        is made anew.
    """
    # A Compose has a random state, which decides nothing here.
    fixed = value_hash([one.flatten().transforms if isinstance(one, Compose) else one for one in settings])
    share = cases if scored else cases[rank() :: world_size()]
    todo = [case if FAULT in case else {**case, MARK: str(Mark(weights, _digest(case, fixed)))} for case in share]
    if scored:
        return todo
    folder = Path(output_dir)
    left = [case for case in todo if FAULT in case or not _is_kept(folder, case)]
    if kept := len(todo) - len(left):
        logger.info(f"masks of {kept} of {len(todo)} cases stand in {folder} already and are kept")
    return left


def is_done(folder: str | Path, case: Case) -> bool:
    """Whether a mask of a case stands there that says to be made of what the item's mark says."""
    mark = read_mark(mask_path(folder, case["case"]))
    return mark is not None and str(replace(mark, voxels="")) == str(case[MARK])


def _is_kept(folder: Path, case: Case) -> bool:
    return is_done(folder, case) and is_own_mask(mask_path(folder, case["case"]))


def _digest(case: Case, settings: bytes) -> str:
    """Digest of a case's files, by name, size and time of writing, and of settings."""
    stats = [(Path(path).name, os.stat(path)) for path in _files(case) if os.path.isfile(path)]
    return value_hash([[(name, one.st_size, one.st_mtime_ns) for name, one in stats], settings]).decode()[:8]


def _files(case: Case) -> list[str]:
    images = [case[IMAGE]] if isinstance(case[IMAGE], str) else [*case[IMAGE]]
    return images + ([case[LABEL]] if LABEL in case else [])
