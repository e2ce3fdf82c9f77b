"""The bundle under torchrun, on two processes with gloo: they do what one does, or end together."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jobs
import pytest
import torch
from tiny import OF_INFERENCE, TINY, by_fold, config_files

from dcd_components.tables import read_csv

#: Of weights and losses; float32 rounds sums that are split otherwise, here by less than a tenth of this.
TOLERANCE = 1e-6
#: Of Dice, where such weights are torn between two classes in a few voxels of 80 000.
DICE_TOLERANCE = 1e-4
#: In float32 what is left to differ is what the processes make of the same patches, augmented alike.
EXACT: dict[str, Any] = {
    **TINY,
    "max_epochs": 3,
    "epoch_length": 3,
    "ema_decay": 0.5,
    "train::handlers::2::max_norm": 0.1,  # so that gradients are clipped
    "train::inferer": {"_target_": "SimpleInferer"},
    "validate::inferer": "@sliding_window",
}
SCORES = {key: EXACT[key] for key in OF_INFERENCE} | {"inferer": "@sliding_window"}
LAUNCHER = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]


def all_jobs(folder: Path, patients: Path, processes: int) -> list[jobs.Job]:
    """A teacher, a student that is distilled from the second epoch on, and the student's scores.

    They are validated on one case and on three, and the student of the one process is scored on three and on one: fewer
    than processes, and odd.
    """
    folder.mkdir()
    datalist = by_fold(patients, folder / "datalist.json", [0, 0, 0, 1, 2, 2, 2, 2, 2, 2])
    shared = {"dataset_dir": str(patients), "datalist": datalist} | ({"process_group": None} if processes > 1 else {})
    last = ["multi_gpu"] if processes > 1 else []
    teacher, student = str(folder / "teacher.pt"), str(folder / "student.pt")
    scored = str(folder.with_name("1") / "student.pt")

    def job(*names: str, weights: str | None = None, **settings: Any) -> jobs.Job:
        kept = str(folder / weights) if weights else None
        return {"files": config_files(*names, *last), "settings": settings | shared, "weights": kept}

    train = {**EXACT, "batch_size": 4 // processes, "cache_dir": str(folder.parent / "cache"), "train_folds": [2]}
    weight = {"_target_": "dcd_components.constant", "maximum": 0.3, "start": 1}
    distill = {"distillation_weight": weight, "normalize": True, "teacher_path": teacher}
    return [
        job("train_teacher", weights="teacher", **train, ckpt_path=teacher, val_folds=[1]),
        job("distill", weights="student", **train, **distill, ckpt_path=student, val_folds=[0]),
        job("inference", "evaluate", **SCORES, ckpt_path=scored, output_dir=str(folder / "three"), test_folds=[0]),
        job("inference", "evaluate", **SCORES, ckpt_path=scored, output_dir=str(folder / "one"), test_folds=[1]),
    ]


@pytest.fixture(scope="module")
def runs(patients: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders of the same runs in one process and in two, where each has half the batch."""
    folder = tmp_path_factory.mktemp("runs")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as torchrun does
    for job in all_jobs(folder / "1", patients, processes=1):
        jobs.run(job)
    torch.set_num_threads(threads)
    (folder / "jobs.json").write_text(json.dumps(all_jobs(folder / "2", patients, processes=2)))
    command = [*LAUNCHER, str(jobs.__file__), str(folder / "jobs.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return folder / "1", folder / "2"


@pytest.mark.parametrize("network", ["teacher", "student"])
def test_two_processes_train_what_one_trains_with_both_batches(runs: tuple[Path, Path], network: str) -> None:
    files = [folder / f"{network}-{rank}.pt" for folder, rank in ((runs[0], 0), (runs[1], 0), (runs[1], 1))]
    alone, first, second = (torch.load(file, weights_only=True) for file in files)
    assert len(alone) > 40
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    torch.testing.assert_close(first, alone, rtol=0, atol=TOLERANCE)
    torch.testing.assert_close(*(torch.load(folder / f"{network}.pt") for folder in runs), rtol=0, atol=TOLERANCE)


def test_the_projections_are_among_what_is_the_same(runs: tuple[Path, Path]) -> None:
    trained = torch.load(runs[1] / "student-0.pt", weights_only=True)
    assert sum(tuple(weight.shape[2:]) == (1, 1, 1) and weight.shape[0] > weight.shape[1] for weight in trained) >= 3


def rows(path: Path) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name != "seconds"} for row in read_csv(path)]


