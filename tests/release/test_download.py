"""A release on a machine that has what its metadata asks for and nothing else: MONAI downloads and runs it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from bare_python import Python, link_distributions
from monai.bundle import ConfigWorkflow
from releases import OVERLAYS, only_teacher_large, trained
from tiny import BRATS, HIPPOCAMPUS, ISLES, SCHEMA

from dcd_components.bundle.release import archives
from dcd_components.bundle.release.packing import pack

NOT_INSTALLED = ("dcd_components", "pywt", "numba", "scipy", "matplotlib", "nilearn", "sklearn", "tqdm", "SimpleITK")
Download = Callable[[Path], Path]


def requirements(release: Path) -> list[str]:
    metadata = json.loads((release / "configs" / "metadata.json").read_text())
    return ["monai", "torch", "numpy", *metadata["required_packages_version"]]


@pytest.fixture(scope="session")
def bare(release: Path, tmp_path_factory: pytest.TempPathFactory) -> Python:
    return Python(link_distributions(requirements(release), tmp_path_factory.mktemp("bare") / "packages"))


@pytest.fixture(scope="session")
def download(bare: Python, server: str, tmp_path_factory: pytest.TempPathFactory) -> Download:
    """Let MONAI download a release; each once."""
    done: dict[str, Path] = {}

    def fetch(release: Path) -> Path:
        name = release.name.partition("_v")[0]
        if name not in done:
            folder = tmp_path_factory.mktemp("downloads")
            bare.monai("download", name=name, url=f"{server}/{release.name}", bundle_dir=folder, cwd=folder)
            done[name] = folder / name
        return done[name]

    return fetch


@pytest.fixture
def bundle(download: Download, release_zip: Path) -> Path:
    return download(release_zip)


def files(bundle: Path) -> dict[str, Any]:
    configs = bundle / "configs"
    return {"meta_file": configs / "metadata.json", "config_file": configs / "inference.yaml"}


def test_nothing_but_the_requirements_can_be_imported(bare: Python, tmp_path: Path) -> None:
    there = "; ".join(f"print(importlib.util.find_spec({name!r}))" for name in NOT_INSTALLED)
    assert set(bare("-c", f"import importlib.util; {there}", cwd=tmp_path).stdout.split()) == {"None"}


@pytest.mark.parametrize(
    ("source", "zipped", "data", "left"),
    [
        (BRATS, "release_zip", "patients", "*-seg.nii.gz"),
        (ISLES, "stroke_zip", "strokes", "*_msk.nii.gz"),
        (HIPPOCAMPUS, "hippocampus_zip", "hippocampi", "hippocampus_*[!1].nii.gz"),
    ],
    ids=["brats", "isles", "hippocampus"],
)
def test_it_segments_a_case_as_the_repository_does(
    source: Path,
    zipped: str,
    data: str,
    left: str,
    bare: Python,
    download: Download,
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:
    patients, bundle = Path(request.getfixturevalue(data)), download(request.getfixturevalue(zipped))
    first = min(json.loads((patients / "datalist.json").read_text())["training"], key=lambda case: str(case["image"]))
    case = Path(first["image"][0]).parent
    shutil.copytree(patients / case, tmp_path / "new" / case.name, ignore=shutil.ignore_patterns(left))
    (elsewhere := tmp_path / "elsewhere").mkdir()
    places: dict[str, Any] = {"bundle_root": bundle, "dataset_dir": tmp_path / "new", "output_dir": tmp_path / "theirs"}
    bare.monai("run", config_file=bundle / "configs" / "inference.yaml", **places, cwd=elsewhere)
    trained(source, tmp_path)
    configs = [str(tmp_path / source.name / "configs" / f"{name}.yaml") for name in ("inference", *OVERLAYS)]
    ours: dict[str, Any] = {"dataset_dir": str(tmp_path / "new"), "output_dir": str(tmp_path / "ours")}
    workflow = ConfigWorkflow(configs, logging_file=False, bundle_root=str(tmp_path / source.name), **ours)
    workflow.initialize()
    workflow.run()
    (theirs,) = (tmp_path / "theirs").iterdir()
    mask, same = nib.load(theirs), nib.load(tmp_path / "ours" / theirs.name)
    assert np.array_equal(mask.affine, same.affine)
    assert np.array_equal(np.asarray(mask.dataobj), np.asarray(same.dataobj))
    assert len(np.unique(np.asarray(mask.dataobj))) > 1
    assert list(elsewhere.iterdir()) == []


LOAD = """
import torch
from monai.bundle import load
network = load({name!r}, bundle_dir={folder!r}, workflow_type="inference", device="cpu").eval()
weights = torch.load({folder!r} + "/{name}/models/model.pt", weights_only=True)
assert network.state_dict().keys() == weights.keys()
assert all(torch.equal(value, weights[key]) for key, value in network.state_dict().items())
compiled, metadata, _ = load({name!r}, bundle_dir={folder!r}, load_ts_module=True, device="cpu")
image = torch.rand(1, 4, 16, 16, 16)
with torch.no_grad():
    assert torch.allclose(compiled(image), network(image), atol=1e-5)
