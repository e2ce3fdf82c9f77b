"""A release of a bundle whose teacher is an nnU-Net, where nothing but what its metadata ask for is installed."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from bare_python import Python, link_distributions
from result_folders import FLAT, raw_data, small, voxels

from dcd_components import commands
from dcd_components.bundle.configs import read_configs
from dcd_components.bundle.release.packing import pack


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For thick slices, whose student is a class of the release's own package."""
    parent = tmp_path_factory.mktemp("releases")
    commands.from_nnunet(small(parent / "results", **FLAT), "mine", out=parent)
    bundle = parent / "mine"
    torch.manual_seed(0)
    student = read_configs(bundle, ["inference"]).get_parsed_content("network_def")
    for parameter in student.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    torch.save(student.state_dict(), bundle / "models" / "model.pt")
    zipfile.ZipFile(pack(bundle, parent / "published", teacher=True)).extractall(parent / "unpacked")
    return parent / "unpacked" / "mine"


@pytest.fixture(scope="module")
def images(patients: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two of the glioma phantoms."""
    folder = tmp_path_factory.mktemp("raw")
    data = raw_data(patients, folder / "all")
    (folder / "two").mkdir()
    for path in sorted((data / "imagesTr").iterdir())[:8]:
        shutil.copy(path, folder / "two")
    return folder / "two"


def test_a_release_runs_with_what_its_metadata_ask_for(release: Path, images: Path, tmp_path: Path) -> None:
    metadata = json.loads((release / "configs" / "metadata.json").read_text())
    assert "scipy" in metadata["required_packages_version"]
    packages = ["monai", "torch", *metadata["required_packages_version"]]
    python = Python(link_distributions(packages, tmp_path / "packages"))
    (elsewhere := tmp_path / "elsewhere").mkdir()
    config, out = release / "configs" / "inference.json", tmp_path / "out"
    python.monai("run", config_file=config, bundle_root=release, dataset_dir=images, output_dir=out, cwd=elsewhere)
    masks = sorted(out.glob("*_seg.nii.gz"))
    assert len(masks) == 2
    assert len({*voxels(masks[0]).ravel()}) > 1
    assert not any(elsewhere.iterdir())


def test_a_release_has_teacher_and_student_but_no_training_of_the_teacher(release: Path) -> None:
    files = {path.relative_to(release).as_posix() for path in release.rglob("*") if path.is_file()}
    assert {"models/model.pt", "models/model.ts", "models/teacher/model.pt", "configs/teacher.yaml"} <= files
    assert "configs/train_teacher.yaml" not in files
    network = read_configs(release, ["inference", "teacher"]).get_parsed_content("network_def")
    network.load_state_dict(torch.load(release / "models" / "teacher" / "model.pt", weights_only=True))
    train = json.loads((release / "configs" / "train.json").read_text())
    assert train["teacher_def"]["_target_"].endswith("PlainConvUNet")


def test_the_student_of_a_release_goes_back_to_nnunet(release: Path, tmp_path: Path) -> None:
    commands.to_nnunet(release, tmp_path / "out")
    assert (tmp_path / "out" / "fold_0" / "checkpoint_final.pth").is_file()
