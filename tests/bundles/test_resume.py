"""Trainings that are killed or stopped, and go on to the very bits that they would have reached undisturbed."""

from __future__ import annotations

import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import interrupted
import pytest
import torch
from interrupted import Fault
from tiny import BRATS, TINY, by_fold, config_files
from torch import Tensor

from dcd_components import cli
from dcd_components.errors import InputError
from dcd_components.tables import read_csv

KINDS = {"teacher": "train_teacher", "student": "distill", "alone": "train_student"}
COURSE: dict[str, Any] = {
    **TINY,
    "max_epochs": 3,
    "epoch_length": 3,
    "val_interval": 2,
    "ema_decay": 0.5,
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


#: With processes that load data for one epoch after the other, and random numbers drawn in each iteration.
FAULTS_WITH_DROPOUT: dict[str, Fault] = {
    "killed between epochs": ("iteration", 4, signal.SIGKILL),
    "SIGTERM in mid-epoch": ("iteration", 5, signal.SIGTERM),
    "SIGTERM in the validation": ("case", 1, signal.SIGTERM),
}


@dataclass
class Training:
    """A training in a folder of its own."""

    folder: Path
    kind: str
    settings: dict[str, Any]

    def start(self, fault: Fault | None = None, **settings: Any) -> Any:
        self.folder.mkdir(exist_ok=True)
        settings = {**self.settings, "ckpt_path": str(self.folder / "model.pt"), **settings}
        return interrupted.start(config_files(KINDS[self.kind]), settings, self.folder / "log", fault)

    def run_two(self, fault: Fault | None = None, **settings: Any) -> list[int]:
        """The same in two processes, of which the fault strikes the second; their exit statuses."""
        self.folder.mkdir(exist_ok=True)
        settings = {**self.settings, "ckpt_path": str(self.folder / "model.pt"), "batch_size": 1, **settings}
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
        processes = [
            interrupted.start(
                config_files(KINDS[self.kind], "multi_gpu"),
                settings,
                self.folder / "log",
                fault if number == 1 else None,
                {**shared, "RANK": str(number), "LOCAL_RANK": str(number)},
            )
            for number in range(2)
        ]
        for process in processes:
            process.join(120)
        return [int(process.exitcode or 0) for process in processes]

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
        return sorted((self.folder / "model_checkpoints").glob("iteration-*.pt"))

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


@pytest.fixture
def finished(undisturbed: dict[str, Training], tmp_path: Path) -> Training:
    """A copy of the teacher's training."""
    source = undisturbed["teacher"]
    shutil.copytree(source.folder, tmp_path / "teacher")
    (tmp_path / "teacher" / "log").unlink()
    return Training(tmp_path / "teacher", "teacher", source.settings)


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
    assert files == [".lock", "iteration-000000009.pt", "log", "model.pt", "model_training.csv"]


@pytest.fixture(scope="module")
def with_dropout(undisturbed: dict[str, Training], tmp_path_factory: pytest.TempPathFactory) -> Training:
    """An undisturbed teacher with dropout, whose data two processes load."""
    settings = {**undisturbed["teacher"].settings, "architecture::dropout": 0.2, "num_workers": 2}
    training = Training(tmp_path_factory.mktemp("dropout") / "teacher", "teacher", settings)
    assert training.run() == 0, training.said[-3000:]
    return training


@pytest.mark.parametrize("fault", FAULTS_WITH_DROPOUT)
def test_random_numbers_go_on_where_processes_load_the_data(fault: str, with_dropout: Training, tmp_path: Path) -> None:
    training = Training(tmp_path / "teacher", "teacher", with_dropout.settings)
    assert training.run(FAULTS_WITH_DROPOUT[fault]) != 0
    assert training.run(resume=True) == 0, training.said[-3000:]
    assert differences(with_dropout.results(), training.results()) == []


def test_a_training_killed_in_any_iteration_goes_on(undisturbed: dict[str, Training], tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # noqa: T201
    training = again(undisturbed, "student", tmp_path)
    moment = ("iteration", random.Random(seed).randint(1, 9), signal.SIGKILL)
    assert training.run(moment) == -signal.SIGKILL, training.said[-3000:]
    assert training.run(resume=True) == 0, training.said[-3000:]
    assert differences(undisturbed["student"].results(), training.results()) == []


@pytest.mark.parametrize(
    "moment",
    [("iteration", 5, signal.SIGTERM), ("case", 1, signal.SIGTERM), ("iteration", 5, signal.SIGKILL)],
    ids=["SIGTERM", "SIGTERM in the validation", "killed"],
)
def test_two_processes_stop_after_the_same_iteration_and_go_on(moment: Fault, two: Training, tmp_path: Path) -> None:
    training = Training(tmp_path / "both", "student", two.settings)
    statuses = training.run_two(moment)
    assert statuses[1] == (-9 if moment[2] == signal.SIGKILL else 143), training.said[-3000:]
    assert statuses[0] == (1 if moment[2] == signal.SIGKILL else 143), training.said[-3000:]
    assert training.run_two(resume=True) == [0, 0], training.said[-3000:]
    assert differences(two.results(), training.results()) == []


@pytest.fixture(scope="module")
def two(undisturbed: dict[str, Training], tmp_path_factory: pytest.TempPathFactory) -> Training:
    """An undisturbed student of two processes."""
    training = Training(tmp_path_factory.mktemp("two") / "both", "student", undisturbed["student"].settings)
    assert training.run_two() == [0, 0], training.said[-3000:]
    return training


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_all_processes_leaves_those_that_load_data_to_the_training(
    number: int, undisturbed: dict[str, Training], tmp_path: Path
) -> None:
    training = again(undisturbed, "teacher", tmp_path)
    assert training.run(("iteration", 5, -number), num_workers=2) == 128 + number, training.said[-3000:]
    assert [path.name for path in training.checkpoints] == ["iteration-000000003.pt", "iteration-000000005.pt"]


def test_a_training_that_has_ended_has_nothing_left_to_do(finished: Training) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.folder.rglob("*.pt")}
    assert finished.run(resume=True) == 0
    assert "this training has ended already" in finished.said
    assert {path: path.stat().st_mtime_ns for path in finished.folder.rglob("*.pt")} == before


def test_a_damaged_checkpoint_is_passed_over(undisturbed: dict[str, Training], tmp_path: Path) -> None:
    training = again(undisturbed, "teacher", tmp_path)
    assert training.run(("iteration", 8, signal.SIGKILL)) == -signal.SIGKILL
    newest = training.checkpoints[-1]
    newest.write_bytes(newest.read_bytes()[:-1000])
    assert training.run(resume=True) == 0, training.said[-3000:]
    assert f"{newest} is not a checkpoint that torch can read safely" in training.said
    assert "goes on after iteration 3, in epoch 1" in training.said
    assert differences(undisturbed["teacher"].results(), training.results()) == []
    for path in training.checkpoints:
        path.write_bytes(b"")
    assert training.run(resume=True) == 1
    assert f"no checkpoint in {training.folder / 'model_checkpoints'} can be read" in training.said


def test_checkpoints_of_another_training_are_moved_aside(finished: Training) -> None:
    before = {path.name: path.read_bytes() for path in finished.checkpoints}
    log = (finished.folder / "model_training.csv").read_text()
    assert finished.run(("iteration", 4, signal.SIGKILL)) == -signal.SIGKILL
    (earlier,) = finished.folder.glob("model_training-*.csv")
    assert earlier.read_text() == log
    (aside,) = finished.folder.glob("model_checkpoints-*")
    assert {path.name: path.read_bytes() for path in aside.iterdir()} == before
    assert f"{aside}; --resume would have gone on" in finished.said
    assert [path.name for path in finished.checkpoints] == ["iteration-000000003.pt"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"max_epochs": 4}, "max_epochs 3, this one has 4"),
        ({"learning_rate": 0.1}, "learning_rate 0.01, this one has 0.1"),
        ({"seed": 1}, "seed 0, this one has 1"),
        ({"batch_size": 1}, "batch_size 2, this one has 1"),
        ({"train_folds": [1], "val_folds": [2]}, "cases "),
        ({"val_interval": 1}, "val_interval 2, this one has 1"),
        ({"class_sampling": [1, 1, 1, 1, 1]}, r"class_sampling [8, 1, 1, 1, 1], this one has [1, 1, 1, 1, 1]"),
        ({"optimizer::momentum": 0.9}, "optimizer::param_groups::0::momentum 0.99, this one has 0.9"),
        ({"train::lr_scheduler::power": 1.0}, "lr_scheduler::power 0.9, this one has 1.0"),
        ({"architecture::dropout": 0.1}, "architecture::dropout None, this one has 0.1"),
    ],
)
def test_a_training_does_not_go_on_with_other_settings(settings: dict[str, Any], said: str, finished: Training) -> None:
    assert finished.run(resume=True, **settings) == 1
    assert f"is of a training with {said}" in finished.said


