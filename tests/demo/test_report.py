"""The demo's table and pictures, from small files of the kind its steps leave behind."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from matplotlib.image import imread
from numpy.random import default_rng
from tiny import BRATS as BUNDLE
from trees import BRATS

from dcd_components.bundle.configs import read_configs
from dcd_components.data.datalists import make_datalist, read_datalist, write_datalist
from dcd_components.demo import report
from dcd_components.demo.demo import equal_cost_epochs
from dcd_components.demo.report import DISTILLED, EQUAL_COST, PLAIN, TEACHER
from dcd_components.handlers.case_pictures import Patients
from dcd_components.metrics.case_scores import case_scores
from dcd_components.tables import read_csv, write_csv

MODELS = (TEACHER, PLAIN, DISTILLED, EQUAL_COST)
REGIONS = {"NETC": [1], "SNFH": [2], "ET": [3], "RC": [4]}


def save(voxels: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(voxels.astype(np.uint8), np.eye(4)), path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A demo of three patients, whose models get one voxel in eight, four, three and two wrong."""
    rng = default_rng(0)
    for number in range(3):
        case, truth = f"case-00{number}", rng.integers(0, 5, (8, 9, 10))
        for sequence in ("t1n", "t1c", "t2w", "t2f"):
            save(truth * 9 + 1, tmp_path / "patients" / case / f"{case}-{sequence}.nii.gz")
        save(truth, tmp_path / "patients" / case / f"{case}-seg.nii.gz")
        for model, wrong in zip(MODELS, (8, 2, 4, 3), strict=True):
            mask = np.where(rng.integers(0, wrong, truth.shape) == 0, 0, truth)
            save(mask, tmp_path / "masks" / report.file_name(model) / f"{case}_seg.nii.gz")
            path = tmp_path / "masks" / report.file_name(model) / "scores.csv"
            row = {"case": case, **case_scores(mask, truth, (1, 1, 1), REGIONS, [1, 3]), "seconds": 1.5}
            write_csv([*(read_csv(path) if path.is_file() else []), row], path)
    write_datalist(make_datalist(tmp_path / "patients", BRATS, folds=1)[0], tmp_path / "patients" / "datalist.json")
    new = tmp_path / "new_case"
    for sequence in ("t1n", "t1c", "t2w", "t2f", "seg"):
        save(truth, new / "case-009" / f"case-009-{sequence}.nii.gz")
    write_datalist(make_datalist(new, BRATS, folds=1)[0], new / "datalist.json")
    save(truth, new / "case-009_seg.nii.gz")
    return tmp_path


def test_a_case_with_nothing_to_find_and_nothing_found_is_not_shown() -> None:
    rows = [{"case": name, "dice_ET": dice} for name, dice in (("a", 0.5), ("b", float("nan")), ("c", 0.7))]
    assert set(report._telling_cases(rows, rows, ["ET"])) == {"a", "c"}


@pytest.fixture
def table(folder: Path) -> str:
    """What the report says of the folder."""
    return told(folder)


def told(folder: Path, **changes: object) -> str:
    for model in MODELS:
        log = folder / "logs" / f"{report.file_name(model)}.csv"
        log.parent.mkdir(exist_ok=True)
        write_csv([{"epoch": 2, "iteration": 100, "seconds": 90.0, "loss": 0.5, "val_mean_dice": 0.6}], log)
    evaluations = {
        model: read_configs(BUNDLE, ["inference", "evaluate", *(["teacher"] if model == TEACHER else []), "quick"])
        for model in MODELS
    }
    for parser in evaluations.values():
        parser.update(changes)
    patients = Patients(folder / "patients", read_datalist(folder / "patients" / "datalist.json"))
    return report.write(
        folder, patients, evaluations, read_configs(BUNDLE, ["distill", "quick"]), {PLAIN: 0.2, DISTILLED: 0.25}
    )


def test_the_table_has_six_columns_and_a_row_a_model(table: str, folder: Path) -> None:
    lines = table.splitlines()
    assert [len(line.split("|")) - 2 for line in lines[:6]] == [6] * 6
    assert [line.split("|")[1].strip() for line in lines[2:6]] == list(MODELS)
    assert (folder / "table.md").read_text() == table + "\n"


def test_the_caption_says_that_the_setting_is_not_the_paper_s(table: str) -> None:
    text = " ".join(table.split())
    assert "This is not the paper's setting" in text
    assert "with AdamW and an average of the weights over fewer iterations (decay 0.99)" in text
    assert "the distillation's loss is normalised and its weight 0.3 (constant)" in text
    assert "an iteration 1.25 times as dear" in text


def test_all_figures_are_in_the_csv_file_and_in_the_second_page(table: str, folder: Path) -> None:
    rows = {row["model"]: row for row in read_csv(folder / "table.csv", text=["model"])}
    assert list(rows) == list(MODELS)
    assert rows[TEACHER]["mean_dice"] > rows[DISTILLED]["mean_dice"] > rows[PLAIN]["mean_dice"]
    assert rows[TEACHER]["parameters"] > 10 * rows[PLAIN]["parameters"]
    assert rows[PLAIN]["minutes"] == 1.5
    assert rows[PLAIN]["cases"] == 3
    assert rows[EQUAL_COST]["iteration_seconds"] == rows[PLAIN]["iteration_seconds"] == 0.2
    page = (folder / "table_all.md").read_text()
    assert all(heading in page for heading in ("Dice RC", "FP lesions per case", "GMAC per patch"))


def test_of_organs_nothing_is_told_of_lesions(folder: Path) -> None:
    table = told(folder, lesion_labels=[])
    assert [len(line.split("|")) - 2 for line in table.splitlines()[:6]] == [5] * 6
    assert not any("esion" in text for text in (table, *(path.read_text() for path in folder.glob("table*"))))


def test_the_pictures_show_the_cases_and_the_curves(table: str, folder: Path) -> None:
    sizes = {name: imread(folder / f"{name}.png").shape[:2] for name in ("cases", "curves", "new_case")}
    assert sizes["cases"][0] > 2 * sizes["new_case"][0]  # three rows against one
    assert all(imread(folder / f"{name}.png").std() > 0.05 for name in sizes)


def test_equal_cost_is_as_many_more_epochs_as_an_iteration_is_dearer() -> None:
    assert equal_cost_epochs(14, {PLAIN: 0.2, DISTILLED: 0.25}) == 18
    assert equal_cost_epochs(1, {PLAIN: 0.3, DISTILLED: 0.1}) == 1
