"""The cases of a training, an evaluation or an inference: found, checked by their headers, and loaded.

There is one rule for names (:mod:`.case_files`), one tolerance for grids (:mod:`.grids`) and one wording for each
fault, ``path: what is wrong, expected what``, here and in ``dcd check``, which reads the voxels too.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from monai.data import MetaTensor, NibabelReader
from monai.transforms import LoadImage, Transform
from monai.utils import ensure_tuple

from dcd_components.data.case_files import (
    IMAGE,
    LABEL,
    Case,
    Layout,
    Patterns,
    absence,
    case_name,
    files_of,
    places,
    shown,
)
from dcd_components.data.datalists import read_datalist
from dcd_components.data.grids import Array, Grid, overlap_faults, placement_faults
from dcd_components.data.marks import is_unchanged
from dcd_components.data.nifti import Volume, read_header, read_volume
from dcd_components.data.voxels import background_warning, digest, image_faults, label_faults
from dcd_components.errors import InputError

logger = logging.getLogger(__name__)

SHOWN = 8  # faults in one message
_LOAD = LoadImage(image_only=True, ensure_channel_first=True)  # once, since each looks for all packages with readers


class LoadCased(Transform):  # type: ignore[misc]
    """Find the files of a case, check that they fit together, and load each sequence under its own name.

    ``image`` of an item is the path of any one file of a case, as MONAI Label gives it, from which the paths of the
    others follow; or a file of all sequences as channels; or the paths of all sequences, in their order.

    Adds the sequences, ``(1, D, H, W)`` each in float32 on its own grid, and ``case``, the name of the case, to the
    item and to ``meta`` of each image. Not random, and not invertible.

    Args:
        layout: names of the files; the sequences, all but the resampled ones, must lie on the grid of the reference.
        outside_is_zero: whether what follows takes 0 for the outside of the body, so that images with another value in
            all of their corners are warned of.

    Raises:
        InputError: for files that are missing or cannot be read, that differ in shape or affine, or whose voxels are no
            image; in MONAI Label's server, whose clients are told nothing else, FastAPI's ``HTTPException`` 400.
    """

    def __init__(self, layout: Layout, outside_is_zero: bool = True) -> None:
        self.layout, self.outside_is_zero = layout, outside_is_zero

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Load the sequences of an item."""
        files = sequence_files(data[IMAGE], self.layout.sequences)
        if faults := case_faults(files, self.layout.reference, self.layout.resampled):
            raise _refusal(shortened(faults))
        case = data.get("case") or case_name(files[self.layout.reference], self.layout.sequences)
        volumes = {path: read_volume(path, _channels(files)) for path in dict.fromkeys(files.values())}
        faults = [f"{path}: {fault}" for path, volume in volumes.items() for fault in volume.faults]
        if faults := faults or list(_voxel_faults(files, volumes)):
            raise _refusal(shortened(faults))
        if self.outside_is_zero and (warnings := list(_voxel_warnings(files, volumes))):
            logger.warning(shortened(warnings))
        loaded = {path: _meta_tensor(path, volume) for path, volume in volumes.items()}
        item = {**data, "case": case}
        for channel, (sequence, path) in enumerate(files.items()):
            item[sequence] = loaded[path][[channel % len(loaded[path])]]
            item[sequence].meta["case"] = case
        return item


class LoadLabeld(Transform):  # type: ignore[misc]
    """Load the label map of an item whose images :class:`LoadCased` has loaded.

    ``label`` of an item, a path, becomes ``(1, D, H, W)`` of whole numbers in float32, on the grid it was drawn on; in
    MONAI Label that may be the grid of any sequence. Values within 0.01 of a whole number, as the scaling of a file
    leaves them, are rounded. Not random, and not invertible.

    Args:
        layout: its labels are the values that may occur, any whole number where it has none.

    Raises:
        InputError: for a file that is missing or cannot be read, that lies apart from the reference, or that holds
            other values; see :class:`LoadCased`.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Load the label of an item."""
        path, reference = str(data[LABEL]), self.layout.reference
        volume, meta = read_volume(path), data[reference].meta
        faults = list(volume.faults)
        if volume.grid:
            grid = Grid(tuple(map(int, meta["spatial_shape"])), np.asarray(meta["original_affine"], float))
            faults += overlap_faults(volume.grid, grid, reference)
        if volume.values is not None:
            faults += label_faults(volume.values, self.layout.labels)
            volume.values = np.rint(volume.values)
        if faults:
            raise _refusal(shortened([f"{shown(path)}: {fault}" for fault in faults]))
        return {**data, LABEL: _meta_tensor(path, volume)}


class _ReadAlready(NibabelReader):  # type: ignore[misc]
    """Gives MONAI what was read, whose own reader changes an affine that differs from ``pixdim``."""

    def __init__(self, volume: Volume) -> None:
        super().__init__()
        self.volume = volume

    def read(self, data: Any, **_: Any) -> Any:
        self.filenames = ensure_tuple(data)
        return self.volume.kind(self.volume.values, self.volume.affine, self.volume.header)


def _meta_tensor(path: str, volume: Volume) -> MetaTensor:
    return _LOAD(path, reader=_ReadAlready(volume))


