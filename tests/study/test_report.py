"""The report of a study, from files as its runs leave them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from matplotlib.image import imread
from tiny import BRATS

from dcd_components import cli
from dcd_components.errors import InputError
from dcd_components.tables import read_csv, write_csv

LABELS = ("NETC", "SNFH", "ET", "RC")
GAINS = {"teacher": 0.2, "plain": 0.0, "dcd": 0.1, "cwd": -0.02}


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Three seeds of three methods, and a fourth that is not complete."""
    methods: dict[str, Any] = {"plain": {"workflow": "student"}, "dcd": None, "cwd": {"settings": {"levels": 1}}}
    content = {"bundle": str(BRATS), "seeds": [0, 1, 2, 3], "methods": methods}
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    for seed in range(4):
        for method, gain in GAINS.items():
            if (method, seed) != ("cwd", 3):
                write_run(tmp_path / "small", method, seed, gain)
    return tmp_path / "small.yaml"


def write_run(folder: Path, method: str, seed: int, gain: float) -> None:
    generator = np.random.default_rng(seed)  # the same for all methods
    rows = []
    for case in range(12):
        dice = {f"dice_{label}": generator.uniform(0.4, 0.6) + gain for label in LABELS}
        hd95 = {f"hd95_mm_{label}": generator.uniform(5, 9) - 10 * gain for label in LABELS}
        found = {"lesions": 3.0, "tp_lesions": 2.0 + (gain > 0), "lesions_0_100mm3": 0.0, "tp_lesions_0_100mm3": 0.0}
        rows.append(
            {"method": method, "seed": seed, "patient": f"p{case}", "case": f"c{case}", **dice, **hd95, **found}
        )
    write_csv(rows, folder / f"{method}-{seed}.csv")
    course = [{"epoch": n, "iteration": 50 * n, "seconds": 60.0 * n, "val_mean_dice": 0.1 * n} for n in (1, 2)]
    record = {"settings": {}, "parameters": 0.1, "gmac": 1.0, "threads": 1, "machine": "two cores", "commit": "abc"}
    (folder / f"{method}-{seed}.json").write_text(json.dumps({**record, "course": course}))


def test_the_table_has_scores_differences_and_the_share_of_the_gap(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.main(["report", str(study), "--out", str(tmp_path / "out")])
    said = capsys.readouterr().out
    assert said.strip() == (tmp_path / "out" / "table.md").read_text().strip()
    lines = {
        line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]] for line in said.splitlines()[:6]
    }
    assert list(lines)[2:] == ["teacher", "plain", "dcd", "cwd"]
    dice, difference, gap, better = lines["dcd"][:4]
    assert re.fullmatch(r"0\.6\d\d \+- 0\.0\d\d", dice)
    assert (difference, gap, better) == ("+0.100 [+0.100, +0.100]", "+0.50 [+0.50, +0.50]", "3 of 3")
    assert lines["cwd"][3] == "0 of 3"
    assert lines["plain"][1] == ""
    assert "12 patients" in said
    assert "3 seeds" in said
    assert "Commits abc; two cores; threads a run: [1]." in said
    assert "below 100 mm3" not in said  # of which there are none
    rows = read_csv(tmp_path / "out" / "table.csv", ("method", "score"))
    (recall,) = [row for row in rows if (row["method"], row["score"]) == ("dcd", "Recall, all lesions")]
    assert (recall["mean"], recall["difference"], recall["seeds"]) == pytest.approx((1.0, 1 / 3, 3))


def test_pictures_and_a_page(study: Path, tmp_path: Path) -> None:
    cli.main(["report", str(study), "--out", str(tmp_path / "out")])
    page = (tmp_path / "out" / "index.html").read_text()
    for name in re.findall(r'src="(.*?)"', page):
        assert imread(tmp_path / "out" / name).std() > 0.01
    assert page.count("<table>") == 2
    assert "+0.100 [+0.100, +0.100]" in page


def test_without_a_whole_seed_there_is_no_report(study: Path, tmp_path: Path) -> None:
    for path in (tmp_path / "small").glob("teacher-*.json"):
        path.unlink()
    with pytest.raises(
        InputError, match=r"no seed of .*small.yaml has all of its runs in .*small: run the study first"
    ):
        cli.main(["report", str(study), "--out", str(tmp_path / "out")])
