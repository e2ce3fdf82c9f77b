"""Studies as their runs leave them, shared by the tests."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from tiny import BRATS

from dcd_components.study.costs import _first_seed, _timed
from dcd_components.study.plan import Run, Study, read_study
from dcd_components.study.records import settings_of
from dcd_components.tables import write_csv

LABELS = ("NETC", "SNFH", "ET", "RC")
METHODS: dict[str, Any] = {
    "plain": {"workflow": "student"},
    "plain_longer": {"workflow": "student", "settings": {"max_epochs": 1500}},
    "dcd": None,
    "cwd": {"settings": {"levels": 1}},
}
#: Of Dice, above that of the plain student.
GAINS = {"teacher": 0.2, "plain": 0.0, "plain_longer": 0.04, "dcd": 0.1, "cwd": -0.02}


def write_study(
    folder: Path,
    methods: Mapping[str, Any] | None = None,
    seeds: Sequence[int] = (0, 1, 2, 3),
    missing: Sequence[str] = ("cwd-3",),
) -> Path:
    """A study of simulated patients, whose runs have ended but for those that are missing."""
    content = {"bundle": str(BRATS), "seeds": [*seeds], "methods": dict(methods or METHODS)}
    folder.mkdir(exist_ok=True)
    (folder / "small.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    said = read_study(folder / "small.yaml")
    for run in said.runs:
        if run.name not in missing:
            write_run(said, run)
    return folder / "small.yaml"


def write_run(study: Study, run: Run) -> None:
    """Rows of twelve cases, of which one method invents a label that no case has; two epochs."""
    gain = GAINS.get(run.method, 0.01)
    generator = np.random.default_rng(run.seed)  # the same for all methods
    rows = []
    for case in range(12):
        row: dict[str, Any] = {"method": run.method, "seed": run.seed, "patient": f"p{case}", "case": f"c{case}"}
        for label in LABELS:
            row[f"volume_ml_{label}"] = float(label != "RC") * (case + 1)
            row[f"dice_{label}"] = generator.uniform(0.4, 0.6) + gain
            row[f"nsd_1mm_{label}"] = generator.uniform(0.4, 0.6) + 2 * gain
            row[f"hd95_mm_{label}"] = generator.uniform(5, 9) - 10 * gain
        if run.method == "dcd":
            row["dice_RC"] = 0.0
        for name, number, found in (("", 3.0, 2.0 + (gain > 0)), ("_0_100mm3", 0.0, 0.0), ("_100_500mm3", 3.0, 2.0)):
            row |= {f"lesions{name}": number, f"tp_lesions{name}": found}
        rows.append({**row, "weights": f"w{run.name}"})
    write_csv(rows, study.results / f"{run.name}.csv")
    length = run.settings.get("max_epochs", 1000)
    distils = {"distillation_weight": 0.3} if run.workflow == "distill" else {}
    course = [
        {"epoch": n, "iteration": 50 * n, "seconds": 60.0 * n, "val_mean_dice": 0.0005 * n, **distils}
        for n in (10, length)
    ]
    parameters = 0.4 / run.settings.get("width_divisor", 4)
    record = {"settings": settings_of(study, run), "parameters": parameters, "gmac": 1.0, "machine": "two cores"}
    record |= {"cases": "x", "weights": f"w{run.name}", "commits": ["abc"], "course": course, "seed": run.seed}
    record |= {"teacher": f"wteacher-{run.seed}"} if run.workflow == "distill" else {}
    (study.results / f"{run.name}.json").write_text(json.dumps(record))


def write_costs(path: Path, seconds: Mapping[str, float]) -> None:
    """What iterations cost, and patches: of the teacher ten times as much."""
    study = read_study(path)
    methods = {
        name: {
            "settings": _timed(study, run),
            "iteration_seconds": seconds.get(name),
            "patch_seconds": 0.2 if name == "teacher" else 0.02,
            "patch_megabytes": 50.0 if name == "teacher" else None,
        }
        for name, run in _first_seed(study).items()
    }
    (study.results / "costs.json").write_text(json.dumps({"methods": methods, "rounds": 15, "machine": "one core"}))
