"""Tables of what was scored: CSV files, means over cases, Markdown."""

import csv
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from dcd_components.errors import InputError

# Case numbers such as 00005 and 0005_001 must stay text, so a number has no leading zeros and no underscores.
NUMBER = re.compile(r"-?((0|[1-9]\d*)(\.\d*)?(e[+-]?\d+)?|nan|inf)")


def write_csv(rows: Sequence[Mapping[str, object]], path: Path) -> None:
    """Write rows to a CSV file, whole or not at all: an existing file survives any failure.

    Raises:
        InputError: for no rows, or rows with different columns.
    """
    if len(headers := {tuple(row) for row in rows}) != 1:
        raise InputError(f"rows for {path} must be at least one, all with the same columns, got {sorted(headers)}")
    partial = path.with_name(f".{path.name}.{os.getpid()}")  # two processes may write one file
    try:
        with partial.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([rows[0].keys(), *(row.values() for row in rows)])
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def read_csv(path: Path) -> list[dict[str, str | float]]:
    """Read the rows of a CSV file; numbers become floats, all else, such as a case number ``00005``, stays text.

    Raises:
        InputError: for a file that is missing, has no rows or a row of another length than its header.
    """
    if not path.is_file():
        raise InputError(f"{path} must be a CSV file, but there is none")
    with path.open(newline="", encoding="utf-8") as file:
        header, *lines = list(csv.reader(file)) or [[]]
    if not lines or any(len(line) != len(header) for line in lines):
        raise InputError(f"{path} must have a header and rows of its length, got {len(lines)} rows")
    numbers = [[float(text) if NUMBER.fullmatch(text) else text for text in line] for line in lines]
    return [dict(zip(header, line, strict=True)) for line in numbers]


def markdown_table(rows: Sequence[Mapping[str, object]], columns: Mapping[str, tuple[str, str]]) -> str:
    """Write rows as an aligned Markdown table; NaN is shown as a dash.

    Args:
        rows: one row a line.
        columns: heading and format by key, such as ``{"mean_dice": ("Dice", ".3f")}``; a format sets flush right.

    Raises:
        InputError: for a row that lacks one of the columns.
    """
    for number, row in enumerate(rows):
        if missing := [key for key in columns if key not in row]:
            raise InputError(f"row {number} must have the columns {missing}, got {list(row)}")
    table = []
    for key, (heading, style) in columns.items():
        cells = [heading, *("\N{EN DASH}" if row[key] != row[key] else format(row[key], style) for row in rows)]
        width, align = max(3, *map(len, cells)), ">" if style else "<"
        cells.insert(1, "-" * (width - 1) + ("-:"[bool(style)]))
        table.append([f"{cell:{align}{width}}" for cell in cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in zip(*table, strict=True))
