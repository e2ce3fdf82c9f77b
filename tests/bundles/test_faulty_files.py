"""Faulty files through the public commands: one sentence with the file's name, exit status 1, nothing half-written."""

from __future__ import annotations

import gzip
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import forked
import nibabel as nib
import numpy as np
import pytest
import torch
from tiny import BRATS, TINY, Workflow, config_files

from dcd_components import commands
from dcd_components.data.datalists import read_datalist
from dcd_components.errors import root_cause


@pytest.fixture
def copy(patients: Path, tmp_path: Path) -> Path:
    """The patients, to break one."""
    return Path(shutil.copytree(patients, tmp_path / "data"))


@pytest.fixture
def student(workflow: Workflow, tmp_path: Path) -> Path:
    """Random weights of a student, where the bundle looks for them."""
    flow = workflow("inference")
    torch.save(flow.parser.get_parsed_content("network_def").state_dict(), tmp_path / "model.pt")
    return tmp_path / "model.pt"


# What is wrong with a file of 40x48x40 voxels of 4 mm.


def with_value(value: float) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        image = nib.load(path)
        values = np.asarray(image.dataobj, np.float32)
        values[20, 24, 20] = value
        nib.save(nib.Nifti1Image(values, image.affine), path)

    return change


def with_zooms(path: Path) -> None:
    """As `set_zooms` of nibabel leaves a header: pixdim alone is changed."""
    content = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(content[:80] + struct.pack("<3f", 1, 1, 1) + content[92:]))


def complex_valued(path: Path) -> None:
    image = nib.load(path)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj).astype(np.complex64), image.affine), path)


def constant(path: Path) -> None:
    image = nib.load(path)
    nib.save(nib.Nifti1Image(np.full(image.shape, 7, np.uint8), image.affine), path)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def web_page(path: Path) -> None:
    path.write_bytes(b"<!DOCTYPE html><html>404</html>")


def bomb(path: Path) -> None:
    """A header of 32767 voxels a side before a stream that unpacks to 64 times its size."""
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[42:48] = struct.pack("<3h", 32767, 32767, 32767)
    path.write_bytes(gzip.compress(bytes(content) + bytes(2**22)))


PIXDIM = "pixdim says voxels of 1x1x1 mm, expected 4x4x4 mm as its sform"
FAULTS: list[tuple[str, Callable[[Path], None], str]] = [
    ("t1c", with_value(np.nan), "1 NaN and 0 Inf among 76800 voxels"),
    ("t2w", cut, "truncated: its compressed data break off after "),
    ("t1n", with_zooms, PIXDIM),
    ("t2f", complex_valued, "holds complex numbers, expected one real number in each voxel"),
    ("t1c", constant, "all 76800 voxels are 7, expected an image"),
    ("t2w", web_page, "is not compressed, though its name ends in .gz"),
    ("t2f", bomb, f"has {32767**3} voxels, shape 32767x32767x32767, expected at most 1073741824"),
    ("seg", with_value(259), "259 in 1 of 76800 voxels, expected 0 or one of 1, 2, 3, 4"),
    ("seg", with_value(-1), "-1 in 1 of 76800 voxels, expected no value below 0"),
    ("seg", with_value(1.5), "1.5 in 1 of 76800 voxels, expected whole numbers"),
    ("seg", with_zooms, PIXDIM),
]
IDS = [f"{name}, {reason[:10]}" for name, _, reason in FAULTS]


def first_of_fold(folder: Path, fold: int) -> Path:
    """A case's folder."""
    cases = read_datalist(folder / "datalist.json").cases
    return folder / next(str(case["case"]) for case in cases if case["fold"] == fold)


def failure(flow: Any) -> str:
    def run() -> None:
        flow.initialize()
        flow.run()

    with pytest.raises(Exception, match=r".") as caught:
        run()
    return str(root_cause(caught.value))


@pytest.mark.usefixtures("student")
@pytest.mark.parametrize(("name", "change", "reason"), FAULTS, ids=IDS)
def test_training_evaluation_inference_and_check_say_the_same(
    name: str, change: Callable[[Path], None], reason: str, workflow: Workflow, copy: Path, tmp_path: Path
) -> None:
    change(path := (case := first_of_fold(copy, 0)) / f"{case.name}-{name}.nii.gz")
    expected = f"{path}: {reason}"
    folds = {"train_folds": [0], "val_folds": [1], "test_folds": [0]}
    weights = str(tmp_path / "new" / "model.pt")
    training = workflow("train_student", dataset_dir=str(copy), **folds, epoch_length=4, ckpt_path=weights)
    assert failure(training).startswith(expected)
    assert not Path(weights).exists()
    said = failure(workflow("inference", "evaluate", dataset_dir=str(copy), test_folds=[0]))
    assert expected in said
    assert not (tmp_path / "eval" / "scores.csv").exists()
    with pytest.raises(SystemExit):
        commands.check(copy / "datalist.json", copy, workers=1)
    assert f"{path.relative_to(copy)}: {reason}" in (copy / "datalist_check.csv").read_text()


