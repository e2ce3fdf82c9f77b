"""Trainings that are killed or stopped, and go on to the very bits that they would have reached undisturbed."""

from __future__ import annotations

import random
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import interrupted
import pytest
import torch
from interrupted import Fault
from tiny import TINY, by_fold, config_files
from torch import Tensor

from dcd_components.tables import read_csv

KINDS = {"teacher": "train_teacher", "student": "distill"}
COURSE: dict[str, Any] = {
    **TINY,
    "max_epochs": 3,
    "epoch_length": 3,
    "val_interval": 2,
    "ema_decay": 0.5,
    "sliding_window::overlap": 0.0,
}
FAULTS: dict[str, tuple[str, Fault]] = {
    "killed in its first iteration": ("teacher", ("iteration", 1, signal.SIGKILL)),
    "killed in mid-epoch": ("student", ("iteration", 5, signal.SIGKILL)),
    "killed while a checkpoint is written": ("student", ("write", 2, 0)),
    "killed in the validation": ("teacher", ("case", 2, signal.SIGKILL)),
    "SIGTERM in mid-epoch": ("student", ("iteration", 5, signal.SIGTERM)),
    "SIGTERM in the last iteration of an epoch": ("teacher", ("iteration", 6, signal.SIGTERM)),
    "SIGTERM in the validation": ("student", ("case", 1, signal.SIGTERM)),
    "SIGTERM in the last validation": ("teacher", ("case", 3, signal.SIGTERM)),
    "Ctrl-C": ("teacher", ("iteration", 4, signal.SIGINT)),
}


@dataclass
class Training:
    """A training in a folder of its own."""

    folder: Path
    kind: str
    settings: dict[str, Any]

    def start(self, fault: Fault | None = None, **settings: Any) -> Any:
        self.folder.mkdir(exist_ok=True)
        places = {"ckpt_path": str(self.folder / "model.pt")}
        files = config_files(KINDS[self.kind])
        return interrupted.start(files, {**self.settings, **places, **settings}, self.folder / "log", fault)

    def run(self, fault: Fault | None = None, **settings: Any) -> int:
        """Exit status, as multiprocessing says it."""
        process = self.start(fault, **settings)
        process.join(120)
        assert process.exitcode is not None
        return int(process.exitcode)

    @property
    def said(self) -> str:
        return (self.folder / "log").read_text()

    @property
    def checkpoints(self) -> list[Path]:
        return sorted((self.folder / "model_checkpoints").glob("*.pt"))

    def results(self) -> dict[str, Any]:
        """All that a training leaves behind, less the time that it took."""
        content = torch.load(self.checkpoints[-1], weights_only=True)
        rows = [{**row, "seconds": 0} for row in read_csv(self.folder / "model_training.csv")]
        for log in (one["log"] for one in content["own"]):
            log["seconds"] = 0
            log["rows"] = [{**row, "seconds": 0} for row in log["rows"]]
        content["best"] = None  # a name of this training alone
        return {**content, "csv": rows, "model": torch.load(self.folder / "model.pt", weights_only=True)}


def differences(one: Any, other: Any, name: str = "") -> list[str]:
    """Names of what is not the same, bit by bit."""
    if isinstance(one, Tensor):
        return [] if one.dtype == other.dtype and torch.equal(one, other) else [name]
    if isinstance(one, dict):
        unequal = [f"{name} {key}" for key in one.keys() ^ other.keys()]
        return unequal + [
            x for key in one.keys() & other.keys() for x in differences(one[key], other[key], f"{name} {key}")
        ]
    if isinstance(one, (list, tuple)):
        pairs = enumerate(zip(one, other, strict=False))
        return [name] * (len(one) != len(other)) + [x for i, pair in pairs for x in differences(*pair, f"{name} {i}")]
    return [] if one == other else [name]


@pytest.fixture(scope="module")
def undisturbed(patients: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Training]:
    """A teacher and a student that is distilled from the second epoch on, and how long they took."""
    folder = tmp_path_factory.mktemp("undisturbed")
    datalist = by_fold(patients, folder / "datalist.json", [2] * 8 + [1] * 2)
    shared = {
        "dataset_dir": str(patients),
        "datalist": datalist,
        "cache_dir": str(folder / "cache"),
        "train_folds": [2],
    }
    weight = {"_target_": "dcd_components.constant", "maximum": 0.3, "start": 1}
    teacher_path = str(folder / "teacher" / "model.pt")
    distil = {"distillation_weight": weight, "normalize": True, "teacher_path": teacher_path}
    found = {
        "teacher": Training(folder / "teacher", "teacher", {**COURSE, **shared}),
        "student": Training(folder / "student", "student", {**COURSE, **shared, **distil}),
    }
    for training in found.values():
        assert training.run() == 0, training.said[-3000:]
    return found


def again(undisturbed: dict[str, Training], kind: str, folder: Path) -> Training:
    return Training(folder / kind, kind, undisturbed[kind].settings)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_training_goes_on_as_if_nothing_had_been(
    fault: str, undisturbed: dict[str, Training], tmp_path: Path
) -> None:
    kind, moment = FAULTS[fault]
    training = again(undisturbed, kind, tmp_path)
    status = training.run(moment, resume=True)
    killed = moment[2] in (0, signal.SIGKILL)
    assert status == (-signal.SIGKILL if killed else 128 + moment[2]), training.said[-3000:]
    assert ("with --resume goes on" in training.said) is not killed
    assert training.run(resume=True) == 0, training.said[-3000:]
    assert "goes on after iteration" in training.said or "killed in its first" in fault
    assert differences(undisturbed[kind].results(), training.results()) == []
    files = sorted(path.name for path in training.folder.rglob("*") if path.is_file())
    assert files == ["iteration-000000006.pt", "iteration-000000009.pt", "log", "model.pt", "model_training.csv"]


def test_a_training_killed_at_any_moment_goes_on(undisturbed: dict[str, Training], tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # noqa: T201
    training = again(undisturbed, "student", tmp_path)
    process = training.start()
    process.join(random.Random(seed).uniform(0, 8))
    process.kill()
    process.join()
    assert training.run(resume=True) == 0, training.said[-3000:]
    assert differences(undisturbed["student"].results(), training.results()) == []
