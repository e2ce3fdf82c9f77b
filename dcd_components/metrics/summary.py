"""Means of per-case scores."""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from statistics import fmean
from typing import Any

from dcd_components.errors import InputError


def summarise(rows: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> dict[str, float]:
    """Average per-case scores, as :func:`dcd_components.metrics.case_scores.case_scores` gives them, over the cases.

    NaN, the score of a region absent from a case and the F1 of no lesions, is left out; a mean of nothing is NaN.

    Args:
        rows: one row a case; columns of text are left out.
        labels: regions that enter the means over labels.

    Returns:
        The mean of each column; ``mean_dice``, ``mean_hd95_mm`` and ``mean_nsd`` over ``labels``;
        ``small_lesion_recall``, the share of the small lesions of all cases together that was found; the number of
        ``cases``.

    Raises:
        InputError: for no rows, or rows without the scores of one of the labels or the counts of small lesions.
    """
    if not rows:
        raise InputError("rows to summarise must not be empty")
    columns = {key: [row.get(key) for row in rows] for key in rows[0]}
    means = {key: _mean(col) for key, col in columns.items() if all(isinstance(x, float | int) for x in col)}
    scores = {score: [f"{score}_{label}" for label in labels] for score in ("dice", "hd95_mm", "nsd")}
    for key in (*chain.from_iterable(scores.values()), "small_lesions", "tp_small_lesions"):
        if key not in means:
            raise InputError(f"rows to summarise must have numbers in column {key!r}, got {sorted(means)}")
    recall = means["tp_small_lesions"] / (means["small_lesions"] or math.nan)
    means |= {f"mean_{score}": _mean(means[key] for key in keys) for score, keys in scores.items()}
    return means | {"small_lesion_recall": recall, "cases": float(len(rows))}


def _mean(values: Iterable[Any]) -> float:
    return fmean(known) if (known := [value for value in values if not math.isnan(value)]) else math.nan
