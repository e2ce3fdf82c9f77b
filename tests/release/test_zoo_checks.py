"""What the MONAI Model Zoo checks of a contribution, on the releases of both bundles."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow

from dcd_components.tables import read_csv

Settings = dict[str, Any]
#: What the zoo takes into its repository: 25 MB.
LARGEST = 25_000_000
PROPERTIES = ("bundle_root", "device", "dataset_dir", "output_dir", "network_def")
TRAIN = (
    "train::trainer::max_epochs",
    "train::dataset::data",
    "train::inferer",
    "train::handlers",
    "train::preprocessing",
)
VALIDATE = ("validate::evaluator", "validate::handlers", "validate::dataset::data", "validate::inferer", "val_interval")


@pytest.fixture(params=["brats", "isles", "hippocampus"])
def task(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def zipped(task: str, request: pytest.FixtureRequest) -> Path:
    return Path(
        request.getfixturevalue({"brats": "release_zip", "isles": "stroke_zip", "hippocampus": "hippocampus_zip"}[task])
    )


@pytest.fixture
def bundle(task: str, request: pytest.FixtureRequest) -> Path:
    names = {"brats": "release", "isles": "stroke_release", "hippocampus": "hippocampus_release"}
    return Path(request.getfixturevalue(names[task]))


@pytest.fixture
def data(task: str, request: pytest.FixtureRequest) -> Path:
    return Path(request.getfixturevalue({"brats": "patients", "isles": "strokes", "hippocampus": "hippocampi"}[task]))


@pytest.fixture
def metadata(bundle: Path) -> Settings:
    return dict(json.loads((bundle / "configs" / "metadata.json").read_text()))


@pytest.fixture
def settings(data: Path, bundle: Path, tmp_path: Path) -> Settings:
    """Overrides that let a workflow read the release and write elsewhere."""
    copied = shutil.copytree(bundle / "models", tmp_path / "models")
    return {
        "bundle_root": str(bundle),
        "dataset_dir": str(data),
        "output_dir": str(tmp_path / "eval"),
        "ckpt_path": str(copied / "model.pt"),
    }


def workflow(bundle: Path, *names: str, kind: str, **settings: Any) -> ConfigWorkflow:
    files = [str(bundle / "configs" / f"{name}.json") for name in names]
    return ConfigWorkflow(files, workflow_type=kind, logging_file=False, **settings)


def test_directory(bundle: Path) -> None:
    for name in ("LICENSE", "configs/metadata.json", "configs/inference.json", "models/model.pt", "docs/README.md"):
        assert (bundle / name).is_file()
    assert not [path for path in bundle.rglob("*") if path.is_symlink()]


def test_names(zipped: Path, metadata: Settings) -> None:
    name, version = zipped.stem.split("_v")  # the zoo splits there, so it must be the only place
    assert version == metadata["version"]
    with zipfile.ZipFile(zipped) as archive:
        assert {Path(member).parts[0] for member in archive.namelist()} == {name}


def test_version_and_changelog(metadata: Settings) -> None:
    assert metadata["version"] in metadata["changelog"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", metadata["version"])


def test_requirements_are_exact_versions(metadata: Settings) -> None:
    packages = {**metadata["required_packages_version"], **metadata["training_packages_version"]}
    packages |= {name: metadata[f"{name}_version"] for name in ("monai", "pytorch", "numpy")}
    assert all(re.fullmatch(r"\d+(\.\d+)+", version) for version in packages.values())
    wanted = Path(__file__).parents[2] / "requirements.txt"
    pinned = dict(line.split("==") for line in wanted.read_text().splitlines() if re.fullmatch(r"[\w-]+==[\w.]+", line))
    pinned["pytorch"] = pinned["torch"]
    assert {name: pinned[name] for name in packages} == packages


def test_no_file_is_too_large_for_the_zoo(bundle: Path) -> None:
    assert max(path.stat().st_size for path in bundle.rglob("*") if path.is_file()) < LARGEST


def test_no_personal_paths(bundle: Path) -> None:
    texts = [path for path in bundle.rglob("*") if path.suffix in (".json", ".md", ".txt", ".py", ".conf", ".yml")]
    assert len(texts) > 40
    named = re.compile(rf"/(home|Users)/\w|{re.escape(str(Path.home()))}/|site-packages")
    assert not [path for path in texts if named.search(path.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("name", ["inference", "train", "evaluate"])
def test_configs_have_the_keys_that_the_zoo_asks_for(name: str, bundle: Path) -> None:
    parser = ConfigParser()
    parser.read_config(bundle / "configs" / f"{name}.json")
    wanted = {"train": (*PROPERTIES, *TRAIN, *VALIDATE)}.get(name, (*PROPERTIES, "dataset", "evaluator", "inferer"))
    assert [key for key in wanted if key not in parser] == []


@pytest.mark.parametrize("name", ["inference", "evaluate"])
def test_inference_properties_and_run(name: str, bundle: Path, settings: Settings, data: Path) -> None:
    flow = workflow(bundle, name, kind="infer", **settings)
    flow.initialize()
    assert flow.check_properties() == []
    flow.run()
    flow.finalize()
    cases = json.loads((data / "datalist.json").read_text())["training"]
    wanted = len(cases) if name == "inference" else sum(case["fold"] == 0 for case in cases)
    assert len(list(Path(settings["output_dir"]).glob("*_seg.nii.gz"))) == wanted > 0


@pytest.mark.parametrize("names", [("train",), ("train", "evaluate")], ids=["train", "train and evaluate"])
def test_training_properties(names: tuple[str, ...], bundle: Path, settings: Settings, tmp_path: Path) -> None:
    flow = workflow(bundle, *names, kind="train", **settings, cache_dir=str(tmp_path / "cache"))
    flow.initialize()
    assert flow.check_properties() == []


def test_a_release_trains(bundle: Path, settings: Settings, tmp_path: Path) -> None:
    """One epoch, with distillation from the release's teacher."""
    weight = {"_target_": "dcd_components.constant", "maximum": 0.3}
    distilled = {"distillation_weight": weight, "cache_dir": str(tmp_path / "cache")}
    flow = workflow(bundle, "train", kind="train", **settings, **distilled)
    before = (tmp_path / "models" / "model.pt").read_bytes()
    flow.initialize()
    assert flow.check_properties() == []
    flow.run()
    flow.finalize()
    (row,) = read_csv(tmp_path / "models" / "model_training.csv")
    assert float(row["distillation_loss"]) > 0
    assert (tmp_path / "models" / "model.pt").read_bytes() != before