def _channels(files: Mapping[str, str]) -> list[str]:
    """Sequences that one file holds as channels; none where each has a file."""
    sequences = [key for key in files if key != LABEL]
    return sequences if len(sequences) > 1 and len({files[key] for key in sequences}) == 1 else []


def _images(files: Mapping[str, str], volumes: Mapping[str, Volume]) -> Iterator[tuple[str, str, Array]]:
    """Name of each sequence, its file and channel as a message shows them, and its voxels."""
    whole = _channels(files)
    for channel, (sequence, path) in enumerate(files.items()):
        values = volumes[path].values
        if values is not None:
            yield (sequence, f"{path}: {sequence}", values[..., channel]) if whole else (sequence, path, values)


def _voxel_faults(files: Mapping[str, str], volumes: Mapping[str, Volume]) -> Iterator[str]:
    contents = dict[str, tuple[str, str]]()
    for sequence, where, values in _images(files, volumes):
        yield from (f"{where}: {fault}" for fault in image_faults(values))
        same = contents.setdefault(digest(values) or sequence, (sequence, where))
        if same[0] != sequence:
            yield f"{where}: has the same voxels as {', '.join(same)}"


def _voxel_warnings(files: Mapping[str, str], volumes: Mapping[str, Volume]) -> Iterator[str]:
    for _, where, values in _images(files, volumes):
        if warning := background_warning(values):
            yield f"{where}: {warning}"


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
    files = dict(zip(sequences, map(str, image), strict=True))
    for sequence, path in files.items():
        named = list(dict.fromkeys(key for key, _, _ in places(path, sequences)))
        if named and sequence not in named:
            raise InputError(f"{shown(path)}: is called as {', '.join(named)}, expected {sequence}")
    return files


def case_faults(files: Mapping[str, str], reference: str, resampled: Iterable[str] = ()) -> list[str]:
    """What is wrong with the files of a case by their headers, ``path: reason`` each.

    Args:
        files: paths by sequence, and by ``label`` where there is one; one path for all sequences is a 4D file.
        reference: the sequence whose grid the others must have.
        resampled: those that need not have it, but must overlap it.
    """
    if absent := [f"{shown(path)}: {why}" for path in dict.fromkeys(files.values()) if (why := absence(Path(path)))]:
        return absent
    faults, read, channels, grid = list[str](), set[str](), _channels(files), None
    for key in sorted(files, key=lambda key: key != reference):
        if files[key] in read:
            continue
        read.add(files[key])
        volume = read_header(files[key], channels if key != LABEL else ())
        reasons = list(volume.faults)
        if key == reference:
            grid = volume.grid
        elif volume.grid and grid:
            reasons += placement_faults(volume.grid, grid, reference, key in resampled)
        faults += [f"{files[key]}: {reason}" for reason in reasons]
    return faults


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
    """Read the labelled cases of some folds, and check them by their headers and all voxels of their labels.

    Labels are small files; a value that none is declared for is found here, not in the middle of a training.

    Args:
        datalist: file that ``dcd datalist`` wrote.
        dataset_dir: folder that its paths start from.
        layout: its sequences must be among the list's; the label must lie on the grid of the reference, unless it is
            among the resampled.
        folds: of the cases; None for all that are not held out.
        held_out: folds that should not be among them, whose scores are to speak of new cases; if one is, a warning is
            logged.

    Returns:
        Items of ``image`` (the paths of all sequences), ``label`` and ``case``. A label that is a mask of this project
        as it was written, and no expert's, is warned of.

    Raises:
        InputError: for a list that lacks a sequence, a fold without a case, and files that are missing or do not fit
            together, or labels with other values than the layout's, the first faults of all cases at once.
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
        logger.warning("fold %s is used in training and held out: its scores say nothing of new cases", shared)
    root, items, faults = Path(str(dataset_dir)), [], []
    for case in cases:
        image = below(root, by_name(case[IMAGE], content.sequences, layout, datalist))
        item = {IMAGE: image, LABEL: str(root / case[LABEL]), "case": case["case"]}
        files = {**sequence_files(item[IMAGE], layout.sequences), LABEL: item[LABEL]}
        faults += case_faults(files, layout.reference, layout.resampled)
        items.append(item)
    with ThreadPoolExecutor() as pool:
        labels = list(pool.map(lambda item: _read_label(item[LABEL], layout), [] if faults else items))
    if faults := faults or [fault for several, _ in labels for fault in several]:
        raise InputError(shortened(faults))
    if own := [item[LABEL] for item, (_, is_own) in zip(items, labels, strict=True) if is_own]:
        said = "masks that this project wrote and nobody changed are taken for labels, %d of %d, such as %s"
        logger.warning(said, len(own), len(items), own[0])
    return items


def _read_label(path: str, layout: Layout) -> tuple[list[str], bool]:
    """What is wrong with a label, and whether it is a mask that this project wrote and nobody changed."""
    values = (volume := read_volume(path)).values
    faults = volume.faults + ([] if values is None else label_faults(values, layout.labels))
    return [f"{path}: {fault}" for fault in faults], is_unchanged(volume)
