"""A packed bundle from nnU-Net in MONAI Label's server: masks and training."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from label.server import Server, command, run, running
from releases import write_overlay
from result_folders import raw_data, small, voxels
from tiny import TINY

from dcd_components import commands
from dcd_components.bundle.configs import read_configs
from dcd_components.bundle.release.packing import pack

NAME = "mine"


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The release, unpacked, with MONAI Label's app and a link to it."""
    parent = tmp_path_factory.mktemp("releases")
    commands.from_nnunet(small(parent / "results"), NAME, out=parent)
    bundle, folder = parent / NAME, parent / "unpacked"
    torch.manual_seed(0)
    student = read_configs(bundle, ["inference"]).get_parsed_content("network_def")
    for parameter in student.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    torch.save(student.state_dict(), bundle / "models" / "model.pt")
    kept = ("batch_size", "max_epochs", "epoch_length", "val_interval", "num_workers")
    weight = {"_target_": "dcd_components.constant", "maximum": 0.3}
    write_overlay(bundle, {**{key: TINY[key] for key in kept}, "distillation_weight": weight})
    zipfile.ZipFile(pack(bundle, parent, overlays=["tiny"], teacher=True)).extractall(folder)
    for part in ("apps --download", "mkdir", "ln -s"):
        run(command(NAME, part), folder / NAME)
    return folder / NAME


@pytest.fixture(scope="module")
def data(patients: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return raw_data(patients, tmp_path_factory.mktemp("raw") / "data")


@pytest.fixture(scope="module")
def server(release: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    studies = tmp_path_factory.mktemp("studies")
    for path in sorted((data / "imagesTr").iterdir())[:16]:
        shutil.copy(path, studies)
    line = command(NAME, "start_server").replace("STUDIES", str(studies))
    with running(line, release.parent) as server:
        yield server


def test_the_mask_is_that_of_a_run(server: Server, release: Path, data: Path, tmp_path: Path) -> None:
    info = server.call("GET", "/info/")
    assert info["models"][NAME]["labels"] == {"netc": 1, "snfh": 2, "et": 3, "rc": 4}
    image = min(path.name for path in (data / "imagesTr").iterdir()).removesuffix(".nii.gz")
    server.ask(NAME, "&output=image", image.replace("_0000", "_0002"), tmp_path / "mask.nii.gz")
    (images := tmp_path / "images").mkdir()
    for channel in range(4):
        shutil.copy(data / "imagesTr" / f"{image[:-1]}{channel}.nii.gz", images)
    where = [f"--config_file={release}/configs/inference.yaml", f"--bundle_root={release}"]
    words = [*where, f"--dataset_dir={images}", f"--output_dir={tmp_path / 'out'}"]
    subprocess.run([sys.executable, "-W", "ignore", "-m", "monai.bundle", "run", *words], check=True)
    (expected,) = (tmp_path / "out").glob("*_seg.nii.gz")
    assert len(np.unique(voxels(expected))) > 1
    assert np.array_equal(voxels(tmp_path / "mask.nii.gz"), voxels(expected))


def test_labelled_cases_are_trained_on(server: Server, release: Path, data: Path) -> None:
    weights = release / "models" / "model.pt"
    before = torch.load(weights, weights_only=True)
    for label in sorted((data / "labelsTr").iterdir())[:4]:
        server.ask(NAME, "/datastore/label", f"{label.name.removesuffix('.nii.gz')}_0000", label)
    status, *output = server.train(NAME, {"max_epochs": 1})
    assert status == "DONE", "\n".join(output)
    after = torch.load(weights, weights_only=True)
    assert any(not torch.equal(one, after[name]) for name, one in before.items())
