"""What is wrong with the files of one case: each fault with its file, its reason, the numbers found and expected."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from os.path import normpath
from pathlib import Path

from dcd_components.data.case_files import IMAGE, LABEL, Case, shown
from dcd_components.data.datalists import leaking
from dcd_components.data.grids import Array, Grid, placement_faults
from dcd_components.data.nifti import read_volume
from dcd_components.data.voxels import background_warning, count_labels, digest, image_faults, number_faults

RULES = 3  # raise it with every change of a check, so that cases in tables of older rules are read again


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
        contents: a digest of the voxels by sequence; none for what cannot be read, or has one value.
    """

    grid: Grid | None = None
    voxels: dict[str, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    contents: dict[str, str] = field(default_factory=dict)


def check_case(case: CaseFiles) -> Finding:
    """Read every file of a case once, one at a time, and find all faults; whatever a file raises is its fault."""
    found = Finding()
    for key in sorted(case.paths, key=lambda key: key != case.reference):
        path = shown(case.paths[key])
        try:
            found.faults += [f"{path}: {fault}" for fault in _check_file(key, path, case, found)]
        except Exception as error:  # noqa: BLE001 - damaged files raise many kinds
            reason = " ".join(f"{type(error).__name__}: {error}".replace(";", ",").split())
            found.faults.append(f"{path}: cannot be read: {reason}")
    return found


def _check_file(key: str, path: str, case: CaseFiles, found: Finding) -> Iterator[str]:
    """Faults of a file by itself, against the reference, and against the contents of the files before it."""
    volume = read_volume(Path(case.root, case.paths[key]))
    yield from volume.faults
    if volume.conflict:
        found.warnings.append(f"sform and qform disagree: {path}, {volume.conflict}")
    if key == case.reference:
        found.grid = volume.grid
    elif volume.grid and found.grid:
        yield from placement_faults(volume.grid, found.grid, case.reference, key in case.resampled)
    if volume.values is not None:
        yield from (_check_label if key == LABEL else _check_image)(volume.values, path, case, found)
        if content := digest(volume.values):
            if same := next((other for other, one in found.contents.items() if one == content), None):
                yield f"has the same voxels as {same}, {case.paths[same]}"
            found.contents[key] = content


def _check_label(values: Array, path: str, case: CaseFiles, found: Finding) -> Iterator[str]:
    yield from number_faults(values)
    found.voxels, faults = count_labels(values, case.labels)
    yield from faults
    if not values.any():
        found.warnings.append(f"no labelled voxel: {path}")


def _check_image(values: Array, path: str, case: CaseFiles, found: Finding) -> Iterator[str]:
    yield from image_faults(values)
    if warning := background_warning(values):
        found.warnings.append(f"background is not 0: {path}, {warning}")


def check_listing(cases: Sequence[Case]) -> list[Finding]:
    """Find what is wrong with the list itself: for each case, if it or one of its files is in the list twice.

    A patient in several folds is a warning only, since published lists leak like that on purpose.
    """
    names = Counter(str(case["case"]) for case in cases)
    torn, owners = leaking(cases), defaultdict(set)
    for case in cases:
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
        if folds := torn.get(str(case["patient"])):
            finding.warnings.append(f"leak: patient {case['patient']} is in folds {', '.join(folds)}")
        findings.append(finding)
    return findings


def _files(case: Case) -> list[tuple[str, str]]:
    return [*((IMAGE, path) for path in case[IMAGE]), *((LABEL, case[LABEL]) for _ in {LABEL} & set(case))]
