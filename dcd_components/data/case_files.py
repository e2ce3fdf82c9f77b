"""The files of a case: how they are named, found below a folder, and missed.

Patterns say where they lie; ``{case}`` stands in them for the case's name.

A pattern fits the end of a path: ``{case}-t1n.nii.gz`` fits ``BraTS-GLI-00001-000/BraTS-GLI-00001-000-t1n.nii.gz``
and ``anat/{case}_FLAIR.nii.gz`` fits ``sub-01/ses-1/anat/sub-01_ses-1_FLAIR.nii.gz``. One file of a case thus names all
of them: what precedes the pattern and the case's name are the same for the others.
"""

from __future__ import annotations

import glob
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, combinations
from pathlib import Path
from typing import Any, Literal

from dcd_components.data.patients import Patient, read_patients
from dcd_components.errors import InputError

Patterns = Mapping[str, str | Sequence[str]]
Case = dict[str, Any]
Fit = tuple[str, str, str]  # key of the pattern, what precedes the pattern in the path, and name of the case
Labels = Literal["needed", "optional", "ignored"]
CASE, IMAGE, LABEL = "{case}", "image", "label"
#: Keys of an item of an inference: what is wrong with its case, and the mark that its mask gets.
FAULT, MARK = "fault", "mark"
#: What a case holds besides its sequences, so that none may be called so.
RESERVED = (IMAGE, LABEL, "pred", "case", FAULT, MARK)
#: Words for a file that is not there, the same wherever images are read.
MISSING, NO_FILE, EMPTY = "missing", "is no file", "is empty, 0 bytes"
#: What tears a message or a table apart, or cannot be printed, in a path.
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


@dataclass(frozen=True)
class Layout:
    """How a data set names its files, and what its labels mean: the settings of the same names in a bundle's configs.

    Args:
        sequences: for each sequence, in the order of the network's channels, the patterns that its path may have.
        reference: the sequence that names a case and on whose grid its label lies; the first by default.
        resampled: what need not share the reference's grid: sequences, or ``label``.
        label_file: patterns of the label's path; none for images without labels.
        labels: values of the labels by their names; none when not declared.
        patient_regex: regular expression whose first group, matched at the start of a case's name, is its patient.
        patients: table that names the patient of each case instead, see :func:`.read_patients`; empty for none.

    Raises:
        InputError: for no sequence, one with a reserved name, a pattern without ``{case}``, one that two sequences, or
            a sequence and the label, share, unless one file holds all sequences, which then have the same patterns; and
            for a name in ``reference`` or ``resampled`` that is no sequence.
    """

    sequences: Patterns
    reference: str = ""
    resampled: Sequence[str] = ()
    label_file: str | Sequence[str] = ()
    labels: Mapping[str, int] = field(default_factory=dict)
    patient_regex: str = "(.+)"
    patients: str | Path = ""

    def __post_init__(self) -> None:
        """Refuse what cannot be; write single patterns as lists of one."""
        if not isinstance(self.sequences, Mapping) or not self.sequences:
            example = f"t1n={CASE}-t1n.nii.gz"
            raise InputError(f"sequences must give at least one sequence its pattern, {example}, got {self.sequences}")
        sequences = {str(name): listed(patterns) for name, patterns in self.sequences.items()}
        object.__setattr__(self, "sequences", sequences)
        object.__setattr__(self, "label_file", listed(self.label_file))
        object.__setattr__(self, "reference", self.reference or next(iter(sequences)))
        if taken := set(RESERVED) & set(sequences):
            raise InputError(f"no sequence may be called {' or '.join(sorted(taken))}, as other data of a case are")
        for pattern in (*(one for patterns in sequences.values() for one in patterns), *self.label_file):
            if CASE not in pattern:
                raise InputError(f"the pattern {pattern!r} must hold {CASE}, where the case's name stands")
        for one, other, shared in _shared_patterns(sequences, self.label_file):
            raise InputError(f"{one} and {other} must have patterns of their own, both have {', '.join(shared)}")
        for name in (self.reference, *(set(self.resampled) - {"label"})):
            if name not in sequences:
                raise InputError(f"{name} is not among the sequences {', '.join(sequences)}")

    @cached_property
    def table(self) -> Mapping[str, Patient]:
        """The patients in the table, by case; none where there is no table."""
        return read_patients(Path(self.patients)) if self.patients else {}

    def patient_of(self, case: str) -> str | None:
        """Patient in the table, or else in a case's name."""
        if self.patients:
            return self.table[case].name if case in self.table else None
        match = re.match(self.patient_regex, case)
        return match and match[1]


