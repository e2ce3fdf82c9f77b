"""What the methods of a study cost: iterations and patches, timed in turns in one process, and whole trainings."""

from __future__ import annotations

import json
import math
import os
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from monai.inferers import Inferer
from torch import nn

from dcd_components.benchmarks import timing, training
from dcd_components.bundle.configs import read_configs
from dcd_components.bundle.running import workflow_files
from dcd_components.errors import InputError
from dcd_components.files import read_json, write_json
from dcd_components.inferers import as_in_windows
from dcd_components.study.drawn_labels import draw_labels
from dcd_components.study.plan import TEACHER, Run, Study
from dcd_components.study.records import difference, settings_of
from dcd_components.study.runner import Places, Programs, run_workflow

COSTS = "costs.json"
MAXIMUM = "distillation_weight::maximum"
CONSTANT = {"_target_": "dcd_components.constant", "maximum": 1.0}
ROUNDS = 7  # turns of which the median is taken
#: Settings that say how long is trained, and not what an iteration does.
LENGTH = ("max_epochs", "epoch_length", "val_interval")
#: Share by which a plain training may cost less than what it is compared with at equal cost.
TOLERANCE = 0.02


@dataclass(frozen=True)
class Costs:
    """What was measured; nothing of what was not.

    Args:
        starts: seconds of a training before its first iteration by method, where a student starts from its teacher or
            learns from labels that the teacher draws.
        iterations: seconds of an iteration by method.
        patches: seconds of a patch by method, the teacher's too.
        megabytes: largest extra memory of a patch by method.
        machine: that it was measured on.
    """

    starts: Mapping[str, float]
    iterations: Mapping[str, float]
    patches: Mapping[str, float]
    megabytes: Mapping[str, float]
    machine: str = ""


def measure_costs(study: Study, places: Places) -> str:
    """Time iterations and patches of the first seed's runs, and write ``costs.json`` beside the results.

    Runs that differ only in their length are timed once, and so are equal networks.

    Args:
        study: whose methods are timed.
        places: of the patients, and of the teacher's weights.

    Returns:
        The seconds by method.

    Raises:
        InputError: when the first seed's teacher is not there, or cannot draw what a method asks for.
    """
    runs = _first_seed(study)
    teacher = (places.work / runs[TEACHER].name / "model.pt").absolute()
    if not teacher.is_file():
        raise InputError(f"no teacher at {teacher}: run the study first, --index 0 is enough")
    of_network = _patches(study, runs)
    of_start, of_iteration = _trainings(study, runs, places, teacher)
    measured = {
        name: {
            "settings": _timed(study, run),
            "start_seconds": of_start.get(name),
            "iteration_seconds": of_iteration.get(name),
            **of_network[name],
        }
        for name, run in runs.items()
    }
    write_json(study.results / COSTS, {"methods": measured, "rounds": ROUNDS, "machine": timing.machine()})
    return "\n".join(f"{name}: {value:.3f} s" for name, value in of_iteration.items())


def _first_seed(study: Study) -> dict[str, Run]:
    return {run.method: run for run in study.runs if run.seed == study.runs[0].seed}


def _timed(study: Study, run: Run) -> dict[str, Any]:
    """What a run is timed with."""
    return {key: value for key, value in settings_of(study, run).items() if key not in LENGTH}


def _same(keys: Mapping[str, str]) -> dict[str, str]:
    """By name, the first of those with the same key."""
    first: dict[str, str] = {}
    return {name: first.setdefault(key, name) for name, key in keys.items()}


def _trainings(
    study: Study, runs: Mapping[str, Run], places: Places, teacher: Path
) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds of each student's training before the first iteration, and of an iteration."""
    students = {name: run for name, run in runs.items() if name != TEACHER}
    same = _same({name: json.dumps(_timed(study, run), sort_keys=True) for name, run in students.items()})
    timed = {name: students[name] for name in dict.fromkeys(same.values())}
    files = {name: [*map(str, workflow_files(run.workflow, study.bundle, run.training))] for name, run in timed.items()}
    own = {name: dict(run.settings) for name, run in timed.items()}
    for name, run in timed.items():
        if run.workflow == "distill":
            own[name] |= {"teacher_path": str(teacher)}
            if run.settings.get(MAXIMUM, 1.0) > 0:  # as while it distils: a ramp begins after the epochs that are timed
                own[name] |= {"distillation_weight": CONSTANT}
    with tempfile.TemporaryDirectory() as cache, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shared: dict[str, Any] = {"bundle_root": str(study.bundle), "cache_dir": cache, "seed": study.runs[0].seed}
        shared |= {name: str(getattr(places, name).absolute()) for name in ("dataset_dir", "datalist")}
        drawing = dict.fromkeys(timed, 0.0)
        for name, run in timed.items():
            if run.drawn_folds:
                own[name]["datalist"], drawing[name] = _draw(study, run, places, teacher, Path(cache, name))
        seconds = training.seconds(files, ROUNDS, own=own, **shared)
        starts = training.start_seconds(files, own=own, **shared)
        starts = {name: taken + drawing[name] for name, taken in starts.items()}
    return {name: starts[first] for name, first in same.items()}, {name: seconds[first] for name, first in same.items()}


