"""The whole story in minutes: simulate patients, train a teacher, distil it, and show what that gained and cost."""

from __future__ import annotations

import contextlib
import json
import shlex
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from dcd_components.benchmarks import training
from dcd_components.bundle.configs import BUNDLES, read_configs
from dcd_components.data.datalists import read_datalist, write_datalist
from dcd_components.data.downloads import DECATHLON, download
from dcd_components.demo import report
from dcd_components.demo.report import DISTILLED, EQUAL_COST, PLAIN, TEACHER, file_name
from dcd_components.errors import InputError
from dcd_components.handlers.case_pictures import Patients
from dcd_components.handlers.training_log import clock

#: The config that each model is trained with; quick.yaml comes on top.
TRAININGS = {
    TEACHER: ["train_teacher"],
    PLAIN: ["train_student"],
    DISTILLED: ["distill"],
    EQUAL_COST: ["train_student"],
}
#: Of Python, before the module that a step runs and its arguments.
OPTIONS = ("-W", "ignore", "-m")
#: The first steps, with simulated and with real patients.
SIMULATED, REAL = ("simulate patients", "simulate a new case"), ("list the patients",)
#: Steps with their typical minutes on two cores, from which the time left follows.
STEPS = {
    "simulate patients": 1.0,
    "simulate a new case": 0.2,
    "list the patients": 0.1,
    "train teacher": 4.0,
    "time an iteration of plain and distilled, in turns": 0.5,
    "train plain": 2.2,
    "train distilled": 2.8,
    "train plain, equal cost": 2.8,
    "evaluate teacher": 0.9,
    "evaluate plain": 0.6,
    "evaluate distilled": 0.6,
    "evaluate plain, equal cost": 0.6,
    "segment the new case": 0.2,
}


@dataclass(frozen=True)
class Size:
    """How much the demo does.

    Args:
        cases: simulated patients' visits; ten a fold by default. Real ones are all taken.
        folds: of the data list.
        test_folds: folds of the reported scores.
        val_folds: folds that choose the checkpoint; all others train.
        teacher_epochs: of the teacher's training.
        student_epochs: of the plain and of the distilled student's training.
        rounds: turns in which the iterations are timed.
        images: further options of the command ``phantom``, such as ``--spacing_mm=4``.
        settings: of the configs, over quick.yaml, for all models.
    """

    cases: int = 120
    folds: int = 12
    test_folds: Sequence[int] = (0, 1, 2, 3, 4)
    val_folds: Sequence[int] = (5,)
    teacher_epochs: int = 20
    student_epochs: int = 14
    rounds: int = 7
    images: Sequence[str] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)


#: With real patients, whose table or names give the folds.
FIVE_FOLDS = Size(folds=5, test_folds=(0,), val_folds=(1,))


def run(out: str = "demo", seed: int = 0, task: str = "brats_gli", dataset_dir: Path | None = None) -> None:
    """Simulate, train, distil, evaluate and report; everything is trained live.

    Args:
        out: new folder for the table, the pictures, the scores, the weights and the logs.
        seed: of the simulated patients and of the networks' first weights.
        task: brats_gli, isles22 or hippocampus.
        dataset_dir: real patients instead of simulated ones. Those of ``hippocampus`` are downloaded where not given.
    """
    folder = Path(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} exists and is not an empty folder: name another with --out (make demo OUT=...)")
    bundle = BUNDLES / f"{task}_dcd"
    if not BUNDLES.is_dir():
        raise InputError(f"the demo needs the bundles at {BUNDLES}: run it in a clone of the repository")
    if not bundle.is_dir():
        known = sorted(path.name.removesuffix("_dcd") for path in BUNDLES.glob("*_dcd"))
        raise InputError(f"unknown task {task!r}; choose {', '.join(known)}")
    if task in DECATHLON and dataset_dir is None:
        dataset_dir = download(task, folder.absolute().parent / "data")
    Demo(folder.absolute(), bundle, seed, dataset_dir=dataset_dir).run()