def _shared_patterns(
    sequences: Mapping[str, Sequence[str]], label_file: Sequence[str]
) -> Iterator[tuple[str, str, list[str]]]:
    """Pairs of a sequence and another, or the label, with the patterns that both have."""
    whole = len({frozenset(patterns) for patterns in sequences.values()}) == 1  # a 4D file
    several = combinations(sequences.items(), 2)
    pairs = [*([] if whole else several), *((one, ("label_file", label_file)) for one in sequences.items())]
    for (one, patterns), (other, others) in pairs:
        if shared := sorted({*patterns} & {*others}):
            yield one, other, shared


def make_layout(settings: Mapping[str, Any]) -> Layout:
    """Build a layout from those settings that are given; None is as good as not given."""
    return Layout(**{name: value for name, value in settings.items() if value is not None})


def listed(patterns: str | Sequence[str] | None) -> list[str]:
    """A single pattern, several or none, as a list."""
    return [str(one) for one in ([patterns] if isinstance(patterns, str) else patterns or []) if one]


def places(path: str, patterns: Patterns) -> list[Fit]:
    """Find the patterns that fit a path: ``(key, root, case)`` each, where ``root`` precedes the pattern.

    Those of the label alone if one of them says more of the folders than the sequences' do, so that with
    ``{case}_0000.nii.gz`` an image, ``labels/a_0000.nii.gz`` fits the label's ``labels/{case}.nii.gz``. Of the others
    only those with the shortest name of the case, so that ``a_seg.nii.gz`` fits ``{case}_seg.nii.gz`` and not
    ``{case}.nii.gz``; and what is a label by its name is no sequence, unless a sequence's pattern says more.
    """
    fits = [(key, *fit) for key, several in patterns.items() for one in listed(several) for fit in _fit(one, path)]
    label, image = _parted(fits)
    if label and _shortest_root(label) < _shortest_root(image, len(path)):
        return _with_shortest_name(label)
    label, image = _parted(_with_shortest_name(fits))
    return label if label and _shortest_root(label) <= _shortest_root(image, len(path)) else image


def _parted(fits: Sequence[Fit]) -> tuple[list[Fit], list[Fit]]:
    """Those of the label, and those of the sequences."""
    return [fit for fit in fits if fit[0] == LABEL], [fit for fit in fits if fit[0] != LABEL]


def _shortest_root(fits: Sequence[Fit], default: int = 0) -> int:
    return min((len(root) for _, root, _ in fits), default=default)


def _with_shortest_name(fits: Sequence[Fit]) -> list[Fit]:
    shortest = min((len(case) for _, _, case in fits), default=0)
    return [fit for fit in fits if len(fit[2]) == shortest]


def _fit(pattern: str, path: str) -> Iterator[tuple[str, str]]:
    once, again = "(?P<case>[^/]+)", "(?P=case)"
    expression = re.escape(pattern).replace(re.escape(CASE), once, 1).replace(re.escape(CASE), again)
    if match := re.fullmatch(f"(?P<root>(?:.*/)?){expression}", path, re.DOTALL):
        yield match["root"], match["case"]


def case_name(path: str, sequences: Patterns) -> str:
    """Name of the case that a file belongs to: what stands for ``{case}``, or the file's own name."""
    return next((case for _, _, case in places(path, sequences)), Path(path).name.split(".nii")[0])


def candidates(path: str, sequences: Patterns, sequence: str) -> list[str]:
    """Paths where a sequence of the case named by ``path`` may lie, best first."""
    patterns = listed(sequences[sequence])
    return list(
        dict.fromkeys(root + one.replace(CASE, case) for _, root, case in places(path, sequences) for one in patterns)
    )


def files_of(path: str, sequences: Patterns) -> dict[str, str]:
    """Paths of all sequences of the case that is named by one of its files.

    Where one is missing, its likeliest path. A file that fits no pattern is taken to hold all sequences, as channels.
    """
    found = {}
    for sequence in sequences:
        several = candidates(path, sequences, sequence) or [path]
        found[sequence] = next((one for one in several if Path(one).is_file()), several[0])
    return found


