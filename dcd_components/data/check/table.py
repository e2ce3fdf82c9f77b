"""The table of checked cases: a CSV file that grows case by case, and the summary of it."""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from dcd_components.data.case_files import shown
from dcd_components.errors import InputError
from dcd_components.tables import write_csv

Row = dict[str, str]

HEAD, TAIL = ("case", "patient", "fold", "shape", "spacing_mm"), ("warnings", "faults", "digest")
VOXELS = "voxels_"
#: Cells of the cases that hold the voxels of one more; told anew in every run, from the digests of all images.
LEAKS, COPIES, CONTENTS, UNKNOWN = "leaks", "copies", "contents", "-"
SEPARATOR = "; "
SHOWN = 20  # faults in a summary


@dataclass
class Table:
    """Rows in a CSV file, to which each new one is added at once.

    Args:
        path: of the file.
        labels: declared values by the names that have a column; by default these are the values found in the rows.
        rows: to begin with; cells without content may be left out.
    """

    path: Path
    labels: Mapping[str, int]
    rows: list[Row]
    _columns: Sequence[str] = field(default=(), init=False)

    def add(self, row: Row) -> None:
        """Append a row; the first one, and one with a label not seen before, have the file written anew."""
        self.rows.append(row)
        if not row.keys() <= set(self._columns):
            self.write()
            return
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow([row.get(column, "") for column in self._columns])

    def write(self) -> None:
        """Put the rows, sorted, in place of all that the file held."""
        self._columns = [*HEAD, *(VOXELS + label for label in self.found_labels()), LEAKS, COPIES, CONTENTS, *TAIL]
        self.rows.sort(key=lambda row: (row["case"], row["digest"]))
        write_csv(self.filled(), self.path)

    def found_labels(self) -> Sequence[str]:
        """Declared labels, or else all values found, in order."""
        found = {column.removeprefix(VOXELS) for row in self.rows for column in row if column.startswith(VOXELS)}
        return [*self.labels] or sorted(found, key=int)

    def filled(self) -> list[Row]:
        """Rows with all columns, as in the file."""
        return [{column: row.get(column, "") for column in self._columns} for row in self.rows]


def read_rows(path: Path) -> list[Row]:
    """Read the rows of a table, also of one whose last row was cut off; none where there is no file.

    Raises:
        InputError: for a file that is no such table.
    """
    if not path.exists():
        return []
    try:
        with path.open(newline="", encoding="utf-8", errors="replace") as file:
            header, *lines = list(csv.reader(file)) or [[]]
    except csv.Error:
        header, lines = [], []
    whole = [line for line in lines if len(line) == len(header)]
    ours = tuple(header[: len(HEAD)]) == HEAD and tuple(header[-len(TAIL) :]) == TAIL
    if not ours or lines[:-1] != whole[: len(lines) - 1]:
        raise InputError(f"{path} is no table of checked cases, or a damaged one: remove it, or choose another --out")
    return [{key: text for key, text in zip(header, line, strict=True) if text} for line in whole]


def list_faults(rows: Iterable[Row]) -> list[str]:
    """All faults, each as ``case: file: reason``."""
    return [
        f"{shown(row['case'])}: {fault}"
        for row in rows
        for cell in ("faults", LEAKS)
        for fault in _split(row.get(cell))
    ]


def summarise(table: Table, labelled: int) -> str:
    """Say in a few lines what a table holds; ``labelled`` is how many of its cases should have a label."""
    rows, faults = table.rows, list_faults(table.rows)
    faulty = sum(bool(list_faults([row])) for row in rows)
    lines = [f"cases: {len(rows)}, labelled: {labelled}, with faults: {faulty}; details in {table.path}"]
    lines += [f"faults: {len(faults)}"] * bool(faults) + [f"  {fault}" for fault in faults[:SHOWN]]
    lines += [f"  and {len(faults) - SHOWN} more, see {table.path}"] * (len(faults) > SHOWN)
    kinds = Counter(warning.split(": ")[0] for row in rows for warning in _split(row.get("warnings")))
    kinds += Counter({"same image as another case of its fold": sum(COPIES in row for row in rows)})
    lines += ["warnings: " + ", ".join(f"{kind} ({number})" for kind, number in kinds.most_common())] * bool(kinds)
    labels = table.found_labels()
    unseen = (
        [f"{name} ({value})" for name, value in table.labels.items() if not _having(name, rows)] if labelled else []
    )
    lines += [f"warning: no case has label {', '.join(unseen)}"] * bool(unseen)
    width = max(map(len, ["label", *labels]))
    lines += [f"{'label':{width}}  cases  median ml"] * bool(labels)
    return "\n".join(lines + [_label_line(name, width, rows) for name in labels])


def _label_line(name: str, width: int, rows: Sequence[Row]) -> str:
    """Number of cases that have a label, and its median volume in those."""
    having = _having(name, rows)
    volumes = [
        int(row[VOXELS + name]) * math.prod(map(float, row["spacing_mm"].split("x"))) / 1000
        for row in having
        if "spacing_mm" in row
    ]
    return f"{name:{width}}  {len(having):5}  " + (f"{median(volumes):9.3g}" if volumes else f"{'-':>9}")


def _having(name: str, rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if int(row.get(VOXELS + name, 0))]


def _split(cell: str | None) -> list[str]:
    return cell.split(SEPARATOR) if cell else []
