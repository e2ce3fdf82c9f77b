"""Federated training of a release, as its page says: two sites with cases of their own, two rounds."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import signal
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser
from releases import DOCS

from dcd_components.tables import read_csv

PAGE = DOCS / "federated.md"
SITES = ("site_a", "site_b")
TEACHER = Path("models", "teacher", "model.pt")
CONSTANT = {"_target_": "dcd_components.constant", "maximum": 0.3}
QUICK = {"_target_": "SlidingWindowInferer", "roi_size": "@patch_size", "overlap": 0.0}


def own_cases(patients: Path, folder: Path, first: int) -> Path:
    """Every second case, linked, with a data list of its own: one to test, one to validate, the others to train."""
    listed = json.loads((patients / "datalist.json").read_text())
    listed["training"] = listed["training"][first::2]
    folder.mkdir()
    for fold, case in enumerate(listed["training"]):
        case["fold"] = fold
        name = Path(case["image"][0]).parts[0]
        (folder / name).symlink_to(patients / name)
    (folder / "datalist.json").write_text(json.dumps(listed))
    return folder


def change(config: Path, **settings: Any) -> None:
    config.write_text(json.dumps(json.loads(config.read_text()) | settings))


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def scripts() -> list[str]:
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture(scope="module")
def folder(release: Path, patients: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the script: two copies of the release, and each site's cases."""
    folder = tmp_path_factory.mktemp("federation")
    for first, site in enumerate(SITES):
        configs = Path(shutil.copytree(release, folder / site)) / "configs"
        change(configs / "train.json", distillation_weight=CONSTANT, normalize=True)
        change(configs / "evaluate.json", sliding_window=QUICK)
        own_cases(patients, folder / f"DATA_{site[-1].upper()}", first)
    return folder


@pytest.fixture(scope="module")
def run(folder: Path, scripts: list[str]) -> dict[str, Any]:
    """What the page's scripts leave behind."""
    names: dict[str, Any] = {}
    handler = signal.getsignal(signal.SIGCHLD)
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MONAI's client warns of configs that run code, its statistics of themselves
        patch.chdir(folder)
        for script in scripts:
            exec(compile(script, str(PAGE), "exec"), names)
    # The statistics load data with processes, for which torch listens to SIGCHLD. OpenVINO, which other tests run,
    # leaves a stack for such handlers that is gone: the next process to end would end this one too.
    signal.signal(signal.SIGCHLD, handler)
    return names


def test_only_the_student_s_tensors_are_sent(run: dict[str, Any], folder: Path) -> None:
    config = ConfigParser.load_config_file(folder / "site_a" / "configs" / "train.json")
    student = ConfigParser(config).get_parsed_content("network_def").state_dict()
    assert any("deep_supervision_heads" in name for name in student)
    for one in run["sent"].values():
        assert {name: value.shape for name, value in one.weights.items()} == {k: v.shape for k, v in student.items()}
        assert one.optim is None
    trained = run["first"].trainer.optimizer.param_groups[0]["params"]
    assert len(trained) == len(list(run["first"].trainer.network.parameters())) + 3  # the projections stay


def test_every_site_trains_in_every_round_and_distils(run: dict[str, Any], folder: Path) -> None:
    changes = [run["sent"][site].weights for site in SITES]
    assert all(any(value.abs().max() > 1e-6 for value in change.values()) for change in changes)
    assert any(not torch.equal(changes[0][name], changes[1][name]) for name in changes[0])
    assert run["iterations"] == {"site_a": 2, "site_b": 2}
    for site in SITES:
        rows = read_csv(folder / site / "models" / "model_training.csv")
        assert [row["epoch"] for row in rows] == [1, 2]
        assert all(float(row["distillation_loss"]) > 0 for row in rows)
        assert [row["learning_rate"] for row in rows][1] == 0 < float(rows[0]["learning_rate"])


def test_the_teacher_stays_as_it_is(run: dict[str, Any], folder: Path, release: Path) -> None:
    assert [digest(folder / site / TEACHER) for site in SITES] == [digest(release / TEACHER)] * 2


def test_what_is_evaluated_is_what_was_given(
    run: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    client, given = run["clients"]["site_b"], run["weights"]
    (row,) = read_csv(folder / "site_b" / "eval" / "scores.csv")
    listed = json.loads((folder / "DATA_B" / "datalist.json").read_text())["training"]
    assert row["case"] == next(case["case"] for case in listed if case["fold"] == 1)
    assert run["scores"]["mean_dice"] == client.evaluator.state.metrics["mean_dice"]
    local = {name: given[name] + change for name, change in run["sent"]["site_b"].weights.items()}
    for weights in (given, local):
        metrics = client.evaluate(run["ExchangeObject"](weights=weights)).metrics
        assert 0 <= metrics["mean_dice"] <= 1
        evaluated = client.evaluator.network.state_dict()
        assert all(torch.equal(value, weights[name]) for name, value in evaluated.items())


def test_the_global_model_is_one_to_publish(run: dict[str, Any], folder: Path, release: Path) -> None:
    config = ConfigParser.load_config_file(release / "configs" / "inference.json")
    network = ConfigParser(config).get_parsed_content("network_def")
    network.load_state_dict(torch.load(folder / "model.pt", weights_only=True))
    released = torch.load(release / "models" / "model.pt", weights_only=True)
    assert any(not torch.equal(value, released[name]) for name, value in network.state_dict().items())


def test_statistics_of_a_site_count_its_cases(run: dict[str, Any]) -> None:
    counts = {name: one["data_count"] for name, one in run["statistics"].items()}
    assert counts == {"train": 3, "eval": 1, "total_data": 4}