@pytest.mark.parametrize("network", ["teacher", "student"])
def test_two_processes_log_what_one_does(runs: tuple[Path, Path], network: str) -> None:
    alone, both = (rows(folder / f"{network}_training.csv") for folder in runs)
    dice = [[row.pop("val_mean_dice") for row in one] for one in (alone, both)]
    assert both == [pytest.approx(row, abs=TOLERANCE) for row in alone]
    assert dice[1] == pytest.approx(dice[0], abs=DICE_TOLERANCE)
    assert len(both) == EXACT["max_epochs"]


@pytest.mark.parametrize(("cases", "folder"), [(3, "three"), (1, "one")])
def test_two_processes_score_every_case_once(runs: tuple[Path, Path], cases: int, folder: str) -> None:
    alone, both = (rows(one / folder / "scores.csv") for one in runs)
    assert both == [pytest.approx(row, nan_ok=True) for row in alone]
    assert len(both) == cases


def test_distillation_starts_in_the_second_epoch(runs: tuple[Path, Path]) -> None:
    weights = [row["distillation_weight"] for row in read_csv(runs[1] / "student_training.csv")]
    assert weights == [None, pytest.approx(0.3), pytest.approx(0.3)]


class Run:
    """The bundle's own command under torchrun, on patients of whom one may be damaged."""

    def __init__(self, folder: Path, patients: Path, **settings: Any) -> None:
        self.folder, self.data = folder, Path(shutil.copytree(patients, folder / "data"))
        files = {"dataset_dir": self.data, "ckpt_path": folder / "model.pt", "cache_dir": folder / "cache"}
        self.settings = {**TINY, **files, "batch_size": 1, **settings}

    def damage(self, case: int) -> None:
        path = self.data / json.loads((self.data / "datalist.json").read_text())["training"][case]["image"][0]
        path.write_bytes(path.read_bytes()[:-2000])

    def start(self) -> subprocess.Popen[str]:
        words = [f"--{key}={value}" for key, value in self.settings.items()]
        files = f"--config_file={config_files('train_student', 'multi_gpu')}"
        command = [*LAUNCHER, "-m", "monai.bundle", "run", "training", files, *words]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def ended(process: subprocess.Popen[str]) -> str:
    """What a run said that has failed within a minute, and left no process behind."""
    said, _ = process.communicate(timeout=60)
    assert process.returncode != 0, said[-4000:]
    return said


def test_cases_that_cannot_be_read_are_named_by_both_before_the_first_epoch(patients: Path, tmp_path: Path) -> None:
    run = Run(tmp_path, patients, num_workers=1)
    run.settings["datalist"] = by_fold(patients, tmp_path / "datalist.json", [2] * 8 + [1] * 2)
    run.settings["train_folds"] = [2]
    for case in (2, 9):  # to train and to validate with
        run.damage(case)
    said = ended(run.start())
    faults = [line for line in said.splitlines() if "error: " in line]
    names = [case["case"] for case in json.loads((run.data / "datalist.json").read_text())["training"]]
    assert len(faults) == 2, said[-6000:]
    assert all(names[2] in line and names[9] in line for line in faults)
    assert not (tmp_path / "model_training.csv").exists()


def test_a_process_that_is_killed_takes_the_other_with_it(patients: Path, tmp_path: Path) -> None:
    log = tmp_path / "model_training.csv"
    process = Run(tmp_path, patients, max_epochs=1000, val_interval=1000).start()
    waited = time.monotonic()
    while not log.exists():
        assert process.poll() is None
        assert time.monotonic() - waited < 120
        time.sleep(0.2)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    (second,) = (pid for pid in children if b"\0RANK=1\0" in Path(f"/proc/{pid}/environ").read_bytes())
    os.kill(int(second), signal.SIGKILL)
    assert "exitcode  : -9" in ended(process)
    assert not any(Path(f"/proc/{pid}").exists() for pid in children)
