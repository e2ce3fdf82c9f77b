"""The page on deployment, run from a release with what it says to install and nothing else."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from bare_python import Python, link_distributions
from releases import page

PAGE = page("deployment")


def section(name: str, folder: Path) -> tuple[Python, list[list[str]]]:
    """A section of the page: Python with what it installs, and the words of its commands."""
    lines = [line for line in PAGE.split(f"## {name}\n")[1].split("##")[0].splitlines() if line.startswith("    ")]
    install, *commands = (shlex.split(line) for line in lines)
    assert install[:2] == ["pip", "install"]
    assert commands
    assert all(command[:3] == ["python", "-m", "dcd_components"] for command in commands)
    return Python(link_distributions(install[2:], folder)), [command[1:] for command in commands]


@pytest.fixture(scope="module")
def exported(release: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release with its ONNX file."""
    bundle = Path(shutil.copytree(release, tmp_path_factory.mktemp("exported") / release.name))
    python, (command,) = section("The ONNX file", tmp_path_factory.mktemp("engineer") / "packages")
    said = python(*command, cwd=bundle).stdout
    assert re.fullmatch(r"models/model\.onnx: within \S+ of PyTorch's largest output on images of .*\n", said)
    return bundle


def test_the_page_s_commands_give_the_masks_of_the_bundle(
    exported: Path, patients: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    clinic = tmp_path / "clinic"
    for path in (
        "configs/inference.yaml",
        "models/model.onnx",
        *(str(p.relative_to(exported)) for p in (exported / "dcd_components").rglob("*.py")),
    ):
        (clinic / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(exported / path, clinic / path)
    case = sorted(patients.glob("BraTS*"))[0]
    python, (command,) = section("Masks", tmp_path / "packages")
    words = [str(case) if word == "CASE" else word for word in command]
    assert python(*words, cwd=clinic).stdout == "masks in OUT: 1\n"
    places: dict[str, Any] = {"dataset_dir": case, "output_dir": tmp_path / "theirs"}
    engineer = ["torch", "monai", "nibabel", "fire", "pytorch-ignite", "PyYAML"]
    Python(link_distributions(engineer, tmp_path / "others")).monai(
        "run", cwd=exported, config_file="configs/inference.yaml", **places
    )
    (ours,), (theirs,) = (list(folder.iterdir()) for folder in (clinic / "OUT", tmp_path / "theirs"))
    assert ours.name == theirs.name == f"{case.name}_seg.nii.gz"
    found, expected = (nib.load(path) for path in (ours, theirs))
    assert np.array_equal(found.affine, expected.affine)
    assert (np.asarray(found.dataobj) != np.asarray(expected.dataobj)).mean() < 1e-4

    python, (command,) = section("Faster", tmp_path / "faster")
    words = [str(case) if word == "CASE" else word for word in command]
    assert python(*words, cwd=clinic).stdout == "masks in OUT/fast: 1\n"
    fast = nib.load(clinic / "OUT" / "fast" / ours.name)
    assert (np.asarray(fast.dataobj) != np.asarray(found.dataobj)).mean() < 0.03  # of weights as drawn

    python, (command, other) = section("In int8", tmp_path / "int8")
    words = [str(patients) if word == "DIR" else word for word in command]
    assert "models/model_int8.xml: mean Dice of 2 cases" in python(*words, cwd=exported).stdout
    words = [str(case) if word == "CASE" else word for word in other]
    assert python(*words, cwd=exported).stdout == "masks in OUT/int8: 1\n"
