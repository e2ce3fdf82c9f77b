"""Bad input ends in one sentence that names the culprit and what was expected."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import forked
import nibabel as nib
import numpy as np
import pytest
import torch
from tiny import TINY, Workflow, config_files

from dcd_components.errors import root_cause

#: A case that cannot be segmented is named when the others have their masks.
ONE = "1 of the cases could not be segmented: "


def message(workflow: Workflow, *names: str, **overrides: Any) -> str:
    """What a run says when it fails, and fails it must."""

    def run() -> None:
        flow = workflow(*names, **overrides)
        flow.initialize()
        flow.run()

    with pytest.raises((Exception, SystemExit), match=r".") as caught:
        run()
    return str(root_cause(caught.value))


@pytest.fixture
def broken(patients: Path, tmp_path: Path) -> Path:
    """A copy of the patients, to break."""
    return Path(shutil.copytree(patients, tmp_path / "broken"))


def shrink(folder: Path, name: str) -> Path:
    path = sorted(folder.glob(f"*/*-{name}.nii.gz"))[0]
    image = nib.load(path)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj)[:-1], image.affine), path)
    return path


def test_a_missing_channel_stops_training(workflow: Workflow, broken: Path) -> None:
    for path in broken.glob("*/*-t2w.nii.gz"):
        path.unlink()
    said = message(workflow, "train_student", dataset_dir=str(broken))
    assert "t2w.nii.gz: missing" in said


@pytest.fixture
def student(workflow: Workflow, tmp_path: Path) -> Path:
    """Random weights of a student, where the bundle looks for them."""
    flow = workflow("inference", "quick")
    torch.save(flow.parser.get_parsed_content("network_def").state_dict(), tmp_path / "model.pt")
    return tmp_path / "model.pt"


@pytest.mark.usefixtures("student")
@pytest.mark.parametrize("sequence", ["t2f", "t1n"], ids=["another", "the one that names a case"])
def test_a_missing_channel_stops_inference(sequence: str, workflow: Workflow, broken: Path) -> None:
    path = sorted(broken.glob(f"*/*-{sequence}.nii.gz"))[0]
    path.unlink()
    said = message(workflow, "inference", dataset_dir=str(broken))
    assert said == f"{ONE}{path.parent.name}: {path.relative_to(broken)}: missing"
    path.touch()
    said = message(workflow, "inference", dataset_dir=str(broken))
    assert said == f"{ONE}{path}: is empty, 0 bytes"


def test_missing_weights_stop_inference(workflow: Workflow, tmp_path: Path) -> None:
    assert message(workflow, "inference") == f"{tmp_path / 'model.pt'}: missing, expected the weights of the network"


@pytest.mark.usefixtures("student")
def test_an_output_folder_that_cannot_be_written_stops_inference(workflow: Workflow, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    said = message(workflow, "inference", output_dir=str(tmp_path / "file" / "out"))
    assert said == f"cannot write into {tmp_path / 'file'}"


def test_channels_of_different_shape_stop_training(workflow: Workflow, broken: Path) -> None:
    path = shrink(broken, "t1c")
    said = message(workflow, "train_student", dataset_dir=str(broken), train_folds=[0, 1, 2, 3, 4])
    assert said == f"{path}: shape 39x48x40, expected 40x48x40 as t1n"


@pytest.mark.usefixtures("student")
def test_channels_of_different_shape_stop_inference(workflow: Workflow, broken: Path) -> None:
    path = shrink(broken, "t1c")
    said = message(workflow, "inference", dataset_dir=str(broken))
    assert said == f"{ONE}{path}: shape 39x48x40, expected 40x48x40 as t1n"


@pytest.mark.usefixtures("student")
def test_a_channel_that_lies_elsewhere_stops_inference(workflow: Workflow, broken: Path) -> None:
    path = sorted(broken.glob("*/*-t2w.nii.gz"))[0]
    image = nib.load(path)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), image.affine + np.eye(4, k=3)), path)
    said = message(workflow, "inference", dataset_dir=str(broken))
    assert said.startswith(f"{ONE}{path}: another origin or rotation than t1n: moves a corner by 1 mm")


@pytest.mark.usefixtures("student")
def test_two_cases_of_one_name_stop_inference(workflow: Workflow, broken: Path) -> None:
    case = sorted(broken.glob("BraTS*"))[0]
    shutil.copytree(case, broken / "copies" / case.name)
    said = message(workflow, "inference", dataset_dir=str(broken))
    assert said.startswith(f"{ONE}{case.name}: 2 files for t1c: ")


@pytest.mark.usefixtures("student")
def test_an_empty_folder_stops_inference(workflow: Workflow, tmp_path: Path) -> None:
    assert "fits {case}-t1n.nii.gz" in message(workflow, "inference", dataset_dir=str(tmp_path))


def test_missing_teacher_weights(workflow: Workflow, tmp_path: Path) -> None:
    said = message(workflow, "distill", "quick")
    assert said == f"no weights at {tmp_path / 'teacher.pt'}: train the network first, or say where they are"


def test_teacher_weights_that_do_not_fit(workflow: Workflow, tmp_path: Path) -> None:
    torch.save({"first.weight": torch.zeros(3)}, tmp_path / "teacher.pt")
    said = message(workflow, "distill", "quick")
    assert "does not fit DynUNet" in said
    assert "has unknown first.weight" in said or "lacks" in said


@pytest.fixture
def teacher(workflow: Workflow, tmp_path: Path) -> None:
    flow = workflow("inference", "teacher")
    torch.save(flow.parser.get_parsed_content("network_def").state_dict(), tmp_path / "teacher.pt")


@pytest.mark.usefixtures("teacher")
@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({"wavelet": "db99"}, "unknown wavelet 'db99'; choose"),
        ({"bands": ["aad", "add", "xyz"]}, "unknown bands ['xyz']; choose"),
        ({"mode": "mirror"}, "unknown boundary mode 'mirror'; choose from"),
        ({"levels": 0}, "levels must be at least 1, got 0"),
        ({"stages": ["input_block", "downsample.0", "bottleneck"]}, "no stage 'downsample.0'; did you mean"),
        ({"distillation_weight": {"_target_": "dcd_components.constant", "maximum": -1.0}}, "must not be negative"),
    ],
    ids=["wavelet", "band", "mode", "levels", "stage", "schedule"],
)
def test_unknown_settings_of_the_distillation(
    overrides: dict[str, Any], expected: str, workflow: Workflow, tmp_path: Path
) -> None:
    assert expected in message(workflow, "distill", "quick", **overrides)
    assert not (tmp_path / "model.pt").exists()


@pytest.mark.usefixtures("student")
@pytest.mark.parametrize(
    ("names", "key", "name"),
    [
        (["train_student", "quick"], "ckpt_path", "folder/model.pt"),
        (["inference", "evaluate", "quick"], "output_dir", "folder"),
    ],
    ids=["training", "evaluation"],
)
def test_an_output_folder_that_cannot_be_written(
    names: list[str], key: str, name: str, workflow: Workflow, tmp_path: Path
) -> None:
    (tmp_path / "folder").write_text("a file where a folder should be")
    said = message(workflow, *names, **{key: str(tmp_path / name)})
    assert str(tmp_path / "folder") in said
    assert (tmp_path / "folder").read_text() == "a file where a folder should be"


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["inference"], "FOLDER/model.pt: missing, expected the weights of the network"),
        (["train_student"], "no data list at"),
        (["distill"], "no data list at"),
        (["inference", "evaluate"], "FOLDER/model.pt: missing, expected the weights of the network"),
    ],
    ids=["inference", "training", "distillation", "evaluation"],
)
def test_the_command_line_prints_one_sentence_and_fails(names: list[str], expected: str, tmp_path: Path) -> None:
    done = forked.run("monai.bundle", command(names, tmp_path), tmp_path)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith(f"error: {expected}".replace("FOLDER", str(tmp_path)))


def command(names: list[str], folder: Path) -> list[str]:
    settings = [f"--{key}={value}" for key, value in TINY.items()]
    paths = [f"--dataset_dir={folder}", f"--ckpt_path={folder / 'model.pt'}"]
    return ["run", f"--config_file={config_files(*names)}", *settings, *paths]


def test_a_program_of_its_own_ends_as_a_forked_one_does(tmp_path: Path) -> None:
    words = command(["inference"], tmp_path)
    line = [sys.executable, "-W", "ignore", "-m", "monai.bundle", *words]
    own = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=False)
    done = forked.run("monai.bundle", words, tmp_path)
    assert own.returncode == done.returncode == 1
    assert own.stderr.splitlines()[-1] == done.stderr.splitlines()[-1]
    assert "Traceback" not in own.stderr
