"""Tables and pictures of what was scored: CSV files, means over cases, Markdown, learning curves and cases."""

import csv
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, cycle
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

# Case numbers such as 00005 and 0005_001 must stay text, so a number has no leading zeros and no underscores.
NUMBER = re.compile(r"-?((0|[1-9]\d*)(\.\d*)?(e[+-]?\d+)?|nan|inf)")
LINE_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
LABEL_COLOURS = ("#ff4538", "#2fd67a", "#ffc72e", "#339fff", "#d77bff", "#ff8c42")


def write_csv(rows: Sequence[Mapping[str, object]], path: Path) -> None:
    """Write rows to a CSV file, whole or not at all: an existing file survives any failure.

    Raises:
        ValueError: for no rows, or rows with different columns.
    """
    if len(headers := {tuple(row) for row in rows}) != 1:
        raise ValueError(f"rows for {path} must be at least one, all with the same columns, got {sorted(headers)}")
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
        ValueError: for a file that is missing, has no rows or a row of another length than its header.
    """
    if not path.is_file():
        raise ValueError(f"{path} must be a CSV file, but there is none")
    with path.open(newline="", encoding="utf-8") as file:
        header, *lines = list(csv.reader(file)) or [[]]
    if not lines or any(len(line) != len(header) for line in lines):
        raise ValueError(f"{path} must have a header and rows of its length, got {len(lines)} rows")
    numbers = [[float(text) if NUMBER.fullmatch(text) else text for text in line] for line in lines]
    return [dict(zip(header, line, strict=True)) for line in numbers]


def summarise(rows: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> dict[str, float]:
    """Average per-case scores, as :func:`dcd_components.metrics.case_scores` gives them, over the cases.

    NaN, the score of a region absent from a case and the F1 of no lesions, is left out; a mean of nothing is NaN.

    Args:
        rows: one row a case; columns of text are left out.
        labels: regions that enter the means over labels.

    Returns:
        The mean of each column; ``mean_dice``, ``mean_hd95_mm`` and ``mean_nsd`` over ``labels``; the
        ``small_lesion_recall`` of all cases pooled; the number of ``cases``.

    Raises:
        ValueError: for no rows, or rows without the scores of one of the labels or the counts of small lesions.
    """
    if not rows:
        raise ValueError("rows to summarise must not be empty")
    columns = {key: [row.get(key) for row in rows] for key in rows[0]}
    means = {key: _mean(col) for key, col in columns.items() if all(isinstance(x, float | int) for x in col)}
    scores = {score: [f"{score}_{label}" for label in labels] for score in ("dice", "hd95_mm", "nsd")}
    for key in (*chain.from_iterable(scores.values()), "small_lesions", "small_lesions_found"):
        if key not in means:
            raise ValueError(f"rows to summarise must have numbers in column {key!r}, got {sorted(means)}")
    recall = means["small_lesions_found"] / (means["small_lesions"] or math.nan)
    means |= {f"mean_{score}": _mean(means[key] for key in keys) for score, keys in scores.items()}
    return means | {"small_lesion_recall": recall, "cases": float(len(rows))}


def _mean(values: Iterable[Any]) -> float:
    return fmean(known) if (known := [value for value in values if not math.isnan(value)]) else math.nan


def markdown_table(rows: Sequence[Mapping[str, object]], columns: Mapping[str, tuple[str, str]]) -> str:
    """Write rows as an aligned Markdown table; NaN is shown as a dash.

    Args:
        rows: one row a line.
        columns: heading and format by key, such as ``{"mean_dice": ("Dice", ".3f")}``; a format sets flush right.

    Raises:
        ValueError: for a row that lacks one of the columns.
    """
    for number, row in enumerate(rows):
        if missing := [key for key in columns if key not in row]:
            raise ValueError(f"row {number} must have the columns {missing}, got {list(row)}")
    table = []
    for key, (heading, style) in columns.items():
        cells = [heading, *("\N{EN DASH}" if row[key] != row[key] else format(row[key], style) for row in rows)]
        width, align = max(3, *map(len, cells)), ">" if style else "<"
        cells.insert(1, "-" * (width - 1) + ("-:"[bool(style)]))
        table.append([f"{cell:{align}{width}}" for cell in cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in zip(*table, strict=True))


def plot_curves(curves: Mapping[str, Sequence[Mapping[str, Any]]], path: Path) -> None:
    """Draw training loss, distillation loss with its weight, and validation Dice, a line for each model.

    Args:
        curves: by model, the rows of its training log; where a row lacks a figure, the line goes straight on.
        path: picture to write.
    """
    figure = Figure(figsize=(12, 3.6), dpi=110, layout="constrained")
    loss, distillation, dice = figure.subplots(1, 3)
    weight = distillation.twinx()
    loss.set(title="Training loss, distillation included", xlabel="epoch")
    distillation.set(title="Distillation loss, its weight dotted", xlabel="epoch")
    dice.set(title="Validation: mean Dice", xlabel="iteration")
    for (model, rows), colour in zip(curves.items(), cycle(LINE_COLOURS), strict=False):
        loss.plot(*_points(rows, "epoch", "loss"), color=colour, label=model)
        distillation.plot(*_points(rows, "epoch", "distillation_loss"), color=colour)
        weight.plot(*_points(rows, "epoch", "distillation_weight"), ":", color=colour)
        dice.plot(*_points(rows, "iteration", "val_mean_dice"), "-o", color=colour, markersize=3)
    figure.legend(loc="outside upper center", ncols=len(curves), frameon=False)
    figure.savefig(path)


def _points(rows: Sequence[Mapping[str, Any]], x: str, y: str) -> tuple[list[float], list[float]]:
    known = [row for row in rows if isinstance(row.get(y), float | int)]
    return [row[x] for row in known], [row[y] for row in known]


@dataclass(frozen=True)
class CasePicture:
    """What :func:`plot_cases` shows of a case: arrays of equal shape ``(D, H, W)``, in the orientation RAS.

    Args:
        title: name of the case.
        sequences: images by name, 0 outside the head; the last one lies under the masks.
        masks: label maps by name, the truth first.
        captions: text under a sequence or mask, by its name, for example the Dice of a prediction.
    """

    title: str
    sequences: Mapping[str, NDArray[Any]]
    masks: Mapping[str, NDArray[Any]]
    captions: Mapping[str, str] = field(default_factory=dict)


def plot_cases(cases: Sequence[CasePicture], path: Path, labels: Mapping[str, int]) -> None:
    """Draw one axial slice of each case: its sequences, then its masks in colour on the last sequence.

    It is the slice with most voxels of the first mask that has any, anterior up, the patient's right on the left.

    Args:
        cases: what to show, all with the same sequences and masks.
        path: picture to write.
        labels: values of the masks by name, for legend and colours, which repeat after six; others have no colour.

    Raises:
        ValueError: for no cases, or cases with different sequences or masks.
    """
    columns = [[*case.sequences, *case.masks] for case in cases]
    if not cases or any(names != columns[0] for names in columns):
        raise ValueError(f"cases must be at least one, all with the same sequences and masks, got {columns}")
    shape, colours = (len(cases), len(columns[0])), dict(zip(labels.values(), cycle(LABEL_COLOURS), strict=False))
    figure = Figure((1.7 * shape[1], 2.15 * shape[0] + 0.4), 110, facecolor="black", layout="constrained")
    grid = figure.subplots(*shape, squeeze=False, subplot_kw={"xticks": [], "yticks": []})
    for case, row in zip(cases, grid, strict=True):
        _draw_case(case, row, colours)
    for axes, name in zip(grid[0], columns[0], strict=True):
        axes.set_title(name, color="white", fontsize=11)
    handles = [Patch(color=colours[value], label=name) for name, value in labels.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=6, frameon=False, labelcolor="white")
    figure.savefig(path)


def _draw_case(case: CasePicture, row: Sequence[Axes], colours: Mapping[int, str]) -> None:
    marked = next((mask for mask in case.masks.values() if mask.any()), next(iter(case.sequences.values())))
    level = np.count_nonzero(marked, axis=(0, 1)).argmax()
    head = np.nonzero(np.any([image != 0 for image in case.sequences.values()], axis=(0, 3)))
    box = tuple(slice(index.min(), index.max() + 1) for index in head)
    images = {name: array[box][::-1, ::-1, level].T for name, array in {**case.sequences, **case.masks}.items()}
    for axes, (name, image) in zip(row, images.items(), strict=True):
        grey = images[list(case.sequences)[-1]] if name in case.masks else image
        low, high = np.percentile(grey[grey != 0], (1, 99)) if grey.any() else (0, 1)
        axes.imshow(np.where(grey == 0, low, grey), cmap="gray", vmin=low, vmax=high, interpolation="bilinear")
        for value, colour in colours.items() if name in case.masks else ():
            axes.imshow((image == value)[..., None] * to_rgba(colour, 0.65), interpolation="nearest")
        axes.set_xlabel(case.captions.get(name, ""), color="white", fontsize=9)
    row[0].set_ylabel(case.title, color="white", fontsize=9)
