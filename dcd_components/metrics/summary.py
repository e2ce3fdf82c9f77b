"""Means of per-case scores."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from dcd_components.errors import InputError
from dcd_components.metrics.lesions import size_bins

__all__ = ["fill_absent", "region_score_names", "summarise"]

#: Scores of a region, each with the score of a region that is in neither mask by the rule of BraTS and ISLES.
REGION_SCORES = {
    **{"dice": 1.0, "hd95_mm": 0.0, r"nsd_[\d.e+-]+mm": 1.0, "boundary_dice": 1.0},
    **{"lesionwise_dice": 1.0, "lesionwise_hd95_mm": 0.0, "lesionwise_f1": 1.0},
}
#: Counts of lesions: the share of them that was found, by its name in the summary.
RECALLS = {"lesion_recall": "lesions", "small_lesion_recall": "small_lesions"} | {
    f"recall_{name}": f"lesions_{name}" for name in size_bins()
}


def summarise(rows: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> dict[str, float]:
    """Average per-case scores, as :func:`dcd_components.metrics.case_scores.case_scores` gives them, over the cases.

    NaN, the score of a region absent from a case and the F1 of no lesions, is left out; a mean of nothing is NaN.

    Args:
        rows: one row a case; columns of text are left out.
        labels: regions that enter the means over labels.

    Returns:
        The mean of each column; ``mean_dice``, ``mean_hd95_mm``, ``mean_nsd_1mm`` and so on over ``labels``;
        ``lesion_recall``, ``small_lesion_recall``, ``recall_0_100mm3`` and so on, the share that was found of the
        lesions of all cases together, of all sizes or of some; the number of ``cases``.

    Raises:
        InputError: for no rows, or rows without the scores of one of the labels or the counts of lesions.
    """
    if not rows:
        raise InputError("rows to summarise must not be empty")
    columns = {key: [row.get(key) for row in rows] for key in rows[0]}
    means = {key: _mean(col) for key, col in columns.items() if all(isinstance(x, float | int) for x in col)}
    names = region_score_names(means)
    counts = (f"{tp}{count}" for count in RECALLS.values() for tp in ("", "tp_"))
    for key in (*(f"{name}_{label}" for name in names for label in labels), *counts):
        if key not in means:
            raise InputError(f"rows to summarise must have numbers in column {key!r}, got {sorted(means)}")
    recalls = {name: means[f"tp_{count}"] / (means[count] or math.nan) for name, count in RECALLS.items()}
    over_labels = {f"mean_{name}": _mean(means[f"{name}_{label}"] for label in labels) for name in names}
    return means | over_labels | recalls | {"cases": float(len(rows))}


def region_score_names(columns: Iterable[str]) -> list[str]:
    """Names of the scores of regions, such as ``nsd_1mm``, among the columns of per-case scores, in their order."""
    found = (re.match(rf"({'|'.join(REGION_SCORES)})_", column) for column in columns)
    return list(dict.fromkeys(["dice", "hd95_mm", *(match[1] for match in found if match)]))


def fill_absent(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Per-case scores by the rule of BraTS 2024 and ISLES 2022 for what neither mask has.

    Where a region or a lesion is in neither mask, they have the best score, and not NaN: 1 for Dice, NSD and F1, and 0
    for HD95. So their means include such cases.
    """
    best = {"lesion_f1$": 1.0, **{f"{name}_": score for name, score in REGION_SCORES.items()}}

    def filled(column: str, value: Any) -> Any:
        absent = isinstance(value, float) and math.isnan(value)
        return next((score for name, score in best.items() if absent and re.match(name, column)), value)

    return [{column: filled(column, value) for column, value in row.items()} for row in rows]


def _mean(values: Iterable[Any]) -> float:
    return fmean(known) if (known := [value for value in values if not math.isnan(value)]) else math.nan
