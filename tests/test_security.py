"""What a stranger sends is refused or harmless; SECURITY.md says what is trusted instead."""

from __future__ import annotations

import json
import os
import stat
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine
from monai.apps.utils import extractall
from monai.transforms import Compose
from onnx import TensorProto, helper
from torch import nn

from dcd_components.data.cache import DiskCache
from dcd_components.data.datalists import read_datalist
from dcd_components.deploy.onnx_network import OnnxNetwork
from dcd_components.errors import InputError
from dcd_components.handlers.checkpoint_loader import SafeCheckpointLoader


class Code:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """What is there once hostile code has run."""
    return tmp_path / "was run"


def test_weights_to_start_from_run_no_code(tmp_path: Path, trace: Path) -> None:
    torch.save({"weight": Code(trace)}, tmp_path / "model.pt")
    engine = Engine(lambda engine, batch: None)
    SafeCheckpointLoader(nn.Linear(1, 1), tmp_path / "model.pt").attach(engine)
    with pytest.raises(InputError, match=r"model\.pt is not a file of weights that torch can read safely"):
        engine.run([0])
    assert not trace.exists()


def test_a_file_of_the_cache_runs_no_code_and_is_made_anew(tmp_path: Path, trace: Path) -> None:
    data = DiskCache([{"x": torch.ones(2)}], Compose([]), tmp_path / "cache")
    assert data[0]["x"].sum() == 2
    (file,) = (tmp_path / "cache").glob("*.pt")
    torch.save({"x": Code(trace)}, file)
    with pytest.warns(UserWarning, match="is damaged and made anew"):
        assert data[0]["x"].sum() == 2
    assert not trace.exists()


def test_an_onnx_file_reads_nothing_outside_its_folder(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"\0" * 4)
    (tmp_path / "models").mkdir()
    weight = helper.make_tensor("w", TensorProto.FLOAT, [1], [0.0])
    weight.ClearField("float_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "../secret"), ("offset", "0"), ("length", "4")):
        weight.external_data.add(key=key, value=value)
    one = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1])
    two = helper.make_tensor_value_info("pred", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Add", ["image", "w"], ["pred"])], "g", [one], [two], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (tmp_path / "models" / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match=r"model\.onnx must be an ONNX file: "):
        OnnxNetwork(tmp_path / "models" / "model.onnx")


@pytest.mark.parametrize("name", ["../outside", "/outside", "a/../../outside"])
def test_a_zip_cannot_climb_out_of_its_folder(tmp_path: Path, name: str) -> None:
    name = str(tmp_path / "outside") if name.startswith("/") else name
    with zipfile.ZipFile(tmp_path / "release.zip", "w") as archive:
        archive.writestr(name, "hostile")
    with pytest.raises(ValueError, match=r"[Uu]nsafe path"):
        extractall(tmp_path / "release.zip", tmp_path / "here", has_base=False)
    assert not (tmp_path / "outside").exists()


def test_a_link_in_a_zip_leads_nowhere(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    link = zipfile.ZipInfo("bundle/link")
    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "release.zip", "w") as archive:
        archive.writestr(link, "../../outside")
        archive.writestr("bundle/link/file", "hostile")
    with pytest.raises((ValueError, OSError)):  # the second entry finds a file where a folder should be
        extractall(tmp_path / "release.zip", tmp_path / "here", has_base=False)
    assert not (tmp_path / "here" / "bundle" / "link").is_symlink()
    assert list((tmp_path / "outside").iterdir()) == []


@pytest.mark.parametrize("case", ["../evil", "/tmp/evil", "a/b", "", 3, ["x"]])
def test_a_case_whose_mask_would_lie_elsewhere_is_refused(tmp_path: Path, case: object) -> None:
    entry = {"image": ["a-t1.nii.gz"], "label": "a-seg.nii.gz", "case": case, "patient": "a", "fold": 0}
    content = {"modality": {"0": "t1"}, "labels": {}, "reference": "t1", "resampled": [], "training": [entry]}
    (tmp_path / "datalist.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"datalist\.json .*a case must have a name without a folder, got "):
        read_datalist(tmp_path / "datalist.json")
