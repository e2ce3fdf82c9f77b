"""What is wrong with the files of one case: each fault with its file, its reason, the numbers found and expected."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from os.path import normpath
from pathlib import Path

import numpy as np

from dcd_components.data.case_files import IMAGE, LABEL, Case
from dcd_components.data.check.nifti import read_volume
from dcd_components.data.grids import Array, Grid, grid_faults, overlap_faults

RULES = 2  # raise it with every change of a check, so that cases in tables of older rules are read again
MAX_VALUES = 256  # that a label without declared values may have; an image in its place has more
SHOWN = 5  # values in one sentence


@dataclass(frozen=True)
class CaseFiles:
    """Files of a case, to be checked.

    Args:
        root: folder that the paths start from.
        paths: by sequence, and by ``label`` where there is one.
        reference: the sequence on whose grid the others must lie.
        resampled: those that need not lie on it.
        labels: declared values by name; none when nothing is declared.
    """

    root: str
    paths: Mapping[str, str]
    reference: str
    resampled: Sequence[str]
    labels: Mapping[str, int]


@dataclass
class Finding:
    """What a case holds and what is wrong with it.

    Args:
        grid: that of the reference; none where it is no volume.
        voxels: of each declared label by its name, or else of each value found.
        faults: ``file: reason`` each.
        warnings: ``kind: file, details`` each.
    """

    grid: Grid | None = None
    voxels: dict[str, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def check_case(case: CaseFiles) -> Finding:
    """Read every file of a case once, one at a time, and find all faults; whatever a file raises is its fault."""
    found, contents = Finding(), dict[bytes, str]()
    for key in sorted(case.paths, key=lambda key: key != case.reference):
        try:
            for fault in _check_file(key, case, found, contents):
                found.faults.append(f"{case.paths[key]}: {fault}")
        except Exception as error:  # noqa: BLE001 - damaged files raise many kinds
            reason = " ".join(f"{type(error).__name__}: {error}".replace(";", ",").split())
            found.faults.append(f"{case.paths[key]}: cannot be read: {reason}")
    return found


def _check_file(key: str, case: CaseFiles, found: Finding, contents: dict[bytes, str]) -> Iterator[str]:
    """Faults of a file by itself, against the reference, and against the contents of the files before it."""
    path = case.paths[key]
    volume = read_volume(Path(case.root, path))
    yield from volume.faults
    if volume.conflict:
        found.warnings.append(f"sform and qform disagree: {path}, {volume.conflict}")
    if key == case.reference:
        found.grid = volume.grid
    elif volume.grid and found.grid:
        compare = overlap_faults if key in case.resampled else grid_faults
        yield from compare(volume.grid, found.grid, case.reference)
    if volume.values is None:
        return
    if key == LABEL:
        found.voxels, faults = count_labels(volume.values, case.labels)
        yield from faults
        if not volume.values.any():
            found.warnings.append(f"no labelled voxel: {path}")
    elif (one := volume.only_value) is not None:
        yield f"all {volume.values.size} voxels are {one:g}, expected an image"
    if (digest := volume.digest) and (first := contents.setdefault(digest, key)) != key:
        yield f"has the same voxels as {first}, {case.paths[first]}"


def count_labels(values: Array, labels: Mapping[str, int]) -> tuple[dict[str, int], list[str]]:
    """Count the voxels of each label.

    Args:
        values: of the label map.
        labels: declared values by name; none when nothing is declared.

    Returns:
        Voxels by name of the label, or by its value when nothing is declared; why the map is no label map.
    """
    found, counts = np.unique(values[(values != 0) & np.isfinite(values)], return_counts=True)
    voxels = dict(zip(found.tolist(), counts.tolist(), strict=True))
    fractions = [value for value in voxels if value != round(value)]
    negative = [value for value in voxels if value < 0 and value not in fractions]
    declared = {*labels.values(), *fractions, *negative}
    expected = ", ".join(map(str, labels.values()))
    faults = [
        f"{_some(wrong)} in {sum(voxels[value] for value in wrong)} of {values.size} voxels, expected {wanted}"
        for wrong, wanted in (
            (fractions, "whole numbers"),
            (negative, "no value below 0"),
            ([value for value in voxels if value not in declared] if labels else [], f"0 or one of {expected}"),
        )
        if wrong
    ]
    if labels:
        return {name: voxels.get(value, 0) for name, value in labels.items()}, faults
    if len(voxels) > MAX_VALUES:
        return {}, [*faults, f"{len(voxels)} different values, expected at most {MAX_VALUES} of a label"]
    return {str(int(value)): count for value, count in voxels.items() if value not in fractions}, faults


def _some(values: Sequence[float]) -> str:
    more = f" and {len(values) - SHOWN} more" if len(values) > SHOWN else ""
    return ", ".join(f"{value:g}" for value in values[:SHOWN]) + more


def check_listing(cases: Sequence[Case]) -> list[Finding]:
    """Find what is wrong with the list itself: for each case, if it or one of its files is in the list twice.

    A patient in several folds is a warning only, since published lists leak like that on purpose.
    """
    names = Counter(str(case["case"]) for case in cases)
    folds, owners = defaultdict(set), defaultdict(set)
    for case in cases:
        folds[case["patient"]].add(str(case["fold"]))
        for key, path in _files(case):
            owners[key, normpath(path)].add(case["case"])
    findings = []
    for case in cases:
        finding = Finding()
        if (times_listed := names[str(case["case"])]) > 1:
            finding.faults.append(
                f"{case[IMAGE][0]}: {case['case']} is in the list {times_listed} times, expected once"
            )
        for key, path in _files(case):
            if others := owners[key, normpath(path)] - {case["case"]}:
                finding.faults.append(f"{path}: is the {key} of {', '.join(sorted(others))} too")
        if len(of_patient := folds[case["patient"]]) > 1:
            finding.warnings.append(f"leak: patient {case['patient']} is in folds {', '.join(sorted(of_patient))}")
        findings.append(finding)
    return findings


def _files(case: Case) -> list[tuple[str, str]]:
    return [*((IMAGE, path) for path in case[IMAGE]), *((LABEL, case[LABEL]) for _ in {LABEL} & set(case))]