@pytest.mark.usefixtures("student")
@pytest.mark.parametrize("depth", ["one slice", "axis of one"])
def test_one_slice_and_a_fourth_axis_of_one_are_no_faults(
    depth: str, workflow: Workflow, copy: Path, tmp_path: Path
) -> None:
    for path in copy.glob("*/*.nii.gz"):
        image = nib.load(path)
        values = np.asarray(image.dataobj)
        changed = values[:, :, 20:21] if depth == "one slice" else values[..., None]
        nib.save(nib.Nifti1Image(changed, image.affine), path)
    assert "with faults: 0" in commands.check(copy / "datalist.json", copy, workers=1)
    for names in (["train_student"], ["inference", "evaluate"]):
        folds = {"train_folds": [0, 1, 2], "val_folds": [3], "test_folds": [4]}
        flow = workflow(*names, dataset_dir=str(copy), **folds, ckpt_path=str(tmp_path / "trained.pt"))
        flow.initialize()
        flow.run()
    assert {nib.load(path).shape for path in (tmp_path / "eval").glob("*.nii.gz")} == {changed.shape[:3]}


def failing(module: str, *words: str, folder: Path) -> str:
    """Standard error of a command that fails, and says so in one sentence; of a check, what it prints."""
    done = forked.run(module, words, folder)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr if "check" not in words else done.stdout


def settings(names: list[str], folder: Path, tmp_path: Path, **more: object) -> list[str]:
    paths = {"dataset_dir": folder, "ckpt_path": tmp_path / "model.pt", "output_dir": tmp_path / "eval", **more}
    words = [f"--{key}={value}" for key, value in (TINY | paths).items()]
    return [f"--config_file={config_files(*names)}", *words]


def test_the_command_of_a_training_names_a_faulty_label_of_a_process_that_loads_data(
    copy: Path, tmp_path: Path
) -> None:
    for path in copy.glob("*/*-seg.nii.gz"):
        with_value(259)(path)
    words = settings(["train_student"], copy, tmp_path, cache_dir=tmp_path / "cache", num_workers=1)
    said = failing("monai.bundle", "run", "training", *words, folder=tmp_path)
    assert said.splitlines()[-1].startswith(f"error: {copy}")
    assert said.splitlines()[-1].endswith("-seg.nii.gz: 259 in 1 of 76800 voxels, expected 0 or one of 1, 2, 3, 4")
    assert not (tmp_path / "model.pt").exists()


@pytest.mark.usefixtures("student")
def test_the_command_of_an_evaluation_names_a_faulty_label(copy: Path, tmp_path: Path) -> None:
    path = (case := first_of_fold(copy, 0)) / f"{case.name}-seg.nii.gz"
    with_value(2.5)(path)
    words = settings(["inference", "evaluate"], copy, tmp_path, test_folds=[0])
    said = failing("monai.bundle", "run", "evaluating", *words, folder=tmp_path)
    assert f"{path}: 2.5 in 1 of 76800 voxels, expected whole numbers" in said.splitlines()[-1]
    assert not (tmp_path / "eval" / "scores.csv").exists()


@pytest.mark.usefixtures("student")
def test_the_command_of_an_inference_names_a_faulty_image_and_segments_the_others(copy: Path, tmp_path: Path) -> None:
    path = (case := first_of_fold(copy, 2)) / f"{case.name}-t2f.nii.gz"
    with_value(np.nan)(path)
    said = failing("monai.bundle", "run", *settings(["inference"], copy, tmp_path), folder=tmp_path)
    assert f"{path}: 1 NaN and 0 Inf among 76800 voxels" in said.splitlines()[-1]
    masks = {f"{one.name}_seg.nii.gz" for one in copy.iterdir() if one.is_dir()} - {f"{case.name}_seg.nii.gz"}
    assert {one.name for one in (tmp_path / "eval").iterdir()} == masks


def test_dcd_run_and_dcd_check_name_a_faulty_file(copy: Path, tmp_path: Path) -> None:
    path = (case := first_of_fold(copy, 0)) / f"{case.name}-t1c.nii.gz"
    with_zooms(path)
    said = failing("dcd_components", "check", str(copy / "datalist.json"), "--dataset_dir", str(copy), folder=tmp_path)
    assert f"  {case.name}: {path.relative_to(copy)}: {PIXDIM}" in said.splitlines()
    words = ["--dataset_dir", str(copy), "--quick", f"ckpt_path={tmp_path / 'student.pt'}", "train_folds=[0]"]
    said = failing("dcd_components", "run", "student", str(BRATS), *words, folder=tmp_path)
    assert said.splitlines()[-1] == f"error: {path}: {PIXDIM}"
    assert not (tmp_path / "student.pt").exists()


def test_folds_that_choose_the_checkpoint_and_are_scored_are_named(
    workflow: Workflow, caplog: pytest.LogCaptureFixture
) -> None:
    flow = workflow("train_student", val_folds=[0], test_folds=[0], train_folds=[1])
    flow.parser.get_parsed_content("validate::dataset::data")
    assert "fold [0] is used in training and held out: its scores say nothing of new cases" in caplog.text
