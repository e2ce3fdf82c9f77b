from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from monai.bundle import ConfigWorkflow
from tiny import BRATS, BUNDLES, HIPPOCAMPUS, ISLES, TINY, TRAININGS, Workflow, config_files

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


@pytest.fixture(params=[BRATS.name, ISLES.name, HIPPOCAMPUS.name, "two"])
def every_bundle(request: pytest.FixtureRequest) -> Path:
    return Path(request.getfixturevalue("two") if request.param == "two" else BUNDLES / request.param)


@pytest.fixture
def data(bundle: Path, request: pytest.FixtureRequest) -> Path:
    """Phantoms in the naming of the bundle."""
    own = {ISLES.name: "strokes", HIPPOCAMPUS.name: "hippocampi", "two": "two_patients"}
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
        settings = {**TINY, "dataset_dir": str(data), **output, **cache, **teacher, **overrides}
        return ConfigWorkflow(config_files(*names, bundle=bundle), workflow_type=kind, logging_file=False, **settings)

    return build
