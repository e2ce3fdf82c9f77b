"""The bundle under torchrun, on two processes with gloo."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from tiny import TINY, Workflow, config_files

from dcd_components.reporting import read_csv


def torchrun(*names: str, **overrides: Any) -> None:
    options = [f"--{key}={value}" for key, value in {**TINY, **overrides}.items()]
    launcher = ["-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    bundle = ["-m", "monai.bundle", "run", f"--config_file={config_files(*names)}", *options]
    done = subprocess.run(
        [sys.executable, *launcher, *bundle], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


def test_distils_and_evaluates(workflow: Workflow, patients: Path, tmp_path: Path) -> None:
    flow = workflow("inference", "teacher", "quick")
    torch.save(flow.parser.get_parsed_content("network_def").state_dict(), tmp_path / "teacher.pt")
    shared = {"dataset_dir": patients, "ckpt_path": tmp_path / "model.pt"}
    files = {"teacher_path": tmp_path / "teacher.pt", "cache_dir": tmp_path / "cache"}
    torchrun("inference", "train", "distill", "quick", "multi_gpu", **shared, **files)
    (row,) = read_csv(tmp_path / "model_training.csv")
    assert float(row["distillation_loss"]) > 0
    assert not any(key.startswith("module.") for key in torch.load(tmp_path / "model.pt", weights_only=True))
    torchrun("inference", "evaluate", "quick", "multi_gpu", **shared, output_dir=tmp_path / "eval")
    assert len({row["case"] for row in read_csv(tmp_path / "eval" / "scores.csv")}) == 2
