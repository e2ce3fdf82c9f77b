"""The page on tracking, run from a release; what lands where is tested with the repository's configs."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import forked
import pytest
from mlflow import MlflowClient
from releases import page
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

PAGE = page("tracking")


@pytest.fixture
def trained(release: Path, patients: Path, tmp_path: Path) -> Path:
    """A release in which the page's commands for it were run."""
    bundle = Path(shutil.copytree(release, tmp_path / release.name))
    commands = re.findall(r"^    python -m monai.bundle (run .*)$", PAGE, re.MULTILINE)
    assert len(commands) == 3
    for command in commands:
        words = [str(patients) if word == "DIR" else word for word in shlex.split(command)]
        done = forked.run("monai.bundle", words, bundle, MLFLOW_DISABLE_TELEMETRY="true")
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return bundle


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # within MLflow
def test_the_page_s_commands_write_where_it_says(trained: Path) -> None:
    (file,) = (trained / "models").glob("model_tensorboard/*/events*")
    events = EventAccumulator(str(file)).Reload()
    assert {"segmentation_loss", "val_mean_dice"} < set(events.Tags()["scalars"])
    assert len(events.Images("validation")) == 1
    client = MlflowClient(f"sqlite:///{trained / 'eval' / 'mlruns.db'}")
    runs = client.search_runs([one.experiment_id for one in client.search_experiments()])
    figures = {run.info.run_name: run.data.metrics for run in runs}
    assert figures["student"]["segmentation_loss"] > 0
    assert "mean_dice" in figures["scores"]
