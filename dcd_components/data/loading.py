"""The cases of some folds, ready for a training: full paths, and files that are there and fit together."""

from __future__ import annotations

import logging
import os
import zlib
from collections.abc import Sequence
from pathlib import Path

import nibabel
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from dcd_components.data.check.nifti import Grid
from dcd_components.data.check.rules import grid_faults
from dcd_components.data.datalists import LABEL, Case, read_datalist
from dcd_components.data.file_naming import Patterns, files_of
from dcd_components.errors import InputError

logger = logging.getLogger(__name__)

SHOWN = 8  # faults in one message


def load_cases(
    datalist: str | Path,
    dataset_dir: str | Path,
    files: Patterns,
    folds: Sequence[int] | None,
    own_grid: Sequence[str] = (),
    held_out: Sequence[int] = (),
) -> list[Case]:
    """Read the cases of some folds, with full paths, and check that their files are there and on one grid.

    Only headers are read; ``python -m dcd_components check`` looks at the voxels too.

    Args:
        datalist: file that ``python -m dcd_components datalist`` wrote.
        dataset_dir: folder that its paths start from.
        files: for each sequence, the patterns that its path may have.
        folds: of the cases; None for all that are not held out.
        own_grid: sequences that need not share the label's shape and affine.
        held_out: folds that should not be among them; if one is, a warning is logged.

    Returns:
        Dictionaries with ``image``, ``label``, ``case`` and ``stamp``: paths, sizes and times of writing of all files,
        by which a cache knows that one has changed.

    Raises:
        InputError: when the list itself is missing.
        InputError: when a fold has no case, a file is missing, or a case's files differ in shape or affine; the first
            faults of all cases at once.
    """
    listed = [case for case in read_datalist(datalist).cases if LABEL in case]
    if folds is None:
        folds = sorted({case["fold"] for case in listed} - set(held_out))
        if not folds:
            raise InputError(f"{datalist} has no labelled case outside the held out folds {sorted(set(held_out))}")
    if not isinstance(folds, Sequence):
        raise InputError(f"folds must be a list, such as [0], got {folds!r}")
    cases = [case for case in listed if case["fold"] in folds]
    empty = set(folds) - {case["fold"] for case in cases}
    if empty or not cases:
        raise InputError(f"{datalist} has no case in fold {', '.join(map(str, sorted(empty))) or 'list []'}")
    if shared := sorted(set(folds) & set(held_out)):
        logger.warning("fold %s is trained on and held out: its scores say nothing of new cases", shared)
    root, loaded, faults = Path(str(dataset_dir)), [], []
    for case in cases:
        image, label = (str(root / case[key]) for key in ("image", LABEL))
        paths = {**files_of(image, files), LABEL: label}
        faults += _faults(case["case"], paths, own_grid)
        stamp = [] if faults else [(path, os.stat(path).st_size, os.stat(path).st_mtime_ns) for path in paths.values()]
        loaded.append({"image": image, LABEL: label, "case": case["case"], "stamp": str(stamp)})
    if faults:
        more = f"; and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        raise InputError("; ".join(faults[:SHOWN]) + more)
    return loaded


def _faults(case: str, paths: dict[str, str], own_grid: Sequence[str]) -> list[str]:
    missing = [f"{path} is missing" for path in paths.values() if not Path(path).is_file()]
    if missing:
        return missing
    try:
        grids = {key: _grid(path) for key, path in paths.items() if key not in own_grid}
    except (ImageFileError, HeaderDataError, OSError, EOFError, ValueError, zlib.error) as error:
        return [f"{case} cannot be read: {error}"]
    flat = [
        f"{paths[key]} has shape {grid.shape}, expected three axes"
        for key, grid in grids.items()
        if len(grid.shape) != 3
    ]
    if flat:
        return flat
    faults = {key: grid_faults(grid, grids.get(LABEL, grid), "its label") for key, grid in grids.items()}
    return [f"{paths[key]}: {fault}" for key, several in faults.items() for fault in several]


def _grid(path: str) -> Grid:
    image = nibabel.load(path)
    return Grid(image.shape, image.affine)
