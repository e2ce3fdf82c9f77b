"""What TensorBoard and MLflow are told of trainings and evaluations, read back with their own readers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import jobs
import pytest
import torch
from mlflow import MlflowClient
from mlflow.entities import Run
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny import BRATS, HIPPOCAMPUS, ISLES, TINY, Workflow, config_files

from dcd_components.tables import read_csv

STAGES = ("input_block", "downsamples.0", "bottleneck")
FIGURES = ["learning_rate", "loss", "segmentation_loss"]
DISTILLATION = ["distillation_loss", "distillation_weight", *(f"distillation_loss/{stage}" for stage in STAGES)]
#: Two epochs, of which only the second distils.
CONSTANT = {"_target_": "dcd_components.constant", "maximum": 0.3, "start": 1}
DISTIL = {"max_epochs": 2, "distillation_weight": CONSTANT}


@pytest.fixture(autouse=True)
def teacher(workflow: Workflow, tmp_path: Path) -> None:
    """Random weights of a teacher."""
    network = workflow("inference", "teacher").parser.get_parsed_content("network_def")
    torch.save(network.state_dict(), tmp_path / "teacher.pt")


def events(folder: Path) -> EventAccumulator:
    """Of the only training that wrote into a folder."""
    (file,) = folder.glob("*/events*")
    return EventAccumulator(str(file)).Reload()


@pytest.mark.parametrize("bundle", [BRATS, ISLES, HIPPOCAMPUS], ids=["brats", "isles", "hippocampus"])
def test_tensorboard_has_the_course_of_a_distillation_and_a_picture_of_each_validation(
    workflow: Workflow, tmp_path: Path
) -> None:
    flow = workflow("distill", "tensorboard", **DISTIL)
    flow.initialize()
    assert flow.check_properties() == []
    flow.run()
    found, rows = events(tmp_path / "model_tensorboard"), read_csv(tmp_path / "model_training.csv")
    assert sorted(found.Tags()["scalars"]) == sorted([*FIGURES, *DISTILLATION, "val_mean_dice"])
    for name in found.Tags()["scalars"]:
        told = {event.step: event.value for event in found.Scalars(name)}
        written = {int(row["epoch"]): row[name] for row in rows if row[name] is not None}
        assert told == pytest.approx(written)
        assert list(told) == ([2] if name in DISTILLATION else [1, 2])
    last = rows[-1]
    total = float(last["segmentation_loss"]) + 0.3 * float(last["distillation_loss"])
    assert float(last["loss"]) == pytest.approx(total)
    pictures = found.Images("validation")
    assert [picture.step for picture in pictures] == [1, 2]
    assert all(picture.width > 2 * picture.height / 3 > 100 for picture in pictures)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # within MLflow
def test_mlflow_has_the_same_and_the_scores_of_the_evaluation(
    workflow: Workflow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")

    def run(name: str, *names: str, **settings: object) -> tuple[MlflowClient, Run]:
        flow = workflow(*names, **settings, tracking="mlflow", run_name=name)
        flow.initialize()
        flow.run()
        client = MlflowClient(f"sqlite:///{tmp_path / 'eval' / 'mlruns.db'}")
        runs = client.search_runs([one.experiment_id for one in client.search_experiments()])
        return client, next(one for one in runs if one.info.run_name == name)

    _, plain = run("plain", "train_student")
    assert {*FIGURES, "val_mean_dice", "train_loss"} < set(plain.data.metrics)
    assert not set(DISTILLATION) & set(plain.data.metrics)
    client, distilled = run("distilled", "distill", **DISTIL)
    assert distilled.info.status == "FINISHED"
    rows = read_csv(tmp_path / "model_training.csv")
    for name in [*FIGURES, *DISTILLATION, "val_mean_dice"]:
        told = {metric.step: metric.value for metric in client.get_metric_history(distilled.info.run_id, name)}
        assert told == pytest.approx({int(row["epoch"]): row[name] for row in rows if row[name] is not None})
    _, scored = run("scores", "inference", "evaluate")
    dice = [float(row["dice_WT"]) for row in read_csv(tmp_path / "eval" / "scores.csv")]
    assert scored.data.metrics["dice_WT"] == pytest.approx(sum(dice) / len(dice))
    assert "mean_dice" in scored.data.metrics


def test_one_of_several_processes_writes(patients: Path, tmp_path: Path) -> None:
    places = {"dataset_dir": str(patients), "cache_dir": str(tmp_path / "cache"), "process_group": None}
    job: jobs.Job = {
        "files": config_files("train_student", "tensorboard", "multi_gpu"),
        "settings": {**TINY, **places, "ckpt_path": str(tmp_path / "model.pt")},
        "weights": str(tmp_path / "weights"),
    }
    (tmp_path / "jobs.json").write_text(json.dumps([job]))
    launcher = ["-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command = [sys.executable, *launcher, jobs.__file__, str(tmp_path / "jobs.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    found = events(tmp_path / "model_tensorboard")
    (row,) = read_csv(tmp_path / "model_training.csv")
    assert [event.value for event in found.Scalars("loss")] == [pytest.approx(row["loss"])]
    assert len(found.Images("validation")) == 1