class Demo:
    """One run of the demo in one folder; every step but the timing is a command that can be run by hand.

    Args:
        folder: new or empty; everything is written there.
        bundle: folder of ``<task>_dcd``.
        seed: of the simulated patients and of the networks' first weights.
        size: how much is done.
        dataset_dir: real patients; simulated ones by default.
    """

    def __init__(
        self, folder: Path, bundle: Path, seed: int = 0, size: Size | None = None, dataset_dir: Path | None = None
    ) -> None:
        self.folder = _short(folder)
        self.bundle = _short(bundle)
        self.seed = seed
        self.real = dataset_dir is not None
        self.size = size or (FIVE_FOLDS if self.real else Size())
        self.patients = dataset_dir.absolute() if dataset_dir else self.folder / "patients"
        self.datalist = self.folder / "datalist.json" if self.real else self.patients / "datalist.json"
        self.start = time.monotonic()
        self.steps = {
            step: minutes for step, minutes in STEPS.items() if step not in (SIMULATED if self.real else REAL)
        }
        self.left = dict(self.steps)
        (folder / "logs").mkdir(parents=True, exist_ok=True)

    def run(self) -> None:
        """Do all steps."""
        if self.real:
            self._list()
        else:
            self._simulate(SIMULATED[0], "patients", self.size.cases, self.size.folds, self.seed)
            self._simulate(SIMULATED[1], "new_case", 1, 1, 10_000 + self.seed)
        self._train(TEACHER, self.size.teacher_epochs)
        seconds = self._time_iterations()
        self._train(PLAIN, self.size.student_epochs)
        self._train(DISTILLED, self.size.student_epochs)
        self._train(EQUAL_COST, equal_cost_epochs(self.size.student_epochs, seconds))
        shutil.rmtree(self.folder / "cache")
        for model in TRAININGS:
            self._evaluate(model)
        self._segment()
        evaluations = {model: self._read(_evaluation(model)) for model in TRAININGS}
        patients = Patients(self.patients, read_datalist(self.datalist))
        table = report.write(self.folder, patients, evaluations, self._read(TRAININGS[DISTILLED]), seconds)
        self._say(f"\n{table}\n\nTable, pictures, scores, masks and weights are in {self.folder}")

    def _simulate(self, step: str, name: str, cases: int, folds: int, seed: int) -> None:
        options = _words({"out": self.folder / name, "cases": cases, "seed": seed, "folds": folds})
        task = self.bundle.name.removesuffix("_dcd")
        self._step(step, ["dcd_components", "phantom", task, *options, *self.size.images])

    def _list(self) -> None:
        """List the patients, and set one apart that no training sees, as if it were new."""
        options = _words({"bundle": self.bundle, "out": self.datalist})
        self._step(REAL[0], ["dcd_components", "datalist", str(self.patients), *options])
        listed = read_datalist(self.datalist)
        case = next(case for case in listed.cases if case["fold"] in self.size.test_folds)
        apart = self.folder / "new_case"
        for path in (*case["image"], case["label"]):
            (apart / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.patients / path, apart / path)
        write_datalist(replace(listed, cases=[case]), apart / "datalist.json")

    def _time_iterations(self) -> dict[str, float]:
        """Seconds an iteration of both students' trainings takes, with its share of what comes before the first."""
        step = "time an iteration of plain and distilled, in turns"
        self._announce(step)
        files = {model: self._configs(TRAININGS[model]) for model in (PLAIN, DISTILLED)}
        settings = {"bundle_root": str(self.bundle), **self._training_settings(DISTILLED), **self.size.settings}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            starts = training.start_seconds(files, **settings)
            found = training.seconds(files, self.size.rounds, **settings)
        iterations = self.size.student_epochs * self._read(TRAININGS[DISTILLED])["epoch_length"]
        found = {model: taken + starts[model] / iterations for model, taken in found.items()}
        self._say("    " + ", ".join(f"{model} {seconds:.3f} s" for model, seconds in found.items()))
        del self.left[step]
        return found

    def _train(self, model: str, epochs: int) -> None:
        settings = {"max_epochs": epochs, **self._training_settings(model)}
        self._bundle(f"train {model}", ["training"], TRAININGS[model], settings)

    def _training_settings(self, model: str) -> dict[str, Any]:
        held_out = {*self.size.test_folds, *self.size.val_folds}
        return {
            "seed": self.seed,
            "ckpt_path": self._weights(model),
            "log_path": str(self.folder / "logs" / f"{file_name(model)}.csv"),
            # In trainings of minutes, to start as channels of the teacher gains most: docs/results.md.
            **({"teacher_path": self._weights(TEACHER), "init": "teacher"} if model == DISTILLED else {}),
            "dataset_dir": str(self.patients),
            "datalist": str(self.datalist),
            "cache_dir": str(self.folder / "cache"),
            "train_folds": [fold for fold in range(self.size.folds) if fold not in held_out],
            "val_folds": list(self.size.val_folds),
        }

    def _evaluate(self, model: str) -> None:
        settings = {
            "dataset_dir": self.patients,
            "datalist": self.datalist,
            "output_dir": self.folder / "masks" / file_name(model),
            "ckpt_path": self._weights(model),
            "test_folds": list(self.size.test_folds),
        }
        self._bundle(f"evaluate {model}", ["evaluating"], _evaluation(model), settings)

    def _segment(self) -> None:
        case = self.folder / "new_case"
        settings = {"dataset_dir": case, "output_dir": case, "ckpt_path": self._weights(DISTILLED)}
        self._bundle("segment the new case", [], ["inference"], settings)

    def _weights(self, model: str) -> str:
        return str(self.folder / "weights" / f"{file_name(model)}.pt")

    def _configs(self, names: Sequence[str]) -> list[str]:
        return [str(self.bundle / "configs" / f"{name}.yaml") for name in (*names, "quick")]

    def _read(self, names: Sequence[str]) -> ConfigParser:
        parser = read_configs(self.bundle, (*names, "quick"))
        parser.update(dict(self.size.settings))
        return parser

    def _bundle(self, step: str, run_id: Sequence[str], configs: Sequence[str], settings: Mapping[str, Any]) -> None:
        files = {"config_file": self._configs(configs), "bundle_root": self.bundle}
        options = _words({**files, **settings, **self.size.settings})
        self._step(step, ["monai.bundle", "run", *run_id, *options])

    def _step(self, step: str, arguments: Sequence[str]) -> None:
        """Run a module in a process of its own, its output in a log file and its progress on the screen."""
        number = self._announce(step)
        self._say(shlex.join(["python", *OPTIONS, *arguments]))
        log = self.folder / "logs" / f"{number:02d} {step}.txt"
        try:
            with log.open("w") as file, contextlib.closing(said_by(arguments)) as lines:
                shown = 0.0
                for line in lines:
                    file.write(line)
                    bar = "%|" in line  # a progress bar's line comes many times a second
                    if " left" in line or "means of" in line or (bar and time.monotonic() - shown > 10):
                        self._say("    " + line.split(": ", 1)[-1].strip())
                        shown = time.monotonic()
        except subprocess.CalledProcessError:
            last = log.read_text().strip().splitlines()[-1]
            raise InputError(f"step {step!r} failed, see {log}: {last}") from None
        del self.left[step]

    def _announce(self, step: str) -> int:
        """Say which step comes and how long all that are left take; its number."""
        number = len(self.steps) - len(self.left) + 1
        self._say(f"\n[{number}/{len(self.steps)}] {step}: {clock(self._seconds_left())} left in all")
        return number

    def _seconds_left(self) -> float:
        """Typical time of the steps to come, at the speed of this machine so far."""
        done = sum(self.steps.values()) - sum(self.left.values())
        speed = (time.monotonic() - self.start) / done if done > 5 else 60.0
        return sum(self.left.values()) * speed

    @staticmethod
    def _say(text: str) -> None:
        print(text, flush=True)


def said_by(arguments: Sequence[str]) -> Generator[str, None, None]:
    """Run a module in a process of its own, and yield the lines that it says as they come.

    Raises:
        CalledProcessError: it failed, which its last line explains.
    """
    command = [sys.executable, *OPTIONS, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        yield from process.stdout or ()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)


def equal_cost_epochs(epochs: int, seconds: Mapping[str, float]) -> int:
    """Epochs of the plain student that cost what the distilled one's ``epochs`` do.

    Args:
        epochs: of the distilled student.
        seconds: an iteration of each of the two takes, with its share of the start.
    """
    return max(1, round(epochs * seconds[DISTILLED] / seconds[PLAIN]))


def _short(path: Path) -> Path:
    """Path from the current folder where it lies below it, which makes the commands easier to read."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _evaluation(model: str) -> list[str]:
    """Configs that a model is evaluated with."""
    return ["inference", "evaluate", *(["teacher"] if model == TEACHER else [])]


def _words(options: Mapping[str, Any]) -> list[str]:
    """Options as the words of a command line; texts within lists in double quotes, to stand within single ones."""
    texts = {name: json.dumps(value) if isinstance(value, list) else value for name, value in options.items()}
    return [f"--{name}={value}" for name, value in texts.items()]
