"""What is particular to ISLES: grids of their own, two layouts, the FLAIR's grid by choice, registration."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Invertd
from nibabel.processing import resample_from_to
from tiny import ISLES, TINY, Workflow
from trees import isles_files

from dcd_components.commands import datalist
from dcd_components.tables import read_csv

DATA = Path(os.environ.get("DCD_DATA", Path(__file__).parents[3] / "shared" / "data")) / "isles2022"
REAL = isles_files(9, "challenge")


@pytest.fixture
def bundle() -> Path:
    return ISLES


def run(flow: Any) -> Any:
    flow.initialize()
    assert flow.check_properties() == []
    flow.run()
    return flow


@pytest.fixture
def student(workflow: Workflow, tmp_path: Path) -> Path:
    """Random weights of a student, where the bundle looks for them."""
    torch.save(workflow("inference").parser.get_parsed_content("network_def").state_dict(), tmp_path / "model.pt")
    return tmp_path / "model.pt"


@pytest.mark.usefixtures("student")
def test_both_layouts_give_the_same_masks(workflow: Workflow, strokes: Path, tmp_path: Path) -> None:
    for ours, theirs in zip(isles_files(2, "challenge"), isles_files(2, "zenodo"), strict=True):
        (tmp_path / "zenodo" / theirs).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(strokes / ours, tmp_path / "zenodo" / theirs)
    masks = []
    for name, folder in ("challenge", strokes / "rawdata" / "sub-strokecase0002"), ("zenodo", tmp_path / "zenodo"):
        run(workflow("inference", dataset_dir=str(folder), output_dir=str(tmp_path / name)))
        (path,) = (tmp_path / name).glob("sub-strokecase0002_ses-0001_seg.nii.gz")
        masks.append(np.asarray(nib.load(path).dataobj))
    assert np.array_equal(masks[0], masks[1])
    assert masks[0].any()


def test_flair_is_seen_on_the_grid_of_the_dwi(workflow: Workflow, strokes: Path) -> None:
    """Against nibabel's resampling through the headers, at the DWI's own spacing and orientation."""
    flow = workflow("inference")
    paths = [strokes / file for file in isles_files(2, "challenge")]
    images = {name: nib.load(path) for name, path in zip(("flair", "dwi", "adc"), paths[:3], strict=True)}
    item = {"image": str(paths[1])}
    for transform in flow.parser.get_parsed_content("deterministic_transforms")[:3]:
        item = transform(item)
    for name, image in images.items():
        expected = nib.as_closest_canonical(resample_from_to(image, images["dwi"], order=1))
        seen = item[name][0].numpy()  # type: ignore[attr-defined]
        assert seen.shape == expected.shape
        assert np.abs(seen - expected.get_fdata()).mean() < 0.005 * expected.get_fdata().max()
    assert images["flair"].shape != images["dwi"].shape


@pytest.mark.parametrize("scored_on", ["pred", "label"])
def test_everything_on_the_grid_of_the_flair(scored_on: str, workflow: Workflow, strokes: Path, tmp_path: Path) -> None:
    settings = {key: TINY[key] for key in ("teacher_widths", "patch_size")} | {"spacing": [2.0, 2.0, 10.0]}
    flow = run(workflow("train_student", "flair_grid", **settings))
    label = flow.parser.get_parsed_content("validate::dataset")[0]["label"]
    assert 0 < label.count_nonzero() < label.numel() / 20
    run(workflow("inference", "evaluate", "flair_grid", **settings, scored_on=scored_on))
    row = read_csv(tmp_path / "eval" / "scores.csv")[0]
    number = int(str(row["case"])[14:18])
    flair, _, _, truth = (nib.load(strokes / file) for file in isles_files(number, "challenge"))
    mask = nib.load(tmp_path / "eval" / f"{row['case']}_seg.nii.gz")
    assert mask.shape == flair.shape
    assert np.allclose(mask.affine, flair.affine, atol=1e-4)
    grid, order = (flair, truth) if scored_on == "pred" else (truth, mask)
    # As in MONAI, a voxel reaches half of its width beyond its centre at the border too.
    moved = np.asarray(resample_from_to(order, grid, order=0, mode="grid-constant").dataobj) > 0
    kept = np.asarray((mask if scored_on == "pred" else truth).dataobj) > 0
    voxel_ml = abs(np.linalg.det(grid.affine[:3, :3])) / 1000
    both, difference = int((moved & kept).sum()), abs(int(moved.sum()) - int(kept.sum()))
    total = int(moved.sum() + kept.sum())
    assert float(row["volume_difference_ml"]) == pytest.approx(difference * voxel_ml, abs=0.01 * total * voxel_ml)
    assert float(row["dice_lesion"]) == pytest.approx(2 * both / total, abs=0.02)


def test_thick_slices_are_turned_within_their_plane_alone(workflow: Workflow) -> None:
    parser = workflow("train_student", "flair_grid", "quick", spacing=[0.9, 0.9, 5.0]).parser
    assert parser.get_parsed_content("rotate_range") == [0, 0, 0.52]
    assert parser.get_parsed_content("scale_range")[2] == [0, 0]
    assert len(parser.get_parsed_content("strides")) == len(parser.get_parsed_content("widths"))
    parser = workflow("train_student").parser
    assert parser.get_parsed_content("rotate_range") == [0.52] * 3


@pytest.mark.usefixtures("student")
def test_registration_moves_the_flair_and_nothing_else(workflow: Workflow, strokes: Path) -> None:
    item = {"image": str(strokes / isles_files(2, "challenge")[1])}
    plain, moved = (
        workflow("inference", *names).parser.get_parsed_content("preprocessing")(item)["image"]
        for names in ([], ["register"])
    )
    assert torch.equal(plain[1:], moved[1:])
    assert not torch.allclose(plain[0], moved[0], atol=0.1)
    assert torch.corrcoef(torch.stack([plain[0].flatten(), moved[0].flatten()]))[0, 1] > 0.8


needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"no real patient at {DATA}; set DCD_DATA")


@needs_data
def test_a_real_patient_from_its_own_layout_to_a_mask_on_the_grid_of_its_dwi(
    workflow: Workflow, tmp_path: Path
) -> None:
    datalist(str(DATA), bundle=str(ISLES), folds=1, out=str(tmp_path / "list.json"))
    data = {"dataset_dir": str(DATA), "datalist": str(tmp_path / "list.json")}
    train = {**data, "train_folds": [0], "val_folds": [0], "spacing": [2.0, 2.0, 2.0]}
    run(workflow("train_teacher", "quick", **train, ckpt_path=str(tmp_path / "teacher.pt")))
    run(workflow("distill", "quick", **train))
    run(workflow("inference", "quick", dataset_dir=str(DATA), spacing=[2.0, 2.0, 2.0]))
    (path,) = (tmp_path / "eval").glob("*.nii.gz")
    mask, dwi = nib.load(path), nib.load(DATA / REAL[1])
    assert mask.shape == dwi.shape == (112, 112, 73)
    assert np.allclose(mask.affine, dwi.affine, atol=1e-4)


@needs_data
@pytest.mark.parametrize(("spacing", "least"), [(2.0, 0.999), (1.5, 0.97)])
def test_a_real_mask_survives_resampling_there_and_back(spacing: float, least: float, workflow: Workflow) -> None:
    flow = workflow("train_student", spacing=[spacing] * 3)
    item: Any = {"image": str(DATA / REAL[1]), "label": str(DATA / REAL[3])}
    for transform in flow.parser.get_parsed_content("deterministic_transforms"):
        item = transform(item)
    probabilities = MetaTensor(torch.cat([1 - item["label"], item["label"]]))
    back = Invertd("pred", flow.parser.get_parsed_content("spatial"), orig_keys="dwi", nearest_interp=False)
    there = back({"dwi": item["dwi"], "pred": probabilities})["pred"].argmax(0).numpy() > 0
    truth = np.asarray(nib.load(DATA / REAL[3]).dataobj) > 0
    assert there.shape == truth.shape
    assert 2 * (there & truth).sum() / (there.sum() + truth.sum()) > least
