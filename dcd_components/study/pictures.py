"""The pictures of a report: differences, scores against size, and the course of the trainings."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter

from dcd_components.files import whole_file
from dcd_components.handlers.pictures import LINE_COLOURS
from dcd_components.study.plan import TEACHER
from dcd_components.study.results import Score
from dcd_components.study.sizes import BySize
from dcd_components.study.statistics import Comparison

Comparisons = Mapping[tuple[str, str], Comparison]
TEACHER_COLOUR, FIRST_COLOUR, OTHERS_COLOUR = "#000000", "#777777", "#c8c8c8"
BETTER, WORSE, UNSURE = "#0072b2", "#d55e00", "#888888"
#: Panels side by side.
COLUMNS = 4
#: Differences up to this are none.
ROUNDING = 1e-9


def draw_differences(
    methods: Sequence[str],
    scores: Sequence[Score],
    equal_iterations: Comparisons,
    equal_cost: Comparisons,
    baseline: str,
    telling: bool,
    path: Path,
) -> None:
    """Differences with their intervals, a panel a score: at equal iterations and, below it, at equal cost.

    Args:
        methods: names, from above.
        scores: what is shown, but for what is the same for all methods.
        equal_iterations: by method and column of the score.
        equal_cost: as far as there are any.
        baseline: what the methods are compared with.
        telling: whether the intervals can tell methods apart; if not, all are grey, with open markers.
        path: picture to write.
    """
    differ = {above for (_, above), one in equal_iterations.items() if max(abs(one.low), abs(one.high)) > ROUNDING}
    scores = [score for score in scores if score.above in differ] or scores
    figure, panels = _grid(len(scores), len(methods), 0.3 if equal_cost else 0.24)
    for axes, score in zip(panels, scores, strict=True):
        for place, method in enumerate(methods):
            kinds = [(equal_iterations, "o", 0.0)]
            if equal_cost:
                kinds = [(equal_iterations, "o", -0.17), (equal_cost, "D", 0.17)]
            for compared, marker, shift in kinds:
                if found := compared.get((method, score.above)):
                    _interval(axes, found, place + shift, marker, score.more if telling else None)
        axes.set_title(f"{score.title}\n({'more' if score.more else 'less'} is better)", fontsize=9)
    _name_rows(panels, methods)
    kinds_of = {"better": BETTER, "undecided": UNSURE, "worse": WORSE} if telling else {"of one seed": UNSURE}
    handles = {name: Line2D([], [], color=colour, linewidth=2.5) for name, colour in kinds_of.items()}
    if equal_cost:
        style: dict[str, Any] = {"color": "#444444", "markersize": 5, "linewidth": 0}
        face = "#444444" if telling else "white"
        handles[f"at equal iterations, to {baseline}"] = Line2D([], [], marker="o", markerfacecolor=face, **style)
        handles["at equal cost, to a plain training"] = Line2D([], [], marker="D", markerfacecolor="white", **style)
    _legend(figure, handles, "outside lower center")
    figure.suptitle("Difference, with its 95 % interval", fontsize=10)
    _save(figure, path)


def _interval(axes: Axes, found: Comparison, place: float, marker: str, more: bool | None) -> None:
    """Draw an interval, in the colour of the side of 0 that it lies on; None for one that says nothing about it."""
    ends = sorted((found.low, found.high) if more else (-found.low, -found.high))
    colour = BETTER if ends[0] > ROUNDING else WORSE if ends[1] < -ROUNDING else UNSURE
    colour = UNSURE if more is None else colour
    face = colour if marker == "o" and more is not None else "white"
    axes.plot([found.low, found.high], [place, place], color=colour, linewidth=1.8)
    axes.plot(found.difference, place, marker, color=colour, markerfacecolor=face, markersize=4.5)


def draw_sizes(scores: Sequence[BySize], lines: Sequence[str], baseline: str, path: Path) -> None:
    """Scores against size: above of some methods, below the differences of all to the baseline.

    Args:
        scores: by size.
        lines: methods that are shown above, with the teacher.
        baseline: the method that the others are compared with.
        path: picture to write.
    """
    methods = [one for one in scores[0].values if one not in (TEACHER, baseline)]
    heights = [3.2, *([1.1 + 0.24 * len(methods)] if methods else [])]
    figure = Figure((3.4 * len(scores) + 1.2, sum(heights) + 1.0), dpi=110, layout="constrained")
    grid = figure.subplots(len(heights), len(scores), squeeze=False, height_ratios=heights)
    colours = line_colours(lines, baseline)
    marks = {name: Line2D([], [], color=one, marker="o", markersize=4) for name, one in colours.items()}
    _legend(figure, marks, "outside upper center")
    for axes, score in zip(grid[0], scores, strict=True):
        _draw_by_size(axes, score, colours)
    if methods:
        for axes, score in zip(grid[1], scores, strict=True):
            _draw_size_differences(axes, score, methods, baseline)
        _name_rows(grid[1].tolist(), methods)
        for axes in grid[1, 1:]:
            axes.tick_params(labelleft=False)
        dots = [Line2D([], [], color=one, marker="o", linewidth=2) for one in _size_colours(len(scores[0].bins))]
        names = ("the smallest quarter", "the second", "the third", "the largest")
        _legend(figure, dict(zip(names, dots, strict=True)), "outside lower center")
    _save(figure, path)


def _draw_by_size(axes: Axes, score: BySize, colours: Mapping[str, str]) -> None:
    places = np.arange(len(score.bins))
    for method, colour in colours.items():
        values = score.values[method]
        axes.plot(places, values.mean(axis=0), "-o", color=colour, markersize=3.5, linewidth=1.4)
        axes.fill_between(places, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.12, linewidth=0)
    axes.set_title(score.title, fontsize=10)
    axes.set_xlabel(score.size, fontsize=9)
    axes.set_xticks(places, score.bins, fontsize=8)
    axes.tick_params(axis="y", labelsize=8)
    axes.grid(alpha=0.3)


def _draw_size_differences(axes: Axes, score: BySize, methods: Sequence[str], baseline: str) -> None:
    colours = _size_colours(len(score.bins))
    for place, method in enumerate(methods):
        found = score.values[method] - score.values[baseline]
        for number, colour in enumerate(colours):
            y = place + 0.6 * (number / max(len(colours) - 1, 1) - 0.5)
            of_bin = found[:, number]
            axes.plot([of_bin.min(), of_bin.max()], [y, y], color=colour, linewidth=1.4)
            axes.plot(of_bin.mean(), y, "o", color=colour, markersize=3.5)
    axes.set_title(f"{score.title}: difference to {baseline}", fontsize=9)


def _size_colours(number: int) -> list[Any]:
    return [colormaps["plasma"](0.05 + 0.8 * one / max(number - 1, 1)) for one in range(number)]


def draw_curves(
    courses: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]],
    costs: Mapping[str, Sequence[Sequence[float]]],
    lines: Sequence[str],
    baseline: str,
    path: Path,
) -> None:
    """Validation Dice against iterations and, where it was measured, against the cost of the training.

    Args:
        courses: rows of the epochs, by method and seed.
        costs: what was spent up to the end of each epoch, in trainings of the baseline, by method and seed.
        lines: methods that have a colour.
        baseline: the method that the others are compared with.
        path: picture to write.
    """
    figure = Figure(figsize=(6.5 + 5.5 * bool(costs), 4.8), dpi=110, layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, 1 + bool(costs), sharey=True)).tolist()
    colours = line_colours(lines, baseline)
    order = [*(one for one in courses if one not in colours), *(one for one in colours if one in courses)]
    ends = []
    for method in order:
        colour, emphasised = colours.get(method, OTHERS_COLOUR), method in colours
        x = [[row["iteration"] for row in course] for course in courses[method]]
        ends.append(_draw_curve(panels[0], courses[method], x, colour, emphasised))
        if method in costs:
            _draw_curve(panels[1], courses[method], costs[method], colour, emphasised)
    panels[0].set(title="At equal iterations", xlabel="iteration", ylabel="mean Dice of the validation")
    if costs:
        panels[1].set(title="At equal cost", xlabel=f"cost, in trainings of {baseline}")
    for axes in panels:
        axes.set_ylim(bottom=max(min(ends) - 1.5 * (max(ends) - min(ends)) - 0.05, 0.0))  # where the curves part
        axes.grid(alpha=0.3)
    names = {**colours, **({"others": OTHERS_COLOUR} if len(courses) > len(colours) else {})}
    _legend(
        figure, {name: Line2D([], [], color=one, linewidth=2) for name, one in names.items()}, "outside upper center"
    )
    _save(figure, path)


def _draw_curve(
    axes: Axes,
    courses: Sequence[Sequence[Mapping[str, Any]]],
    x: Sequence[Sequence[float]],
    colour: str,
    emphasised: bool,
) -> float:
    """Draw the mean over seeds and between which values they lie, and return where it ends."""
    found: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for course, places in zip(courses, x, strict=True):
        for number, (row, place) in enumerate(zip(course, places, strict=True)):
            if row.get("val_mean_dice") is not None:
                found[number].append((place, row["val_mean_dice"]))
    places = [fmean(place for place, _ in found[one]) for one in sorted(found)]
    dice = [[value for _, value in found[one]] for one in sorted(found)]
    means = [fmean(one) for one in dice]
    axes.plot(places, means, color=colour, linewidth=1.6 if emphasised else 0.8)
    if emphasised:
        axes.fill_between(places, [*map(min, dice)], [*map(max, dice)], color=colour, alpha=0.12, linewidth=0)
    return max(means, default=0.0)


def draw_budgets(networks: Sequence[Mapping[str, Any]], costs: Mapping[str, str], score: str, path: Path) -> None:
    """A score of networks against what they cost, a panel a cost.

    Args:
        networks: each with its name as ``network``, its score as ``dice``, and its costs.
        costs: keys and titles of the costs that are shown.
        score: its title.
        path: picture to write.
    """
    figure = Figure((3.4 * len(costs) + 0.8, 4.4), dpi=110, layout="constrained")
    panels = figure.subplots(1, len(costs), sharey=True, squeeze=False)[0].tolist()
    colours = line_colours([one["network"] for one in networks[1:]], networks[1]["network"])
    for axes, (key, title) in zip(panels, costs.items(), strict=True):
        for one in networks:
            axes.plot(one[key], one["dice"], "o", color=colours[one["network"]], markersize=7)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))  # also where the costs span less than a decade
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel(title, fontsize=9)
        axes.tick_params(labelsize=8, which="both")
        axes.grid(alpha=0.3, which="both")
    panels[0].set_ylabel(score)
    dots = {name: Line2D([], [], color=one, marker="o", linewidth=0) for name, one in colours.items()}
    _legend(figure, dots, "outside upper center")
    _save(figure, path)


def line_colours(lines: Sequence[str], baseline: str) -> dict[str, str]:
    """Colours of the lines: black for the teacher, grey for the baseline, others for the others."""
    others = [one for one in lines if one not in (TEACHER, baseline)]
    return {TEACHER: TEACHER_COLOUR, baseline: FIRST_COLOUR, **dict(zip(others, cycle(LINE_COLOURS), strict=False))}


def _grid(panels: int, rows: int, height: float) -> tuple[Figure, list[Axes]]:
    """Panels in lines of a few, each with a row for each method."""
    lines = -(-panels // COLUMNS)
    across = -(-panels // lines)
    size = (2.9 * across + 1.6, lines * (height * rows + 1.0) + 0.8)
    figure = Figure(size, dpi=110, layout="constrained")
    grid = figure.subplots(lines, across, squeeze=False, sharey=True)
    for axes in grid.ravel()[panels:]:
        axes.set_axis_off()
    return figure, grid.ravel()[:panels].tolist()


def _name_rows(panels: Sequence[Axes], methods: Sequence[str]) -> None:
    """Names of the methods from above, lines between them, and one at no difference."""
    for axes in panels:
        axes.axvline(0, color="#444", linewidth=1)
        axes.set_yticks(range(len(methods)), methods)
        axes.set_ylim(len(methods) - 0.5, -0.5)
        for place in range(1, len(methods)):
            axes.axhline(place - 0.5, color="#eeeeee", linewidth=0.8)
        axes.locator_params(axis="x", nbins=5)
        axes.tick_params(labelsize=8)
        axes.tick_params(axis="y", length=0)


def _legend(
    figure: Figure, handles: Mapping[str, Line2D], loc: Literal["outside upper center", "outside lower center"]
) -> None:
    """A legend above or below, in as many columns as there is room for."""
    sizes = [len(name) + 7 for name in handles]
    room = figure.get_figwidth() * 13  # characters of the legend's size
    columns = len(sizes) if sum(sizes) <= room else max(int(room / max(sizes)), 1)
    figure.legend([*handles.values()], [*handles], loc=loc, ncols=columns, frameon=False, fontsize=9)


def _save(figure: Figure, path: Path) -> None:
    with whole_file(path) as partial:
        figure.savefig(partial)
