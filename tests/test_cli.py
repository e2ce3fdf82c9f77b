from __future__ import annotations

import argparse
import ast
import inspect
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
import yaml

from dcd_components import cli, commands
from dcd_components.benchmarks import benchmark
from dcd_components.bundle import running
from dcd_components.errors import InputError

ROOT = Path(__file__).parents[1]
SHOW = "$print(*(f'{k}={v}' for k, v in @shown.items()), sep='; ')"
CONFIGS: dict[str, dict[str, Any]] = {
    "inference": {
        "bundle_root": ".",
        "dataset_dir": "/data",
        "output_dir": "/eval",
        "max_epochs": 10,
        "labels": {"necrosis": 1},
        "trainer": {"_target_": "builtins.dict", "max_epochs": "@max_epochs", "steps": [{"size": 1}]},
        "weights": None,
        "shown": {"workflow": "inference", "root": "@bundle_root", "data": "@dataset_dir", "trainer": "@trainer"},
        "initialize": {"_target_": "dcd_components.set_up_process"},
        "run": SHOW,
    },
    "evaluate": {"evaluating": SHOW, "shown::workflow": "evaluate"},
    "quick": {"max_epochs": 1, "shown::quick": True},
    "mirror": {"max_epochs": 3, "shown::mirror": True},
    "broken": {"run": "$1 / @labels['necrosis'] / 0"},
    "stopped": {"run": "$__import__('signal').raise_signal(2)"},
}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle that shows its settings instead of training."""
    folder = tmp_path / "a bundle"
    (folder / "configs").mkdir(parents=True)
    trained = {
        name: {**CONFIGS["inference"], "training": SHOW, "shown": {**CONFIGS["inference"]["shown"], "workflow": name}}
        for name in ("train_teacher", "train_student", "distill")
    }
    for name, config in {**CONFIGS, **trained}.items():
        (folder / "configs" / f"{name}.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    return folder


def dcd(*words: str, cwd: Path | None = None, before: str = "") -> subprocess.CompletedProcess[str]:
    """Run the command as the console script does."""
    program = f"import sys; {before}\nfrom dcd_components.cli import main; sys.exit(main())"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    line = [sys.executable, "-c", program, *words]
    return subprocess.run(line, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        pytest.param("datalist 007 --folds 3", "dataset_dir", Path("007"), id="a folder named like a number"),
        pytest.param(
            "datalist D --sequences t1n=a/{case}.nii t1c={case}=c.nii t1n={case}.nii.gz",
            "sequences",
            {"t1n": ["a/{case}.nii", "{case}.nii.gz"], "t1c": "{case}=c.nii"},
            id="patterns",
        ),
        pytest.param("datalist D --labels necrosis=1 oedema=2", "labels", {"necrosis": 1, "oedema": 2}, id="values"),
        pytest.param("new_bundle b --labels necrosis oedema", "labels", ["necrosis", "oedema"], id="names of labels"),
        pytest.param("datalist D --label_file ''", "label_file", [""], id="no label"),
        pytest.param("benchmark inference --out O lr=[8,8]", "settings", ["lr=[8,8]"], id="setting"),
        pytest.param("benchmark loss --out O --levels 1 2", "levels", [1, 2], id="numbers"),
        pytest.param("new_bundle b --labels a --spacing 1 1 0.5", "spacing", [1.0, 1.0, 0.5], id="mm"),
        pytest.param("segment a b --model m --out o", "cases", ["a", "b"], id="cases"),
        pytest.param("pack b --out o --overlay quick --overlay mirror", "overlay", ["quick", "mirror"], id="overlays"),
        pytest.param(
            "run distill b a=1 --dataset_dir D --overlay quick mirror b::c=x=y",
            "settings",
            ["b::c=x=y", "a=1"],
            id="settings",
        ),
        pytest.param("run student b --overlay quick b=1 --dataset_dir D", "overlay", ["quick"], id="overlay, setting"),
    ],
)
def test_words_become_values(words: str, name: str, value: object) -> None:
    assert vars(cli.parse(shlex.split(words)))[name] == value


@pytest.mark.parametrize(
    ("words", "message"),
    [
        pytest.param("check L --dataset-dir D", "unknown option --dataset-dir; did you mean --dataset_dir?", id="dash"),
        pytest.param("datalist D --nunet_folds", "--nunet_folds; did you mean --nnunet_folds?", id="misspelt"),
        pytest.param("datalist D --fold=3", "unknown option --fold; did you mean --folds?", id="abbreviated"),
        pytest.param("export B --zzz", "unknown option --zzz; it has --help, --overlay", id="nothing like it"),
        pytest.param("run distill B --dataset_dir D --epochs 3", "--epochs; key=value sets a key", id="a setting"),
        pytest.param("run distill B --dataset_dir D quick", "unexpected word 'quick'", id="a word"),
        pytest.param("datalist D --labels necrosis=1 oedema", "words name=1 with whole numbers", id="half of values"),
        pytest.param("datalist D --labels necrosis=one", "words name=1 with whole numbers", id="no number"),
        pytest.param("datalist D --sequences t1n", "must be words name=value, got 't1n'", id="no pattern"),
        pytest.param("benchmark lost --out O", "invalid choice: 'lost'", id="no such part"),
        pytest.param("benchmark", "the following arguments are required: WHAT", id="no part"),
        pytest.param("benchmark loss --out O --size 8", "--size; did you mean --sizes?", id="of a part"),
        pytest.param("phantom ixi --out O --cases 1", "invalid choice: 'ixi'", id="choice"),
        pytest.param("datalists", "invalid choice: 'datalists' (choose from 'datalist', 'download_data'", id="command"),
        pytest.param("", "the following arguments are required: COMMAND", id="none"),
    ],
)
def test_wrong_words_are_refused_with_what_is_near(
    words: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.parse(shlex.split(words))
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "function", "summary", "describe"), cli.COMMANDS, ids=[one[0] for one in cli.COMMANDS]
)
def test_every_option_is_a_parameter_and_has_a_help(
    name: str,
    function: Callable[..., str | None],
    summary: str,
    describe: Callable[[argparse.ArgumentParser], None],
) -> None:
    parser = argparse.ArgumentParser(add_help=False)
    describe(parser)
    known = {*inspect.signature(function).parameters}
    if "options" in known:  # which are passed on
        known |= {*inspect.signature(getattr(benchmark, name.replace("benchmark ", "run_"))).parameters}
    assert {action.dest for action in parser._actions} <= known
    assert all(action.help or action.choices for action in parser._actions)
    assert summary


def test_a_command_that_is_only_read_imports_no_framework() -> None:
    done = dcd("--help", before="import atexit; atexit.register(lambda: print({'torch', 'monai'} & set(sys.modules)))")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "set()"), done.stderr
    assert "datalist" in done.stdout


def test_a_missing_extra_is_named() -> None:
    done = dcd("check", "list.json", "--dataset_dir", ".", before="sys.modules['nibabel'] = None")
    said = 'error: nibabel is not installed, which this command needs: pip install "dcd_components[train]"\n'
    assert (done.returncode, done.stderr) == (1, said)


def test_the_networks_of_nnunet_are_named_without_what_they_ask_for() -> None:
    before = (
        "from dcd_components import commands\n"
        "def check(**options): raise ModuleNotFoundError(\"No module named 'dynamic_network_architectures.a'\")\n"
        "commands.check = check"
    )
    done = dcd("check", "list.json", "--dataset_dir", ".", before=before)
    said = "error: dynamic_network_architectures, nnU-Net's networks, is not installed: pip install --no-deps "
    assert (done.returncode, done.stderr) == (1, f"{said}dynamic-network-architectures\n")


def test_a_missing_module_that_no_extra_has_keeps_its_traceback() -> None:
    done = dcd("check", "list.json", "--dataset_dir", ".", before="sys.modules['json'] = None")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("ModuleNotFoundError: import of json halted")


def test_extras_hold_the_modules_that_the_command_says_they_do() -> None:
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has none")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    names = packages_distributions()
    for module, extra in cli.EXTRAS.items():
        packages = {name.lower().replace("_", "-") for name in names[module]}
        assert packages & {requirement.partition(">")[0].lower() for requirement in extras[extra]}, module


def test_errors_of_input_are_one_line(tmp_path: Path) -> None:
    done = dcd("check", "no.json", "--dataset_dir", str(tmp_path), cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: no data list at no.json")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("rule", [{"nnunet_folds": True}, {"seed": 3}], ids=["nnU-Net's folds", "by patients"])
@pytest.mark.parametrize("in_table", [False, True], ids=["no table", "a table with folds"])
def test_a_list_says_the_command_that_makes_it_again(
    rule: dict[str, Any], in_table: bool, patients: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sequences = {"t1c": ["{case}-t1c.nii.gz", "{case} t1c.nii.gz"], "t2f": "{case}-t2f.nii.gz"}
    given: dict[str, Any] = {
        "sequences": sequences,
        "label_file": "{case}-seg.nii.gz",
        "labels": {"necrosis": 1},
        "folds": 2,
    }
    monkeypatch.chdir(tmp_path)
    if in_table:
        given["patients"] = Path("table.csv")
        cases = [case["case"] for case in json.loads((patients / "datalist.json").read_text())["training"]]
        given["patients"].write_text("case,patient,fold\n" + "".join(f"{case},{case},7\n" for case in cases))
    commands.datalist(patients, **given, **rule, out=tmp_path / "a.json")
    description = json.loads((tmp_path / "a.json").read_text())["description"]
    program, *words = shlex.split(description.replace("DIR", str(patients)))
    assert program == "dcd"
    cli.main([*words, "--out", str(tmp_path / "b.json")])
    assert (tmp_path / "b.json").read_text() == (tmp_path / "a.json").read_text()


def test_sequences_on_the_command_line_replace_the_bundle_s_reference(patients: Path, tmp_path: Path) -> None:
    sequences = {"t2f": "{case}-t2f.nii.gz", "t1c": "{case}-t1c.nii.gz"}
    bundle = ROOT / "bundles" / "brats_gli_dcd"
    commands.datalist(patients, bundle=bundle, sequences=sequences, out=tmp_path / "list.json")
    assert json.loads((tmp_path / "list.json").read_text())["reference"] == "t2f"


def test_naming_by_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--bundle FOLDER, or --sequences"):
        commands.datalist(tmp_path)
    with pytest.raises(InputError, match="--channels, or --sequences"):
        commands.new_bundle("b", None, ["necrosis"])


def run(bundle: Path, *words: str, workflow: str = "distill") -> list[str]:
    """Words of the MONAI command."""
    found = vars(cli.parse(["run", workflow, str(bundle), "--dataset_dir", "D", *words]))
    overlays = [*found["overlay"], *(["quick"] if found.get("quick") else [])]
    return running.command_line(workflow, bundle, overlays, dict(one.split("=", 1) for one in found["settings"]))


@pytest.mark.parametrize(
    ("workflow", "name", "configs"),
    [
        ("teacher", "training", ["train_teacher"]),
        ("student", "training", ["train_student"]),
        ("distill", "training", ["distill"]),
        ("evaluate", "evaluating", ["inference", "evaluate"]),
        ("segment", "--bundle_root", ["inference"]),
    ],
)
def test_each_workflow_has_its_configs_and_overlays_come_last(
    bundle: Path, workflow: str, name: str, configs: list[str]
) -> None:
    words = run(bundle, "--quick", "--overlay", "mirror", workflow=workflow)
    assert words[:2] == ["run", name]
    files = ast.literal_eval(words[words.index("--config_file") + 1])
    assert files == [str(bundle / "configs" / f"{one}.yaml") for one in [*configs, "mirror", "quick"]]


@pytest.mark.parametrize("key", ["max_epochs", "labels::necrosis", "trainer::steps::0::size", "weights", "tracking"])
def test_keys_of_the_configs_and_options_of_monai_may_be_set(bundle: Path, key: str) -> None:
    assert run(bundle, f"{key}=3")[-1] == f"--{key}=3"


def test_a_component_may_be_given_another_argument(bundle: Path) -> None:
    assert run(bundle, "trainer::amp=True")[-1] == "--trainer::amp=True"


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("max_epoch", "; the nearest is max_epochs"),
        ("trianer::max_epochs", "; the nearest is trainer::max_epochs"),
        ("labels::necrose", "; the nearest is labels::necrosis"),
        ("trainer::steps::1::size", "; the nearest is trainer::steps::0::size"),
        ("max_epochs::x", "; the nearest is max_epochs"),
        ("sizes", "; the nearest is trainer::steps::0::size"),
        ("qqq", ""),
    ],
)
def test_a_key_that_no_config_has_is_refused_with_the_nearest(bundle: Path, key: str, hint: str) -> None:
    with pytest.raises(InputError, match=rf"^no config has the key {key}{hint}$"):
        run(bundle, f"{key}=3")


def test_a_config_that_the_bundle_does_not_have_is_refused(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no config quik: it has broken, distill, .*quick"):
        run(bundle, "--overlay", "quik")
    with pytest.raises(InputError, match="has no config distill: there is no folder configs with any"):
        run(tmp_path / "nowhere")


def test_the_command_is_shown_and_runs_from_any_folder(bundle: Path, tmp_path: Path) -> None:
    words = ["--dataset_dir", "data", "--overlay", "mirror", "trainer::lr=1e-3", "--quick"]
    done = dcd("run", "distill", bundle.name, *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    shown, *_, last = done.stdout.splitlines()
    said = f"workflow=distill; root={bundle}; data={tmp_path / 'data'}"
    assert last.startswith(said)
    assert "'max_epochs': 1" in last
    assert "'lr': 0.001" in last
    assert shown.startswith(f"python -m monai.bundle run training --bundle_root '{bundle}' --config_file ")
    again = subprocess.run(
        ["bash", "-c", shown.replace("python", shlex.quote(sys.executable), 1)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert again.stdout.splitlines()[-1] == last


def test_an_error_of_the_workflow_is_the_command_s(bundle: Path) -> None:
    done = dcd("run", "student", str(bundle), "--dataset_dir", ".", "--overlay", "broken")
    assert done.returncode == 0, "run training does not touch run"
    done = dcd("run", "segment", str(bundle), "--dataset_dir", ".", "--overlay", "broken")
    assert done.returncode == 1
    assert done.stderr.endswith("\nerror: config key run: ZeroDivisionError: float division by zero\n")


def test_an_interrupt_ends_the_command_as_it_ends_python(bundle: Path) -> None:
    done = dcd("run", "segment", str(bundle), "--dataset_dir", ".", "--overlay", "stopped")
    assert done.returncode == -2
    assert done.stderr.endswith("KeyboardInterrupt\n")
