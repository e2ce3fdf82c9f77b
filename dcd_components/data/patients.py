"""Tables of patients: whose case is whose, where the names of the cases do not say it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from dcd_components.errors import InputError
from dcd_components.tables import read_csv

CASE, PATIENT, FOLD = "case", "patient", "fold"


class Patient(NamedTuple):
    """Whose case it is.

    Args:
        name: of the patient.
        fold: that the case is in; None where the table leaves it open.
    """

    name: str
    fold: int | None


def read_patients(path: Path) -> dict[str, Patient]:
    """Read a CSV file with the columns ``case`` and ``patient``, and perhaps ``fold``, a whole number from 0.

    Others are not read. Cases that are not there may be named: one table serves a data set and its parts.

    Raises:
        InputError: when there is no such file, or it lacks a column or a name, or has a case twice.
    """
    rows = read_csv(path, text=None)
    if not {CASE, PATIENT} <= set(rows[0]):
        raise InputError(f"{path} must have the columns case and patient, got {', '.join(rows[0])}")
    if near := [
        name for name in rows[0] if name.strip().lower() in (CASE, PATIENT, FOLD) and name != name.lower().strip()
    ]:
        raise InputError(f"{path} must call its columns case, patient and fold, got {near[0]!r}")
    found: dict[str, Patient] = {}
    for row in rows:
        case, patient, fold = row[CASE], row[PATIENT], row.get(FOLD)
        whole = all(one and one == one.strip() for one in (case, patient))
        if not whole or not (fold is None or fold.isdecimal()):
            said = "case and patient, without blanks around them, and a fold as 0, 1, 2 and so on"
            raise InputError(f"{path} must name {said}, got {row}")
        if case in found:
            raise InputError(f"{path} has {case} twice")
        found[case] = Patient(patient, None if fold is None else int(fold))
    return found
