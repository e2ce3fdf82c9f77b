"""The ONNX file of a bundle computes what PyTorch computes, or is not written."""

from __future__ import annotations

import shutil
from pathlib import Path

import onnxruntime
import pytest
import torch
import yaml
from tiny import BRATS, TINY
from torch import Tensor

from dcd_components.bundle.configs import read_configs
from dcd_components.deploy import onnx_export
from dcd_components.deploy.onnx_network import OnnxNetwork
from dcd_components.errors import InputError


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle of tiny settings with random weights of teacher and student."""
    copy = Path(shutil.copytree(BRATS, tmp_path / "bundle", ignore=shutil.ignore_patterns("models", "eval", "cache")))
    (copy / "configs" / "tiny.yaml").write_text(yaml.safe_dump({key: TINY[key] for key in ("patch_size", "spacing")}))
    (copy / "configs" / "narrow.yaml").write_text("teacher_widths: [32, 64, 64]")
    (copy / "models" / "teacher").mkdir(parents=True)
    for names in [], ["teacher"]:
        parser = read_configs(copy, ["inference", "tiny", "narrow", *names])
        torch.save(parser.get_parsed_content("network_def").state_dict(), parser.get_parsed_content("ckpt_path"))
    return copy


@pytest.mark.parametrize("names", [[], ["teacher"]], ids=["student", "teacher"])
def test_the_file_lies_beside_the_weights_and_takes_any_size(bundle: Path, names: list[str]) -> None:
    overlays = ["tiny", "narrow", *names]
    said = onnx_export.run(str(bundle), overlays)
    path = Path(said.split(": within")[0])
    assert path == bundle / "models" / "/".join(names) / "model.onnx"
    assert list(path.parent.glob("*.onnx*")) == [path]
    assert "on images of 1x4x16x16x16, 1x4x8x16x24, 2x4x8x8x8" in said
    network = read_configs(bundle, ["inference", *overlays]).get_parsed_content("network_def").eval()
    network.load_state_dict(torch.load(path.with_suffix(".pt"), weights_only=True))
    session = onnxruntime.InferenceSession(path)
    for shape in (3, 4, 8, 8, 8), (1, 4, 40, 16, 32):
        image = torch.randn(shape)
        (pred,) = session.run(["pred"], {"image": image.numpy()})
        torch.testing.assert_close(torch.from_numpy(pred), network(image), rtol=1e-4, atol=1e-4)


def test_of_several_teachers_the_first_is_exported(bundle: Path) -> None:
    second = bundle / "models" / "second.pt"
    shutil.copy(bundle / "models" / "teacher" / "model.pt", second)
    (bundle / "configs" / "folds.yaml").write_text(yaml.safe_dump({"further_teachers": [str(second)]}))
    said = onnx_export.run(str(bundle), ["tiny", "narrow", "teacher", "folds"])
    assert said.startswith(f"{bundle / 'models' / 'teacher' / 'model.onnx'}: within")
    assert said.endswith("; of several teachers, the first")


def test_a_file_that_differs_is_not_written_and_the_one_before_is_kept(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = bundle / "models" / "model.onnx"
    before.write_text("exported before")
    call = OnnxNetwork.__call__

    def wrong(self: OnnxNetwork, image: Tensor) -> Tensor:
        logits = call(self, image)
        logits[-1, -1, -1, -1, -1] += 0.01 * (image.shape[0] == 2) * logits.abs().max()
        return logits

    monkeypatch.setattr(OnnxNetwork, "__call__", wrong)
    with pytest.raises(
        ValueError, match=r"model.onnx was not written: ONNX Runtime differs from PyTorch by 1.0e-02 of"
    ):
        onnx_export.run(str(bundle), ["tiny", "narrow"])
    assert before.read_text() == "exported before"
    assert {path.name for path in before.parent.iterdir()} == {"model.onnx", "model.pt", "teacher"}


def test_weights_that_do_not_fit_are_refused(bundle: Path) -> None:
    with pytest.raises(ValueError, match=r"model.pt does not fit DynUNet"):
        onnx_export.run(str(bundle), ["tiny"])
    (bundle / "models" / "model.pt").unlink()
    with pytest.raises(InputError, match=r"no weights at .*model.pt"):
        onnx_export.run(str(bundle), ["tiny"])


def test_a_folder_that_is_no_bundle_and_an_overlay_that_is_not_there(bundle: Path) -> None:
    with pytest.raises(InputError, match=r"has no config inference: there is no folder configs with any"):
        onnx_export.run(str(bundle / "configs"))
    with pytest.raises(InputError, match=r"has no config qiuck: it has .*quick, "):
        onnx_export.run(str(bundle), ["qiuck"])


def test_what_is_not_installed_is_named(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name != "onnx" else name)
    with pytest.raises(InputError, match="onnxscript and onnxruntime must be installed: pip install onnxscript onnxr"):
        onnx_export.run(str(bundle))
