"""What the trainings of a study cost, and which of them are compared at equal cost."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from study_files import write_study

from dcd_components.benchmarks import timing, training
from dcd_components.study import costs
from dcd_components.study.costs import Costs, equal_cost, plain_methods, training_seconds
from dcd_components.study.plan import read_study
from dcd_components.study.runner import Places

MEASURED = Costs({"started": 7.0}, {"plain": 0.1, "dcd": 0.3, "started": 0.1}, {}, {})


def record(workflow: str, *weights: float | None) -> dict[str, Any]:
    rows = [{"epoch": n + 1, "iteration": 10 * (n + 1), "distillation_weight": w} for n, w in enumerate(weights)]
    course = [{key: value for key, value in row.items() if value is not None} for row in rows]
    return {"settings": {"workflow": workflow}, "course": course}


def test_an_epoch_without_distillation_costs_what_a_plain_one_does() -> None:
    ramp = record("distill", None, 0.0, 0.2, 1.0)
    assert training_seconds("dcd", ramp, MEASURED, "plain") == pytest.approx([1, 2, 5, 8])
    assert training_seconds("dcd", record("distill", None, None), MEASURED, "plain") == pytest.approx([1, 2])
    assert training_seconds("plain", record("student", None, None), MEASURED, "plain") == pytest.approx([1, 2])
    assert training_seconds("started", record("distill", None, 0.0), MEASURED, "plain") == pytest.approx([8, 9])


def test_a_training_that_was_not_timed_costs_nothing_that_is_known() -> None:
    assert math.isnan(training_seconds("cwd", record("distill", 1.0), MEASURED, "plain")[-1])
    assert math.isnan(training_seconds("dcd", record("distill", None, 1.0), MEASURED, None)[-1])


@pytest.mark.parametrize(
    ("seconds", "found"),
    [
        (100.0, "plain"),
        (102.0, "plain"),  # within 2 %
        (103.0, "longer"),
        (150.0, "longer"),  # not the longest, which would do too
        (205.0, None),
        (math.nan, None),
    ],
)
def test_the_cheapest_plain_training_that_costs_at_least_as_much(seconds: float, found: str | None) -> None:
    trainings = {"longest": 200.0, "plain": 100.0, "longer": 150.0, "dcd": seconds, "untimed": math.nan}
    assert equal_cost("dcd", ["plain", "longest", "longer", "untimed"], trainings) == found


def test_plain_is_what_differs_from_the_first_training_without_a_teacher_in_its_length_alone(tmp_path: Path) -> None:
    methods: dict[str, Any] = {
        "dcd": None,
        "plain": {"workflow": "student"},
        "longer": {"workflow": "student", "settings": {"max_epochs": 2000, "val_interval": 8}},
        "faster": {"workflow": "student", "settings": {"learning_rate": 0.1}},
    }
    assert plain_methods(read_study(write_study(tmp_path, methods, [0], missing=()))) == ["plain", "longer"]
    assert plain_methods(read_study(write_study(tmp_path, {"dcd": None}, [0], missing=()))) == []


def test_equal_trainings_and_networks_are_timed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    methods: dict[str, Any] = {
        "plain": {"workflow": "student"},
        "longer": {"workflow": "student", "settings": {"max_epochs": 2000}},
        "dcd": None,
        "idle": {"settings": {"init": "teacher", "distillation_weight::maximum": 0.0}},
        "other_format": {"settings": {"memory_format": "$torch.contiguous_format"}},
        "small": {"settings": {"width_divisor": 8, "sliding_window::sw_batch_size": 2}},
        "masks": {"workflow": "student", "drawn_folds": [4]},
    }
    study = read_study(write_study(tmp_path, methods, [0, 1], missing=()))
    timed: dict[str, Any] = {}

    def iterations(files: Mapping[str, Sequence[str]], rounds: int, own: Any, **_: Any) -> dict[str, float]:
        timed["own"] = own
        return {name: float(number + 1) for number, name in enumerate(files)}

    def patches(steps: Mapping[str, Any], rounds: int) -> dict[str, float]:
        timed["patches"] = [*steps]
        return {name: number / 10 for number, name in enumerate(steps)}

    def starts(files: Mapping[str, Sequence[str]], own: Any, **_: Any) -> dict[str, float]:
        return {name: 7.0 * ("init" in own[name]) for name in files}

    def draw(*_: object) -> Path:
        subprocess.run([sys.executable, "-c", "sum(range(10**7))"], check=True)
        return tmp_path / "drawn.json"

    monkeypatch.setattr(costs, "draw_labels", draw)
    monkeypatch.setattr(training, "seconds", iterations)
    monkeypatch.setattr(training, "start_seconds", starts)
    monkeypatch.setattr(timing, "seconds", patches)
    monkeypatch.setattr(timing, "settled_megabytes", lambda step: math.nan if step.image.numel() else 0.0)
    (tmp_path / "work" / "teacher-0").mkdir(parents=True)
    (tmp_path / "work" / "teacher-0" / "model.pt").touch()
    costs.measure_costs(study, Places(tmp_path, tmp_path / "datalist.json", tmp_path / "work"))
    assert [*timed["own"]] == ["plain", "dcd", "idle", "other_format", "small", "masks"]
    assert timed["own"]["masks"]["datalist"] == str(tmp_path / "drawn.json")
    assert timed["own"]["dcd"]["distillation_weight"]["maximum"] == 1.0
    assert all("distillation_weight" not in timed["own"][name] for name in ("plain", "idle"))
    assert timed["patches"] == ["teacher", "plain", "other_format", "small"]
    found = costs.read_costs(study)
    assert found.iterations == {
        "plain": 1.0,
        "longer": 1.0,
        "dcd": 2.0,
        "idle": 3.0,
        "other_format": 4.0,
        "small": 5.0,
        "masks": 6.0,
    }
    drawing = found.starts["masks"]
    assert 0 < drawing < 7  # what the program took
    assert found.starts == {**dict.fromkeys(found.iterations, 0.0), "idle": 7.0, "masks": drawing}
    assert found.patches == pytest.approx(
        {
            "teacher": 0,
            "plain": 0.1,
            "longer": 0.1,
            "dcd": 0.1,
            "idle": 0.1,
            "other_format": 0.2,
            "small": 0.15,
            "masks": 0.1,
        }
    )  # of small, half of what two take
    assert found.megabytes == {}  # not told by the system
    assert "NaN" not in (study.results / "costs.json").read_text()


def test_what_was_not_measured_is_not_there(tmp_path: Path) -> None:
    study = read_study(write_study(tmp_path))
    assert costs.read_costs(study).iterations == {}
    content: dict[str, Any] = {"methods": {}, "rounds": 15, "machine": "one core"}
    (study.results / "costs.json").write_text(json.dumps(content))
    assert costs.read_costs(study) == Costs({}, {}, {}, {}, "one core")


@pytest.mark.skipif(not os.access(timing.PEAK, os.W_OK), reason="the system does not tell peaks")
def test_the_memory_of_a_patch_is_what_it_needs_when_it_is_warm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not that of the first one, which keeps something, nor of one that needs more for once."""
    kept, numbers = list[torch.Tensor](), iter([25, 25, 60, 25, 25, 25])

    def step() -> None:
        if not kept:
            kept.append(torch.ones(50_000_000))
        torch.ones(next(numbers) * 1_000_000)

    assert timing.settled_megabytes(step) == pytest.approx(100, rel=0.05)
    assert not [*numbers]
