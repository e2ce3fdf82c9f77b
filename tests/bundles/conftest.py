from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from monai.bundle import ConfigWorkflow
from result_folders import REGIONS, raw_data, small
from tiny import BRATS, BUNDLES, HIPPOCAMPUS, ISLES, TRAININGS, Workflow, config_files, tiny_for

from dcd_components import commands


@pytest.fixture
def bundle() -> Path:
    """The bundle that ``workflow`` builds; modules that test several redefine it by ``every_bundle``."""
    return BRATS


@pytest.fixture(scope="session")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new bundle for two of the glioma phantoms' sequences."""
    parent = tmp_path_factory.mktemp("bundles")
    labels = {"necrosis": 1, "oedema": 2, "enhancing": 3, "cavity": 4}
    commands.new_bundle("two", ["t1c", "t2f"], labels, patient_regex=r"(.+)-\d{3}$", out=str(parent))
    return parent / "two"


@pytest.fixture(scope="session")
def two_patients(two: Path, patients: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The glioma phantoms with the files that ``two`` wants, and its own data list."""
    others = shutil.ignore_patterns("*-t1n*", "*-t2w*", "*.json")
    folder = shutil.copytree(patients, tmp_path_factory.mktemp("patients") / "two", ignore=others)
    commands.datalist(str(folder), bundle=str(two))
    return Path(folder)


@pytest.fixture(scope="session")
def of_regions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose teacher is a small nnU-Net with regions, of random weights."""
    parent = tmp_path_factory.mktemp("bundles")
    commands.from_nnunet(small(parent / "results", labels=REGIONS), "of_regions", out=parent)
    return parent / "of_regions"


@pytest.fixture(scope="session")
def raw_patients(of_regions: Path, patients: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The glioma phantoms as a raw data set of nnU-Net."""
    folder = raw_data(patients, tmp_path_factory.mktemp("patients") / "Dataset001_Phantoms")
    commands.datalist(folder, bundle=of_regions)
    return folder


#: The bundles that have all workflows.
WHOLE = [BRATS.name, ISLES.name, HIPPOCAMPUS.name, "two"]


@pytest.fixture(params=WHOLE)
def every_bundle(request: pytest.FixtureRequest) -> Path:
    return _bundle(request)


@pytest.fixture(params=[*WHOLE, "of_regions"])
def any_bundle(request: pytest.FixtureRequest) -> Path:
    """Those whose teacher was trained elsewhere too."""
    return _bundle(request)


def _bundle(request: pytest.FixtureRequest) -> Path:
    folder = BUNDLES / request.param
    return folder if folder.is_dir() else Path(request.getfixturevalue(request.param))


@pytest.fixture
def data(bundle: Path, request: pytest.FixtureRequest) -> Path:
    """Phantoms in the naming of the bundle."""
    own = {ISLES.name: "strokes", HIPPOCAMPUS.name: "hippocampi", "two": "two_patients", "of_regions": "raw_patients"}
    return Path(request.getfixturevalue(own.get(bundle.name, "patients")))


@pytest.fixture
def workflow(bundle: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workflow:
    """Build, without initialising, the workflow of a list of configs, all its output below ``tmp_path``."""
    monkeypatch.setitem(os.environ, "MONAI_FAIL_ON_DUPLICATE_CONFIG", "1")

    def build(*names: str, bundle: Path = bundle, **overrides: Any) -> ConfigWorkflow:
        kind = "train" if set(TRAININGS) & set(names) else "infer"
        output = {"ckpt_path": str(tmp_path / "model.pt"), "output_dir": str(tmp_path / "eval")}
        cache = {"cache_dir": str(tmp_path / "cache")} if kind == "train" else {}
        teacher = {"teacher_path": str(tmp_path / "teacher.pt")} if "distill" in names else {}
        settings = {**tiny_for(bundle), "dataset_dir": str(data), **output, **cache, **teacher, **overrides}
        return ConfigWorkflow(config_files(*names, bundle=bundle), workflow_type=kind, logging_file=False, **settings)

    return build
