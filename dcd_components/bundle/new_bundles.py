"""A bundle for other data: its task from a few names, all else as in the bundle for BraTS.

``dcd new_bundle`` calls :func:`plan_layout`, :func:`plan_task` and :func:`write_bundle`.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nibabel
import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from dcd_components.bundle.configs import BUNDLES
from dcd_components.bundle.templates import Task, write_files
from dcd_components.data.case_files import CASE, IMAGE, Layout, find_cases, listed, make_layout
from dcd_components.data.datalists import KEYS
from dcd_components.errors import InputError

#: What a case has next to its channels while it is loaded and trained on.
TAKEN = {*KEYS, "label_cls_indices"}
#: What a pattern cannot hold: MONAI's configs turn # into ::, the rest has a meaning for glob.
NO_PATTERN = "#*?[]"
HEADERS = 50
SHOWN = 3  # faults in one message
SMALLEST, LARGEST, STEP = 32, 128, 16  # voxels of a patch along an axis that is chosen from data
LARGEST_LABEL = 255  # masks are bytes

Names = str | Sequence[str]


def plan_layout(channels: Names, labels: Names | Mapping[str, int], **settings: Any) -> Layout:
    """Lay out data of which little is said.

    Args:
        channels: names of the sequences, in the order of the network's channels.
        labels: names of the labels, of values 1, 2 and so on, or their values by name.
        settings: what else :func:`.make_layout` takes; without ``sequences``, a file is called by its case and its
            channel.

    Raises:
        InputError: for a name, value or pattern that no bundle can have.
    """
    names = _names("channel", channels)
    values = labels if isinstance(labels, Mapping) else {name: n for n, name in enumerate(_names("label", labels), 1)}
    _names("label", list(values))
    wrong = [value for value in values.values() if type(value) is not int or not 1 <= value <= LARGEST_LABEL]
    if wrong or len(set(values.values())) < len(values):
        raise InputError(f"values of labels must be different whole numbers from 1 to {LARGEST_LABEL}, got {values}")
    sequences = settings.pop("sequences", None) or {name: f"{CASE}-{name}.nii.gz" for name in names}
    if isinstance(sequences, Mapping):
        if set(sequences) != set(names):
            raise InputError(f"sequences must give each of {', '.join(names)} a pattern, got {', '.join(sequences)}")
        sequences = {name: sequences[name] for name in names}
    layout = make_layout({**settings, "sequences": sequences, "labels": values})
    _check_layout(layout)
    return layout


def _names(kind: str, given: object) -> list[str]:
    """Names as a list, each of which is a key of configs and a word in tables."""
    names = [given] if isinstance(given, str) else list(given) if isinstance(given, Sequence) else []
    if not names:
        raise InputError(f"name at least one {kind}, such as {kind}s \"['a','b']\", got {given}")
    for name in names:
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", str(name)):
            raise InputError(f"the name of a {kind} must be a letter, then letters, digits, _ or -, got {name!r}")
        if names.count(name) > 1:
            raise InputError(f"two {kind}s are called {name}")
    return names


def _check_layout(layout: Layout) -> None:
    if taken := sorted(TAKEN & set(layout.sequences)):
        raise InputError(f"no channel may be called {' or '.join(taken)}, as other data of a case are")
    if layout.reference in layout.resampled:
        raise InputError(f"{layout.reference} cannot be resampled: it is the reference, whose grid the others share")
    if not layout.label_file:
        raise InputError("label_file must be a pattern: a training needs labels")
    patterns = [*chain.from_iterable(map(listed, layout.sequences.values())), *layout.label_file]
    for pattern in patterns:
        if set(NO_PATTERN) & set(pattern) or pattern[0] in "$@%/":
            raise InputError(f"a pattern may hold none of {' '.join(NO_PATTERN)}, nor begin with $ @ % /: {pattern!r}")
        if patterns.count(pattern) > 1:
            raise InputError(f"the pattern {pattern!r} is there twice, but fits one file of a case")
    try:
        groups = re.compile(layout.patient_regex).groups
    except re.error as error:
        raise InputError(f"patient_regex must be a regular expression, got {layout.patient_regex!r}: {error}") from None
    if not groups or "#" in layout.patient_regex or layout.patient_regex[0] in "$@%":
        raise InputError(
            f"patient_regex must have a group, no #, and begin with none of $ @ %, got {layout.patient_regex!r}"
        )


def plan_task(
    layout: Layout,
    dataset_dir: str | Path | None = None,
    spacing: Sequence[float] | None = None,
    patch_size: Sequence[int] | None = None,
) -> Task:
    """Choose spacing and patch where they are not given: by the reference images of a data set, or 1 mm and 128^3.

    The spacing is the median of theirs, rounded to 0.1 mm; the patch, in multiples of 16 voxels from 32 to 128, is as
    large as the median image. At most 50 headers are read.

    Args:
        layout: how the data are named.
        dataset_dir: the data set.
        spacing: mm along each axis in RAS.
        patch_size: voxels along each axis in RAS.

    Raises:
        InputError: for what is not three positive numbers, a patch that the smallest network cannot halve, and a data
            set without a complete case or with an image that cannot be read.
    """
    for name, given, kind in (("spacing", spacing, "numbers"), ("patch_size", patch_size, "whole numbers")):
        if given is not None and not _three_positive(given, whole=kind == "whole numbers"):
            raise InputError(f"{name} must be three positive {kind}, got {given}")
    if patch_size and any(size % 4 or size < 16 for size in patch_size):
        raise InputError(f"patch_size must be multiples of 4 from 16, as networks halve it, got {list(patch_size)}")
    if dataset_dir is None:
        return Task(layout, [float(one) for one in spacing or [1] * 3], [*(patch_size or [LARGEST] * 3)])
    grids = _reference_grids(layout, Path(dataset_dir))
    spacing = spacing or [max(0.1, round(one, 1)) for one in np.median(grids[:, 0], axis=0).tolist()]
    voxels = np.median(grids[:, 1], axis=0) / np.array(spacing)
    fitting = [int(min(LARGEST, round(one, 3))) // STEP * STEP for one in voxels.tolist()]
    return Task(layout, [float(one) for one in spacing], [*(patch_size or (max(SMALLEST, one) for one in fitting))])


def _three_positive(given: object, *, whole: bool) -> bool:
    if not isinstance(given, Sequence) or len(given) != 3:
        return False
    return all(type(one) in ((int,) if whole else (int, float)) and 0 < one < math.inf for one in given)


def _reference_grids(layout: Layout, folder: Path) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Spacing and size in mm of reference images, spread evenly over the cases: ``(cases, 2, 3)``."""
    cases, faults = find_cases(folder, layout)
    if not cases:
        raise InputError(f"no complete case below {folder}: {'; '.join(faults[:SHOWN])}")
    sequence = list(layout.sequences).index(layout.reference)
    return np.array([_grid(folder / case[IMAGE][sequence]) for case in cases[:: math.ceil(len(cases) / HEADERS)]])


