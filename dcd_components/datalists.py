"""Lists of cases in MONAI's Decathlon form, with folds that keep each patient in one fold.

A case is named by the file of its first sequence; the paths of its other files follow by replacing the name of that
sequence, which stands right before the extension, as in ``BraTS-GLI-00001-000-t1n.nii.gz``.
"""

from __future__ import annotations

import json
import random
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError

Case = dict[str, str | int]
EXTENSIONS = (".nii.gz", ".nii")
KEYS = ("image", "label", "case", "patient", "fold")
AFFINE_TOLERANCE = 1e-3  # mm, what writing an affine as single precision may change


def sibling(path: str, sequences: Sequence[str], name: str) -> str:
    """Path of another file of the case of ``path``: replace the sequence that ends its stem by ``name``."""
    pattern = "(" + "|".join(map(re.escape, sequences)) + r")(?=\.nii)"
    return re.sub(pattern, name, path)


def make_datalist(
    folder: str | Path, sequences: Sequence[str], label: str, *, patient: str = r"(.+)", folds: int = 5, seed: int = 0
) -> list[Case]:
    """List every case below ``folder``.

    Args:
        folder: the data set; searched recursively for files that end in the first sequence's name.
        sequences: names that tell the files of a case apart, such as ``t1n``.
        label: that of the segmentation, such as ``seg``.
        patient: regular expression whose first group, matched at the start of the case's folder name, is its patient.
        folds: number of folds; all cases of a patient are in one, and folds are balanced in cases.
        seed: of the assignment of patients to folds.

    Returns:
        Sorted dictionaries with ``image`` and ``label`` (relative paths), ``case``, ``patient`` and ``fold``.

    Raises:
        ValueError: when nothing is found, a file of a case is missing, or a case's name has no patient; all at once.
    """
    if folds < 1:
        raise ValueError(f"folds must be at least 1, got {folds}")
    root = Path(folder)
    images = sorted(p for e in EXTENSIONS for p in root.glob(f"*/**/*{sequences[0]}{e}"))
    if not images:
        raise ValueError(f"no file named *{sequences[0]}.nii.gz in the sub-folders of {root}")
    faults: list[str] = []
    cases: list[Case] = []
    for image in images:
        names = [sibling(str(image), sequences, name) for name in (*sequences, label)]
        faults += [f"{name} is missing" for name in names if not Path(name).is_file()]
        match = re.match(patient, image.parent.name)
        if match is None:
            faults.append(f"{image.parent.name} does not match the patient pattern {patient!r}")
            continue
        files = {key: str(Path(name).relative_to(root)) for key, name in (("image", names[0]), ("label", names[-1]))}
        cases.append({**files, "case": image.parent.name, "patient": match.group(1)})
    if faults:
        raise ValueError(f"{len(faults)} faults in {root}: " + "; ".join(faults))
    assigned = _folds([str(case["patient"]) for case in cases], folds, seed)
    return [{**case, "fold": assigned[str(case["patient"])]} for case in cases]


def _folds(patients: Sequence[str], folds: int, seed: int) -> dict[str, int]:
    """Give each patient the fold that has fewest cases so far, patients with most cases first, ties at random."""
    counts: dict[str, int] = defaultdict(int)
    for patient in patients:
        counts[patient] += 1
    order = sorted(counts)
    random.Random(seed).shuffle(order)
    sizes = [0] * folds
    assigned = {}
    for patient in sorted(order, key=lambda name: -counts[name]):
        assigned[patient] = sizes.index(min(sizes))
        sizes[assigned[patient]] += counts[patient]
    return assigned


def write_datalist(cases: Sequence[Case], path: str | Path, description: str) -> None:
    """Write cases as ``{"description": ..., "training": [...]}``, the form of the Medical Segmentation Decathlon."""
    Path(path).write_text(json.dumps({"description": description, "training": list(cases)}, indent=1) + "\n")


def load_cases(
    datalist: str | Path, dataset_dir: str | Path, sequences: Sequence[str], folds: Sequence[int]
) -> list[Case]:
    """Read the cases of some folds, with full paths, and check that their files are there, of one shape and one affine.

    Only headers are read.

    Returns:
        Dictionaries with ``image``, ``label``, ``case``, ``patient`` and ``fold``.

    Raises:
        FileNotFoundError: when the list itself is missing.
        ValueError: when a fold has no case, a file is missing, or a case's files differ in shape or
            affine; all faults at once.
    """
    if not Path(datalist).is_file():
        raise FileNotFoundError(f"no data list at {datalist}: write one with `python -m dcd_components datalist`")
    listed = _read(Path(datalist))
    if not isinstance(folds, Sequence):
        raise ValueError(f"folds must be a list, such as [0], got {folds!r}")
    cases = [case for case in listed if case["fold"] in folds]
    empty = set(folds) - {case["fold"] for case in cases}
    if empty or not cases:
        raise ValueError(f"{datalist} has no case in fold {', '.join(map(str, sorted(empty))) or 'list []'}")
    root = Path(dataset_dir)
    cases = [{**case, **{key: str(root / str(case[key])) for key in ("image", "label")}} for case in cases]
    faults = [fault for case in cases for fault in _faults(case, sequences)]
    if faults:
        more = f"; and {len(faults) - 8} more" if len(faults) > 8 else ""
        raise ValueError("; ".join(faults[:8]) + more)
    return cases


def _read(datalist: Path) -> list[Case]:
    """Cases of a data list, each with all its keys."""
    try:
        cases: list[Case] = json.loads(datalist.read_text())["training"]
        missing = next((set(KEYS) - set(case) for case in cases if set(KEYS) - set(case)), None)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f'{datalist} must be JSON with a list "training" of cases: {error!r}') from None
    if missing:
        raise ValueError(
            f"every case in {datalist} must have {', '.join(KEYS)}; one lacks {', '.join(sorted(missing))}"
        )
    return cases


def _faults(case: Case, sequences: Sequence[str]) -> list[str]:
    paths = [sibling(str(case["image"]), sequences, name) for name in sequences] + [str(case["label"])]
    missing = [f"{path} is missing" for path in paths if not Path(path).is_file()]
    if missing:
        return missing
    try:
        images = [nibabel.load(path) for path in paths]
    except (ImageFileError, OSError, EOFError) as error:
        return [f"{case['case']} cannot be read: {error}"]
    first, name = images[0], Path(paths[0]).name
    for path, image in zip(paths, images, strict=True):
        if image.shape != first.shape:
            return [f"{path} has shape {image.shape}, expected {first.shape} as {name} has"]
        if not np.allclose(image.affine, first.affine, atol=AFFINE_TOLERANCE):
            return [f"{path} has another affine than {name}"]
    return []
