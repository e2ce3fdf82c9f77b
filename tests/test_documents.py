"""The documents' commands name files, options and targets that exist, and their Python runs."""

from __future__ import annotations

import ast
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import BRATS, ISLES, TINY

from dcd_components import cli
from dcd_components.bundle import running
from dcd_components.tables import read_csv

ROOT = Path(__file__).parents[1]
OWN_DATA = ROOT / "docs" / "own_data.md"
BUNDLE_PAGES = [path for bundle in (BRATS, ISLES) for path in sorted((bundle / "docs").glob("*.md"))]
PAGES = [*BUNDLE_PAGES, *sorted((ROOT / "docs").glob("*.md")), ROOT / "data_lists" / "README.md"]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES]
COMMANDS = ("dcd ", "python -m dcd_components ")
#: What MONAI's tracking takes, next to the options of run and the keys of configs.
TRACKING = {"run_name"}


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
    running.check_settings([BRATS / "configs" / Path(name).name for name in names], set(given) - TRACKING)


@pytest.mark.parametrize("command", [one for program in COMMANDS for one in commands(program)])
def test_package_commands_are_understood(command: str) -> None:
    words = shlex.split(command.partition(" #")[0])
    cli.parse(words[3:] if words[0] == "python" else words[1:])


@pytest.mark.parametrize("command", commands("make"))
def test_make_targets_exist(command: str) -> None:
    target = shlex.split(command)[1]
    assert re.search(rf"^{re.escape(target)}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)


def run_section(text: str, folder: Path, **places: Path) -> None:
    """Run the indented lines of a text in a shell, as they are but for the folders and tiny settings at the end."""
    tiny = shlex.join(f"--{key}={value}" for key, value in TINY.items())
    python = f'python() {{ [ "$2" = monai.bundle ] && set -- "$@" {tiny}; {shlex.quote(sys.executable)} "$@"; }}'
    lines = "\n".join(line.strip() for line in text.splitlines() if line.startswith("    "))
    for name, place in places.items():
        lines = re.sub(rf"\b{name}\b", str(place), lines)
    script = f"set -e\n{python}\nset -x\n{lines}"
    done = subprocess.run(["bash", "-c", script], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]


@pytest.fixture
def brats(tmp_path: Path) -> Path:
    """A copy of the bundle, without what trainings left in it."""
    left = shutil.ignore_patterns("models", "eval", "cache")
    return Path(shutil.copytree(BRATS, tmp_path / "bundles" / BRATS.name, ignore=left))


def test_the_readme_s_own_training_runs(patients: Path, brats: Path, tmp_path: Path) -> None:
    """In order and as written, on tiny phantoms and with tiny networks."""
    section = DOCUMENTS[0].read_text(encoding="utf-8").split("## Your own training")[1].split("###")[0]
    assert section.count("\n    python") >= 5
    run_section(section, brats, DIR=patients, OUT=tmp_path / "out")
    assert (brats / "models" / "teacher" / "model.pt").is_file()
    assert len(read_csv(brats / "eval" / "scores.csv")) == 2
    assert len(list((tmp_path / "out").glob("*_seg.nii.gz"))) == 10


def test_the_page_on_own_data_runs(patients: Path, brats: Path, tmp_path: Path) -> None:
    """As the README's, from the folder of images on; then the overrides, in a copy of the other bundle."""
    listed = shutil.ignore_patterns("*.json")
    data, new = Path(shutil.copytree(patients, tmp_path / "data", ignore=listed)), tmp_path / "new"
    first = sorted(path for path in data.iterdir() if path.is_dir())[0]
    shutil.copytree(first, new / first.name)
    page, last = OWN_DATA.read_text(encoding="utf-8").split("## 6. ")
    places = {"DIR": data, "NEW": new}
    run_section(page, tmp_path, **places, OUT=tmp_path / "out")
    bundle = tmp_path / "my_tumours"
    assert len(list((bundle / "models").glob("**/model-*.pt"))) == 2
    assert {"dice_necrosis", "dice_cavity"} < set(read_csv(bundle / "eval" / "scores.csv")[0])
    assert [path.name for path in (tmp_path / "out").iterdir()] == [f"{first.name}_seg.nii.gz"]
    run_section(last, brats, **places, OUT=tmp_path / "other")
    assert {"dice_necrosis", "dice_cavity"} < set(read_csv(brats / "eval" / "scores.csv")[0])
    assert [path.name for path in (tmp_path / "other").iterdir()] == [f"{first.name}_seg.nii.gz"]


def test_the_documents_hold_commands_of_each_kind() -> None:
    assert len(commands("python -m monai.bundle run")) >= 4
    assert sum(len(commands(program)) for program in COMMANDS) >= 2
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
