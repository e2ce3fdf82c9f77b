"""An ONNX file in int8: calibrated, judged, and run by the command that runs the exact one."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from monai.transforms import Compose
from releases import trained, write_overlay
from result_folders import REGIONS, raw_data, small
from tiny import BRATS, TINY

from dcd_components.bundle.configs import read_configs
from dcd_components.commands import datalist, export, from_nnunet, segment
from dcd_components.deploy import int8_export
from dcd_components.deploy.calibration import case_dice
from dcd_components.deploy.onnx_network import OnnxNetwork
from dcd_components.deploy.runtimes import OpenVinoNetwork
from dcd_components.errors import InputError, input_error

pytest.importorskip("openvino")
pytest.importorskip("nncf")


@pytest.fixture(scope="module")
def exported(patients: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A tiny bundle with both files, and what the command said."""
    bundle = trained(BRATS, tmp_path_factory.mktemp("bundles"))
    write_overlay(bundle, TINY)
    return bundle, export(bundle, ["tiny"], dataset_dir=patients)


def test_it_is_written_beside_the_exact_one_and_judged(exported: tuple[Path, str]) -> None:
    bundle, said = exported
    first, second = said.splitlines()
    assert "model.onnx: within" in first
    found = re.fullmatch(
        r".*model_int8\.xml: mean Dice of 2 cases of the validation (\S+) in floating point, (\S+) in int8; "
        r"one case loses (\S+?)(, which is much.*)?",
        second,
    )
    assert found
    exact, rounded, lost = (float(found[n]) for n in (1, 2, 3))
    assert lost >= max(exact - rounded, 0) - 1e-4
    assert bool(found[4]) == (exact - rounded > int8_export.TOLERANCE)
    one, other = OnnxNetwork(bundle / "models" / "model.onnx"), OpenVinoNetwork(bundle / "models" / "model_int8.xml")
    assert (other.notes, other.channels) == (one.notes, one.channels)
    image = torch.randn(1, 4, 24, 16, 32)
    difference = (one(image) - other(image)).square().mean().sqrt() / one(image).std()
    assert 1e-4 < difference < 0.3


def test_its_masks_are_not_taken_for_those_of_the_exact_one(
    exported: tuple[Path, str], patients: Path, tmp_path: Path
) -> None:
    (bundle, _), case = exported, sorted(path for path in patients.iterdir() if path.is_dir())[0]
    out = tmp_path / "masks"
    found = []
    for name in ("model.onnx", "model_int8.xml"):
        segment([str(case)], bundle / "models" / name, out, runtime="openvino")
        (mask,) = out.iterdir()  # of the same weights, so that it may be made anew
        found.append(np.asarray(nibabel.load(mask).dataobj))
    assert (found[0] != found[1]).any()
    written = mask.stat().st_mtime_ns
    segment([str(case)], bundle / "models" / "model_int8.xml", out)
    assert mask.stat().st_mtime_ns == written


def test_one_of_other_weights_is_refused(exported: tuple[Path, str], patients: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(exported[0], tmp_path / "bundle"))
    weights = torch.load(bundle / "models" / "model.pt", weights_only=True)
    torch.save({name: value + 1 for name, value in weights.items()}, bundle / "models" / "model.pt")
    with pytest.raises(InputError, match=r"model_int8.xml is of other weights than .*model.pt: write it anew"):
        segment([str(patients)], bundle / "models" / "model_int8.xml", tmp_path / "out")


def test_nothing_is_left_where_the_cases_cannot_be_read(exported: tuple[Path, str], tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(exported[0], tmp_path / "bundle"))
    before = {path.name: path.read_bytes() for path in (bundle / "models").glob("model_int8.*")}
    with pytest.raises(RuntimeError) as raised:
        int8_export.run(bundle, tmp_path / "nowhere", ["tiny"])
    assert "nowhere/datalist.json" in str(input_error(raised.value))
    assert {path.name: path.read_bytes() for path in (bundle / "models").glob("model_int8.*")} == before
    assert {*before} == {"model_int8.xml", "model_int8.bin"}
    assert not [path for path in (bundle / "models").iterdir() if path.name.startswith(".")]


def test_it_is_no_file_for_another_runtime_and_another_file_is_none(
    exported: tuple[Path, str], patients: Path, tmp_path: Path
) -> None:
    models = exported[0] / "models"
    with pytest.raises(InputError, match=r"model_int8.xml is run by openvino alone, got the runtime onnxruntime"):
        segment([str(patients)], models / "model_int8.xml", tmp_path / "out", runtime="onnxruntime")
    (other := tmp_path / "models" / "other.xml").parent.mkdir()
    other.write_text("<net/>")
    with pytest.raises(InputError, match=r"other.xml must be a model of OpenVINO that dcd export wrote: "):
        segment([str(patients)], other, tmp_path / "out")


def test_that_of_an_nnunet_with_regions_is_judged_by_these(patients: Path, tmp_path: Path) -> None:
    from_nnunet(small(tmp_path / "results", labels=REGIONS), "mine", out=tmp_path)
    bundle, raw_patients = tmp_path / "mine", raw_data(patients, tmp_path / "Dataset001_Phantoms")
    datalist(raw_patients, bundle=bundle)
    student = read_configs(bundle, ["inference"]).get_parsed_content("network_def")
    torch.save(student.state_dict(), bundle / "models" / "model.pt")
    said = export(bundle, dataset_dir=raw_patients)
    found = re.search(r"mean Dice of 2 cases of the validation (\S+) in floating point, (\S+) in int8", said)
    assert found
    parser = read_configs(bundle, ["train_student"])
    parser.update({"dataset_dir": str(raw_patients), "device": "$torch.device('cpu')"})
    regions = [*REGIONS.values()][1:]

    def truth(image: torch.Tensor) -> torch.Tensor:
        """Positive where a region is, and for the first one only half of it."""
        label = next(prepared["label"][0] for prepared in cases if torch.equal(prepared["image"][None], image))
        logits = torch.stack([torch.isin(label, torch.tensor(one)).float() - 0.5 for one in regions])
        logits[0].view(-1)[torch.where(logits[0].view(-1) > 0)[0][::2]] = -1
        return logits[None]

    prepare = Compose(parser.get_parsed_content("deterministic_transforms"))
    cases = [prepare(case) for case in parser.get_parsed_content("validate::dataset::data")]
    (dice,) = case_dice(parser, parser["val_folds"], {"truth": truth}).values()
    assert dice.shape == (2, len(regions))
    assert dice[:, 0] == pytest.approx(2 / 3, abs=0.01)
    assert ((dice[:, 1:] == 1) | dice[:, 1:].isnan()).all()
