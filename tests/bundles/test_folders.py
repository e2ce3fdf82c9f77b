"""Inference on a folder: sound cases are done, others named at the end, a killed run goes on, and nothing is lost."""

from __future__ import annotations

import gzip
import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from tiny import TINY, Workflow, config_files

from dcd_components.data.marks import read_mark
from dcd_components.errors import InputError, input_error
from dcd_components.networks.weights import weights_digest
from dcd_components.tables import read_csv

CASES = 4


@pytest.fixture
def data(patients: Path, tmp_path: Path) -> Path:
    """A folder of four cases, of two folds, to break."""
    listed = json.loads((patients / "datalist.json").read_text())
    chosen = [case for case in listed["training"] if case["fold"] in (0, 1)][:CASES]
    for case in chosen:
        shutil.copytree(patients / case["case"], tmp_path / "data" / case["case"])
    listed["training"] = [{**case, "fold": 0} for case in chosen]
    (tmp_path / "data" / "datalist.json").write_text(json.dumps(listed))
    return tmp_path / "data"


@pytest.fixture(autouse=True)
def weights(workflow: Workflow, tmp_path: Path) -> Path:
    """Random weights of the student."""
    new_weights(workflow, tmp_path, 0)
    return tmp_path / "model.pt"


def new_weights(workflow: Workflow, folder: Path, seed: int, *overlays: str) -> None:
    torch.manual_seed(seed)
    network = workflow("inference", *overlays).parser.get_parsed_content("network_def")
    torch.save(network.state_dict(), folder / "model.pt")


def run(flow: Any) -> None:
    """Run a workflow; what ends it is the one sentence that the command would print."""
    flow.initialize()
    try:
        flow.run()
    except Exception as error:
        said = input_error(error)
        if said is None:
            raise
        raise InputError(said) from None


def masks(folder: Path) -> dict[str, bytes]:
    """Bytes of the masks, unpacked, since a packed file may hold its time."""
    return {path.name: gzip.decompress(path.read_bytes()) for path in sorted(folder.glob("[!.]*_seg.nii.gz"))}


def files(data: Path, sequence: str) -> list[Path]:
    return sorted(data.glob(f"*/*-{sequence}.nii.gz"))


# What is broken


def with_a_nan(path: Path) -> None:
    image = nib.load(path)
    values = image.get_fdata(dtype=np.float32)
    values[2, 3, 4] = np.nan
    nib.save(nib.Nifti1Image(values, image.affine), path)


FAULTS: tuple[tuple[Callable[[Path], object], str], ...] = (
    (with_a_nan, "1 NaN and 0 Inf among"),
    (lambda path: path.write_bytes(path.read_bytes()[:9000]), "truncated"),
    (Path.unlink, "missing"),
)


def test_the_sound_cases_are_done_and_the_others_named_at_the_end(
    workflow: Workflow, data: Path, tmp_path: Path
) -> None:
    paths = files(data, "t2w")
    for (breaks, _), path in zip(FAULTS, paths, strict=False):
        breaks(path)
    named = "; ".join(rf".*{path.name}: .*{said}.*" for (_, said), path in zip(FAULTS, paths, strict=False))
    with pytest.raises(InputError, match=rf"^3 of the cases could not be segmented: {named}$"):
        run(workflow("inference"))
    assert list(masks(tmp_path / "eval")) == [f"{paths[-1].parent.name}_seg.nii.gz"]


def test_where_no_case_is_sound_all_are_named(workflow: Workflow, data: Path, tmp_path: Path) -> None:
    for path in files(data, "t1c"):
        with_a_nan(path)
    with pytest.raises(InputError, match=r"^4 of the cases could not be segmented: (.*t1c.nii.gz: 1 NaN.*){4}$"):
        run(workflow("inference"))
    assert not (tmp_path / "eval").exists()


def test_an_evaluation_refuses_a_case_that_is_not_sound(workflow: Workflow, data: Path, tmp_path: Path) -> None:
    """The means of a part would not be those of the fold."""
    with_a_nan(files(data, "t1c")[-1])
    with pytest.raises(InputError, match=r"t1c.nii.gz: 1 NaN and 0 Inf"):
        run(workflow("inference", "evaluate"))
    assert not (tmp_path / "eval" / "scores.csv").exists()


@pytest.mark.usefixtures("data")
def test_each_case_is_logged_with_the_time_left(workflow: Workflow, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "dcd_components.data.unlabelled_cases"):
        run(workflow("inference"))
    lines = [line for line in caplog.messages if line.startswith("case ")]
    assert len(lines) == CASES
    assert lines[-1].startswith("case 4/4: BraTS")
    assert lines[-1].endswith("; 0:00:00 left")


# A second run


