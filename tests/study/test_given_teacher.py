"""A study whose teacher is an nnU-Net, which is scored and not trained."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from result_folders import REGIONS, raw_data, small
from tiny import OF_INFERENCE, TINY, tiny_for

from dcd_components import cli
from dcd_components.commands import datalist, from_nnunet
from dcd_components.errors import InputError
from dcd_components.networks.weights import weights_digest
from dcd_components.study.plan import read_study
from dcd_components.tables import read_csv

LENGTH = {key: TINY[key] for key in ("max_epochs", "epoch_length", "val_interval", "num_workers")}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a small nnU-Net of regions, of random weights."""
    parent = tmp_path_factory.mktemp("bundles")
    from_nnunet(small(parent / "results", labels=REGIONS), "mine", out=parent)
    return parent / "mine"


def written(bundle: Path, folder: Path, **changes: Any) -> Path:
    methods: Mapping[str, Any] = {"plain": {"workflow": "student"}, "dcd": None}
    content: dict[str, Any] = {"bundle": str(bundle), "overlays": ["quick"], "seeds": [0], "methods": methods}
    grid = tiny_for(bundle, OF_INFERENCE)
    content |= {"settings": {**grid, "test_folds": [0]}, "students": LENGTH, **changes}
    (path := folder / "mine.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return path


@pytest.mark.usefixtures("forked")
def test_it_is_scored_and_students_are_distilled_from_it(bundle: Path, patients: Path, tmp_path: Path) -> None:
    data = raw_data(patients, tmp_path / "Dataset001_Phantoms")
    datalist(data, bundle=bundle)
    path, work = written(bundle, tmp_path), tmp_path / "work"
    cli.main(["study", str(path), "--dataset_dir", str(data), "--work", str(work)])
    results = tmp_path / "mine"
    records = {path.stem: json.loads(path.read_text()) for path in results.glob("*.json")}
    assert {*records} == {"teacher-0", "plain-0", "dcd-0"}
    theirs = weights_digest(bundle / "models" / "teacher" / "model.pt")
    assert records["teacher-0"]["weights"] == records["dcd-0"]["teacher"] == theirs
    assert records["teacher-0"]["course"] == []
    assert records["teacher-0"]["settings"]["workflow"] == "evaluate"
    assert records["teacher-0"]["parameters"] > records["dcd-0"]["parameters"]
    assert "distillation_loss" in records["dcd-0"]["course"][0]
    assert records["plain-0"]["detail"] != records["dcd-0"]["detail"]
    rows = read_csv(results / "teacher-0.csv", ("method", "case", "patient", "weights"))
    assert [row["weights"] for row in rows] == [theirs] * 2
    cli.main(["report", str(path), "--out", str(tmp_path / "report")])
    text = (tmp_path / "report" / "table.md").read_text()
    assert "the teacher, given" in text
    assert (tmp_path / "report" / "curves.png").is_file()
    (bundle / "models" / "teacher" / "model.pt").rename(hidden := tmp_path / "hidden.pt")
    (results / "teacher-0.json").unlink()
    with pytest.raises(InputError, match=r"no teacher at .*models/teacher/model.pt, and .*mine has no config train_te"):
        cli.main(["study", str(path), "--dataset_dir", str(data), "--work", str(work), "--index", "0"])
    hidden.rename(bundle / "models" / "teacher" / "model.pt")


def test_settings_of_its_training_are_refused(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"mine.yaml: teacher must be left out, since .*mine has one that is not trai"):
        read_study(written(bundle, tmp_path, teacher={"max_epochs": 3}))
    runs = read_study(written(bundle, tmp_path, settings={"batch_size": 1, "test_folds": [2]})).runs
    assert runs[0].settings == {"test_folds": [2]}  # an evaluation has no batch_size
    assert runs[1].settings["batch_size"] == 1
