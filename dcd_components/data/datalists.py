"""Lists of cases in MONAI's Decathlon form, with folds that keep each patient in one fold."""

from __future__ import annotations

import glob
import json
import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from dcd_components.data.file_naming import Layout, files_of, make_layout, places
from dcd_components.errors import InputError

Case = dict[str, Any]
Found = Mapping[str, Sequence[str]]
KEYS, LABEL = ("image", "case", "patient", "fold"), "label"


@dataclass(frozen=True)
class DataList:
    """Cases, with the layout of their files.

    Args:
        cases: each with ``image`` (path of the reference sequence), ``case``, ``patient``, ``fold`` and perhaps
            ``label``; paths are relative to the data set's folder.
        layout: how their files are named.
        description: the command that made the list.
    """

    cases: Sequence[Case]
    layout: Layout
    description: str


def find_cases(folder: str | Path, layout: Layout) -> tuple[list[Case], list[str]]:
    """Find the complete cases below ``folder``, however deep, and what is wrong with the others.

    Args:
        folder: the data set.
        layout: how its files are named.

    Returns:
        The cases, sorted and without folds, and one sentence for each fault: a sequence or a label that is missing or
        there twice, files that do not lie where the layout has them, a name without a patient.

    Raises:
        InputError: when there is no such folder, or nothing fits the layout.
    """
    if not (root := Path(folder)).is_dir():
        raise InputError(f"no folder {root}")
    patterns = {**layout.files, **({LABEL: layout.label_file} if layout.label_file else {})}
    found: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for path in sorted(one for one in glob.glob("**", root_dir=root, recursive=True) if (root / one).is_file()):
        for key, case in dict.fromkeys((key, case) for key, _, case in places(path, patterns)):
            found[case][key].append(path)
    if not any(layout.files.keys() & files.keys() for files in found.values()):
        raise InputError(f"no file below {root} fits {', '.join(chain.from_iterable(layout.files.values()))}")
    cases, faults = [], []
    for case, files in sorted(found.items()):
        wrong = _faults(case, files, layout, root)
        faults += [f"{case}: {fault}" for fault in wrong]
        if not wrong:
            label = {LABEL: files[LABEL][0]} if LABEL in files else {}
            names = {"case": case, "patient": layout.patient_of(case)}
            cases.append({"image": files[layout.reference][0], **label, **names})
    return cases, faults


def _faults(case: str, files: Found, layout: Layout, root: Path) -> list[str]:
    expected = {*layout.files, *([LABEL] if layout.label_file else [])}
    missing = [
        f"no {key}" if set(files) != {LABEL} else f"a label without {key}" for key in sorted(expected - set(files))
    ]
    doubled = [f"{len(paths)} files for {key}: {', '.join(paths)}" for key, paths in files.items() if len(paths) > 1]
    unnamed = [] if layout.patient_of(case) else [f"no patient in its name by {layout.patient!r}"]
    if missing or doubled or unnamed:
        return missing + doubled + unnamed
    follow = files_of(str(root / files[layout.reference][0]), layout.files)
    strays = [(key, files[key][0]) for key in layout.files if Path(follow[key]) != root / files[key][0]]
    return [f"{key} lies at {path}, which does not follow from its {layout.reference}" for key, path in strays]


def make_datalist(
    folder: str | Path,
    layout: Layout,
    *,
    folds: int = 5,
    seed: int = 0,
    nnunet: bool = False,
    skip_incomplete: bool = False,
    description: str = "",
) -> tuple[DataList, list[str]]:
    """List the cases below a folder, with folds.

    Args:
        folder: the data set.
        layout: how its files are named.
        folds: number of folds.
        seed: of the assignment of patients to folds.
        nnunet: nnU-Net's folds instead of such that keep each patient in one.
        skip_incomplete: leave out what is faulty.
        description: what makes the list.

    Returns:
        The list, and the faults of what was left out.

    Raises:
        InputError: for faults, all at once, unless they are skipped and a case is left.
    """
    cases, faults = find_cases(folder, layout)
    if faults and not (skip_incomplete and cases):
        raise InputError("\n  ".join([f"{len(faults)} faults in {folder}:", *faults]))
    assigned = nnunet_folds(cases, folds) if nnunet else patient_folds(cases, folds, seed)
    return DataList([{**c, "fold": f} for c, f in zip(cases, assigned, strict=True)], layout, description), faults