def _grid(path: Path) -> list[list[float]]:
    """Spacing and size in mm along the axes in RAS."""
    try:
        image = nibabel.load(path)
        axes = nibabel.io_orientation(image.affine)[:, 0]
    except (ImageFileError, HeaderDataError, OSError, EOFError, ValueError, zlib.error) as error:
        raise InputError(f"{path} cannot be read: {error}") from None
    if len(image.shape) != 3 or not np.isfinite(axes).all():
        raise InputError(f"{path} must be one volume whose affine gives all axes a direction, got {image.shape}")
    order = np.argsort(axes)
    spacing = voxel_sizes(image.affine)[order]
    return [spacing.tolist(), (spacing * np.array(image.shape)[order]).tolist()]


def free_folder(name: str, parent: str | Path = ".") -> Path:
    """Place of a new bundle, before anything else is done.

    Raises:
        InputError: for a name that is none for a bundle, one that is taken, or where the other bundles are missing.
    """
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
        raise InputError(f"a bundle's name must be a letter, then letters, digits or _, got {name!r}")
    if "_v" in name:
        raise InputError(f"a bundle's name may not hold _v, after which MONAI reads a version, got {name!r}")
    if not BUNDLES.is_dir():
        raise InputError(f"a new bundle needs those at {BUNDLES}: run this command in a clone of the repository")
    if not Path(parent).is_dir():
        raise InputError(f"no folder {parent} to put {name} into")
    folder = Path(parent) / name
    if folder.exists() or folder.is_symlink():
        raise InputError(f"{folder} exists: choose another name, or another parent folder with --out")
    return folder


def write_bundle(folder: Path, task: Task) -> None:
    """Write a whole bundle, or nothing: it is built in a hidden folder beside its place."""
    with TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as hidden:
        built = Path(hidden) / folder.name
        write_files(built, task)
        built.rename(folder)
