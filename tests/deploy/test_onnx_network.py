from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from dcd_components.deploy.onnx_network import OnnxNetwork, export_onnx, largest_difference, require
from dcd_components.errors import InputError


def test_notes_are_kept_in_the_file(tmp_path: Path) -> None:
    export_onnx(torch.nn.Conv3d(4, 2, 1).eval().requires_grad_(False), 4, tmp_path / "a.onnx", {"overlays": "quick"})
    network = OnnxNetwork(tmp_path / "a.onnx")
    assert network.notes["overlays"] == "quick"
    assert network.channels == (4, 2)


def test_not_a_number_is_a_difference() -> None:
    shapes = [(1, 1, 2, 2, 2), (1, 1, 2, 2, 3)]
    assert largest_difference(torch.abs, torch.abs, shapes) == 0
    for bad in (2, 3):
        other = lambda image, bad=bad: image.abs() * (float("nan") if image.shape[-1] == bad else 1)  # noqa: E731
        assert math.isnan(largest_difference(torch.abs, other, shapes))


def test_what_is_no_onnx_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no model at .*model.onnx"):
        OnnxNetwork(tmp_path / "model.onnx")
    (tmp_path / "model.onnx").write_bytes(b"weights")
    with pytest.raises(ValueError, match=r"model.onnx must be an ONNX file: "):
        OnnxNetwork(tmp_path / "model.onnx")


def test_all_that_must_be_installed_is_named() -> None:
    require("torch")
    with pytest.raises(InputError, match=r"not_there and nor_this must be installed: pip install not_there nor_this"):
        require("torch", "not_there", "nor_this")
