"""The whole story in minutes: simulate patients, train a teacher, distil it, and show what that gained and cost."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dcd_components.bundle.configs import BUNDLES
from dcd_components.demo import report
from dcd_components.errors import InputError
from dcd_components.handlers.training_log import clock
from dcd_components.tables import read_csv

CASES, FOLDS = 120, 12  # ten cases a fold
TEST_FOLDS, VAL_FOLDS, TRAIN_FOLDS = [0, 1, 2, 3, 4], [5], [6, 7, 8, 9, 10, 11]
TEACHER_EPOCHS, STUDENT_EPOCHS = 20, 14

#: What is trained, and with which configs on top of inference.yaml.
MODELS = {
    "teacher": ["train", "teacher"],
    "plain": ["train"],
    "distilled": ["train", "distill"],
    "plain, same time": ["train"],
}
#: Steps with their typical minutes on two cores, from which the time left follows.
STEPS = {
    "simulate patients": 1.0,
    "simulate a new case": 0.2,
    "train teacher": 4.0,
    "train plain": 2.2,
    "train distilled": 3.2,
    "train plain, same time": 3.2,
    "evaluate teacher": 0.9,
    "evaluate plain": 0.6,
    "evaluate distilled": 0.6,
    "evaluate plain, same time": 0.6,
    "segment the new case": 0.2,
}


def run(out: str = "demo", seed: int = 0, task: str = "brats_gli") -> None:
    """Simulate, train, distil, evaluate and report; everything is trained live, in about a quarter of an hour.

    Args:
        out: new folder for the table, the pictures, the scores, the weights and the logs.
        seed: of the simulated patients and of the networks' first weights.
        task: brats_gli or isles22.
    """
    folder = Path(str(out))
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} exists and is not an empty folder: name another with --out (make demo OUT=...)")
    bundle = BUNDLES / f"{task}_dcd"
    if not BUNDLES.is_dir():
        raise InputError(f"the demo needs the bundles at {BUNDLES}: run it in a clone of the repository")
    if not bundle.is_dir():
        raise InputError(f"unknown task {task!r}; choose brats_gli or isles22")
    Demo(folder.absolute(), seed, task, bundle).run()


class Demo:
    """One run of the demo in one folder; every step is a command that can be run by hand."""

    def __init__(self, folder: Path, seed: int, task: str, bundle: Path) -> None:
        self.folder = folder
        self.seed = seed
        self.task = task
        self.bundle = bundle
        self.start = time.monotonic()
        self.left = dict(STEPS)
        (folder / "logs").mkdir(parents=True, exist_ok=True)

    def run(self) -> None:
        """Do all steps."""
        self._simulate("simulate patients", "patients", CASES, self.seed)
        self._simulate("simulate a new case", "new_case", 1, 10_000 + self.seed)
        for model, epochs in ("teacher", TEACHER_EPOCHS), ("plain", STUDENT_EPOCHS), ("distilled", STUDENT_EPOCHS):
            self._train(model, epochs)
        seconds = {model: float(read_csv(self._log(model))[-1]["seconds"]) for model in ("plain", "distilled")}
        self._train("plain, same time", round(STUDENT_EPOCHS * seconds["distilled"] / seconds["plain"]))
        shutil.rmtree(self.folder / "cache")
        for model in MODELS:
            self._evaluate(model)
        case = self.folder / "new_case"
        options = {"dataset_dir": case, "output_dir": case, "ckpt_path": self._weights("distilled")}
        self._bundle("segment the new case", [], **options)
        table = report.write(self.folder, self._configs([]), {model: self._log(model) for model in MODELS})
        self._say(f"\n{table}\n\nTable, pictures, scores, masks and weights are in {self.folder}")

    def _simulate(self, step: str, name: str, cases: int, seed: int) -> None:
        options = [f"--out={self.folder / name}", f"--cases={cases}", f"--seed={seed}", f"--folds={min(FOLDS, cases)}"]
        self._step(step, ["dcd_components", "phantom", self.task, *options])

    def _train(self, model: str, epochs: int) -> None:
        options: dict[str, Any] = {"ckpt_path": self._weights(model), "log_path": self._log(model)}
        if model == "distilled":
            options["teacher_path"] = self._weights("teacher")
        folds = {"train_folds": TRAIN_FOLDS, "val_folds": VAL_FOLDS}
        options |= {"dataset_dir": self.folder / "patients", "cache_dir": self.folder / "cache"}
        self._bundle(f"train {model}", MODELS[model], epochs=epochs, seed=self.seed, **options, **folds)

    def _evaluate(self, model: str) -> None:
        configs = ["evaluate", "teacher"] if model == "teacher" else ["evaluate"]
        options = {"dataset_dir": self.folder / "patients", "output_dir": self.folder / "masks" / model}
        self._bundle(f"evaluate {model}", configs, ckpt_path=self._weights(model), test_folds=TEST_FOLDS, **options)

    def _weights(self, model: str) -> Path:
        return self.folder / "weights" / f"{model}.pt"

    def _log(self, model: str) -> Path:
        return self.folder / "logs" / f"{model}.csv"

    def _configs(self, names: Sequence[str]) -> list[str]:
        return [str(self.bundle / "configs" / f"{name}.yaml") for name in ("inference", *names, "quick")]

    def _bundle(self, step: str, configs: Sequence[str], **overrides: Any) -> None:
        options = [f"--{key}={value}" for key, value in overrides.items()]
        files = [f"--config_file={self._configs(configs)}", f"--bundle_root={self.bundle}"]
        self._step(step, ["monai.bundle", "run", *files, *options])

    def _step(self, step: str, arguments: Sequence[str]) -> None:
        """Run a module in a process of its own, its output in a log file and its progress on the screen."""
        number, command = len(STEPS) - len(self.left) + 1, ["python", "-W", "ignore", "-m", *arguments]
        self._say(f"\n[{number}/{len(STEPS)}] {step}: {clock(self._seconds_left())} left in all\n{shlex.join(command)}")
        log = self.folder / "logs" / f"{number:02d} {step}.txt"
        with (
            log.open("w") as file,
            subprocess.Popen(
                [sys.executable, *command[1:]],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            ) as process,
        ):
            shown = 0.0
            for line in process.stdout or ():
                file.write(line)
                bar = "%|" in line  # a progress bar's line comes many times a second
                if " left" in line or (bar and time.monotonic() - shown > 10):
                    self._say("    " + line.split(": ", 1)[-1].strip())
                    shown = time.monotonic()
        if process.returncode:
            last = log.read_text().strip().splitlines()[-1]
            raise InputError(f"step {step!r} failed, see {log}: {last}")
        del self.left[step]

    def _seconds_left(self) -> float:
        """Typical time of the steps to come, at the speed of this machine so far."""
        done = sum(STEPS.values()) - sum(self.left.values())
        speed = (time.monotonic() - self.start) / done if done > 5 else 60.0
        return sum(self.left.values()) * speed

    @staticmethod
    def _say(text: str) -> None:
        print(text, flush=True)
