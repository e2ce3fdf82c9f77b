"""Folders may be called as they like: MONAI reads some signs as references, and some names as numbers."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from forked import run_module
from monai.bundle import ConfigParser
from tiny import BRATS, OF_INFERENCE, TINY, config_files

TASK = {key: TINY[key] for key in OF_INFERENCE}
NAMES = ("$x", "@x", "%x", "a#b", "1e5", "-x", "2024", "a b", "a'b", 'a"b', "a;b", "é", "{case}", "a::b", "x,y", "*")


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    parser = ConfigParser()
    parser.read_config(config_files("inference"))
    parser.update(dict(TASK))
    path = tmp_path_factory.mktemp("weights") / "model.pt"
    torch.save(parser.get_parsed_content("network_def").state_dict(), path)
    return path


def test_folders_of_any_name(weights: Path, patients: Path, tmp_path: Path) -> None:
    """All names at once: of the folder that the command runs in, of the bundle, the data, the masks and the weights."""
    here = tmp_path.joinpath(*NAMES)
    case = sorted(one for one in patients.iterdir() if one.is_dir())[0]
    shutil.copytree(case, here / "2024" / case.name)
    shutil.copytree(BRATS, here / "a#b", ignore=shutil.ignore_patterns("models", "eval", "cache"))
    (here / "-x").mkdir()
    shutil.copyfile(weights, here / "-x" / "$@%#.pt")
    settings = [f"{key}={value}" for key, value in TASK.items()] + [f"ckpt_path={here / '-x' / '$@%#.pt'}"]
    folders = ["--dataset_dir", "2024", "--output_dir=-y"]
    status, said = run_module("dcd_components", ["run", "segment", "a#b", *folders, *settings], here)
    assert status == 0, said
    assert [one.name for one in (here / "-y").iterdir()] == [f"{case.name}_seg.nii.gz"]
    assert sorted(one.name for one in here.iterdir()) == ["-x", "-y", "2024", "a#b"]