def test_a_second_training_leaves_the_files_of_one_that_runs_alone(
    undisturbed: dict[str, Training], tmp_path: Path
) -> None:
    training = again(undisturbed, "teacher", tmp_path)
    running = training.start(("iteration", 4, signal.SIGSTOP))
    while not training.checkpoints:
        time.sleep(0.05)
    try:
        before = {path: path.stat().st_mtime_ns for path in training.folder.rglob("*") if path.name != "log"}
        for resume in (False, True):
            assert training.run(resume=resume) == 1
            assert f"another training is writing to {training.checkpoints[0].parent}: give an" in training.said
        after = {path: path.stat().st_mtime_ns for path in training.folder.rglob("*") if path.name != "log"}
        assert after == before
    finally:
        running.kill()
        running.join()
    assert training.run(resume=True) == 0, training.said[-3000:]


def test_a_distillation_does_not_go_on_with_another_teacher_or_weight_or_without(
    undisturbed: dict[str, Training], tmp_path: Path
) -> None:
    source = undisturbed["student"]
    shutil.copytree(source.folder, tmp_path / "student")
    weights = torch.load(source.settings["teacher_path"], weights_only=True)
    torch.save({name: one + 1 for name, one in weights.items()}, tmp_path / "teacher.pt")
    weight = {**source.settings["distillation_weight"], "maximum": 0.2}
    student = Training(tmp_path / "student", "student", source.settings)
    for other, said in (
        ({"teacher_path": str(tmp_path / "teacher.pt")}, "teacher "),
        ({"distillation_weight": weight}, "distillation_weight "),
    ):
        assert student.run(resume=True, **other) == 1
        assert f"is of a training with {said}" in student.said
    alone = Training(student.folder, "alone", {**undisturbed["teacher"].settings})
    assert alone.run(resume=True) == 1
    assert re.search(
        r"is of a training with distillation::stages \[.*, this one has None: a training goes on", alone.said
    )


