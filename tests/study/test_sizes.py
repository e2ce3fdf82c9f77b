"""Scores by size, from rows with known answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dcd_components.metrics.lesions import size_bins
from dcd_components.study.results import Results
from dcd_components.study.sizes import by_size

BINS = [*size_bins()]


def rows(method: str, gain: float, lesions: dict[str, tuple[float, float]], seeds: int = 2) -> list[dict[str, Any]]:
    """Eight labels of 1 to 8 ml in four cases, and one that is absent; Dice is a tenth of the volume and the seed."""
    found = []
    for seed in range(seeds):
        for case in range(4):
            row: dict[str, Any] = {"method": method, "seed": float(seed), "patient": f"p{case}", "case": f"c{case}"}
            for label, volume in (("A", 2.0 * case + 1), ("B", 2.0 * case + 2), ("C", 0.0)):
                dice = volume / 10 + gain + seed * 0.01 if volume else 0.0
                row |= {f"volume_ml_{label}": volume, f"dice_{label}": dice, f"nsd_1mm_{label}": dice / 2}
            for name in BINS:
                number, hits = lesions.get(name, (0.0, 0.0))
                row |= {f"lesions_{name}": number, f"tp_lesions_{name}": hits}
            found.append(row)
    return found


def results(**of_method: list[dict[str, Any]]) -> Results:
    return Results(of_method, {}, ["A", "B", "C"])


def test_dice_and_nsd_are_means_over_the_quarters_of_all_labels_by_volume() -> None:
    dice, nsd = by_size(results(teacher=rows("teacher", 0.1, {}), plain=rows("plain", 0.0, {})))
    assert (dice.title, nsd.title) == ("Dice", "NSD 1 mm")
    assert dice.values["plain"] == pytest.approx(np.array([[0.15, 0.35, 0.55, 0.75], [0.16, 0.36, 0.56, 0.76]]))
    assert dice.values["teacher"] - dice.values["plain"] == pytest.approx(0.1)
    assert nsd.values["plain"] == pytest.approx(dice.values["plain"] / 2)
    assert dice.bins == ["below 2.75", "2.75 to 4.5", "4.5 to 6.25", "above 6.25"]


def test_recall_is_that_of_all_lesions_of_a_bin_together() -> None:
    lesions = {"0_100mm3": (4.0, 1.0), "over_10000mm3": (2.0, 2.0)}
    better = {**lesions, "0_100mm3": (4.0, 2.0)}
    *_, recall = by_size(results(teacher=rows("teacher", 0, better), plain=rows("plain", 0, lesions)))
    assert recall.title == "Recall of lesions"
    assert recall.bins == ["to 100\n(16)", "above 10000\n(8)"]
    assert recall.values["plain"] == pytest.approx(np.array([[0.25, 1.0]] * 2))


@pytest.mark.parametrize(
    "lesions", [{}, {"2000_10000mm3": (1.0, 0.0)}, {"500_2000mm3": (1.0, 0.0), "2000_10000mm3": (1.0, 1.0)}]
)
def test_recall_is_left_out_where_it_shows_nothing(lesions: dict[str, tuple[float, float]]) -> None:
    """No lesions, all in one bin, or the same found by all."""
    found = by_size(results(teacher=rows("teacher", 0, lesions), plain=rows("plain", 0, lesions)))
    assert [one.title for one in found] == ["Dice", "NSD 1 mm"]


def test_recall_of_a_single_bin_is_left_out() -> None:
    """Which the table has already."""
    all_found, none_found = (rows("one", 0, {"2000_10000mm3": (1.0, found)}) for found in (1.0, 0.0))
    assert len(by_size(results(teacher=all_found, plain=none_found))) == 2


def test_labels_that_no_method_was_asked_for_count_nowhere() -> None:
    """A false voxel of a label that a case lacks scores 0, which says nothing about the size of labels."""
    invented = rows("plain", 0.0, {})
    for row in invented:
        if row["case"] == "c0":
            row |= {"volume_ml_A": 0.0, "dice_A": 0.0}
    dice = by_size(results(teacher=invented, plain=invented))[0]
    assert dice.values["plain"][0, 0] == pytest.approx(0.25)  # of 2 and 3 ml
