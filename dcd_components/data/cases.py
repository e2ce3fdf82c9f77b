"""The cases of a training, an evaluation or an inference: found, checked by their headers, and loaded.

There is one rule for names (:mod:`.case_files`), one tolerance for grids (:mod:`.grids`) and one wording for each
fault, ``path: what is wrong, expected what``, here and in ``dcd check``, which reads the voxels too.
"""

from __future__ import annotations

import logging
import sys
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel
from monai.transforms import LoadImage, Transform
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from dcd_components.data.case_files import (
    IMAGE,
    LABEL,
    Case,
    Layout,
    Patterns,
    absence,
    case_name,
    files_of,
)
from dcd_components.data.datalists import read_datalist
from dcd_components.data.grids import Grid, affine_faults, grid_faults, structure_faults, volume_shape
from dcd_components.errors import InputError

logger = logging.getLogger(__name__)

SHOWN = 8  # faults in one message
#: What nibabel raises for a file that is damaged, or no image at all.
UNREADABLE = (ImageFileError, HeaderDataError, OSError, EOFError, ValueError, zlib.error)


class LoadCased(Transform):  # type: ignore[misc]
    """Find the files of a case, check that they fit together, and load each sequence under its own name.

    ``image`` of an item is the path of any one file of a case, as MONAI Label gives it, from which the paths of the
    others follow; or a file of all sequences as channels; or the paths of all sequences, in their order.

    Adds the sequences, ``(1, D, H, W)`` each in float32 on its own grid, and ``case``, the name of the case, to the
    item and to ``meta`` of each image. Not random, and not invertible.

    Args:
        layout: names of the files; the sequences, all but the resampled ones, must lie on the grid of the reference.

    Raises:
        InputError: for files that are missing or cannot be read, or that differ in shape or affine; in MONAI Label's
            server, whose clients are told nothing else, FastAPI's ``HTTPException`` 400.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.load = LoadImage(image_only=True, ensure_channel_first=True)

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Load the sequences of an item."""
        files = sequence_files(data[IMAGE], self.layout.sequences)
        if faults := case_faults(files, self.layout.reference, self.layout.resampled):
            raise _refusal(shortened(faults))
        case = data.get("case") or case_name(files[self.layout.reference], self.layout.sequences)
        loaded = {path: self.load(path) for path in dict.fromkeys(files.values())}
        item = {**data, "case": case}
        for channel, (sequence, path) in enumerate(files.items()):
            item[sequence] = loaded[path][[channel % len(loaded[path])]]
            item[sequence].meta["case"] = case
        return item


def _refusal(text: str) -> Exception:
    if "uvicorn" in sys.modules and "fastapi" in sys.modules:
        return sys.modules["fastapi"].HTTPException(400, text)  # type: ignore[no-any-return]
    return InputError(text)


def sequence_files(image: str | Sequence[str], sequences: Patterns) -> dict[str, str]:
    """Path of each sequence of a case, from ``image`` of an item as :class:`LoadCased` takes it."""
    if isinstance(image, str):
        return files_of(image, sequences)
    if len(image) != len(sequences):
        raise InputError(f"image must have a path for each of {', '.join(sequences)}, got {', '.join(map(str, image))}")
    return dict(zip(sequences, map(str, image), strict=True))


def case_faults(files: Mapping[str, str], reference: str, resampled: Iterable[str] = ()) -> list[str]:
    """What is wrong with the files of a case by their headers, ``path: reason`` each.

    Args:
        files: paths by sequence, and by ``label`` where there is one; one path for all sequences is a 4D file.
        reference: the sequence whose grid the others must have.
        resampled: those that need not have it.
    """
    if absent := [f"{path}: {fault}" for path in dict.fromkeys(files.values()) if (fault := absence(Path(path)))]:
        return absent
    sequences = [key for key in files if key != LABEL]
    channels = len(sequences) if len(sequences) > 1 and len({files[key] for key in sequences}) == 1 else 1
    grids: dict[str, Grid] = {}
    faults = []
    read: set[str] = set()
    for key in sorted(files, key=lambda key: key != reference):
        if files[key] in read:
            continue
        read.add(files[key])
        reasons, grid = _header_faults(files[key], 1 if key == LABEL else channels, sequences)
        if grid and key != reference and key not in resampled and reference in grids:
            reasons += grid_faults(grid, grids[reference], reference)
        grids |= {key: grid} if grid else {}
        faults += [f"{files[key]}: {reason}" for reason in reasons]
    return faults


