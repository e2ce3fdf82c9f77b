"""Lists of cases in MONAI's Decathlon form, with folds: such that keep each patient in one, a table's or nnU-Net's."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dcd_components.data.case_files import (
    CONTROL,
    IMAGE,
    LABEL,
    Case,
    Layout,
    find_cases,
    labelled_cases,
    shown,
)
from dcd_components.data.marks import is_own_mask
from dcd_components.errors import InputError

KEYS = (IMAGE, "case", "patient", "fold")


@dataclass(frozen=True)
class DataList:
    """Cases with the paths of all their files, relative to the data set's folder.

    Args:
        cases: each with ``image`` (the paths of its sequences, in their order), ``case``, ``patient``, ``fold`` and
            perhaps ``label``.
        sequences: names of the sequences.
        reference: the sequence on whose grid the others and the label lie.
        resampled: those that need not lie on it.
        labels: values of the labels by their names; none when not declared.
        description: the command that made the list.
    """

    cases: Sequence[Case]
    sequences: Sequence[str]
    reference: str
    resampled: Sequence[str] = ()
    labels: Mapping[str, int] = field(default_factory=dict)
    description: str = ""


def make_datalist(
    folder: str | Path,
    layout: Layout,
    *,
    folds: int | None = None,
    seed: int | None = None,
    nnunet: bool = False,
    skip_incomplete: bool = False,
    unlabelled: bool = False,
    description: str = "",
) -> tuple[DataList, list[str]]:
    """List the cases below a folder, with folds.

    A label that is a mask of this project as it was written, and no expert's, is to train and to score nothing. Where
    others are there and no table says the folds, its case is in a fold after theirs, or, if one of its patient's cases
    is in one of theirs, in that one and without the label.

    Args:
        folder: the data set.
        layout: how its files are named.
        folds: number of folds; without it, and without nnU-Net's, those that the table of patients says, or else 5.
        seed: of the assignment of patients to folds; 0 by default.
        nnunet: nnU-Net's folds instead of such that keep each patient in one.
        skip_incomplete: leave out what is faulty.
        unlabelled: take cases without a label too, to be segmented; they are in the fold of their patient, or in 0.
        description: what makes the list.

    Returns:
        The list, and the faults of what was left out.

    Raises:
        InputError: for faults, all at once, unless they are skipped and a case is left; for nnU-Net's folds where a
            case with a label is left out, by which they would be others; for a seed of folds that a table says.
    """
    cases, faults = find_cases(folder, layout, "optional" if unlabelled else "needed")
    if faults and not (skip_incomplete and cases):
        raise InputError("\n  ".join([f"{len(faults)} faults in {folder}:", *faults]))
    labelled = [case for case in cases if LABEL in case]
    if nnunet and (lost := sorted(labelled_cases(folder, layout) - {case["case"] for case in labelled})):
        raise InputError(
            f"nnU-Net's folds count every case with a label, and {len(lost)} in {folder} would be left out, as "
            f"{shown(lost[0])}: mend them, or name a table with the folds by --patients"
        )
    by_experts = [case for case in labelled if not is_own_mask(Path(folder) / case[LABEL])]
    ranked = by_experts or labelled or cases  # what trains in part, or not at all, must not unbalance the folds
    known = _folds(ranked, layout, folds, seed, nnunet=nnunet)
    of_patient = {case["patient"]: known[case["case"]] for case in ranked if case["case"] in known}
    listed_cases = [_in_fold(case, known, of_patient) for case in cases]
    header = (list(layout.sequences), layout.reference, layout.resampled, layout.labels)
    return DataList(listed_cases, *header, description), faults


def _in_fold(case: Case, known: Mapping[str, int], of_patient: Mapping[str, int]) -> Case:
    if case["case"] in known:
        return {**case, "fold": known[case["case"]]}
    if case["patient"] in of_patient:
        return {**{key: value for key, value in case.items() if key != LABEL}, "fold": of_patient[case["patient"]]}
    return {**case, "fold": max(2, 1 + max(known.values())) if LABEL in case else 0}


def _folds(
    cases: Sequence[Case], layout: Layout, folds: int | None, seed: int | None, *, nnunet: bool
) -> Mapping[str, int]:
    """Fold of each case by its name, and of others that the table of patients has."""
    given = table_folds(layout)
    if given and folds is None and not nnunet:
        if seed is not None:
            raise InputError(f"{layout.patients} says in which fold each case is: without --folds there is no seed")
        return given
    number = 5 if folds is None else folds
    assigned = nnunet_folds(cases, number) if nnunet else patient_folds(cases, number, seed or 0)
    return {case["case"]: fold for case, fold in zip(cases, assigned, strict=True)}


def leaking(cases: Sequence[Case]) -> dict[str, list[str]]:
    """Folds by patient, of those that are in several: what is trained on one knows patients of another."""
    folds: defaultdict[str, set[str]] = defaultdict(set)
    for case in cases:
        folds[str(case["patient"])].add(str(case["fold"]))
    return {patient: sorted(several) for patient, several in folds.items() if len(several) > 1}


def table_folds(layout: Layout) -> dict[str, int]:
    """Fold of each case that the table of patients says."""
    return {case: one.fold for case, one in layout.table.items() if one.fold is not None}


def patient_folds(cases: Sequence[Case], folds: int, seed: int) -> list[int]:
    """Fold of each case, all cases of a patient in one, balanced in cases; ties are in random order.

    Patients with most cases go first, each into the fold that is smallest so far. scikit-learn's ``GroupKFold`` does
    the same, but its ties depend on its version: a published list must come out the same anywhere.

    Raises:
        InputError: for less than one fold, or fewer patients than folds.
    """
    counts = Counter(str(case["patient"]) for case in cases)
    if not 1 <= folds <= len(counts):
        raise InputError(f"folds must be from 1 to the number of patients, {len(counts)}, got {folds}")
    rank = dict(zip(sorted(counts), np.random.default_rng(seed).permutation(len(counts)).tolist(), strict=True))
    sizes, assigned = [0] * folds, {}
    for patient in sorted(counts, key=lambda name: (-counts[name], -rank[name])):
        assigned[patient] = sizes.index(min(sizes))
        sizes[assigned[patient]] += counts[patient]
    return [assigned[str(case["patient"])] for case in cases]


def nnunet_folds(cases: Sequence[Case], folds: int = 5) -> list[int]:
    """Fold of each case by nnU-Net's rule, which knows no patients: a shuffled k-fold split of the sorted names.

    Raises:
        InputError: for less than two folds or fewer cases than folds.
    """
    if not 2 <= folds <= len(cases):
        raise InputError(f"nnU-Net's folds must be from 2 to the number of cases, {len(cases)}, got {folds}")
    from sklearn.model_selection import KFold

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
    names = {0: "background", **{value: name for name, value in datalist.labels.items()}} if datalist.labels else {}
    content = {
        "description": datalist.description,
        "modality": {str(channel): name for channel, name in enumerate(datalist.sequences)},
        "labels": {str(value): name for value, name in sorted(names.items())},
        "reference": datalist.reference,
        "resampled": list(datalist.resampled),
        "training": [case for case in datalist.cases if LABEL in case],
        "test": [case for case in datalist.cases if LABEL not in case],
    }
    text = json.dumps(content, indent=1) + "\n"
    if Path(path).is_file() and Path(path).read_text(encoding="utf-8") != text:
        raise InputError(f"{path} is another list, and so is kept: delete it, or name another file with --out")
    Path(path).write_text(text, encoding="utf-8")


def read_datalist(path: str | Path) -> DataList:
    """Read a list that :func:`write_datalist` wrote.

    Raises:
        InputError: when there is none, it is no such list or one of version 0.4, or one of its cases lacks a key.
    """
    if not Path(path).is_file():
        raise InputError(f"no data list at {path}: write one with `dcd datalist`")
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        if "resampled" not in content and "own_grid" in content:
            raise ValueError("it is of version 0.4, which listed one file of a case; write it anew")
        labels = {name: int(value) for value, name in content["labels"].items() if value != "0"}
        cases: list[Case] = [*content["training"], *content.get("test", [])]
        lacking = next((set(KEYS) - set(case) for case in cases if not set(KEYS) <= set(case)), None)
        sequences = [content["modality"][str(channel)] for channel in range(len(content["modality"]))]
        if not lacking and (wrong := [c["case"] for c in cases if not _is_name(c["case"])]):
            raise ValueError(f"a case must have a name without a folder, got {wrong[0]!r}")
        if not lacking and any(isinstance(c[IMAGE], str) or len(c[IMAGE]) != len(sequences) for c in cases):
            raise ValueError(f"{IMAGE} of every case must be the paths of {', '.join(sequences)}")
        header = (sequences, content["reference"], content["resampled"], labels, content.get("description", ""))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is no data list that `dcd datalist` wrote: {error!r}") from None
    if lacking:
        raise InputError(f"every case in {path} must have {', '.join(KEYS)}; one lacks {', '.join(sorted(lacking))}")
    return DataList(cases, *header)


def _is_name(case: object) -> bool:
    """Whether a case is called as a file may be called: its mask lies where it is told to."""
    return isinstance(case, str) and case not in ("", "..") and case == Path(case).name and not CONTROL.search(case)
