"""Run a study: train and score what is not there yet, a run a process.

A run that has ended is two small files in the study's folder: ``METHOD-SEED.csv`` has a row for each case, and
``METHOD-SEED.json``, written last, what was run, on what, the course of the training and what it took. Weights, masks,
caches and logs lie in a working folder, by which a training that was stopped goes on.
"""

from __future__ import annotations

import functools
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from dcd_components.benchmarks.timing import machine
from dcd_components.bundle.configs import READING, read_configs
from dcd_components.data.datalists import read_datalist
from dcd_components.errors import InputError
from dcd_components.files import read_json, write_json
from dcd_components.handlers.training_lock import TrainingLock
from dcd_components.networks.cost import cost
from dcd_components.networks.weights import weights_digest
from dcd_components.study.detail import add_details
from dcd_components.study.drawn_labels import draw_labels
from dcd_components.study.plan import TEACHER, Run, Study
from dcd_components.study.records import cases_digest, difference, read_record, settings_of
from dcd_components.tables import read_csv, write_csv


@dataclass(frozen=True)
class Places:
    """Where a study finds its patients and leaves what is not for the repository.

    Args:
        dataset_dir: folder of the patients.
        datalist: their list.
        work: folder for weights, masks, the cache and logs.
    """

    dataset_dir: Path
    datalist: Path
    work: Path


def run_study(study: Study, places: Places, processes: int = 1, index: int | None = None) -> str:
    """Run all of a study that is not there yet, or one run of it.

    A run that fails does not stop the others, but for those that need it as their teacher. A teacher whose weights are
    gone though it was scored, and that students need, is trained anew, and must become the same. At the end, the detail
    that students have of their teachers is added to the records that lack it.

    Args:
        study: what to run.
        places: of the patients and of the work.
        processes: that run at once, of one thread each; with one, it takes all cores.
        index: of the only run to do, counted from 0, for a cluster whose jobs are numbered.

    Returns:
        How many runs there are.

    Raises:
        InputError: at the end, for the runs that failed, with the files that say why; at once, for one that was run
            with other settings.
    """
    if processes < 1:
        raise InputError(f"processes must be at least 1, got {processes}")
    if index is not None and not 0 <= index < len(study.runs):
        raise InputError(f"index must be from 0 to {len(study.runs) - 1}, the last run of {study.path}, got {index}")
    chosen = list(study.runs) if index is None else [study.runs[index]]
    cases = cases_digest(places.datalist)
    left = [run for run in chosen if read_record(study, run, cases) is None]
    left = [*(_lost(study, left, places) if index is None else []), *left]
    faults: list[str] = []
    with Programs() as programs, ThreadPoolExecutor(processes) as pool, tqdm(total=len(left), unit="run") as bar:
        running: dict[Future[None], Run] = {}
        try:
            while left or running:
                for run in _ready(study, left, running.values())[: processes - len(running)]:
                    left.remove(run)
                    bar.write(f"{run.name} begins, see {places.work / run.name}")
                    running[pool.submit(_do, study, run, places, programs, 1 if processes > 1 else None)] = run
                if not running:
                    faults += [f"{run.name} needs {TEACHER}-{run.seed}, which is not there" for run in left]
                    break
                for ended in wait(running, return_when=FIRST_COMPLETED).done:
                    del running[ended]
                    bar.update()
                    faults += _faults(ended)
        except BaseException:
            programs.end()
            raise
        unknown, unmeasured = list[str](), list[str]()
        try:
            unknown = _add_details(study, chosen, places, processes)
        except InputError as error:
            unmeasured = [f"how much of the teacher's detail students have cannot be measured: {error}"]
    said = [f"{len(faults)} runs are missing:", *faults] if faults else []
    if said := [*said, *unmeasured]:
        raise InputError("\n  ".join(said))
    there = sum((study.results / f"{run.name}.json").is_file() for run in study.runs)
    lacking = f"; no weights in {places.work} to measure the detail of {', '.join(unknown)}" if unknown else ""
    return f"{there} of {len(study.runs)} runs in {study.results}{lacking}"


