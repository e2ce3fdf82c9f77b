"""Tables of what was scored: CSV files and Markdown."""

import csv
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from dcd_components.errors import InputError
from dcd_components.files import whole_file


def write_csv(rows: Sequence[Mapping[str, object]], path: Path) -> None:
    """Write rows to a CSV file, whole or not at all: an existing file survives any failure.

    Args:
        rows: one row a line, all with the same columns; None becomes an empty cell.
        path: file to write.

    Raises:
        InputError: for no rows, or rows with different columns.
    """
    if len(headers := {tuple(row) for row in rows}) != 1:
        raise InputError(f"rows for {path} must be at least one, all with the same columns, got {sorted(headers)}")
    with whole_file(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([rows[0].keys(), *(row.values() for row in rows)])


def read_csv(path: Path, text: Collection[str] | None = ("case", "weights")) -> list[dict[str, Any]]:
    """Read the rows of a CSV file: text in the columns that are named, numbers in all others.

    Args:
        path: file to read.
        text: columns whose cells stay text, so that a case called ``00005`` keeps its name; None for all.

    Returns:
        One dictionary a row; a number is a float, and an empty cell among numbers is None.

    Raises:
        InputError: for a file that is missing, has no rows, a row of another length than its header, or a cell that is
            not a number where one is expected.
    """
    if not path.is_file():
        raise InputError(f"{path} must be a CSV file, but there is none")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # Excel's begins with a mark of its own
            rows = list(csv.DictReader(file))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} must be a CSV file in UTF-8: {error}") from None
    # DictReader puts surplus cells under the key None and None into cells that are missing.
    if not rows or any(None in (*row.keys(), *row.values()) for row in rows):
        raise InputError(f"{path} must have a header and rows of its length, got {len(rows)} rows")
    if text is None:
        return list(rows)
    return [{name: cell if name in text else _number(cell, name, path) for name, cell in row.items()} for row in rows]


def _number(cell: str, column: str, path: Path) -> float | None:
    try:
        return float(cell) if cell else None
    except ValueError:
        raise InputError(f"{path} must hold numbers in column {column!r}, got {cell!r}") from None


def markdown_table(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, tuple[str, str]]) -> str:
    """Write rows as an aligned Markdown table; NaN is shown as a dash.

    Args:
        rows: one row a line.
        columns: heading and format by key, such as ``{"mean_dice": ("Dice", ".3f")}``; a format sets flush right.

    Raises:
        InputError: for a row that lacks one of the columns.
    """
    return _table(rows, columns, "pipe")


def html_table(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, tuple[str, str]]) -> str:
    """Write rows as a table of HTML; see :func:`markdown_table`."""
    return _table(rows, columns, "html")


def _table(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, tuple[str, str]], kind: str) -> str:
    from tabulate import tabulate  # where scores are only written to CSV files it need not be installed

    for number, row in enumerate(rows):
        if missing := [key for key in columns if key not in row]:
            raise InputError(f"row {number} must have the columns {missing}, got {list(row)}")
    cells = [[_cell(row[key], style) for key, (_, style) in columns.items()] for row in rows]
    table: str = tabulate(
        cells,
        [heading for heading, _ in columns.values()],
        tablefmt=kind,
        disable_numparse=True,  # the formats are ours
        colalign=["right" if style else "left" for _, style in columns.values()],
    )
    return table


def _cell(value: Any, style: str) -> str:
    missing = value != value  # only NaN differs from itself
    return "\N{EN DASH}" if missing else format(value, style)
