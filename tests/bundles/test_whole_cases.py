"""Cases as one 4D file, with the sequences as channels, and what is neither that nor a sequence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from nibabel.processing import resample_from_to
from tiny import BRATS, Workflow

from dcd_components.bundle.configs import bundle_settings
from dcd_components.data.case_files import case_name, make_layout
from dcd_components.errors import InputError


@pytest.fixture
def bundle(every_bundle: Path) -> Path:
    return every_bundle


@pytest.fixture
def case(bundle: Path, data: Path, tmp_path: Path) -> dict[str, Path]:
    """Files of a case whose sequences share a grid, not in RAS, and its label; ``whole`` has them all."""
    layout = make_layout(bundle_settings(bundle))
    listed = json.loads((data / "datalist.json").read_text())["training"][0]
    paths = {
        **dict(zip(layout.sequences, (str(data / path) for path in listed["image"]), strict=True)),
        "label": str(data / listed["label"]),
    }
    reference = nibabel.load(paths[layout.reference])
    for folder in ("cases", "labels"):  # a label may be called as its image is
        (tmp_path / folder).mkdir()
    files, images = {}, []
    for sequence, path in paths.items():
        image = resample_from_to(nibabel.load(path), reference, order=0).slicer[::-1, 2:]
        files[sequence] = tmp_path / ("labels" if sequence == "label" else "cases") / Path(path).name
        nibabel.save(image, files[sequence])
        images += [image] * (sequence != "label")
    files["whole"] = tmp_path / "cases" / "glioma.nii.gz"
    stack = np.stack([np.asarray(image.dataobj) for image in images], axis=-1)
    nibabel.save(nibabel.Nifti1Image(stack, images[0].affine), files["whole"])
    return files


def listed(files: list[Path]) -> dict[str, str]:
    """Settings of an inference of these images."""
    path = files[0].parent / "list.json"
    path.write_text(json.dumps({"test": [{"image": file.name} for file in files]}))
    return {"dataset_dir": str(path.parent), "datalist": str(path)}


def test_a_4d_file_is_segmented_as_its_sequences_are(workflow: Workflow, case: dict[str, Path], tmp_path: Path) -> None:
    first = next(iter(case.values()))
    flow = workflow("inference", **listed([first, case["whole"]]))
    torch.save(flow.parser.get_parsed_content("network_def").state_dict(), tmp_path / "model.pt")
    flow.initialize()
    flow.run()
    name = case_name(str(first), flow.parser.get_parsed_content("sequences"))
    masks = [nibabel.load(tmp_path / "eval" / f"{one}_seg.nii.gz") for one in (name, "glioma")]
    voxels = [np.asarray(mask.dataobj) for mask in masks]
    assert np.array_equal(voxels[0], voxels[1])
    assert voxels[0].any()
    assert np.allclose(masks[1].affine, nibabel.load(case["whole"]).affine, atol=1e-4)


def test_a_4d_file_is_trained_on_as_its_sequences_are(workflow: Workflow, case: dict[str, Path]) -> None:
    """As MONAI Label gives a training its cases: an image and its label."""
    data = [{"image": str(case[key]), "label": str(case["label"])} for key in (next(iter(case)), "whole")]
    one, other = workflow("train_student", **{"validate::dataset::data": data}).parser.get_parsed_content(
        "validate::dataset"
    )
    assert torch.equal(one["image"], other["image"])
    assert torch.equal(one["label"], other["label"])
    assert one["label"].any()


def test_a_label_may_be_drawn_on_another_grid(workflow: Workflow, case: dict[str, Path]) -> None:
    """In MONAI Label a label has the voxels of the image that was open, such as those of the FLAIR."""
    label = nibabel.load(case["label"])
    finer = nibabel.Nifti1Image(
        np.zeros([2 * size for size in label.shape]), label.affine @ np.diag([0.5, 0.5, 0.5, 1])
    )
    other = case["label"].with_name("finer.nii.gz")
    nibabel.save(resample_from_to(label, finer, order=0), other)
    data = [{"image": str(case["whole"]), "label": str(path)} for path in (case["label"], other)]
    flow = workflow("train_student", **{"validate::dataset::data": data})
    one, two = flow.parser.get_parsed_content("validate::dataset")
    assert two["label"].shape == one["label"].shape == (1, *one["image"].shape[1:])
    both = ((one["label"] > 0) & (two["label"] > 0)).sum()
    assert 2 * both / ((one["label"] > 0).sum() + (two["label"] > 0).sum()) > 0.8


CALLED = "expected the name of a sequence, or 4D with t1n, t1c, t2w, t2f"


@pytest.mark.parametrize("every_bundle", [BRATS.name], indirect=True)
@pytest.mark.parametrize(
    ("channels", "name", "expected"),
    [
        (np.s_[..., 0], "single", f"FILE: is 3D, shape 40x46x40, {CALLED}"),
        (np.s_[..., :2], "pair", f"FILE: is 4D, shape 40x46x40x2, {CALLED}"),
        (np.s_[..., None, :], "vectors", f"FILE: is 5D, shape 40x46x40x1x4, {CALLED}"),
        (np.s_[..., :2], "one-t1n", "FOLDER/one-t1c.nii.gz: missing"),
    ],
    ids=["3D", "two channels", "5D", "4D, called as a sequence"],
)
def test_what_is_no_case_is_refused_in_a_sentence(
    channels: Any, name: str, expected: str, workflow: Workflow, case: dict[str, Path]
) -> None:
    whole = nibabel.load(case["whole"])
    file = case["whole"].with_name(f"{name}.nii.gz")
    nibabel.save(nibabel.Nifti1Image(np.asarray(whole.dataobj)[channels], whole.affine), file)
    expected = expected.replace("FILE", str(file)).replace("FOLDER", str(file.parent))
    flow = workflow("inference", **listed([file]))
    load = flow.parser.get_parsed_content("deterministic_transforms")[0]
    (item,) = flow.parser.get_parsed_content("data")
    assert item["fault"].startswith(expected)
    with pytest.raises(InputError) as caught:
        load({"image": str(file)})
    assert str(caught.value).startswith(expected)


@pytest.mark.parametrize("every_bundle", [BRATS.name], indirect=True)
def test_a_sequence_must_be_one_volume(workflow: Workflow, case: dict[str, Path]) -> None:
    nibabel.save(nibabel.load(case["whole"]), case["t1c"])
    load = workflow("inference").parser.get_parsed_content("deterministic_transforms")[0]
    with pytest.raises(
        InputError, match=r"-t1c.nii.gz: is 4D \(volumes: 4\), shape 40x46x40x4, expected one 3D volume$"
    ):
        load({"image": str(case["t1n"])})