def patient_folds(cases: Sequence[Case], folds: int, seed: int) -> list[int]:
    """Fold of each case, all cases of a patient in one, balanced in cases.

    Patients with most cases go first, each into the fold that is smallest so far; ties are in random order.

    Raises:
        InputError: for less than one fold.
    """
    if folds < 1:
        raise InputError(f"folds must be at least 1, got {folds}")
    counts = Counter(str(case["patient"]) for case in cases)
    order = sorted(counts)
    random.Random(seed).shuffle(order)
    sizes = [0] * folds
    assigned = {}
    for patient in sorted(order, key=lambda name: -counts[name]):
        assigned[patient] = sizes.index(min(sizes))
        sizes[assigned[patient]] += counts[patient]
    return [assigned[str(case["patient"])] for case in cases]


def nnunet_folds(cases: Sequence[Case], folds: int = 5) -> list[int]:
    """Fold of each case by nnU-Net's rule, which knows no patients: a shuffled k-fold split of the sorted names.

    Raises:
        InputError: for less than two folds or fewer cases than folds.
    """
    from sklearn.model_selection import KFold  # which nothing else needs

    order = sorted(range(len(cases)), key=lambda index: str(cases[index]["case"]))
    assigned = [0] * len(cases)
    for fold, (_, tested) in enumerate(KFold(folds, shuffle=True, random_state=12345).split(order)):
        for index in tested:
            assigned[order[index]] = fold
    return assigned


def write_datalist(datalist: DataList, path: str | Path) -> None:
    """Write a list as the Medical Segmentation Decathlon does; cases without a label go under ``test``.

    Raises:
        InputError: when another list is there already.
    """
    layout = datalist.layout
    values = {0: "background", **{value: name for name, value in layout.labels.items()}} if layout.labels else {}
    content = {
        "description": datalist.description,
        "modality": {str(channel): name for channel, name in enumerate(layout.files)},
        "labels": {str(value): name for value, name in sorted(values.items())},
        "reference": layout.reference,
        "own_grid": list(layout.own_grid),
        "files": {name: list(patterns) for name, patterns in layout.files.items()},
        "training": [case for case in datalist.cases if LABEL in case],
        "test": [case for case in datalist.cases if LABEL not in case],
    }
    text = json.dumps(content, indent=1) + "\n"
    if Path(path).is_file() and Path(path).read_text() != text:
        raise InputError(f"{path} is another list, and so is kept: delete it, or name another file with --out")
    Path(path).write_text(text)


def read_datalist(path: str | Path) -> DataList:
    """Read a list that :func:`write_datalist` wrote.

    Raises:
        InputError: when there is none.
        InputError: when it is no such list, or one of its cases lacks a key.
    """
    if not Path(path).is_file():
        raise InputError(f"no data list at {path}: write one with `python -m dcd_components datalist`")
    try:
        content = json.loads(Path(path).read_text())
        labels = {name: int(value) for value, name in content["labels"].items() if value != "0"}
        cases: list[Case] = [*content["training"], *content.get("test", [])]
        lacking = next((set(KEYS) - set(case) for case in cases if not set(KEYS) <= set(case)), None)
        layout = make_layout({**content, "labels": labels})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is no data list that `python -m dcd_components datalist` wrote: {error!r}") from None
    if lacking:
        raise InputError(f"every case in {path} must have {', '.join(KEYS)}; one lacks {', '.join(sorted(lacking))}")
    return DataList(cases, layout, content.get("description", ""))
