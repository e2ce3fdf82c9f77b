"""The other methods of distillation, each an overlay of a few lines, on the glioma phantoms."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from ast import literal_eval
from pathlib import Path
from typing import Any

import pytest
import torch
from forked import run_module
from monai.bundle import ConfigParser
from tiny import BRATS, BUNDLES, ROOT, TINY, Workflow

from dcd_components.bundle import running
from dcd_components.errors import InputError
from dcd_components.tables import read_csv

ENCODER = ["input_block", "downsamples.0", "bottleneck"]
OUTPUT = ["output_block"]
#: Stages of each method.
STAGES = {
    **dict.fromkeys(("fitnet", "attention", "freekd"), ENCODER),
    "ifvd": ["upsamples.1"],
    **dict.fromkeys(("cwd", "logits", "logits_by_class"), OUTPUT),
    "dcd_logits": [*ENCODER, *OUTPUT],
}
every_method = pytest.mark.parametrize("method", STAGES)


def overlay(method: str) -> str:
    """Name of a baseline's file as if it were of the bundle."""
    return f"../../common/baselines/{method}"


@pytest.fixture(autouse=True)
def teacher(workflow: Workflow, tmp_path: Path) -> None:
    """Random weights of a teacher."""
    network = workflow("inference", "teacher").parser.get_parsed_content("network_def")
    torch.save(network.state_dict(), tmp_path / "teacher.pt")


def test_each_method_is_tested() -> None:
    assert {path.stem for path in running.BASELINES.glob("*.yaml")} == {*STAGES}


@every_method
def test_a_method_trains_and_logs_each_of_its_terms(method: str, workflow: Workflow, tmp_path: Path) -> None:
    flow = workflow("distill", "quick", overlay(method))
    flow.initialize()
    assert flow.check_properties() == []
    flow.run()
    (row,) = read_csv(tmp_path / "model_training.csv")
    terms = {name: float(value) for name, value in row.items() if name.startswith("distillation_loss/")}
    assert [name.partition("/")[2] for name in terms] == STAGES[method]
    assert all(value > 0 for value in terms.values())
    total = float(row["segmentation_loss"]) + float(row["distillation_weight"]) * float(row["distillation_loss"])
    if method == "dcd_logits":
        total += float(row["distillation_output_weight"]) * terms["distillation_loss/output_block"]
    assert float(row["loss"]) == pytest.approx(total, rel=1e-4)
    maximum = ConfigParser.load_config_file(running.BASELINES / f"{method}.yaml").get("distillation_weight::maximum")
    assert float(row["distillation_weight"]) == pytest.approx(maximum or 0.3)


def start(workflow: Workflow, *names: str) -> list[torch.Tensor]:
    """First weights of the student and what it is shown."""
    flow = workflow(*names, seed=3)
    flow.initialize()
    weights = [value.clone() for value in flow.parser.get_parsed_content("network").state_dict().values()]
    batches = [batch["image"].as_tensor() for batch in flow.parser.get_parsed_content("train::dataloader")]
    assert len(weights) > 10
    assert len(batches) == 2
    return [*weights, *batches]


def test_all_start_from_the_weights_of_plain_training_and_see_its_data(workflow: Workflow) -> None:
    plain = start(workflow, "train_student", "quick")
    for method in STAGES:
        distilled = start(workflow, "distill", "quick", overlay(method))
        assert all(torch.equal(one, other) for one, other in zip(plain, distilled, strict=True)), method


def test_a_training_does_not_go_on_with_another_method_or_setting_of_it(workflow: Workflow) -> None:
    changes: list[dict[str, Any]] = [{}, {"stage_loss::temperature": 1.0}, {"stages": ["input_block"]}]
    output: list[dict[str, Any]] = [{"distiller::output_loss::by_class": False}, {"distiller::output_weight": 2.0}]
    flows = [workflow("distill"), *(workflow("distill", overlay("cwd"), **one) for one in changes)]
    flows += [workflow("distill", overlay("dcd_logits"), **one) for one in [{}, *output]]
    settings = [json.dumps(flow.parser.get_parsed_content("train::settings"), default=str) for flow in flows]
    assert len(set(settings)) == len(flows)


