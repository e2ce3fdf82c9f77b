"""Pictures of what was scored: learning curves and cases."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from dcd_components.errors import InputError

LINE_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
LABEL_COLOURS = ("#ff4538", "#2fd67a", "#ffc72e", "#339fff", "#d77bff", "#ff8c42")


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
    """What :func:`case_figure` shows of a case: arrays of equal shape ``(D, H, W)``, in the orientation RAS.

    Args:
        title: name of the case.
        sequences: images by name, 0 outside the head; the last one lies under the masks.
        masks: label maps by name, the truth first.
        captions: text under a sequence or mask, by its name, for example the Dice of a prediction.
        level: axial slice that is shown; by default that with most voxels of the first mask that has any.
    """

    title: str
    sequences: Mapping[str, NDArray[Any]]
    masks: Mapping[str, NDArray[Any]]
    captions: Mapping[str, str] = field(default_factory=dict)
    level: int | None = None


def case_figure(cases: Sequence[CasePicture], labels: Mapping[str, int]) -> Figure:
    """Draw one axial slice of each case: its sequences, then its masks in colour on the last sequence.

    Anterior is up, the patient's right on the left.

    Args:
        cases: what to show, all with the same sequences and masks.
        labels: values of the masks by name, for legend and colours, which repeat after six; others have no colour.

    Raises:
        InputError: for no cases, or cases with different sequences or masks.
    """
    columns = [[*case.sequences, *case.masks] for case in cases]
    if not cases or any(names != columns[0] for names in columns):
        raise InputError(f"cases must be at least one, all with the same sequences and masks, got {columns}")
    shape, colours = (len(cases), len(columns[0])), dict(zip(labels.values(), cycle(LABEL_COLOURS), strict=False))
    figure = Figure((1.7 * shape[1], 2.15 * shape[0] + 0.4), 110, facecolor="black", layout="constrained")
    grid = figure.subplots(*shape, squeeze=False, subplot_kw={"xticks": [], "yticks": []})
    for case, row in zip(cases, grid, strict=True):
        _draw_case(case, row, colours)
    for axes, name in zip(grid[0], columns[0], strict=True):
        axes.set_title(name, color="white", fontsize=11)
    handles = [Patch(color=colours[value], label=name) for name, value in labels.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=6, frameon=False, labelcolor="white")
    return figure


def _draw_case(case: CasePicture, row: Sequence[Axes], colours: Mapping[int, str]) -> None:
    marked = next((mask for mask in case.masks.values() if mask.any()), next(iter(case.sequences.values())))
    level = np.count_nonzero(marked, axis=(0, 1)).argmax() if case.level is None else case.level
    head = np.nonzero(np.any([image != 0 for image in case.sequences.values()], axis=(0, 3)))
    box = tuple(slice(index.min(), index.max() + 1) if len(index) else slice(None) for index in head)
    images = {name: array[box][::-1, ::-1, level].T for name, array in {**case.sequences, **case.masks}.items()}
    for axes, (name, image) in zip(row, images.items(), strict=True):
        grey = images[list(case.sequences)[-1]] if name in case.masks else image
        low, high = np.percentile(grey[grey != 0], (1, 99)) if grey.any() else (0, 1)
        axes.imshow(np.where(grey == 0, low, grey), cmap="gray", vmin=low, vmax=high, interpolation="bilinear")
        for value, colour in colours.items() if name in case.masks else ():
            axes.imshow((image == value)[..., None] * to_rgba(colour, 0.65), interpolation="nearest")
        axes.set_xlabel(case.captions.get(name, ""), color="white", fontsize=9)
    row[0].set_ylabel(case.title, color="white", fontsize=9)
