"""Scores against size: of the labels' volumes in quarters, and of lesions in the bins that they are counted in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcd_components.metrics.lesions import size_bins
from dcd_components.study.results import Results

Array = NDArray[np.float64]
#: Scores of labels that are shown against their volume.
SHOWN = ("dice_{}", "nsd_0.5mm_{}", "nsd_1mm_{}")


@dataclass(frozen=True)
class BySize:
    """A score by size.

    Args:
        title: of the score.
        size: what the bins are of.
        bins: what each bin holds, the smallest first.
        values: by method, ``(seeds, bins)``.
    """

    title: str
    size: str
    bins: Sequence[str]
    values: Mapping[str, Array]


def by_size(results: Results) -> list[BySize]:
    """Dice, NSD and recall by size, as far as there is something to show."""
    return [*_by_volume(results), *_recalls(results)]


def _by_volume(results: Results) -> list[BySize]:
    """Scores of the labels of all cases, in quarters by the label's volume; NaN where a quarter is empty."""
    volumes = _column(results.cases, [f"volume_ml_{label}" for label in results.drawn])
    limits = np.quantile(volumes[volumes > 0], (0.25, 0.5, 0.75))
    texts = [f"{one:.3g}" for one in limits]
    names = [f"below {texts[0]}", f"{texts[0]} to {texts[1]}", f"{texts[1]} to {texts[2]}", f"above {texts[2]}"]
    found = []
    for score in results.different():
        if score.above in SHOWN:
            columns = [score.above.format(label) for label in results.drawn]
            values = {method: _quarters(rows, results, columns, limits) for method, rows in results.rows.items()}
            found.append(BySize(score.title, "volume of the label, ml", names, values))
    return found


def _quarters(rows: Sequence[Mapping[str, Any]], results: Results, columns: Sequence[str], limits: Array) -> Array:
    means = []
    for seed in sorted({row["seed"] for row in rows}):
        of_seed = [row for row in rows if row["seed"] == seed]
        volumes = _column(of_seed, [f"volume_ml_{label}" for label in results.drawn])
        scores, quarters = _column(of_seed, columns), np.searchsorted(limits, volumes)
        inside = [scores[(quarters == quarter) & (volumes > 0)] for quarter in range(len(limits) + 1)]
        means.append([one.mean() if len(one) else np.nan for one in inside])
    return np.array(means)


def _recalls(results: Results) -> list[BySize]:
    """Recall by lesion size, unless all lesions are of one bin, or all methods find as many of each."""
    one_seed = [row for row in results.cases if row["seed"] == results.cases[0]["seed"]]
    numbers = {name: int(_column(one_seed, [f"lesions_{name}"]).sum()) for name in size_bins()}
    present = [name for name, number in numbers.items() if number]
    values = {method: _recall(rows, present) for method, rows in results.rows.items()}
    if not results.lesions or len(present) < 2 or len({tuple(one.mean(axis=0)) for one in values.values()}) == 1:
        return []
    texts = {name: f"to {high:g}" if high < np.inf else f"above {low:g}" for name, (low, high) in size_bins().items()}
    bins = [f"{texts[name]}\n({numbers[name]})" for name in present]
    return [BySize("Recall of lesions", "volume of the lesion, mm3 (number of lesions)", bins, values)]


def _recall(rows: Sequence[Mapping[str, Any]], bins: Sequence[str]) -> Array:
    recalls = []
    for seed in sorted({row["seed"] for row in rows}):
        of_seed = [row for row in rows if row["seed"] == seed]
        found, all_of_them = (
            _column(of_seed, [f"{kind}_{name}" for name in bins]).sum(axis=0) for kind in ("tp_lesions", "lesions")
        )
        recalls.append(found / all_of_them)
    return np.array(recalls)


def _column(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Array:
    """Figures of rows, ``(rows, names)``; NaN for what is not defined, 0 for a column that is not there."""
    return np.array([[np.nan if row.get(name, 0.0) is None else row.get(name, 0.0) for name in names] for row in rows])