print(metadata["version"])
"""


def test_load_gives_the_network_with_its_weights(bundle: Path, bare: Python, tmp_path: Path) -> None:
    done = bare("-c", LOAD.format(name=bundle.name, folder=str(bundle.parent)), cwd=tmp_path)
    assert done.stdout.split()[-1] in (bundle / "configs" / "metadata.json").read_text()


def test_monai_s_checks_pass_from_any_folder(bundle: Path, bare: Python, tmp_path: Path) -> None:
    shape = bare.monai("verify_net_in_out", net_id="network_def", p=1, n=1, any=1, **files(bundle), cwd=tmp_path)
    assert "verified with no error" in shape


def test_ckpt_export_from_any_folder(bundle: Path, bare: Python, tmp_path: Path) -> None:
    paths: dict[str, Any] = {"filepath": tmp_path / "model.ts", "ckpt_file": bundle / "models" / "model.pt"}
    bare.monai("ckpt_export", net_id="network_def", **paths, **files(bundle), cwd=tmp_path)
    assert (tmp_path / "model.ts").stat().st_size > (bundle / "models" / "model.pt").stat().st_size / 2


def test_onnx_export_from_any_folder(bundle: Path, tmp_path: Path) -> None:
    packages = link_distributions([*requirements(bundle), "onnx", "onnxscript"], tmp_path / "packages")
    paths: dict[str, Any] = {"filepath": tmp_path / "model.onnx", "ckpt_file": bundle / "models" / "model.pt"}
    shape: dict[str, Any] = {"input_shape": "[1,4,16,16,16]"}
    Python(packages).monai("onnx_export", net_id="network_def", **shape, **paths, **files(bundle), cwd=tmp_path)
    assert (tmp_path / "model.onnx").stat().st_size > 0


@pytest.mark.skipif(not SCHEMA.is_file(), reason=f"MONAI's metadata schema is not at {SCHEMA}; set DCD_SCHEMA")
@pytest.mark.parametrize("zipped", ["release_zip", "stroke_zip"])
def test_the_metadata_follow_the_schema(
    zipped: str, download: Download, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    bundle = download(request.getfixturevalue(zipped))
    packages = link_distributions([*requirements(bundle), "jsonschema"], tmp_path / "packages")
    shutil.copy(SCHEMA, tmp_path / "schema.json")  # where the file is there, MONAI does not download it
    metadata: dict[str, Any] = {"meta_file": bundle / "configs" / "metadata.json", "filepath": tmp_path / "schema.json"}
    said = Python(packages).monai("verify_metadata", **metadata, cwd=tmp_path)
    assert "metadata is verified with no error" in said


def test_large_files_come_from_beside_the_zip(
    bare: Python, server: str, published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, folder = trained(BRATS, tmp_path), published / "large"
    monkeypatch.setattr(archives, "LARGE", only_teacher_large(bundle))
    release = pack(bundle, folder, overlays=OVERLAYS, teacher=True, url=f"{server}/large/")
    (teacher,) = (path for path in folder.iterdir() if path != release)
    shutil.unpack_archive(release, tmp_path / "unpacked")
    here = tmp_path / "unpacked" / bundle.name
    assert not (here / "models" / "teacher").exists()
    bare.monai("download_large_files", bundle_path=here, cwd=tmp_path)
    assert (here / "models" / "teacher" / "model.pt").read_bytes() == teacher.read_bytes()
    shutil.rmtree(here / "models" / "teacher")
    changed = bytearray(teacher.read_bytes())
    changed[len(changed) // 2] ^= 1
    teacher.write_bytes(changed)
    said = bare.monai("download_large_files", bundle_path=here, cwd=tmp_path, check=False)
    assert "HashCheckError" in said
    assert not (here / "models" / "teacher" / "model.pt").exists()