@pytest.mark.usefixtures("data")
def test_a_second_run_keeps_the_masks(workflow: Workflow, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run(workflow("inference"))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "eval").iterdir()}
    with caplog.at_level(logging.INFO, "dcd_components.data.masks"):
        run(workflow("inference"))
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "eval").iterdir()} == before
    assert f"masks of 4 of 4 cases stand in {tmp_path / 'eval'} already and are kept" in caplog.messages


KILLED = """
import os, signal, sys
import nibabel
from tiny_run import run
save, count = nibabel.save, []
def kill(image, path):
    save(image, path)
    count.append(path)
    if len(count) == 3:
        with open(path, "r+b") as file:
            file.truncate(1000)
        os.kill(os.getpid(), signal.SIGKILL)
nibabel.save = kill
run()
"""
RUN = """
import json, sys
from monai.bundle import ConfigWorkflow
def run():
    files, settings = json.loads(sys.argv[1])
    flow = ConfigWorkflow(files, workflow_type="infer", logging_file=False, **settings)
    flow.initialize()
    flow.run()
"""


def test_a_run_that_was_killed_while_it_wrote_leaves_whole_masks_and_goes_on(
    workflow: Workflow, data: Path, tmp_path: Path
) -> None:
    run(workflow("inference", output_dir=str(tmp_path / "whole")))
    (tmp_path / "tiny_run.py").write_text(RUN)
    places = {"dataset_dir": str(data), "ckpt_path": str(tmp_path / "model.pt"), "output_dir": str(tmp_path / "eval")}
    job = json.dumps([config_files("inference"), {**TINY, **places}])
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", KILLED, job], env=environment, capture_output=True, check=False)
    assert done.returncode == -9, done.stderr
    expected = masks(tmp_path / "whole")
    found = masks(tmp_path / "eval")
    assert len(found) == 2
    assert found.items() <= expected.items()
    (left,) = (path for path in (tmp_path / "eval").iterdir() if path.name.startswith("."))
    os.utime(left, (0, 0))
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "eval").glob("[!.]*_seg.nii.gz")}
    run(workflow("inference"))
    assert masks(tmp_path / "eval") == expected
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())
    assert not left.exists()


def test_other_settings_and_corrected_files_make_a_mask_anew(workflow: Workflow, data: Path, tmp_path: Path) -> None:
    run(workflow("inference"))
    first = masks(tmp_path / "eval")
    run(workflow("inference", "mirror"))
    second = masks(tmp_path / "eval")
    assert all(second[name] != first[name] for name in first)
    image = nib.load(path := files(data, "t1n")[0])
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj)[::-1], image.affine), path)
    run(workflow("inference", "mirror"))
    changed = [name for name, mask in masks(tmp_path / "eval").items() if mask != second[name]]
    assert changed == [f"{path.parent.name}_seg.nii.gz"]


@pytest.mark.usefixtures("data")
@pytest.mark.parametrize("names", [["inference"], ["inference", "evaluate"]], ids=["inference", "evaluation"])
def test_masks_of_other_weights_are_not_replaced(names: list[str], workflow: Workflow, tmp_path: Path) -> None:
    run(workflow(*names))
    before = masks(tmp_path / "eval")
    new_weights(workflow, tmp_path, 1)
    with pytest.raises(InputError, match=r"^4 masks are by other weights in .*name another output folder|scores of"):
        run(workflow(*names))
    assert masks(tmp_path / "eval") == before


# Labels, and masks among the data


def flat(data: Path, folder: Path) -> dict[str, Any]:
    """The cases in one folder, labels named as masks are; returns the settings that say so."""
    folder.mkdir()
    for path in data.glob("*/*.nii.gz"):
        shutil.copy(path, folder / path.name.replace("-seg.", "_seg."))
    listed = json.loads((data / "datalist.json").read_text())
    for case in listed["training"]:
        case["image"] = [Path(path).name for path in case["image"]]
        case["label"] = Path(case["label"]).name.replace("-seg.", "_seg.")
    (folder / "datalist.json").write_text(json.dumps(listed))
    return {"dataset_dir": str(folder), "output_dir": str(folder), "label_file": "{case}_seg.nii.gz"}


@pytest.mark.parametrize("names", [["inference"], ["inference", "evaluate"]], ids=["inference", "evaluation"])
def test_the_experts_labels_are_not_replaced(names: list[str], workflow: Workflow, data: Path, tmp_path: Path) -> None:
    settings = flat(data, tmp_path / "flat")
    before = masks(tmp_path / "flat")
    with pytest.raises(InputError, match=r"_seg.nii.gz(: bears no mark of this project| is among the files that are)"):
        run(workflow(*names, **settings))
    assert masks(tmp_path / "flat") == before
    assert not list((tmp_path / "flat").glob("scores.csv"))


def edited(path: Path) -> None:
    """Correct a mask as an editor of images does, which keeps the description of the header."""
    image = nib.load(path)
    nib.save(nib.Nifti1Image(1 - np.minimum(np.asarray(image.dataobj), 1), image.affine, image.header), path)