def _add_details(study: Study, runs: Sequence[Run], places: Places, processes: int) -> list[str]:
    """Measure what ended runs lack of it, with as many threads as there were processes; see :func:`add_details`."""
    before = torch.get_num_threads()
    torch.set_num_threads(processes if processes > 1 else before)
    try:
        return add_details(study, runs, places)
    finally:
        torch.set_num_threads(before)


def _faults(ended: Future[None]) -> list[str]:
    """Why a run failed; bugs of ours are raised."""
    error = ended.exception()
    if error is None:
        return []
    if not isinstance(error, InputError):
        raise error
    tqdm.write(str(error))
    return [str(error)]


class Programs:
    """Programs that run for a study; while there are some, SIGTERM ends the study as Ctrl-C does."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[bytes]] = set()
        self._ended = False
        self._before: Any = None

    def __enter__(self) -> Programs:
        """Take SIGTERM over."""
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, _exit)
        return self

    def __exit__(self, *_: object) -> None:
        """Give it back."""
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def __call__(self, words: Sequence[str], log: Path, threads: int | None) -> int:
        """Run a program, what it says at the end of a file, and return its exit status; none begins after the end."""
        if self._ended:
            return -signal.SIGTERM
        environment = {**os.environ, **({"OMP_NUM_THREADS": str(threads)} if threads else {})}
        with log.open("a") as file:
            program = subprocess.Popen(words, stdout=file, stderr=subprocess.STDOUT, env=environment)
        self._running.add(program)
        try:
            return program.wait()
        except BaseException:  # in the main thread, Ctrl-C or SIGTERM
            program.terminate()
            raise
        finally:
            self._running.discard(program)

    def end(self) -> None:
        """Ask all to end, which trainings do with a checkpoint."""
        self._ended = True
        for program in tuple(self._running):
            program.terminate()


def _exit(number: int, frame: object) -> None:
    raise SystemExit(128 + number)


def _ready(study: Study, left: Sequence[Run], running: Collection[Run]) -> list[Run]:
    """Runs whose teacher is there, or that need none."""
    teachers = {run.seed: run for run in study.runs if run.method == TEACHER}
    there = [seed for seed, one in teachers.items() if one not in [*left, *running] and read_record(study, one)]
    return [run for run in left if not run.needs_teacher or run.seed in there]


def _lost(study: Study, left: Sequence[Run], places: Places) -> list[Run]:
    """Teachers that were scored, and that some runs need, but whose weights are gone."""
    needed = {run.seed for run in left if run.needs_teacher}
    teachers = [run for run in study.runs if run.method == TEACHER and run.seed in needed]
    gone = [run for run in teachers if not (places.work / run.name / "model.pt").is_file()]
    return [run for run in gone if read_record(study, run)]


def _do(study: Study, run: Run, places: Places, programs: Programs, threads: int | None) -> None:
    """Train, evaluate and write the two files of a run, in a folder of its own that no other program works in."""
    folder = places.work / run.name
    lock = TrainingLock(folder)
    if not lock.take():
        raise InputError(f"another study is at work in {folder}: wait for its end, or choose another --work")
    try:
        _train_and_score(
            study, run, places, folder, functools.partial(run_workflow, study, programs, folder, threads), threads
        )
    finally:
        lock.release()


def _train_and_score(
    study: Study, run: Run, places: Places, folder: Path, call: Callable[..., None], threads: int | None
) -> None:
    model, output = folder / "model.pt", folder / "eval"
    data = {"dataset_dir": places.dataset_dir.absolute(), "datalist": places.datalist.absolute()}
    trained = {**run.settings, "seed": run.seed, "cache_dir": (places.work / "cache").absolute()}
    begun: dict[str, Any] = {"settings": settings_of(study, run), "cases": cases_digest(places.datalist)}
    if run.needs_teacher:
        teacher = _teacher(study, run, places)
        trained |= {"teacher_path": teacher} if run.workflow == "distill" else {}
        begun["teacher"] = weights_digest(teacher)
    begun = _begin(folder / "begun.json", begun)
    if run.drawn_folds:
        trained["datalist"] = draw_labels(study, run, places, folder, teacher, call)
    if run.is_given:
        shutil.copyfile(_given(study), model)
    else:
        call(run.workflow, run.training, {**data, **trained, "ckpt_path": model.absolute()}, "--resume")
    if known := read_record(study, run):  # a teacher whose weights were gone
        if weights_digest(model) != known["weights"]:
            scored = study.results / f"{run.name}.json"
            raise InputError(f"{model}, trained anew, is not the teacher of {scored}: take that away to score this one")
        return
    shutil.rmtree(output, ignore_errors=True)
    with READING:
        parser = read_configs(study.bundle, ["inference", "evaluate", *run.evaluation])
    kept = {key: value for key, value in run.settings.items() if key.partition("::")[0] in parser.get()}
    call("evaluate", run.evaluation, {**data, **kept, "ckpt_path": model.absolute(), "output_dir": output.absolute()})
    patient = {case["case"]: case["patient"] for case in read_datalist(places.datalist).cases}
    about = {"method": run.method, "seed": run.seed}
    rows = [{**about, "patient": patient[row["case"]], **row} for row in read_csv(output / "scores.csv")]
    write_csv(rows, study.results / f"{run.name}.csv")
    parser.update(kept)
    patch = [len(parser["sequences"]), *parser["patch_size"]]
    with READING:
        network = parser.get_parsed_content("network_def")
    course = [] if run.is_given else read_csv(folder / "model_training.csv")
    record = {
        **begun,
        "seed": run.seed,
        "weights": weights_digest(model),
        **cost(network, patch),
        "machine": machine(threads),
        "course": [{k: v for k, v in row.items() if v is not None} for row in course],
    }
    write_json(study.results / f"{run.name}.json", record)


def _given(study: Study) -> Path:
    path = study.bundle / "models" / TEACHER / "model.pt"
    if not path.is_file():
        raise InputError(f"no teacher at {path}, and {study.bundle} has no config train_teacher to train one")
    return path


def _teacher(study: Study, run: Run, places: Places) -> Path:
    """The weights of the seed's teacher, which must be those that were scored."""
    path = (places.work / f"{TEACHER}-{run.seed}" / "model.pt").absolute()
    record = study.results / f"{TEACHER}-{run.seed}.json"
    if not path.is_file() or weights_digest(path) != read_json(record)["weights"]:
        raise InputError(f"{path} is not there, or not the teacher of {record}: take that away to train it anew")
    return path