def shown(path: str | Path) -> str:
    """A path as a message shows it: on one line."""
    return repr(str(path)) if CONTROL.search(str(path)) else str(path)


def absence(path: Path) -> str | None:
    """Why there is no file to read."""
    if CONTROL.search(str(path)):
        return "has a line break or another control character in its path, expected none"
    if not path.is_file():
        return NO_FILE if path.exists() else MISSING
    return None if path.stat().st_size else EMPTY


def find_cases(folder: str | Path, layout: Layout, labels: Labels = "needed") -> tuple[list[Case], list[str]]:
    """Find the complete cases below ``folder``, however deep, and what is wrong with the others.

    Args:
        folder: the data set.
        layout: how its files are named.
        labels: whether a case without a label is a fault (``needed``, if the layout says how labels are called) or
            not (``optional``), or no label is looked at (``ignored``). What is a label by its name is never an image.
            Where none is needed, a case without one may lack in the table of patients: it is its own patient.

    Returns:
        The cases, sorted and without folds, and one sentence for each fault: a sequence or a label that is missing or
        there twice, one that lies apart from the others, a name without a patient, or with a line break.

    Raises:
        InputError: when there is no such folder, or nothing fits the layout.
    """
    if not (root := Path(folder)).is_dir():
        raise InputError(f"no folder {shown(root)}")
    found = _files_by_case(root, layout, labels)
    if not any(layout.sequences.keys() & files.keys() for files in found.values()):
        several = chain.from_iterable(map(listed, layout.sequences.values()))
        raise InputError(f"no file below {shown(root)} fits {', '.join(several)}")
    cases, faults = [], []
    for case, files in sorted(found.items()):
        own = case if layout.patients and labels != "needed" and LABEL not in files else None
        patient = layout.patient_of(case) or own
        wrong = _faults(root, files, layout, labels == "needed") or [unnamed(layout)] * (not patient)
        faults += [f"{shown(case)}: {fault}" for fault in wrong]
        if not wrong:
            label = {LABEL: files[LABEL][0]} if LABEL in files else {}
            names = {"case": case, "patient": patient}
            cases.append({IMAGE: [files[sequence][0] for sequence in layout.sequences], **label, **names})
    return cases, faults


def labelled_cases(folder: str | Path, layout: Layout) -> set[str]:
    """Names of the cases below ``folder`` that have a label, whatever else they lack."""
    return {case for case, files in _files_by_case(Path(folder), layout, "needed").items() if LABEL in files}


def _files_by_case(root: Path, layout: Layout, labels: Labels) -> dict[str, dict[str, list[str]]]:
    """Paths of the files of each case, by their key."""
    patterns = {**layout.sequences, LABEL: layout.label_file}
    found: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for path in sorted(one for one in glob.glob("**", root_dir=root, recursive=True) if (root / one).is_file()):
        for key, case in dict.fromkeys((key, case) for key, _, case in places(path, patterns)):
            if not (key == LABEL and labels == "ignored"):
                found[case][key].append(path)
    return found


def _faults(root: Path, files: Mapping[str, Sequence[str]], layout: Layout, labels_needed: bool) -> list[str]:
    torn = [path for paths in files.values() for path in paths if CONTROL.search(path)]
    if torn:
        return [f"{shown(torn[0])}: {absence(Path(torn[0]))}"]
    doubled = [f"{len(paths)} files for {key}: {', '.join(paths)}" for key, paths in files.items() if len(paths) > 1]
    if not layout.sequences.keys() & files.keys():
        return [f"{files[LABEL][0]}: a label without images"]
    known = layout.reference if layout.reference in files else next(key for key in layout.sequences if key in files)
    wrong = []
    for key in layout.sequences:
        expected = candidates(files[known][0], layout.sequences, key)
        if key not in files:
            wrong.append(f"{expected[0]}: {absence(root / expected[0]) or MISSING}")
        elif not (doubled or files[key][0] in expected):  # of another case, perhaps, that is called the same
            wrong.append(f"{files[key][0]}: lies apart from {known}, expected {expected[0]}")
    wrong += ["no label" for _ in {LABEL} - set(files) if layout.label_file and labels_needed]
    return wrong + doubled


def unnamed(layout: Layout) -> str:
    """Why a case has no patient."""
    return f"not in {layout.patients}" if layout.patients else f"no patient in its name by {layout.patient_regex!r}"
