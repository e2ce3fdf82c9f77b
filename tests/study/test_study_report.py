"""The report of a study, from files as its runs leave them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from matplotlib.image import imread
from tiny import BRATS

from dcd_components import cli
from dcd_components.errors import InputError
from dcd_components.study.plan import read_study
from dcd_components.study.records import settings_of
from dcd_components.tables import read_csv, write_csv

LABELS = ("NETC", "SNFH", "ET", "RC")
GAINS = {"teacher": 0.2, "plain": 0.0, "dcd": 0.1, "cwd": -0.02}


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Three seeds of three methods, and a fourth that is not complete."""
    methods: dict[str, Any] = {"plain": {"workflow": "student"}, "dcd": None, "cwd": {"settings": {"levels": 1}}}
    content = {"bundle": str(BRATS), "seeds": [0, 1, 2, 3], "methods": methods}
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    said = read_study(tmp_path / "small.yaml")
    for run in said.runs:
        if run.name != "cwd-3":
            write_run(tmp_path / "small", run.method, run.seed, settings_of(said, run))
    return tmp_path / "small.yaml"


def write_run(folder: Path, method: str, seed: int, said: Mapping[str, Any]) -> None:
    gain = GAINS[method]
    generator = np.random.default_rng(seed)  # the same for all methods
    rows = []
    for case in range(12):
        volumes = {f"volume_ml_{label}": float(label != "RC") for label in LABELS}
        dice = {f"dice_{label}": generator.uniform(0.4, 0.6) + gain for label in LABELS}
        hd95 = {f"hd95_mm_{label}": generator.uniform(5, 9) - 10 * gain for label in LABELS}
        found = {"lesions": 3.0, "tp_lesions": 2.0 + (gain > 0), "lesions_0_100mm3": 0.0, "tp_lesions_0_100mm3": 0.0}
        if method == "dcd":
            dice["dice_RC"] = 0.0  # which no case has: a false voxel
        about = {"method": method, "seed": seed, "patient": f"p{case}", "case": f"c{case}"}
        rows.append({**about, **volumes, **dice, **hd95, **found})
    write_csv(rows, folder / f"{method}-{seed}.csv")
    course = [{"epoch": n, "iteration": 50 * n, "seconds": 60.0 * n, "val_mean_dice": 0.1 * n} for n in (1, 2)]
    record = {"settings": said, "parameters": 0.1, "gmac": 1.0, "machine": "two cores", "seed": seed}
    teacher = {} if method == "teacher" else {"teacher": f"t{seed}"}
    record |= {"cases": "x", "weights": f"t{seed}", "commits": ["abc"], "course": course, **teacher}
    (folder / f"{method}-{seed}.json").write_text(json.dumps(record))


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
    assert "1 more are left out, since not all of their runs are there" in " ".join(said.split())
    assert "Commits abc; two cores." in said
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


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"settings": {}},
            "dcd-1.json was run with another bundle, None, than is said now, brats_gli_dcd: take it and",
        ),
        ({"cases": "y"}, "are not all of the same data list"),
        ({"teacher": "t9"}, "dcd-1 in .* is of another teacher than that of its seed"),
        ({"course": None}, "dcd-1.json is no record of a run, it lacks course"),
        ("{", "dcd-1.json cannot be read: "),
        ("[]", "dcd-1.json must hold an object, got list"),
    ],
)
def test_runs_that_do_not_belong_together_are_refused(change: Any, said: str, study: Path, tmp_path: Path) -> None:
    path = tmp_path / "small" / "dcd-1.json"
    if isinstance(change, dict):
        record = {**json.loads(path.read_text()), **change}
        change = json.dumps({key: value for key, value in record.items() if value is not None})
    path.write_text(change)
    with pytest.raises(InputError, match=said):
        cli.main(["report", str(study), "--out", str(tmp_path / "out")])