@every_method
def test_a_method_changes_what_is_there_and_a_few_lines_say_how(method: str) -> None:
    path = running.BASELINES / f"{method}.yaml"
    files = [BRATS / "configs" / "distill.yaml", path]
    config = ConfigParser.load_config_files(files)
    known = set(ConfigParser.load_config_files(files[:1]))
    assert set(config) == known
    assert set(re.findall(r"[@%](\w+)", path.read_text())) <= known
    assert len(path.read_text().splitlines()) <= 6


def files_of(words: list[str]) -> list[str]:
    named = [Path(one) for one in literal_eval(words[words.index("--config_file") + 1])]
    assert all(path.is_file() for path in named)
    return [str(path.relative_to(BUNDLES)) for path in named]


def test_dcd_run_finds_a_baseline_by_its_name_and_lays_it_over_quick() -> None:
    words = running.command_line("distill", BRATS, ["cwd", "quick"], {"distillation_weight::maximum": "2"})
    configs = "brats_gli_dcd/configs"
    assert files_of(words) == [f"{configs}/distill.yaml", f"{configs}/quick.yaml", "common/baselines/cwd.yaml"]


def test_a_bundle_s_own_config_goes_before_a_baseline_of_its_name(tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    for name in ("distill", "cwd"):
        (tmp_path / "configs" / f"{name}.yaml").write_text("size: 1\n")
    words = running.command_line("distill", tmp_path, ["cwd"], {})
    assert literal_eval(words[words.index("--config_file") + 1])[1] == str(tmp_path / "configs" / "cwd.yaml")


def test_a_baseline_is_of_a_distillation_alone() -> None:
    with pytest.raises(
        InputError, match=r"has no config cwd: it has distill, .*train_teacher; further ones are [a-z_, ]+_teacher$"
    ):
        running.command_line("student", BRATS, ["cwd"], {})
    with pytest.raises(
        InputError, match=r"has no config cdw: it has distill, .*; further ones are .*, attention, cwd, "
    ):
        running.command_line("distill", BRATS, ["cdw"], {})


PAGE = (ROOT / "docs" / "baselines.md").read_text(encoding="utf-8")


def test_the_page_names_every_method() -> None:
    found = re.findall(r"^\| `(\w+)` \|", PAGE, re.M)
    assert found == [*STAGES] * 2


def test_the_commands_of_the_page_run(patients: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundles" / BRATS.name
    shutil.copytree(BRATS / "configs", bundle / "configs")
    shutil.copytree(BUNDLES / "common", bundle.parent / "common")
    (bundle / "models" / "teacher").mkdir(parents=True)
    shutil.copy(tmp_path / "teacher.pt", bundle / "models" / "teacher" / "model.pt")
    found = re.findall(r"^    (.+)", PAGE, re.M)
    assert [line.split()[0] for line in found] == ["dcd", "python"]
    for line in found:
        program, *words = shlex.split(line.replace("DIR", str(patients)))
        module, words = ("dcd_components", words) if program == "dcd" else (words[1], words[2:])
        settings = [f"{'' if program == 'dcd' else '--'}{key}={value}" for key, value in TINY.items()]
        status, said = run_module(module, [*words, *settings], bundle)
        assert status == 0, said[-4000:]
        assert (bundle / "models" / "model.pt").is_file()
        shutil.rmtree(bundle / "models" / "model_checkpoints")


def test_a_student_starts_from_its_teacher_whatever_the_method(workflow: Workflow) -> None:
    for names in ([], [overlay("logits_by_class")]):
        flow = workflow("distill", "quick", *names, init="teacher", learning_rate=1e-7)
        flow.initialize()
        flow.run()
        kernel = "input_block.conv1.conv.weight"
        ours, theirs = (flow.parser.get_parsed_content(x).get_parameter(kernel) for x in ("network", "teacher"))
        assert len(ours) < len(theirs)
        assert all(any(torch.allclose(one, other, atol=1e-5) for other in theirs) for one in ours)
