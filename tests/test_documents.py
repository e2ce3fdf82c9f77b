"""The documents' commands name files, options and targets that exist, and their Python runs."""

from __future__ import annotations

import ast
import inspect
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from monai.bundle import ConfigParser
from tiny import TINY

from dcd_components import __main__, demo
from dcd_components.reporting import read_csv

ROOT = Path(__file__).parents[1]
BUNDLE = ROOT / "bundles" / "brats_gli_dcd"
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", BUNDLE / "docs" / "README.md"]
#: What monai.bundle run itself takes, next to overrides of config keys.
RUN_OPTIONS = {"config_file"}


def commands(program: str) -> list[str]:
    """Indented command lines of all documents that start with a program, shell variables filled in."""
    found = []
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8").replace("\\\n", " ")
        lines = [line.strip() for line in text.splitlines() if line.startswith("    ")]
        variables = dict(line.split("=", 1) for line in lines if re.match(r"[A-Z]+=", line))
        for line in lines:
            for name, value in variables.items():
                line = line.replace(f"${name}", shlex.split(value)[0])
            if line.startswith(program):
                found.append(line)
    return found


def options(words: list[str]) -> dict[str, str]:
    pairs = zip(words, [*words[1:], ""], strict=True)
    return {word.removeprefix("--"): value for word, value in pairs if word.startswith("--")}


@pytest.mark.parametrize("command", commands("python -m monai.bundle run"))
def test_bundle_commands_name_existing_files_and_keys(command: str) -> None:
    given = options(shlex.split(command))
    files = given["config_file"]
    names = ast.literal_eval(files) if files.startswith("[") else [files]
    config = ConfigParser.load_config_files([str(BUNDLE / name) for name in names])
    assert set(given) - RUN_OPTIONS - set(config) == set()


@pytest.mark.parametrize("command", commands("python -m dcd_components"))
def test_package_commands_name_existing_options(command: str) -> None:
    _, _, _, name, *words = shlex.split(command)
    function = demo.run if name == "demo" else getattr(__main__, name)
    assert set(options(words)) <= set(inspect.signature(function).parameters)


@pytest.mark.parametrize("command", commands("make"))
def test_make_targets_exist(command: str) -> None:
    target = shlex.split(command)[1]
    assert re.search(rf"^{re.escape(target)}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)


def test_the_readme_s_own_training_runs(patients: Path, tmp_path: Path) -> None:
    """In order and as written, in a copy of the bundle, on tiny phantoms and with tiny networks."""
    bundle = Path(shutil.copytree(BUNDLE, tmp_path / "bundle", ignore=shutil.ignore_patterns("models", "eval")))
    section = DOCUMENTS[0].read_text(encoding="utf-8").split("## Your own training")[1].split("###")[0]
    lines = [line.strip() for line in section.splitlines() if line.startswith("    python")]
    assert len(lines) == 5
    tiny = [f"--{key}={value}" for key, value in TINY.items()]
    paths = {"DIR": str(patients), "OUT": str(tmp_path / "out"), "python": sys.executable}
    for line in lines:
        words = [paths.get(word, word) for word in shlex.split(line)]
        overrides = tiny if "monai.bundle" in words else []
        done = subprocess.run([*words, *overrides], cwd=bundle, capture_output=True, text=True, check=False)
        assert done.returncode == 0, line + done.stdout[-1000:] + done.stderr[-2000:]
    assert (bundle / "models" / "teacher" / "model.pt").is_file()
    assert len(read_csv(bundle / "eval" / "scores.csv")) == 2
    assert len(list((tmp_path / "out").glob("*_seg.nii.gz"))) == 10


def test_the_documents_hold_commands_of_each_kind() -> None:
    assert len(commands("python -m monai.bundle run")) >= 4
    assert len(commands("python -m dcd_components")) >= 2
    assert len(commands("make")) >= 3


def test_the_readme_s_python_runs() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", DOCUMENTS[0].read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), names)
    assert names["student_map"].shape == (1, 4, 32, 32, 32)  # type: ignore[attr-defined]


def test_linked_files_exist() -> None:
    for document in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text(encoding="utf-8")):
            assert (document.parent / target).exists(), f"{document} links to {target}"
