from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from monai.bundle import ConfigWorkflow
from tiny import BRATS, ISLES, TINY, Workflow, config_files


@pytest.fixture
def bundle() -> Path:
    """The bundle that ``workflow`` builds; modules that test several redefine it by ``every_bundle``."""
    return BRATS


@pytest.fixture(params=[BRATS, ISLES], ids=lambda bundle: bundle.name)
def every_bundle(request: pytest.FixtureRequest) -> Path:
    return Path(request.param)


@pytest.fixture
def data(bundle: Path, request: pytest.FixtureRequest) -> Path:
    """Phantoms in the naming of the bundle."""
    return Path(request.getfixturevalue("strokes" if bundle == ISLES else "patients"))


@pytest.fixture
def workflow(bundle: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workflow:
    """Build, without initialising, the workflow of a list of configs, all its output below ``tmp_path``."""
    monkeypatch.setitem(os.environ, "MONAI_FAIL_ON_DUPLICATE_CONFIG", "1")

    def build(*names: str, **overrides: Any) -> ConfigWorkflow:
        kind = "train" if "train" in names else "infer"
        output = {"ckpt_path": str(tmp_path / "model.pt"), "output_dir": str(tmp_path / "eval")}
        cache = {"cache_dir": str(tmp_path / "cache")} if "train" in names else {}
        teacher = {"teacher_path": str(tmp_path / "teacher.pt")} if "distill" in names else {}
        settings = {**TINY, "dataset_dir": str(data), **output, **cache, **teacher, **overrides}
        return ConfigWorkflow(config_files(*names, bundle=bundle), workflow_type=kind, logging_file=False, **settings)

    return build