@pytest.mark.usefixtures("data")
@pytest.mark.parametrize("names", [["inference"], ["inference", "evaluate"]], ids=["inference", "evaluation"])
def test_a_corrected_mask_is_not_replaced(names: list[str], workflow: Workflow, tmp_path: Path) -> None:
    run(workflow(*names))
    edited(next((tmp_path / "eval").glob("[!.]*_seg.nii.gz")))
    before = masks(tmp_path / "eval")
    with pytest.raises(InputError, match=r"_seg.nii.gz: was changed after it was written, and is not replaced: name"):
        run(workflow(*names, "mirror"))
    assert masks(tmp_path / "eval") == before


def test_corrected_masks_are_labels_to_score_against(workflow: Workflow, data: Path, tmp_path: Path) -> None:
    settings = flat(data, tmp_path / "flat")
    for path in (tmp_path / "flat").glob("[!.]*_seg.nii.gz"):
        path.unlink()
    run(workflow("inference", **settings))
    for path in (tmp_path / "flat").glob("[!.]*_seg.nii.gz"):
        edited(path)
    run(workflow("inference", "evaluate", **{**settings, "output_dir": str(tmp_path / "eval")}))
    assert (tmp_path / "eval" / "scores.csv").is_file()


def test_masks_are_not_scored_against_masks(workflow: Workflow, data: Path, tmp_path: Path) -> None:
    settings = flat(data, tmp_path / "flat")
    for path in (tmp_path / "flat").glob("[!.]*_seg.nii.gz"):
        path.unlink()
    run(workflow("inference", **settings))
    with pytest.raises(InputError, match="is a mask that this project wrote, expected a label to score against"):
        run(workflow("inference", "evaluate", **{**settings, "output_dir": str(tmp_path / "eval")}))


def test_masks_and_labels_are_not_taken_for_cases(
    workflow: Workflow, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Where the only sequence is called as nothing but its case, every file fits."""
    (tmp_path / "one").mkdir()
    for path in files(data, "t1c"):
        shutil.copy(path, tmp_path / "one" / f"{path.parent.name}.nii.gz")
    shutil.copy(files(data, "seg")[0], tmp_path / "one" / f"{files(data, 'seg')[0].parent.name}_gt.nii.gz")
    one = {"sequences": {"t1c": "{case}.nii.gz"}, "reference": "t1c", "label_file": "{case}_gt.nii.gz"}
    settings = {**one, "dataset_dir": str(tmp_path / "one"), "output_dir": str(tmp_path / "one")}
    network = workflow("inference", **settings).parser.get_parsed_content("network_def")
    torch.save(network.state_dict(), tmp_path / "model.pt")
    for _ in range(2):
        with caplog.at_level(logging.INFO, "dcd_components.data.unlabelled_cases"):
            run(workflow("inference", **settings))
        assert list(masks(tmp_path / "one")) == [f"{path.parent.name}_seg.nii.gz" for path in files(data, "t1c")]
    assert "left out 4 masks that this project wrote" in caplog.messages


# Settings, and scores


@pytest.mark.usefixtures("data")
@pytest.mark.parametrize("names", [["inference"], ["inference", "evaluate"]], ids=["inference", "evaluation"])
def test_the_task_is_checked_before_anything_else(names: list[str], workflow: Workflow, tmp_path: Path) -> None:
    (tmp_path / "model.pt").unlink()
    with pytest.raises(InputError, match=r"^patch_size must be a multiple of "):
        run(workflow(*names, patch_size=[16, 30, 17]))


@pytest.mark.usefixtures("data")
def test_scores_bear_the_digest_of_their_weights(workflow: Workflow, weights: Path, tmp_path: Path) -> None:
    run(workflow("inference", "evaluate"))
    run(workflow("inference", "evaluate"))
    rows = read_csv(tmp_path / "eval" / "scores.csv", text=("case", "weights"))
    assert [row["weights"] for row in rows] == [weights_digest(weights)] * CASES
    assert {read_mark(path).weights for path in (tmp_path / "eval").glob("*.nii.gz")} == {weights_digest(weights)}  # type: ignore[union-attr]
    for path in (tmp_path / "eval").glob("[!.]*_seg.nii.gz"):
        path.unlink()
    new_weights(workflow, tmp_path, 1)
    with pytest.raises(InputError, match=r"scores.csv holds scores of other weights"):
        run(workflow("inference", "evaluate"))
    assert read_csv(tmp_path / "eval" / "scores.csv", text=("case", "weights")) == rows


def test_teacher_and_student_are_evaluated_into_folders_of_their_own(workflow: Workflow) -> None:
    parser = workflow("inference", "evaluate", "teacher").parser
    assert parser.get("output_dir") != "$@bundle_root + '/eval'"
