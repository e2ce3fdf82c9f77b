"""Long haul: trainings that are killed and resumed at random moments, and hundreds of inferences in one process.

    make soak MINUTES=60 OUT=soak

Writes ``soak.json`` (what happened) and ``soak.png`` (memory and open files over time) into a new folder, and ends with
status 1 if a resumed training is not bitwise the uninterrupted one, a mask is missing, broken or another, or memory or
open files grow. Not part of the tests: it takes as long as it is told.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import nibabel
import torch
from matplotlib.figure import Figure

from dcd_components.commands import phantom

sys.path.insert(0, str(Path(__file__).parents[1]))

from tiny import BRATS, TINY

DCD = [sys.executable, "-W", "ignore", "-m", "dcd_components"]
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
#: Exit statuses of trainings that were stopped: by a signal before they listened, or by one that they obeyed.
STOPPED = {-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT, 128 + signal.SIGTERM, 128 + signal.SIGINT}
#: Growth of resident memory from the second quarter of an inference to its last that counts as a leak.
GROWTH_MB = 30
SAMPLE_SECONDS = 0.25
WORKFLOWS = ("teacher", "distill", "segment")


@dataclass
class Run:
    """One process: what it was, how it ended, and what it held over time."""

    name: str
    status: int = 0
    seconds: list[float] = field(default_factory=list)
    rss_mb: list[float] = field(default_factory=list)
    open_files: list[int] = field(default_factory=list)


def settings(**given: object) -> list[str]:
    return [f"{key}={value}" for key, value in given.items()]


def watch(
    name: str, words: Sequence[str], log: Path, kill_after: float | None = None, how: int = signal.SIGKILL
) -> Run:
    """Run a command of ``dcd`` and sample it; stop it after a while if told so."""
    run = Run(name)
    with log.open("a") as file:
        process = subprocess.Popen([*DCD, *words], stdout=file, stderr=subprocess.STDOUT)
        start = time.monotonic()
        while process.poll() is None:
            _sample(run, process.pid, time.monotonic() - start)
            if kill_after is not None and time.monotonic() - start > kill_after:
                process.send_signal(how)
                kill_after = None
            time.sleep(SAMPLE_SECONDS)
    run.status = process.returncode
    return run


def _sample(run: Run, pid: int, seconds: float) -> None:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        files = len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:  # it has just ended
        return
    lines = [line for line in status.splitlines() if line.startswith("VmRSS")]
    if lines:
        run.seconds.append(round(seconds, 2))
        run.rss_mb.append(int(lines[0].split()[1]) / 1e3)
        run.open_files.append(files)


def train(
    folder: Path, patients: Path, workflow: str, *, teacher: Path | None = None, chance: random.Random | None = None
) -> Iterator[Run]:
    """Train once; with ``chance``, stopped at random moments and resumed until it is complete."""
    folder.mkdir(exist_ok=True)
    keys = settings(
        **{**TINY, "max_epochs": 40, "epoch_length": 4, "spacing": [4, 4, 4], "patch_size": [16, 16, 16]},
        ckpt_path=folder / "model.pt",
        cache_dir=folder.parent / "cache",
        **(
            {"teacher_path": teacher, "distillation_weight::start": 2, "distillation_weight::length": 9}
            if teacher
            else {}
        ),
    )
    words = ["run", workflow, str(BRATS), "--dataset_dir", str(patients), "--resume", *keys]
    while True:
        stop = chance.uniform(6, 18) if chance else None
        run = watch(
            f"{workflow} in {folder.name}", words, folder / "log.txt", stop, chance.choice(SIGNALS) if chance else 0
        )
        yield run
        if run.status == 0:
            return
        if chance is None or not (run.status in STOPPED or interrupted(folder / "log.txt")):
            raise SystemExit(f"{run.name} ended with status {run.status}, see {folder / 'log.txt'}")


def interrupted(log: Path) -> bool:
    """Whether Ctrl-C came before the training listened, which Python says by status 1 where it runs a module."""
    return log.read_text().rstrip().endswith("KeyboardInterrupt")


def same(one: Path, other: Path) -> bool:
    """Whether two files hold the same weights, bit for bit."""
    ours, theirs = (torch.load(path, weights_only=True) for path in (one, other))
    return bool(ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours))


def segment(out: Path, patients: Path, weights: Path, name: str, chance: random.Random | None = None) -> Iterator[Run]:
    """Segment all cases; with ``chance``, killed at random moments and started again until it is complete."""
    keys = settings(ckpt_path=weights, **{key: TINY[key] for key in ("spacing", "patch_size", "teacher_widths")})
    words = ["run", "segment", str(BRATS), "--dataset_dir", str(patients), "--output_dir", str(out), *keys]
    for attempt in itertools.count():  # later and later, or a busy machine would never come to the next mask
        stop = chance.uniform(8, 30) * (1 + attempt / 4) if chance else None
        run = watch(name, words, out.parent / "segment.txt", stop)
        yield run
        for mask in out.glob("*.nii.gz"):
            nibabel.load(mask).get_fdata()  # whole, or this raises
        if run.status == 0:
            return
        if chance is None or run.status != -signal.SIGKILL:
            raise SystemExit(f"{name} ended with status {run.status}, see {out.parent / 'segment.txt'}")


def growth(run: Run) -> tuple[float, int]:
    """Growth of memory and of open files, from the second quarter of a run to its last."""
    quarter = len(run.rss_mb) // 4
    early, late = slice(quarter, 2 * quarter), slice(3 * quarter, None)
    memory = statistics.median(run.rss_mb[late]) - statistics.median(run.rss_mb[early])
    return memory, max(run.open_files[late]) - max(run.open_files[early])


def draw(runs: Sequence[Run], path: Path) -> None:
    """Memory and open files of every run over the time since its start."""
    figure = Figure(figsize=(9, 6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    for run in runs:
        long = run.name.startswith("segment, uninterrupted")
        style = {"color": "C1" if long else "C0", "alpha": 1.0 if long else 0.25, "linewidth": 1.5 if long else 0.8}
        upper.plot(run.seconds, run.rss_mb, **style)
        lower.plot(run.seconds, run.open_files, **style)
    upper.set_ylabel("Resident memory, MB")
    upper.set_title("Trainings, killed and resumed (blue), and inference of all cases in one process (orange)")
    lower.set_ylabel("Open files")
    lower.set_xlabel("Seconds since the start of the process")
    figure.savefig(path, dpi=110)


def rehearse(out: Path, cases: int) -> tuple[list[Run], dict[str, object], list[str]]:
    """What is not interrupted: both trainings, and an inference of many cases that may not grow."""
    phantom("brats_gli", out / "patients", cases=10, spacing_mm=4.0, size=(40, 48, 40), workers=2)
    phantom("brats_gli", out / "many", cases=cases, spacing_mm=4.0, size=(40, 48, 40), workers=2)
    runs = [*train(out / "teacher", out / "patients", "teacher")]
    runs += train(out / "student", out / "patients", "distill", teacher=out / "teacher" / "model.pt")
    runs += segment(out / "masks", out / "many", out / "student" / "model.pt", "segment, uninterrupted")
    memory, files = growth(runs[-1])
    grew = memory > GROWTH_MB or files > 0
    faults = [f"inference of {cases} cases: memory grew by {memory:.0f} MB, open files by {files}"] if grew else []
    return runs, {"cases": cases, "growth_mb": round(memory, 1), "growth_files": files}, faults


def interrupt(out: Path, number: int, chance: random.Random) -> tuple[list[Run], list[str]]:
    """One job that is stopped at random moments until it is complete, and how it differs from the uninterrupted one."""
    workflow = WORKFLOWS[number % len(WORKFLOWS)]
    folder, student = out / f"{workflow}{number}", out / "student" / "model.pt"
    if workflow == "segment":
        runs = [*segment(folder, out / "many", student, "segment, killed", chance)]
        masks, again = ({path.name: path.read_bytes() for path in one.iterdir()} for one in (out / "masks", folder))
        return runs, [] if masks == again else [f"{folder}: files differ from those of the uninterrupted run"]
    teacher = out / "teacher" / "model.pt"
    runs = [
        *train(folder, out / "patients", workflow, teacher=teacher if workflow == "distill" else None, chance=chance)
    ]
    expected = teacher if workflow == "teacher" else student
    return runs, [] if same(folder / "model.pt", expected) else [f"{folder}: not the weights of the uninterrupted run"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--out", type=Path, required=True, help="new folder")
    parser.add_argument("--cases", type=int, default=200, help="of the inference")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    out, end = options.out.absolute(), time.monotonic() + 60 * options.minutes
    out.mkdir(parents=True)
    print(f"seed {options.seed}", flush=True)
    chance, jobs = random.Random(options.seed), 0
    runs, measured, faults = rehearse(out, options.cases)
    print(json.dumps(measured), flush=True)
    while time.monotonic() < end:
        more, wrong = interrupt(out, jobs, chance)
        runs, faults, jobs = [*runs, *more], [*faults, *wrong], jobs + 1
        minutes = max(0, end - time.monotonic()) / 60
        stopped = sum(run.status != 0 for run in runs)
        summary = {"seed": options.seed, "jobs": jobs, "processes": len(runs), "stopped": stopped, **measured}
        content = {**summary, "faults": faults, "runs": [asdict(run) for run in runs]}
        (out / "soak.json").write_text(json.dumps(content))
        draw(runs, out / "soak.png")
        print(f"{json.dumps(summary)}, {len(faults)} faults; {minutes:.0f} min left", flush=True)
    print("\n".join(faults))
    raise SystemExit(1 if faults else 0)


if __name__ == "__main__":
    main()