def _draw(study: Study, run: Run, places: Places, teacher: Path, folder: Path) -> tuple[str, float]:
    """The list of a run whose teacher draws labels, and the seconds of a program that does: of all cores, or on a GPU.

    They are taken once, with the start of the program.
    """

    def now() -> float:
        return time.perf_counter() if torch.cuda.is_available() else sum(os.times()[2:4])  # of programs that ended

    folder.mkdir()
    with Programs() as programs:
        call, before = partial(run_workflow, study, programs, folder, None), now()
        listed = draw_labels(study, run, places, folder, teacher, call)
    return str(listed), now() - before


def _patches(study: Study, runs: Mapping[str, Run]) -> dict[str, dict[str, float | None]]:
    """Seconds of a patch and extra memory of each network, in float32, as many at once as the sliding window takes."""
    networks, shapes, formats, windows = {}, {}, {}, {}
    for name, run in runs.items():
        parser = read_configs(study.bundle, ["inference", "evaluate", *run.evaluation])
        parser.update({key: value for key, value in run.settings.items() if key.partition("::")[0] in parser.get()})
        networks[name] = parser.get_parsed_content("network").eval()
        at_once = parser["sliding_window"].get("sw_batch_size", 1)
        shapes[name] = [at_once, len(parser["sequences"]), *parser.get_parsed_content("patch_size")]
        formats[name] = parser["memory_format"]
        windows[name] = parser.get_parsed_content("sliding_window")
    same = _same({name: f"{shapes[name]} {formats[name]} {network}" for name, network in networks.items()})
    steps = {name: _Patch(networks[name], shapes[name], windows[name]) for name in dict.fromkeys(same.values())}
    megabytes = {name: timing.settled_megabytes(step) for name, step in steps.items()}
    seconds = {name: taken / shapes[name][0] for name, taken in timing.seconds(steps, ROUNDS).items()}
    known = {name: None if math.isnan(megabytes[name]) else megabytes[name] for name in steps}  # JSON has no NaN
    return {name: {"patch_seconds": seconds[one], "patch_megabytes": known[one]} for name, one in same.items()}


class _Patch:
    """A network on a patch of noise."""

    def __init__(self, network: nn.Module, shape: Sequence[int], windows: Inferer) -> None:
        self.network, self.windows = network, windows
        self.image = torch.randn(*shape, device=next(network.parameters()).device)

    def __call__(self) -> None:
        with torch.inference_mode(), as_in_windows(self.windows, self.image):
            self.network(self.image)


def read_costs(study: Study) -> Costs:
    """What was measured of a study; nothing where there is no ``costs.json``.

    Raises:
        InputError: when a method was measured with other settings than the study's.
    """
    path = study.results / COSTS
    if not path.is_file():
        return Costs({}, {}, {}, {})
    content = read_json(path)
    measured = {name: content["methods"][name] for name in (TEACHER, *study.methods) if name in content["methods"]}
    for name, one in measured.items():
        if other := difference(one["settings"], _timed(study, _first_seed(study)[name])):
            raise InputError(f"{path}: {name} was measured with {other}: measure anew, by dcd study --costs")
    starts, iterations, patches, megabytes = (
        {name: one[key] for name, one in measured.items() if one.get(key) is not None}
        for key in ("start_seconds", "iteration_seconds", "patch_seconds", "patch_megabytes")
    )
    return Costs(starts, iterations, patches, megabytes, content["machine"])


def plain_methods(study: Study) -> list[str]:
    """The first training without a teacher, and those that differ from it only in their length."""
    students = {name: run for name, run in _first_seed(study).items() if run.workflow == "student"}
    said = {name: _timed(study, run) for name, run in students.items()}
    return [name for name in said if said[name] == next(iter(said.values()))]


def training_seconds(method: str, record: Mapping[str, Any], costs: Costs, plain: str | None) -> list[float]:
    """Seconds of a training up to the end of each epoch, by what its iterations cost in turns.

    Those of an epoch in which a distillation does not distil, as before a ramp, cost what the plain training's do.

    Args:
        method: that was trained.
        record: of the run.
        costs: of the start and of the iterations; NaN where the latter were not measured.
        plain: name of the plain training.
    """
    own, alone = (costs.iterations.get(name or "", math.nan) for name in (method, plain))
    alone = alone if record["settings"]["workflow"] == "distill" else own
    total, before, found = costs.starts.get(method, 0.0), 0.0, []
    for row in record["course"]:
        distils = any(value for name, value in row.items() if name.startswith("distillation"))
        total += (row["iteration"] - before) * (own if distils else alone)
        before = row["iteration"]
        found.append(total)
    return found


def equal_cost(method: str, plain: Sequence[str], seconds: Mapping[str, float]) -> str | None:
    """The cheapest plain training that costs at least what a method does; None where there is none.

    Args:
        method: that is to be compared.
        plain: names of the plain trainings.
        seconds: of each training; NaN where it was not measured.
    """
    enough = [one for one in plain if seconds[one] >= seconds[method] * (1 - TOLERANCE)]
    return min(enough, key=seconds.__getitem__, default=None)