def _header_faults(path: str, channels: int, sequences: Sequence[str]) -> tuple[list[str], Grid | None]:
    try:
        image = nibabel.load(path)
    except UNREADABLE as error:
        return [f"cannot be read: {type(error).__name__}: {error}"], None
    shape = image.shape if channels > 1 else volume_shape(image.shape)
    if channels > 1:
        if len(shape) != 4 or shape[3] != channels:
            size = "x".join(map(str, shape))
            names = ", ".join(sequences)
            return [f"is {len(shape)}D, shape {size}, expected the name of a sequence, or 4D with {names}"], None
        shape = shape[:3]
    if faults := list(structure_faults(shape, image.get_data_dtype())):
        return faults, None
    return affine_faults(image.affine), Grid(shape, image.affine)


def shortened(faults: Sequence[str]) -> str:
    """Faults in one sentence, the first of many."""
    more = f"; and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
    return "; ".join(faults[:SHOWN]) + more


def by_name(image: Sequence[str], names: Sequence[str], layout: Layout, datalist: str | Path) -> list[str]:
    """Paths of the layout's sequences among the paths of a case in a data list, whose sequences have these names."""
    if missing := [name for name in layout.sequences if name not in names]:
        raise InputError(f"{datalist} lists the sequences {', '.join(names)}, not {', '.join(missing)}")
    if len(image) != len(names):
        raise InputError(f"{datalist} must have a path for each of {', '.join(names)}, got {', '.join(image)}")
    paths = dict(zip(names, image, strict=True))
    return [paths[name] for name in layout.sequences]


def below(root: Path, image: str | Sequence[str]) -> str | list[str]:
    """Paths of an item, from the folder that they start from."""
    return str(root / image) if isinstance(image, str) else [str(root / one) for one in image]


def labelled_cases(
    datalist: str | Path,
    dataset_dir: str | Path,
    layout: Layout,
    folds: Sequence[int] | None,
    held_out: Sequence[int] = (),
) -> list[Case]:
    """Read the labelled cases of some folds, and check them by their headers.

    Args:
        datalist: file that ``dcd datalist`` wrote.
        dataset_dir: folder that its paths start from.
        layout: its sequences must be among the list's; the label must lie on the grid of the reference, unless it is
            among the resampled.
        folds: of the cases; None for all that are not held out.
        held_out: folds that should not be among them; if one is, a warning is logged.

    Returns:
        Items of ``image`` (the paths of all sequences), ``label`` and ``case``.

    Raises:
        InputError: for a list that lacks a sequence, a fold without a case, and files that are missing or do not fit
            together, the first faults of all cases at once.
    """
    content = read_datalist(datalist)
    labelled = [case for case in content.cases if LABEL in case]
    if folds is None:
        folds = sorted({case["fold"] for case in labelled} - set(held_out))
        if not folds:
            raise InputError(f"{datalist} has no labelled case outside the held out folds {sorted(set(held_out))}")
    if not isinstance(folds, Sequence):
        raise InputError(f"folds must be a list, such as [0], got {folds!r}")
    cases = [case for case in labelled if case["fold"] in folds]
    if (empty := set(folds) - {case["fold"] for case in cases}) or not cases:
        raise InputError(f"{datalist} has no case in fold {', '.join(map(str, sorted(empty))) or 'list []'}")
    if shared := sorted(set(folds) & set(held_out)):
        logger.warning("fold %s is trained on and held out: its scores say nothing of new cases", shared)
    root, items, faults = Path(str(dataset_dir)), [], []
    for case in cases:
        image = below(root, by_name(case[IMAGE], content.sequences, layout, datalist))
        item = {IMAGE: image, LABEL: str(root / case[LABEL]), "case": case["case"]}
        files = {**sequence_files(item[IMAGE], layout.sequences), LABEL: item[LABEL]}
        faults += case_faults(files, layout.reference, layout.resampled)
        items.append(item)
    if faults:
        raise InputError(shortened(faults))
    return items
