"""Where the files of a case lie: patterns of their paths, in which ``{case}`` stands for the case's name.

A pattern fits the end of a path: ``{case}-t1n.nii.gz`` fits ``BraTS-GLI-00001-000/BraTS-GLI-00001-000-t1n.nii.gz``
and ``anat/{case}_FLAIR.nii.gz`` fits ``sub-01/ses-1/anat/sub-01_ses-1_FLAIR.nii.gz``. One file of a case thus names all
of them: what precedes the pattern and the case's name are the same for the others. The bundles' ``inference.yaml``
says the same in MONAI's config language, since inference needs nothing but MONAI.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dcd_components.errors import InputError

Patterns = Mapping[str, Sequence[str]]
CASE = "{case}"


@dataclass(frozen=True)
class Layout:
    """How a data set names its files, and what its labels mean.

    Args:
        files: for each sequence, in the order of the channels, the patterns that its path may have.
        reference: the sequence that names a case and on whose grid its label lies.
        own_grid: sequences that need not share the reference's grid.
        label_file: patterns of the label's path; none for images without labels.
        labels: values of the labels by their names; none when not declared.
        patient: regular expression whose first group, matched at the start of a case's name, is its patient.

    Raises:
        InputError: for a pattern without ``{case}``, a reference or an own grid that is no sequence, for no
            sequence at all, or one with the name of another datum.
    """

    files: Patterns
    reference: str
    own_grid: Sequence[str] = ()
    label_file: Sequence[str] = ()
    labels: Mapping[str, int] = field(default_factory=dict)
    patient: str = "(.+)"

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        if not self.files:
            raise InputError("files must name at least one sequence")
        if taken := {"image", "label", "pred"} & set(self.files):
            raise InputError(f"no sequence may be called {' or '.join(sorted(taken))}, as the network's data are")
        for pattern in (*(one for patterns in self.files.values() for one in patterns), *self.label_file):
            if CASE not in pattern:
                raise InputError(f"the pattern {pattern!r} must hold {CASE}, where the case's name stands")
        for name in (self.reference, *self.own_grid):
            if name not in self.files:
                raise InputError(f"{name} is not among the sequences {', '.join(self.files)}")

    def patient_of(self, case: str) -> str | None:
        """Patient in a case's name."""
        match = re.match(self.patient, case)
        return match and match[1]


def make_layout(settings: Mapping[str, Any]) -> Layout:
    """Build a layout from the settings of a bundle or of the command line, where one pattern may be a plain string.

    Raises:
        InputError: for ``files`` that are not a mapping, and as :class:`Layout`.
    """
    files = settings["files"]
    if not isinstance(files, Mapping):
        raise InputError(f"files must give each sequence its pattern, such as {{'t1n': '{CASE}-t1n.nii.gz'}}: {files}")
    return Layout(
        files={str(name): _listed(patterns) for name, patterns in files.items()},
        reference=settings.get("reference") or str(next(iter(files), "")),
        own_grid=_listed(settings.get("own_grid")),
        label_file=_listed(settings.get("label_file")),
        labels=dict(settings.get("labels") or {}),
        patient=settings.get("patient") or "(.+)",
    )


def _listed(patterns: str | Sequence[str] | None) -> list[str]:
    return [str(one) for one in ([patterns] if isinstance(patterns, str) else patterns or ()) if one]


def places(path: str, patterns: Mapping[str, Sequence[str]]) -> list[tuple[str, str, str]]:
    """Find the patterns that fit a path: ``(key, root, case)`` each, where ``root`` precedes the pattern.

    Only those with the shortest name of the case, so that ``a_seg.nii.gz`` fits ``{case}_seg.nii.gz`` and not
    ``{case}.nii.gz``.
    """
    fits = [(key, *fit) for key, several in patterns.items() for one in several for fit in _fit(one, path)]
    shortest = min((len(case) for _, _, case in fits), default=0)
    return [fit for fit in fits if len(fit[2]) == shortest]


def _fit(pattern: str, path: str) -> Iterator[tuple[str, str]]:
    once, again = "(?P<case>[^/]+)", "(?P=case)"
    expression = re.escape(pattern).replace(re.escape(CASE), once, 1).replace(re.escape(CASE), again)
    if match := re.fullmatch(f"(?P<root>(?:.*/)?){expression}", path):
        yield match["root"], match["case"]


def candidates(path: str, files: Patterns, sequence: str) -> list[str]:
    """Paths where a sequence of the case named by ``path`` may lie, best first."""
    found = [root + one.replace(CASE, case) for _, root, case in places(path, files) for one in files[sequence]]
    return list(dict.fromkeys(found))


def files_of(path: str, files: Patterns) -> dict[str, str]:
    """Paths of all sequences of the case that is named by one of its files; where one is missing, the likeliest.

    Raises:
        InputError: when the path fits no pattern.
    """
    found = {}
    for sequence in files:
        places_of = candidates(path, files, sequence)
        if not places_of:
            patterns = ", ".join(one for several in files.values() for one in several)
            raise InputError(f"{path} fits none of the patterns {patterns}")
        found[sequence] = next((one for one in places_of if Path(one).is_file()), places_of[0])
    return found
