"""The documents: their commands and Python are run, their links lead somewhere, and they name what there is."""

from __future__ import annotations

import ast
import json
import re
import shlex
import shutil
import subprocess
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from forked import run_module
from monai.bundle import ConfigParser
from tiny import BRATS, HIPPOCAMPUS, ISLES, OF_INFERENCE, ROOT, TINY
from torch import nn

from dcd_components import cli
from dcd_components.bundle import running
from dcd_components.tables import read_csv

README, CHANGELOG, DOCS = ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "docs"
OF_BUNDLES = {bundle / "docs" / "README.md": bundle for bundle in (BRATS, ISLES, HIPPOCAMPUS)}
PAGES = [*sorted(DOCS.glob("*.md")), *OF_BUNDLES]
DOCUMENTS = [README, ROOT / "CONTRIBUTING.md", ROOT / "data_lists" / "README.md", *PAGES]
#: Pages whose commands the tests in another file run.
FOLLOWED = {
    "architectures": "bundles/test_architectures.py",
    "baselines": "bundles/test_baselines.py",
    "deployment": "release/test_deployment.py",
    "download": "release/test_download_page.py",
    "federated": "release/test_federated.py",
    "library": "examples/test_examples.py",
    "monai_label": "label/test_label.py",
    "multi_gpu": "release/test_multi_gpu_page.py",
    "nnunet": "nnunet/test_nnunet_page.py",
    "studies": "study/test_runner.py",
    "tracking": "release/test_followed.py",
}
#: Documents whose commands the tests below run.
RUN_HERE = [
    README,
    DOCS / "own_data.md",
    DOCS / "configs.md",
    DOCS / "resume.md",
    *OF_BUNDLES,
]
#: Commands that no test runs, and why.
NOT_RUN = {
    r"pip install .*": "takes the network; test_package.py installs the wheel, and the tests have the same versions",
    r"python3 -m venv .*|\. .*activate": "environments; those of the tests are made by make",
    r"make .*": "runs the tests, or what they run at its full length; that the targets exist is tested",
    r"dcd download_data .*": "takes the network; data/test_downloads.py has an archive of its own",
    r"dcd run segment bundles/hippocampus_dcd .*": "real patients; release/test_published_student.py runs it",
    r"tensorboard .*|mlflow ui .*": "a server that goes on until it is stopped",
    r"dcd benchmark .*|dcd phantom .* --size 240 .*": "minutes at this size; the tests in benchmarks/ run small ones",
}
#: What MONAI's tracking takes, next to the options of run and the keys of configs.
TRACKING = {"run_name"}


def lines(document: Path) -> list[str]:
    """The indented lines of a document, shell variables filled in."""
    text = re.sub(r"(?s)```.*?```", "", document.read_text(encoding="utf-8"))
    found = [line.strip() for line in text.splitlines() if line.startswith("    ")]
    variables = dict(line.split("=", 1) for line in found if re.match(r"[A-Z]+=", line))
    filled = []
    for line in found:
        for name, value in variables.items():
            line = line.replace(f'"${name}"', value).replace(f"${name}", shlex.split(value)[0])
        filled.append(re.split(r"\s+# ", line)[0])
    return filled


