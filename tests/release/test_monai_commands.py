"""MONAI's own commands for each workflow, literally, with the same file names in the repository and in a release."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from bare_python import Python, link_distributions
from releases import OVERLAYS, trained
from tiny import BRATS, HIPPOCAMPUS, ISLES

from dcd_components.tables import read_csv

CONSTANT = json.dumps({"_target_": "dcd_components.constant", "maximum": 0.3})


@pytest.fixture(scope="module")
def python(release: Path, tmp_path_factory: pytest.TempPathFactory) -> Python:
    """Python with what the metadata of a release ask for, and without dcd_components."""
    metadata = json.loads((release / "configs" / "metadata.json").read_text())
    packages = {**metadata["required_packages_version"], **metadata["training_packages_version"]}
    return Python(link_distributions(["monai", "torch", *packages], tmp_path_factory.mktemp("python") / "packages"))


@pytest.fixture(params=["repository", "release"])
def bundle(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A bundle as in the repository, with an overlay of tiny settings laid over each config, or a release."""
    if request.param == "repository":
        return trained(BRATS, tmp_path)
    return Path(shutil.copytree(request.getfixturevalue("release"), tmp_path / BRATS.name))


def config(bundle: Path, *names: str) -> str:
    """What to say for ``--config_file``: one file where one is enough."""
    overlays = OVERLAYS if (bundle / "configs" / f"{OVERLAYS[0]}.yaml").is_file() else ()
    files = [str(bundle / "configs" / f"{name}.yaml") for name in (*names, *overlays)]
    return files[0] if len(files) == 1 else str(files)


def test_every_workflow_runs_by_its_name_from_another_folder(
    bundle: Path, python: Python, patients: Path, tmp_path: Path
) -> None:
    """Where nothing is installed but the requirements; the repository's package is found by the path of its clone."""
    (elsewhere := tmp_path / "elsewhere").mkdir()
    if not (bundle / "dcd_components").exists():
        (bundle / "dcd_components").symlink_to(BRATS.parents[1] / "dcd_components")
    models, scores = bundle / "models", tmp_path / "out" / "scores.csv"
    places: dict[str, Any] = {"bundle_root": bundle, "dataset_dir": patients, "cwd": elsewhere}
    student, teacher = (models / "model.pt").read_bytes(), (models / "teacher" / "model.pt").read_bytes()

    python.monai("run training", config_file=config(bundle, "train_teacher"), **places)
    assert (models / "teacher" / "model.pt").read_bytes() != teacher
    assert (models / "model.pt").read_bytes() == student
    python.monai("run training", config_file=config(bundle, "train_student"), **places)
    plain = (models / "model.pt").read_bytes()
    assert plain != student
    assert "distillation_loss" not in read_csv(models / "model_training.csv")[0]
    python.monai("run training", config_file=config(bundle, "distill"), distillation_weight=CONSTANT, **places)
    assert (models / "model.pt").read_bytes() != plain
    assert float(read_csv(models / "model_training.csv")[0]["distillation_loss"]) > 0
    weights = torch.load(models / "model.pt", weights_only=True)
    assert not [name for name in weights if "heads" in name]
    evaluation = config(bundle, "inference", "evaluate")
    python.monai("run evaluating", config_file=evaluation, output_dir=tmp_path / "out", **places)
    assert len(read_csv(scores)) == 2
    python.monai("run", config_file=config(bundle, "inference"), output_dir=tmp_path / "masks", **places)
    assert len(list((tmp_path / "masks").glob("*_seg.nii.gz"))) == 10
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize(
    ("source", "unpacked"),
    [(BRATS, "release"), (ISLES, "stroke_release"), (HIPPOCAMPUS, "hippocampus_release")],
    ids=["brats", "isles", "hippocampus"],
)
def test_a_release_has_the_configs_of_the_repository(
    source: Path, unpacked: str, request: pytest.FixtureRequest
) -> None:
    release = Path(request.getfixturevalue(unpacked))
    packed, ours = ({path.name for path in (one / "configs").glob("*.yaml")} for one in (release, source))
    assert ours - packed <= {"quick.yaml", "flair_grid.yaml", "register.yaml"}
    assert packed <= ours