def test_a_full_disk_leaves_the_last_checkpoint(undisturbed: dict[str, Training], tmp_path: Path) -> None:
    training = again(undisturbed, "teacher", tmp_path)
    assert training.run(("iteration", 4, "fill the disk"), val_interval=3) == 1
    checkpoint = training.folder / "model_checkpoints" / "iteration-000000006.pt"
    assert f"InputError: {checkpoint} cannot be written: File too large" in training.said
    assert sorted(path.name for path in checkpoint.parent.iterdir()) == [".lock", "iteration-000000003.pt"]
    assert training.run(resume=True, val_interval=3) == 0


def test_a_process_for_data_that_is_killed_ends_the_training(undisturbed: dict[str, Training], tmp_path: Path) -> None:
    training = again(undisturbed, "teacher", tmp_path)
    assert training.run(("iteration", 4, "kill a worker"), num_workers=1) == 1
    assert "DataLoader worker" in training.said
    assert [path.name for path in training.checkpoints] == ["iteration-000000003.pt"]


def test_data_that_vanish_in_mid_run_are_named(
    undisturbed: dict[str, Training], patients: Path, tmp_path: Path
) -> None:
    training = again(undisturbed, "teacher", tmp_path)
    data = shutil.copytree(patients, tmp_path / "data")
    own = {"dataset_dir": str(data), "cache_dir": str(tmp_path / "cache")}
    assert training.run(("iteration", 4, "vanish"), **own) == 1
    assert re.search(rf"InputError: {data}/.*-t1n\.nii\.gz: missing", training.said)


def test_a_loss_that_is_not_finite_is_told_with_its_cases_and_parts_or_skipped(
    undisturbed: dict[str, Training], tmp_path: Path
) -> None:
    training = again(undisturbed, "student", tmp_path)
    assert training.run(("iteration", 4, "NaN")) == 1
    assert re.search(
        r"InputError: the loss is nan in iteration 4 of epoch 2, BraTS\S+, BraTS\S+ \(segmentation_loss nan, "
        r"distillation_loss nan, distillation_loss/input_block nan, .*\): look for NaN with the command check",
        training.said,
    )
    assert training.run(("iteration", 4, "NaN"), max_skipped=1) == 0
    assert ": skipped, 1 of 1" in training.said
    assert float(read_csv(training.folder / "model_training.csv")[1]["loss"]) > 0


def test_the_command_stops_at_a_signal_and_goes_on(undisturbed: dict[str, Training], tmp_path: Path) -> None:
    source = undisturbed["teacher"]
    settings = {**source.settings, "max_epochs": 6, "val_interval": 6, "ckpt_path": tmp_path / "model.pt"}
    del settings["dataset_dir"]
    words = [f"{key}={value}" for key, value in settings.items()]
    command = [sys.executable, "-W", "ignore", "-m", "dcd_components", "run", "teacher", str(BRATS)]
    command += ["--dataset_dir", source.settings["dataset_dir"], "--resume", *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while process.poll() is None and not [*tmp_path.glob("model_checkpoints/iteration*")]:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, said[-3000:]
    assert f"no checkpoint in {tmp_path / 'model_checkpoints'}: the training starts from the beginning" in said
    assert "of 6: the same command with --resume goes on" in said
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "goes on after iteration" in done.stdout
    assert len(read_csv(tmp_path / "model_training.csv")) == 6


def test_inference_has_nothing_to_go_on_with(tmp_path: Path) -> None:
    words = ["run", "segment", str(BRATS), "--dataset_dir", str(tmp_path), "--resume"]
    with pytest.raises(InputError, match="no config has the key resume"):
        cli.main(words)
