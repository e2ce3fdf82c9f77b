"""Pictures of cases in which students differ."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from matplotlib.figure import Figure
from numpy.typing import NDArray
from study_files import LABELS, METHODS, write_study
from trees import BRATS

from dcd_components import cli
from dcd_components.data.datalists import make_datalist, write_datalist
from dcd_components.errors import InputError
from dcd_components.handlers.pictures import CasePicture
from dcd_components.study import cases, records
from dcd_components.tables import read_csv, write_csv

TEXT = ("method", "case", "patient", "weights")


def save(voxels: NDArray[Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(voxels.astype(np.uint8), np.eye(4)), path)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Twelve cases whose students all miss the label, but for that of dcd on slice 2; gains of c0 and losses of c1."""
    truth = np.zeros((8, 9, 10))
    truth[2:6, 2:6, 1:8] = 3
    part = np.zeros_like(truth)
    part[2:6, 2:6, 2] = 3
    for number in range(12):
        for sequence in ("t1n", "t1c", "t2w", "t2f"):
            save(truth * 9 + 1, tmp_path / "patients" / f"c{number}" / f"c{number}-{sequence}.nii.gz")
        save(truth, tmp_path / "patients" / f"c{number}" / f"c{number}-seg.nii.gz")
    path = write_study(tmp_path, seeds=[0, 1], missing=())
    listed, _ = make_datalist(tmp_path / "patients", replace(BRATS, patient_regex="(.+)"), folds=1)
    write_datalist(listed, tmp_path / "patients" / "datalist.json")
    for method in ("teacher", *METHODS):
        name = f"{method}-0"
        rows = read_csv(tmp_path / "small" / f"{name}.csv", TEXT)
        for row, gain in zip(rows[:2], (0.2, -0.2), strict=True):
            if method in ("dcd", "cwd"):
                row["dice_ET"] += gain
        write_csv(rows, tmp_path / "small" / f"{name}.csv")
        write_csv(
            [{"case": row["case"], "weights": row["weights"]} for row in rows], eval_of(path, name) / "scores.csv"
        )
        for row in rows:
            mask = {"teacher": truth, "dcd": part}.get(method, 0 * truth)
            save(mask, eval_of(path, name) / f"{row['case']}_seg.nii.gz")
    return path


def eval_of(study: Path, name: str) -> Path:
    return study.parent / "work" / name / "eval"


def report(study: Path, monkeypatch: pytest.MonkeyPatch, *options: str) -> str:
    monkeypatch.setattr(records, "cases_digest", lambda path: "x")
    folders = ["--work", str(study.parent / "work"), "--dataset_dir", str(study.parent / "patients")]
    cli.main(["report", str(study), "--out", str(study.parent / "out"), *(options or folders)])
    return (study.parent / "out" / "index.html").read_text()


def test_gains_and_losses_of_the_first_seed_are_shown_where_the_students_differ(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[CasePicture] = []

    def figure(pictures: Any, labels: Any) -> Figure:
        shown.extend(pictures)
        assert labels == {"NETC": 1, "SNFH": 2, "ET": 3, "RC": 4}
        return Figure()

    monkeypatch.setattr(cases, "case_figure", figure)
    page = report(study, monkeypatch)
    assert [one.title.split("\n")[0] for one in shown][::3] == ["c0", "c1"]
    assert len(shown) == 4
    rows = {name: read_csv(study.parent / "small" / f"{name}-0.csv", TEXT)[0] for name in ("plain", "dcd", "cwd")}
    plain, *others = (np.mean([row[f"dice_{label}"] for label in LABELS]) for row in rows.values())
    assert float(shown[0].title.split("\n")[1]) == pytest.approx(np.mean(others) - plain, abs=5e-4)
    assert [*shown[0].masks] == ["truth", "teacher", "plain", "dcd", "cwd"]  # not the longer plain training
    assert [*shown[0].sequences] == ["t2f"]
    assert {one.level for one in shown} == {2}
    assert [int(one.any()) for one in shown[0].masks.values()] == [1, 1, 0, 1, 0]
    assert "Test cases of seed 0 in which dcd and cwd gain most (above)" in page
    assert '<img src="cases.png"' in page


def test_the_picture_is_drawn(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report(study, monkeypatch)
    assert (study.parent / "out" / "cases.png").stat().st_size > 10_000


def test_without_the_folders_the_page_says_how_to_get_the_pictures(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = report(study, monkeypatch, "--datalist", "nowhere.json")
    assert "need the patients and the masks that the study left: dcd report" in page
    assert not (study.parent / "out" / "cases.png").exists()


def test_missing_masks_are_named(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (eval_of(study, "dcd-0") / "c1_seg.nii.gz").unlink()
    with pytest.raises(InputError, match=r"no mask at .*dcd-0/eval/c1_seg.nii.gz: --work must be the folder that the"):
        report(study, monkeypatch)
    (eval_of(study, "plain-0") / "scores.csv").unlink()
    with pytest.raises(InputError, match=r"no masks in .*plain-0/eval: --work must be the folder that the study was"):
        report(study, monkeypatch)


def test_masks_of_other_weights_are_refused(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = eval_of(study, "dcd-0") / "scores.csv"
    path.write_text(path.read_text().replace("wdcd-0", "other"))
    with pytest.raises(InputError, match=r"the masks in .*dcd-0/eval are of other weights than those that the study"):
        report(study, monkeypatch)


def test_one_folder_without_the_other_is_refused(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="pictures of cases need both --work and --dataset_dir"):
        report(study, monkeypatch, "--work", "somewhere")


def test_a_data_list_of_other_cases_is_refused(study: Path) -> None:
    folders = ["--work", str(study.parent / "work"), "--dataset_dir", str(study.parent / "patients")]
    with pytest.raises(InputError, match=r"teacher-0.json was run with another cases, x, than is said now"):
        cli.main(["report", str(study), "--out", str(study.parent / "out"), *folders])


def test_few_cases_are_shown_once_and_those_that_nobody_can_score_never() -> None:
    assert cases.telling_cases({"a": 0.1, "b": float("nan"), "c": 0.3}) == ["c", "a"]
    gains = {f"c{number}": number / 10 for number in range(9)}
    assert cases.telling_cases(gains) == ["c8", "c7", "c1", "c0"]
