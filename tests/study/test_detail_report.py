"""What a report shows of the detail that students have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread

from dcd_components.study.detail_report import MOST, NO_DETAIL, detail_parts
from dcd_components.study.page import Picture, Table

COLOURS = {"teacher": "#000000", "plain": "#777777", "dcd": "#0072b2"}


def record(share: float) -> dict[str, Any]:
    energy = {"aaa": [0.6], "directional": [0.1, 0.2], "ddd": [0.05, 0.05]}
    of_stage = {
        "explained": {"aaa": [0.9], "directional": [share - 0.1, share + 0.1], "ddd": [0.0, -0.1]},
        "most": {"aaa": 0.95, "directional": 0.8, "ddd": 0.8},
        "energy": {"student": energy, "teacher": energy},
    }
    return {"seed": 0, "detail": {"input_block": of_stage, "bottleneck": of_stage}}


def test_the_table_has_the_mean_over_levels_and_its_spread_over_seeds(tmp_path: Path) -> None:
    records: dict[str, Any] = {"teacher": [{}, {}], "plain": [record(0.4), record(0.5)], "dcd": [record(0.7), {}]}
    table, picture = detail_parts({**records, "cwd": [{}]}, COLOURS, tmp_path / "detail.png")
    assert isinstance(table, Table)
    assert isinstance(picture, Picture)
    assert [[*row.values()] for row in table.rows] == [
        ["plain", *["0.450 +- 0.071"] * 2],
        ["dcd", *["0.700"] * 2],
        [MOST, *["0.800 +- 0.000"] * 2],
    ]
    assert [heading for heading, _ in table.columns.values()] == ["Method", "input_block", "bottleneck"]


def test_the_picture_shows_each_method_in_its_colour(tmp_path: Path) -> None:
    records = {"plain": [record(0.4)], "dcd": [record(0.7)], "cwd": [record(0.5)]}
    pictures = []
    for colour in ("#0072b2", "#ff0000"):
        detail_parts(records, {**COLOURS, "dcd": colour}, tmp_path / "detail.png")
        pictures.append(imread(tmp_path / "detail.png")[..., :3])
    red = np.abs(pictures[1] - [1, 0, 0]).max(axis=-1) < 0.01
    assert red.sum() > 100
    assert not (np.abs(pictures[0] - [1, 0, 0]).max(axis=-1) < 0.01).any()


@pytest.mark.parametrize("records", [{}, {"teacher": [{}], "plain": [{"seed": 0}]}])
def test_what_was_not_measured_is_said_and_not_drawn(records: dict[str, Any], tmp_path: Path) -> None:
    assert detail_parts(records, COLOURS, tmp_path / "detail.png") == [NO_DETAIL]
    assert not (tmp_path / "detail.png").exists()
