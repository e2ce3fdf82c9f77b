"""What an iteration of each method of a study costs, all of them timed in turns in one process."""

from __future__ import annotations

import tempfile
import warnings
from typing import Any

from dcd_components.benchmarks import timing, training
from dcd_components.bundle.running import workflow_files
from dcd_components.errors import InputError
from dcd_components.files import read_json, write_json
from dcd_components.study.plan import TEACHER, Study
from dcd_components.study.runner import Places

COSTS = "costs.json"
CONSTANT = {"_target_": "dcd_components.constant", "maximum": 1.0}
ROUNDS = 15  # turns of which the median is taken


def measure_costs(study: Study, places: Places) -> str:
    """Time the iterations of the first seed's trainings, and write ``costs.json`` beside the results.

    Args:
        study: whose methods are timed.
        places: of the patients, and of the teacher's weights.

    Returns:
        The seconds by method.

    Raises:
        InputError: when the first seed's teacher is not there.
    """
    seed = study.runs[0].seed
    teacher = (places.work / f"{TEACHER}-{seed}" / "model.pt").absolute()
    if not teacher.is_file():
        raise InputError(f"no teacher at {teacher}: run the study first, --index 0 is enough")
    runs = {run.method: run for run in study.runs if run.seed == seed and run.method != TEACHER}
    files = {name: [*map(str, workflow_files(run.workflow, study.bundle, run.training))] for name, run in runs.items()}
    own = {name: dict(run.settings) for name, run in runs.items()}
    for name, run in runs.items():
        if run.workflow == "distill":  # as while it distils: a ramp begins after the epochs that are timed
            own[name] |= {"teacher_path": str(teacher), "distillation_weight": CONSTANT}
    with tempfile.TemporaryDirectory() as cache, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shared: dict[str, Any] = {"bundle_root": str(study.bundle), "cache_dir": cache, "seed": seed}
        shared |= {name: str(getattr(places, name).absolute()) for name in ("dataset_dir", "datalist")}
        seconds = training.seconds(files, ROUNDS, own=own, **shared)
    write_json(study.results / COSTS, {"seconds": seconds, "rounds": ROUNDS, "machine": timing.machine()})
    return "\n".join(f"{name}: {value:.3f} s" for name, value in seconds.items())


def read_costs(study: Study) -> dict[str, float]:
    """Seconds of an iteration by method; none where they were not measured."""
    path = study.results / COSTS
    return dict(read_json(path)["seconds"]) if path.is_file() else {}
