"""What a report shows of the detail that students have of their teachers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from dcd_components.files import whole_file
from dcd_components.study.page import Picture, Table
from dcd_components.study.pictures import OTHERS_COLOUR
from dcd_components.study.plan import TEACHER

Record = Mapping[str, Any]
MOST = "at most, with as many channels"
NO_DETAIL = "It was not measured: dcd study does it, where the weights of the runs still are in its folder WORK."
TABLE = """\
Share of the energy of the teacher's directional sub-bands that the best linear map of the student's channels gives, by
stage of the encoder: the mean over levels and seeds, +- its standard deviation over seeds. The map is fitted on other
patients than it is tested on. The last row is the share in as many principal components of the teacher's channels. What
it says is how much of the teacher's detail can be read from the student's features, not how good they are.\
"""
PICTURE = """\
On the left what the table says: the line is the mean over seeds, the bar their range, and dashed what as many channels
could have at most. In the middle the same of the approximation, less the mean of each channel. On the right, what share
of a network's own energy its directional sub-bands have.\
"""


def detail_parts(
    records: Mapping[str, Sequence[Record]], colours: Mapping[str, str], path: Path
) -> list[str | Table | Picture]:
    """A table and a picture of the detail, or the sentence that it was not measured.

    Args:
        records: of the runs, by method; those of older runs without ``detail`` are left out.
        colours: of methods and of the teacher; other methods are grey.
        path: picture to write.
    """
    details = {
        name: [record["detail"] for record in several if "detail" in record] for name, several in records.items()
    }
    details = {name: several for name, several in details.items() if several}
    if not details:
        return [NO_DETAIL]
    _draw(details, colours, path)
    return [Table(*_rows(details), " ".join(TABLE.split())), Picture(path.name, " ".join(PICTURE.split()))]


def _values(details: Sequence[Record], value: Callable[[Record], float]) -> NDArray[np.float64]:
    """One figure by seed and stage."""
    return np.array([[value(of_stage) for of_stage in detail.values()] for detail in details])


def _explained(group: str) -> Callable[[Record], float]:
    return lambda of_stage: float(np.mean(of_stage["explained"][group]))


def _most(group: str) -> Callable[[Record], float]:
    return lambda of_stage: float(of_stage["most"][group])


def _own(network: str) -> Callable[[Record], float]:
    return lambda of_stage: float(sum(of_stage["energy"][network]["directional"]))


def _rows(details: Mapping[str, Sequence[Record]]) -> tuple[list[dict[str, str]], dict[str, tuple[str, str]]]:
    stages = [*next(iter(details.values()))[0]]
    shown = {name: _values(several, _explained("directional")) for name, several in details.items()}
    shown[MOST] = _values(next(iter(details.values())), _most("directional"))
    rows = [
        {"method": name, **{stage: _with_spread(values[:, number]) for number, stage in enumerate(stages)}}
        for name, values in shown.items()
    ]
    return rows, {"method": ("Method", ""), **{stage: (stage, "s") for stage in stages}}


def _with_spread(values: NDArray[np.float64]) -> str:
    return f"{values.mean():.3f}" + (f" +- {values.std(ddof=1):.3f}" if len(values) > 1 else "")


def _draw(details: Mapping[str, Sequence[Record]], colours: Mapping[str, str], path: Path) -> None:
    figure = Figure(figsize=(12.5, 4.6), dpi=110, layout="constrained")
    panels = figure.subplots(1, 3)
    first = next(iter(details.values()))
    groups = {"directional": "directional detail", "aaa": "approximation"}
    for axes, (group, title) in zip(panels[:2], groups.items(), strict=True):
        shown = {name: _values(several, _explained(group)) for name, several in details.items()}
        _draw_lines(axes, shown, colours)
        axes.plot(_values(first, _most(group)).mean(axis=0), "--", color="#444444", linewidth=1)
        axes.set_title(f"The teacher's {title}: share explained", fontsize=10)
    panels[0].sharey(panels[1])
    panels[0].set_ylim(top=1)
    own = {name: _values(several, _own("student")) for name, several in details.items()}
    _draw_lines(panels[2], {**own, TEACHER: _values(first, _own("teacher"))}, colours)
    panels[2].set_title("Directional detail: share of own energy", fontsize=10)
    for axes in panels:
        axes.set_xticks(range(len(first[0])), [*first[0]], fontsize=8)
        axes.grid(alpha=0.3)
    names = {name: colours[name] for name in (TEACHER, *details) if name in colours}
    names |= {"others": OTHERS_COLOUR} if details.keys() - colours.keys() else {}
    handles = [Line2D([], [], color=colour, linewidth=2) for colour in names.values()]
    dashed = Line2D([], [], color="#444444", linestyle="--", linewidth=1)
    figure.legend([*handles, dashed], [*names, MOST], loc="outside upper center", ncols=9, frameon=False, fontsize=9)
    with whole_file(path) as partial:
        figure.savefig(partial)


def _draw_lines(axes: Axes, shown: Mapping[str, NDArray[np.float64]], colours: Mapping[str, str]) -> None:
    """A line a method over the stages, each a little aside of the others, the grey ones below."""
    for number, (name, values) in enumerate(sorted(shown.items(), key=lambda item: item[0] in colours)):
        x = np.arange(values.shape[1]) + 0.24 * (number / max(len(shown) - 1, 1) - 0.5)
        mean, colour = values.mean(axis=0), colours.get(name, OTHERS_COLOUR)
        spread = [mean - values.min(axis=0), values.max(axis=0) - mean]
        axes.errorbar(x, mean, spread, color=colour, marker="o", markersize=3.5, linewidth=1.4)
