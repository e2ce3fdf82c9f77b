"""The configs as texts: no dead settings, a valid metadata file, and MONAI's own commands."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import forked
import pytest
import torch
import yaml
from monai.bundle import ConfigParser
from tiny import BUNDLES, OF_INFERENCE, SCHEMA, config_files, tiny_for

import dcd_components
from dcd_components.bundle import running
from dcd_components.bundle.assemble import wanted_files

ENTRY_POINTS = {
    *("imports", "initialize", "run", "training", "evaluating", "finalize", "bundle_root", "train", "validate"),
}
#: Keys that dcd to_nnunet alone reads.
GIVEN_BACK = {"reader"}
#: What the command ``dcd datalist`` reads.
OF_THE_DATA = {"label_file", "patient_regex", "patients"}
#: What each config is meant to be laid on; quick.yaml and multi_gpu.yaml go on everything.
LISTS = {
    "inference": ["inference"],
    "student": ["train_student"],
    "teacher": ["train_teacher"],
    "distill": ["distill"],
    "evaluate": ["inference", "evaluate"],
    "teacher's scores": ["inference", "evaluate", "teacher"],
    "mirror": ["inference", "mirror"],
    "long windows": ["inference", "long_windows"],
    "long windows, in int8": ["train_student", "long_windows"],
    "flair grid": ["inference", "evaluate", "flair_grid"],
    "flair grid, quick": ["distill", "flair_grid", "quick"],
    "register": ["inference", "register"],
    "tensorboard": ["train_student", "tensorboard"],
    "everything": ["distill", "quick", "multi_gpu"],
}


@pytest.fixture
def bundle(any_bundle: Path) -> Path:
    return any_bundle


def references(config: Any) -> set[str]:
    return set(re.findall(r"[@%](\w+)", json.dumps(config)))


def lists(bundle: Path) -> list[list[str]]:
    """Lists of configs that this bundle has."""
    return [
        names for names in LISTS.values() if all(Path(file).is_file() for file in config_files(*names, bundle=bundle))
    ]


def test_every_top_level_key_is_used_by_some_list_of_configs(bundle: Path) -> None:
    files = [config_files(*names, bundle=bundle) for names in lists(bundle)]
    files += [[*config_files("distill", bundle=bundle), str(path)] for path in running.BASELINES.glob("*.yaml")]
    configs = [ConfigParser.load_config_files(one) for one in files]
    used = set().union(*(references(config) & set(config) for config in configs))
    assert set().union(*configs) - used - ENTRY_POINTS - OF_THE_DATA - GIVEN_BACK == set()


def test_every_reference_is_defined(bundle: Path) -> None:
    for names in lists(bundle):
        config = ConfigParser.load_config_files(config_files(*names, bundle=bundle))
        assert references(config) - set(config) == set()


def test_all_overlays_are_part_of_some_list(bundle: Path) -> None:
    overlays = {path.stem for path in (bundle / "configs").glob("*.yaml")}
    assert overlays == {name for names in lists(bundle) for name in names}


def test_configs_are_as_make_configs_writes_them(bundle: Path) -> None:
    """What the configs of a bundle, and of all bundles, share is written once; a bundle must stand alone."""
    changed = [path.name for path, text in wanted_files(bundle).items() if path.read_text(encoding="utf-8") != text]
    assert not changed, f"edit the file that the text is from, then run make configs: {changed}"


def test_inference_reads_like_a_method_section(bundle: Path) -> None:
    text = (bundle / "configs" / "inference.yaml").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= (102 if bundle.parent == BUNDLES else 117)  # nnU-Net's plans take some
    assert not re.findall(r"lambda|sys\.exit|sys\.modules|epochs|folds|batch_size: [^1]", text)


def test_no_config_holds_a_program(bundle: Path) -> None:
    for path in (bundle / "configs").glob("*.yaml"):
        values = [one for one in strings(yaml.safe_load(path.read_text(encoding="utf-8"))) if one.startswith("$")]
        assert values or path.stem in ("mirror", "quick", "flair_grid", "register")
        assert not [one for one in values if "lambda" in one or "\n" in one or len(one) > 110]


def strings(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return [text for child in children for text in strings(child)]


def test_the_network_needs_nothing_but_monai(bundle: Path) -> None:
    """For programs that ask for it alone: monai.bundle.load, ckpt_export, verify_net_in_out."""
    parser = ConfigParser()
    parser.read_config(config_files("inference", bundle=bundle))
    used = {"network_def"}
    while more := {name for key in used for name in references(parser[key]) & set(parser.get())} - used:
        used |= more
    assert "dcd_components" not in json.dumps([parser[key] for key in used])


def test_the_fold_that_is_reported_neither_trains_nor_chooses(bundle: Path) -> None:
    student, scores = config_files("train_student", "evaluate", bundle=bundle)
    config = {**ConfigParser.load_config_file(student), **ConfigParser.load_config_file(scores)}
    assert config["train_folds"] is None  # all that the training holds out of none of these
    assert config["train"]["dataset"]["data"]["held_out"] == "$[*@val_folds, *@test_folds]"
    assert not {*config["val_folds"]} & {*config["test_folds"]}


def test_the_version_is_in_the_changelog(bundle: Path) -> None:
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    assert metadata["version"] in metadata["changelog"]


def test_the_repository_s_bundles_have_the_version_of_the_package(bundle: Path) -> None:
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    assert bundle.parent != BUNDLES or metadata["version"] == dcd_components.__version__


@pytest.mark.skipif(not SCHEMA.is_file(), reason=f"MONAI's metadata schema is not at {SCHEMA}; set DCD_SCHEMA")
def test_verify_metadata(bundle: Path, tmp_path: Path) -> None:
    shutil.copy(SCHEMA, tmp_path / "schema.json")  # where the file is there, MONAI does not download it
    metadata = f"--meta_file={bundle / 'configs' / 'metadata.json'}"
    done = monai("verify_metadata", metadata, f"--filepath={tmp_path / 'schema.json'}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "metadata is verified with no error" in done.stdout + done.stderr


def monai(*arguments: str, cwd: Path) -> CompletedProcess[str]:
    return forked.run("monai.bundle", arguments, cwd)


@pytest.fixture
def files(bundle: Path) -> list[str]:
    configs = bundle / "configs"
    return [f"--meta_file={configs / 'metadata.json'}", f"--config_file={configs / 'inference.yaml'}"]


def test_verify_net_in_out(files: list[str], tmp_path: Path) -> None:
    done = monai("verify_net_in_out", "network_def", *files, "--p=1", "--n=1", "--any=1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "verified with no error" in done.stdout + done.stderr


def test_ckpt_export_scripts_the_student(bundle: Path, files: list[str], tmp_path: Path) -> None:
    parser = ConfigParser()
    parser.read_config(config_files("inference", bundle=bundle))
    network = parser.get_parsed_content("network_def").eval()
    torch.save(network.state_dict(), tmp_path / "model.pt")
    paths = [f"--filepath={tmp_path / 'model.ts'}", f"--ckpt_file={tmp_path / 'model.pt'}"]
    done = monai("ckpt_export", "network_def", *paths, *files, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    scripted = torch.jit.load(tmp_path / "model.ts")  # type: ignore[no-untyped-call]
    image = torch.rand(1, len(parser["sequences"]), 64, 64, 64)
    with torch.no_grad():
        assert torch.allclose(scripted(image), network(image), atol=1e-4)


def test_run_segments_from_the_command_line(bundle: Path, data: Path, tmp_path: Path) -> None:
    config = config_files("inference", bundle=bundle)
    parser = ConfigParser()
    parser.read_config(config)
    parser.update(tiny_for(bundle))
    torch.save(parser.get_parsed_content("network_def").state_dict(), tmp_path / "model.pt")
    settings = [f"--{key}={value}" for key, value in tiny_for(bundle, OF_INFERENCE).items()]
    paths = [f"--dataset_dir={data}", f"--output_dir={tmp_path / 'out'}", f"--ckpt_path={tmp_path / 'model.pt'}"]
    done = monai("run", f"--config_file={config[0]}", *settings, *paths, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "out").glob("*_seg.nii.gz"))) == 10
