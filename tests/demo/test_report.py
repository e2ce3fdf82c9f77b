"""The demo's table and pictures, from small files of the kind its steps leave behind."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from numpy.random import default_rng
from tiny import config_files
from trees import BRATS

from dcd_components.data.datalists import make_datalist, write_datalist
from dcd_components.demo import report
from dcd_components.metrics.case_scores import case_scores
from dcd_components.tables import read_csv, write_csv

MODELS = ("teacher", "plain", "distilled", "plain, same time")
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
            save(mask, tmp_path / "masks" / model / f"{case}_seg.nii.gz")
            path = tmp_path / "masks" / model / "scores.csv"
            row = {"case": case, **case_scores(mask, truth, (1, 1, 1), REGIONS, [1, 3]), "seconds": 1.5}
            write_csv([*(read_csv(path) if path.is_file() else []), row], path)
    write_datalist(make_datalist(tmp_path / "patients", BRATS)[0], tmp_path / "patients" / "datalist.json")
    new = tmp_path / "new_case"
    for sequence in ("t1n", "t1c", "t2w", "t2f", "seg"):
        save(truth, new / "case-009" / f"case-009-{sequence}.nii.gz")
    write_datalist(make_datalist(new, BRATS)[0], new / "datalist.json")
    save(truth, new / "case-009_seg.nii.gz")
    return tmp_path


def test_a_case_with_nothing_to_find_and_nothing_found_is_not_shown() -> None:
    rows = [{"case": name, "dice_ET": dice} for name, dice in (("a", 0.5), ("b", float("nan")), ("c", 0.7))]
    assert set(report._telling_cases(rows, rows, ["ET"])) == {"a", "c"}


def test_the_table_has_a_row_a_model_and_the_pictures_are_drawn(folder: Path) -> None:
    logs = {}
    for model in MODELS:
        logs[model] = folder / f"{model}.csv"
        write_csv([{"epoch": 2, "iteration": 100, "seconds": 90.0, "loss": 0.5, "val_mean_dice": 0.6}], logs[model])
    table = report.write(folder, config_files("inference", "quick"), logs)
    rows = {str(row["model"]): row for row in read_csv(folder / "table.csv")}
    assert list(rows) == list(MODELS)
    assert (
        float(rows["teacher"]["mean_dice"]) > float(rows["distilled"]["mean_dice"]) > float(rows["plain"]["mean_dice"])
    )
    assert float(rows["teacher"]["parameters"]) > 10 * float(rows["plain"]["parameters"])
    assert rows["plain"]["minutes"] == 1.5
    assert rows["plain"]["cases"] == 3
    assert table in (folder / "table.md").read_text()
    for picture in ("cases.png", "curves.png", "new_case.png"):
        assert (folder / picture).stat().st_size > 10_000