@pytest.mark.parametrize("name", ["inference", "train", "evaluate"])
def test_every_item_can_be_evaluated(name: str, bundle: Path, settings: Settings, tmp_path: Path) -> None:
    """As by programs that evaluate a whole config to find what they need in it."""
    kind = "train" if name == "train" else "infer"
    cache = {"cache_dir": str(tmp_path / "cache")} if name == "train" else {}
    parser = workflow(bundle, name, kind=kind, **settings, **cache).parser
    without = {"checks", "no_overwrite", "numbers", "sampler", "task"}  # which are None
    assert set(parser.config) - set(parser.get_parsed_content()) <= without


def test_data_shape(bundle: Path, metadata: Settings) -> None:
    """As verify_net_in_out, with the smallest shape that the metadata allow."""
    parser = ConfigParser()
    parser.read_config(bundle / "configs" / "inference.json")
    formats = metadata["network_data_format"]
    (image,), (pred,) = formats["inputs"].values(), formats["outputs"].values()
    assert (list(formats["inputs"]), list(formats["outputs"])) == (["image"], ["pred"])
    smallest = [int(size.removesuffix("*n")) for size in image["spatial_shape"]]
    with torch.no_grad():
        output = parser.get_parsed_content("network_def").eval()(torch.zeros(1, image["num_channels"], *smallest))
    assert output.shape == (1, pred["num_channels"], *smallest)
    assert (str(output.dtype), image["dtype"]) == (f"torch.{pred['dtype']}", "float32")
    assert image["num_channels"] == len(image["channel_def"]) == len(parser.get_parsed_content("sequences"))
    assert pred["num_channels"] == len(pred["channel_def"])


@pytest.mark.filterwarnings("ignore:The TorchScript type system:UserWarning")  # says torch of MONAI's DynUNet
def test_torchscript(bundle: Path) -> None:
    """What is shipped, and what ckpt_export makes by scripting with a strict load of the weights, are the network."""
    parser = ConfigParser()
    parser.read_config(bundle / "configs" / "inference.json")
    network = parser.get_parsed_content("network_def").eval()
    network.load_state_dict(torch.load(bundle / "models" / "model.pt", weights_only=True))
    shipped = torch.jit.load(bundle / "models" / "model.ts")  # type: ignore[no-untyped-call]
    fresh = torch.jit.script(network)
    for size in (16, 24):
        image = torch.rand(1, len(parser["sequences"]), size, size, size)
        with torch.no_grad():
            assert torch.equal(shipped(image), fresh(image))
            assert torch.allclose(shipped(image), network(image), atol=1e-5)


def test_docs(bundle: Path) -> None:
    page = (bundle / "docs" / "README.md").read_text(encoding="utf-8")
    headings = re.findall(r"^##? (.+)$", page, re.MULTILINE)
    assert {"Data", "Input and output", "Commands", "Results", "Limits", "References", "Licence"} < set(headings)
    assert (bundle / "docs" / "data_license.txt").stat().st_size > 0
    for file in (bundle / "docs").glob("*.md"):
        for target in re.findall(r"\]\(([^)#:]+)\)", file.read_text(encoding="utf-8")):
            assert (file.parent / target).exists(), f"{file.name} links to {target}"


def test_the_vendored_package_is_what_a_run_in_the_folder_uses(bundle: Path, data: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(bundle, tmp_path / bundle.name))
    command = [sys.executable, "-W", "ignore", "-m", "dcd_components", "datalist", str(data), "--bundle", "."]
    done = subprocess.run([*command, f"--out={tmp_path / 'list.json'}"], cwd=copied, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(json.loads((tmp_path / "list.json").read_text())["training"]) == 10
    where = [sys.executable, "-c", "import dcd_components; print(dcd_components.__file__)"]
    found = subprocess.run(where, cwd=copied, capture_output=True, text=True, check=True)
    assert Path(found.stdout.strip()).parent == copied / "dcd_components"
