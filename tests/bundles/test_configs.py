"""The configs as texts: no dead settings, a valid metadata file, and MONAI's own commands."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser
from tiny import BUNDLE, TINY, config_files

import dcd_components

SCHEMA = Path(os.environ.get("DCD_SCHEMA", BUNDLE.parents[2] / "shared" / "schema" / "meta_schema_20240725.json"))
ENTRY_POINTS = {"imports", "initialize", "run", "finalize", "bundle_root", "train", "validate"}
#: What each overlay is meant to be laid on; quick.yaml and multi_gpu.yaml go on everything.
LISTS = {
    "inference": ["inference"],
    "train": ["inference", "train"],
    "teacher": ["inference", "train", "teacher"],
    "distill": ["inference", "train", "distill"],
    "evaluate": ["inference", "evaluate"],
    "mirror": ["inference", "mirror"],
    "everything": ["inference", "train", "distill", "quick", "multi_gpu"],
}


def references(config: Any) -> set[str]:
    return set(re.findall(r"[@%](\w+)", json.dumps(config)))


def test_every_top_level_key_is_used_by_some_list_of_configs() -> None:
    configs = [ConfigParser.load_config_files(config_files(*names)) for names in LISTS.values()]
    used = set().union(*(references(config) & set(config) for config in configs))
    assert set().union(*configs) - used - ENTRY_POINTS == set()


@pytest.mark.parametrize("names", LISTS.values(), ids=LISTS)
def test_every_reference_is_defined(names: list[str]) -> None:
    config = ConfigParser.load_config_files(config_files(*names))
    assert references(config) - set(config) == set()


def test_inference_needs_nothing_but_monai() -> None:
    assert "dcd_components" not in (BUNDLE / "configs" / "inference.yaml").read_text()


def test_the_version_is_in_the_changelog_and_that_of_the_package() -> None:
    metadata = json.loads((BUNDLE / "configs" / "metadata.json").read_text())
    assert metadata["version"] in metadata["changelog"]
    assert metadata["version"] == dcd_components.__version__


@pytest.mark.skipif(not SCHEMA.is_file(), reason=f"MONAI's metadata schema is not at {SCHEMA}; set DCD_SCHEMA")
def test_verify_metadata(tmp_path: Path) -> None:
    shutil.copy(SCHEMA, tmp_path / "schema.json")  # where the file is there, MONAI does not download it
    metadata = f"--meta_file={BUNDLE / 'configs' / 'metadata.json'}"
    done = monai("verify_metadata", metadata, f"--filepath={tmp_path / 'schema.json'}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "metadata is verified with no error" in done.stdout + done.stderr


def monai(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", "-m", "monai.bundle", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


@pytest.fixture
def files() -> list[str]:
    configs = BUNDLE / "configs"
    return [f"--meta_file={configs / 'metadata.json'}", f"--config_file={configs / 'inference.yaml'}"]


def test_verify_net_in_out(files: list[str], tmp_path: Path) -> None:
    done = monai("verify_net_in_out", "network_def", *files, "--p=1", "--n=1", "--any=1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "verified with no error" in done.stdout + done.stderr


def test_ckpt_export_scripts_the_student(files: list[str], tmp_path: Path) -> None:
    parser = ConfigParser()
    parser.read_config(config_files("inference"))
    network = parser.get_parsed_content("network_def").eval()
    torch.save(network.state_dict(), tmp_path / "model.pt")
    paths = [f"--filepath={tmp_path / 'model.ts'}", f"--ckpt_file={tmp_path / 'model.pt'}"]
    done = monai("ckpt_export", "network_def", *paths, *files, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    scripted = torch.jit.load(tmp_path / "model.ts")  # type: ignore[no-untyped-call]
    image = torch.rand(1, 4, 64, 64, 64)
    with torch.no_grad():
        assert torch.allclose(scripted(image), network(image), atol=1e-4)


def test_run_segments_from_the_command_line(patients: Path, tmp_path: Path) -> None:
    parser = ConfigParser()
    parser.read_config(config_files("inference"))
    parser.update(TINY)
    torch.save(parser.get_parsed_content("network_def").state_dict(), tmp_path / "model.pt")
    settings = [f"--{key}={TINY[key]}" for key in ("spacing", "patch_size", "teacher_widths")]
    paths = [f"--dataset_dir={patients}", f"--output_dir={tmp_path / 'out'}", f"--ckpt_path={tmp_path / 'model.pt'}"]
    done = monai("run", f"--config_file={config_files('inference')[0]}", *settings, *paths, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "out").glob("*_seg.nii.gz"))) == 10