def _begin(path: Path, said: Mapping[str, Any]) -> dict[str, Any]:
    """Note what a training is begun or resumed with, and by which code, so that it goes on as what it was."""
    commits = [commit()]
    if path.is_file():
        before = read_json(path)
        commits = sorted({*commits, *before.pop("commits")})
        flat = ({**one, **one["settings"], "settings": None} for one in (before, said))
        if other := difference(*flat):
            raise InputError(f"{path.parent} was begun with {other}: delete the folder to train anew")
    write_json(path, content := {**said, "commits": commits})
    return content


def run_workflow(
    study: Study,
    programs: Programs,
    folder: Path,
    threads: int | None,
    workflow: str,
    overlays: Sequence[str],
    settings: Mapping[str, Any],
    *options: str,
) -> None:
    """Run a workflow in a process of its own.

    Args:
        study: whose bundle it is of.
        programs: among which it runs.
        folder: for what it says.
        threads: of the process; all by default.
        workflow: of ``dcd run``.
        overlays: configs on top.
        settings: over them, by key; with the folder of the patients.
        options: further ones of ``dcd run``.

    Raises:
        InputError: when it fails.
    """
    words = [sys.executable, "-W", "ignore", "-m", "dcd_components", "run", workflow, str(study.bundle), *options]
    words += ["--dataset_dir", str(settings["dataset_dir"]), *(["--overlay", *overlays] if overlays else [])]
    words += [f"{key}={value}" for key, value in settings.items() if key != "dataset_dir"]
    log = folder / f"{workflow}.txt"
    if programs(words, log, threads):
        last = (log.read_text().strip().splitlines() or ["nothing said"])[-1]
        raise InputError(f"{workflow} of {folder.name} failed, see {log}: {last}")


def commit() -> str:
    """Commit of the code, where it is a clone, and whether it was changed since."""
    words = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--exclude=*"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return done.stdout.strip()