def code(document: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", document.read_text(encoding="utf-8"), re.DOTALL)


def commands(*programs: str) -> list[tuple[Path, str]]:
    """Commands that start with one of some programs, each with the bundle that its page is about."""
    found = [(document, line) for document in DOCUMENTS for line in lines(document) if line.startswith(programs)]
    return [(OF_BUNDLES.get(document, BRATS), line) for document, line in found]


def options(words: Sequence[str]) -> dict[str, str]:
    pairs = zip(words, [*words[1:], ""], strict=True)
    return {word.removeprefix("--"): value for word, value in pairs if word.startswith("--")}


@pytest.mark.parametrize(("bundle", "command"), commands("python -m monai.bundle run ", "torchrun "))
def test_monai_s_commands_name_existing_files_keys_and_workflows(bundle: Path, command: str) -> None:
    words = shlex.split(command.partition("monai.bundle run ")[2])
    given = options(words)
    files = given["config_file"]
    names = ast.literal_eval(files) if files.startswith("[") else [files]
    paths = [bundle / (name if name.startswith("..") else f"configs/{Path(name).name}") for name in names]
    running.check_settings(paths, set(given) - TRACKING)
    workflow = "run" if words[0].startswith("--") else words[0]
    assert workflow in ConfigParser.load_config_files(paths)


@pytest.mark.parametrize(("bundle", "command"), commands("dcd ", "python -m dcd_components "))
def test_our_commands_are_understood(bundle: Path, command: str) -> None:
    words = shlex.split(command)
    found = cli.parse(words[3:] if words[0] == "python" else words[1:])
    if hasattr(found, "workflow"):
        settings = dict(one.split("=", 1) for one in found.settings)
        running.command_line(found.workflow, bundle, found.overlay, settings)  # refuses unknown files and keys


@pytest.mark.parametrize(("bundle", "command"), commands("make "))
def test_make_targets_exist(bundle: Path, command: str) -> None:
    target = shlex.split(command)[1]
    assert re.search(rf"^{re.escape(target)}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)


def test_every_command_is_run_by_a_test_or_listed_with_a_reason() -> None:
    assert all((ROOT / "tests" / test).is_file() for test in FOLLOWED.values())
    run = [*RUN_HERE, *(DOCS / f"{name}.md" for name in FOLLOWED)]
    assert all(path.is_file() for path in run)
    listed = [line for page in DOCUMENTS for line in lines(page) if any(re.fullmatch(one, line) for one in NOT_RUN)]
    left = [line for page in DOCUMENTS if page not in run for line in lines(page) if line not in listed]
    assert not left
    assert all(any(re.fullmatch(one, line) for line in listed) for one in NOT_RUN)


#: What a line's programs are given, as a shell reads it.
SHELL = r"""
dcd() { printf '%s\0' dcd "$@"; }
python() { printf '%s\0' python "$@"; }
cd() { printf '%s\0' cd "$@"; }
"""


def run_lines(found: Sequence[str], folder: Path, **places: Path) -> None:
    """Run the lines of a document in order, as they are but for the folders and tiny settings at the end."""
    for line in found:
        for name, place in places.items():
            line = re.sub(rf"\b{name}\b", str(place), line)
        shell = ["bash", "-euc", f"{SHELL}{line}"]
        done = subprocess.run(shell, cwd=folder, capture_output=True, text=True, check=True)
        program, *words = done.stdout.split("\0")[:-1] or [""]
        assert program or "=" in line.split()[0], f"no test runs {line}"
        if program == "cd":
            folder /= words[0]
        elif program:
            module, words = ("dcd_components", words) if program == "dcd" else (words[1], words[2:])
            status, said = run_module(module, [*words, *tiny_settings(program, words)], folder)
            assert status == 0, f"{line}\n{said[-4000:]}"


def tiny_settings(program: str, words: Sequence[str]) -> list[str]:
    if program == "python":
        return [f"--{name}={value}" for name, value in TINY.items()]
    if words[0] != "run":
        return []
    names = OF_INFERENCE if words[1] in ("evaluate", "segment") else TINY
    return [f"{name}={TINY[name]}" for name in names]


def copy_of(bundle: Path, folder: Path) -> Path:
    """A copy of a bundle, without what trainings left in it."""
    left = shutil.ignore_patterns("models", "eval", "cache")
    return Path(shutil.copytree(bundle, folder / "bundles" / bundle.name, ignore=left))


def unlisted(data: Path, folder: Path) -> Path:
    """A copy of a data set without its data list."""
    return Path(shutil.copytree(data, folder, ignore=shutil.ignore_patterns("*.json")))


def scored(folder: Path) -> set[str]:
    """Columns of the scores of two cases, which are in the test fold."""
    rows = read_csv(folder / "scores.csv")
    assert len(rows) == 2
    return set(rows[0])


def test_the_readme_runs_and_so_do_the_pages_of_the_bundle_on_configs_and_resuming(
    patients: Path, tmp_path: Path
) -> None:
    """In order and as written, on tiny phantoms and with tiny networks; of the later pages, what is new."""
    bundle, places = copy_of(BRATS, tmp_path), {"DIR": patients, "OUT": tmp_path / "out"}
    found = [line for line in lines(README) if not any(re.fullmatch(one, line) for one in NOT_RUN)]
    assert [line.split()[:3] for line in found] == [
        ["dcd", "datalist", "DIR"],
        ["dcd", "check", "DIR/datalist.json"],
        *(["dcd", "run", workflow] for workflow in ("teacher", "distill", "evaluate", "segment")),
        *[["python", "-m", "monai.bundle"]] * 4,
    ]
    run_lines(found, bundle, **places)
    assert {"dice_ET", "tp_small_lesions", "fp_lesions"} < scored(bundle / "eval")
    assert len(list((tmp_path / "out").glob("*_seg.nii.gz"))) == 10
    assert len(list((bundle / "models").glob("**/model-*.pt"))) == 2  # of the first half, kept beside the second's
    shutil.copyfile(bundle / "models" / "model.pt", weights := tmp_path / "released.pt")
    run_lines(lines(DOCS / "resume.md"), bundle, **places, WEIGHTS=weights)
    page = [line for line in lines(BRATS / "docs" / "README.md") if line not in found]
    run_lines([*page, *(line for line in lines(DOCS / "configs.md") if not line.startswith("make"))], bundle, **places)
    assert len(page) == 3
    assert scored(bundle / "eval" / "plain") == scored(bundle / "eval" / "teacher")
    assert len(list((bundle / "models").glob("model-*.pt"))) == 5


def test_the_page_on_own_data_runs(patients: Path, tmp_path: Path) -> None:
    """From the folder of images on; then with settings of another bundle, in a copy of it."""
    data, new = unlisted(patients, tmp_path / "data"), tmp_path / "new"
    first = sorted(path for path in data.iterdir() if path.is_dir())[0]
    shutil.copytree(first, new / first.name)
    page = DOCS / "own_data.md"
    found, places = lines(page), {"DIR": data, "NEW": new}
    last = found.index("dcd run segment . --dataset_dir NEW --output_dir OUT") + 1
    run_lines(found[:last], tmp_path, **places, OUT=tmp_path / "out")
    bundle = tmp_path / "my_tumours"
    assert len(list((bundle / "models").glob("**/model-*.pt"))) == 2
    assert scored(bundle / "eval") > {"dice_necrosis", "dice_cavity"}
    assert [path.name for path in (tmp_path / "out").iterdir()] == [f"{first.name}_seg.nii.gz"]
    fewer = unlisted(data, tmp_path / "fewer")
    for case in (removed := sorted(path for path in fewer.iterdir() if path.is_dir())[-2:]):
        (case / f"{case.name}-seg.nii.gz").unlink()
    then = found.index(next(line for line in found if line.startswith("dcd datalist") and "one.json" in line))
    run_lines(found[last:then], bundle, DIR=fewer)
    listed = json.loads((fewer / "more.json").read_text())["training"]
    trained = [case["label"] for case in listed if case["fold"] == 5]
    assert trained == [f"by_teacher/{case.name}_seg.nii.gz" for case in removed]
    assert len(list((bundle / "models").glob("model-*.pt"))) == 2
    other = copy_of(BRATS, tmp_path)
    run_lines(found[then:], other, **places, OUT=tmp_path / "other")
    assert scored(other / "eval") > {"dice_necrosis", "dice_cavity"}
    assert [path.name for path in (tmp_path / "other").iterdir()] == [f"{first.name}_seg.nii.gz"]


def test_the_page_of_the_bundle_for_isles_runs(strokes: Path, tmp_path: Path) -> None:
    data, bundle = unlisted(strokes, tmp_path / "data"), copy_of(ISLES, tmp_path)
    run_lines(lines(ISLES / "docs" / "README.md"), bundle, DIR=data, OUT=tmp_path / "out")
    assert {"dice_lesion", "lesion_f1", "volume_difference_ml"} < scored(bundle / "eval")
    assert len(list((tmp_path / "out").glob("*_seg.nii.gz"))) == 10


def test_the_page_of_the_bundle_for_the_hippocampus_runs(hippocampi: Path, tmp_path: Path) -> None:
    data, bundle = unlisted(hippocampi, tmp_path / "data"), copy_of(HIPPOCAMPUS, tmp_path)
    found = [line for line in lines(HIPPOCAMPUS / "docs" / "README.md") if "download_data" not in line]
    run_lines(found, bundle, DIR=data, OUT=tmp_path / "out")
    assert {"dice_anterior", "dice_posterior"} < scored(bundle / "eval")
    assert scored(bundle / "eval" / "plain") == scored(bundle / "eval" / "teacher")
    assert len(list((tmp_path / "out").glob("*_seg.nii.gz"))) == 10


def test_the_readme_s_python_runs() -> None:
    def network(width: int) -> nn.Module:
        encoder = nn.Sequential(nn.Conv3d(4, width, 3, padding=1), nn.ReLU())
        return nn.Sequential(OrderedDict(encoder=encoder, head=nn.Conv3d(width, 2, 1)))

    image, label, student = torch.rand(1, 4, 16, 16, 16), torch.zeros(1, 16, 16, 16, dtype=torch.long), network(4)
    names: dict[str, Any] = {"torch": torch, "student": student, "teacher": network(8)}
    names |= {"criterion": nn.CrossEntropyLoss(), "epochs": 1, "batches": [(image, label)]}
    before = [parameter.clone() for parameter in student.parameters()]
    (text,) = code(README)
    exec(compile(text, "README.md", "exec"), names)
    assert any(not torch.equal(*pair) for pair in zip(before, student.parameters(), strict=True))
    with names["distiller"] as distiller:
        student(image)
        assert distiller.loss(image, 949) > 0  # at the end of the ramp


@pytest.mark.parametrize("text", code(DOCS / "library.md"))
def test_the_python_of_the_page_on_the_library_runs(text: str) -> None:
    names: dict[str, Any] = {}
    exec(compile(text, "library.md", "exec"), names)
    gradients = [parameter.grad for parameter in names["student"][0].parameters()]
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients)


def test_all_python_is_run_by_a_test() -> None:
    followed = [DOCS / f"{name}.md" for name in ("architectures", "download", "federated")]
    assert {page for page in DOCUMENTS if code(page)} == {README, DOCS / "library.md", *followed}


def test_linked_files_exist() -> None:
    for document in [*DOCUMENTS, CHANGELOG]:
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text(encoding="utf-8")):
            assert (document.parent / target).exists(), f"{document} links to {target}"


def test_the_configs_that_documents_name_exist() -> None:
    places = ("bundles/*/configs", "bundles/common/*", "studies")
    there = {path.name for place in places for path in ROOT.glob(f"{place}/*.yaml")}
    for document in DOCUMENTS:
        named = set(re.findall(r"(?<![*\w])[a-z_]+\.yaml\b", document.read_text(encoding="utf-8")))
        assert named <= there, f"{document} names {named - there}"


def test_the_readme_and_the_page_for_contributors_are_short() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 110
    assert len((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").splitlines()) < 50


@pytest.mark.parametrize("document", [DOCS / "faults.md", ROOT / "SECURITY.md"], ids=lambda path: path.stem)
def test_the_tests_that_a_page_names_are_there(document: Path) -> None:
    named = re.findall(r"`(?:tests/)?([\w/]+\.py)(?:::(\w+))?`", document.read_text(encoding="utf-8"))
    assert len(named) > 5
    for file, name in named:
        text = (ROOT / "tests" / file).read_text(encoding="utf-8")
        assert f"\ndef {name}" in text or not name, f"{document} names {file}::{name}"
    if document.stem == "faults":
        assert all(name for _, name in named)
