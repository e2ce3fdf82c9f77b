from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from monai.bundle import ConfigWorkflow
from tiny import TINY, Workflow, config_files


@pytest.fixture
def workflow(patients: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workflow:
    """Build, without initialising, the workflow of a list of configs, all its output below ``tmp_path``."""
    monkeypatch.setitem(os.environ, "MONAI_FAIL_ON_DUPLICATE_CONFIG", "1")

    def build(*names: str, **overrides: Any) -> ConfigWorkflow:
        kind = "train" if "train" in names else "infer"
        output = {"ckpt_path": str(tmp_path / "model.pt"), "output_dir": str(tmp_path / "eval")}
        teacher = {"teacher_path": str(tmp_path / "teacher.pt")} if "distill" in names else {}
        settings = {**TINY, "dataset_dir": str(patients), **output, **teacher, **overrides}
        return ConfigWorkflow(config_files(*names), workflow_type=kind, logging_file=False, **settings)

    return build
