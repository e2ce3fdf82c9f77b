from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser
from tiny import config_files
from torch import Tensor, nn

from dcd_components.deploy import onnx_network, runtimes

SIZES = [(1, 4, 16, 16, 16), (1, 4, 16, 32, 24), (2, 4, 40, 16, 16)]


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    parser = ConfigParser()
    parser.read_config(config_files("inference"))
    parser.update({"teacher_widths": [16, 32, 64], "device": "$torch.device('cpu')"})
    found: nn.Module = parser.get_parsed_content("network")
    return found.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def load(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], runtimes.Runtime]:
    model = tmp_path_factory.mktemp("runtimes") / "model.onnx"
    patches = [torch.randn(1, 4, 32, 32, 32) for _ in range(4)]

    def load(name: str) -> runtimes.Runtime:
        for package in runtimes.NEEDS.get(name, ()):
            pytest.importorskip(package)
        if name in runtimes.NEEDS and not model.exists():
            onnx_network.export_onnx(network, 4, model)
        return runtimes.load(name, network, model, patches)

    return load


SIGNAL = """
import gc, os, signal, sys
from pathlib import Path
import torch
from dcd_components.deploy import runtimes
both = [runtimes.load(runtimes.OPENVINO, torch.nn.Identity(), Path(sys.argv[1]), []) for _ in range(2)]
for runtime in both:
    runtime(torch.zeros(1, 4, 16, 16, 16))
del runtime, both[0]  # then the second, which would give back the stack that it found: the first one's
gc.collect()
del both
gc.collect()
signal.signal(signal.SIGUSR1, lambda *_: print("taken"))
os.kill(os.getpid(), signal.SIGUSR1)
"""


def test_signals_are_taken_after_openvino_has_run(network: nn.Module, tmp_path: Path) -> None:
    for package in runtimes.NEEDS[runtimes.OPENVINO]:
        pytest.importorskip(package)
    onnx_network.export_onnx(network, 4, tmp_path / "model.onnx")
    words = [sys.executable, "-W", "ignore", "-X", "faulthandler", "-c", SIGNAL, str(tmp_path / "model.onnx")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "taken\n"), done.stderr


def error(found: Tensor, expected: Tensor) -> float:
    """Root mean square of the difference, in units of the expected values' spread."""
    return ((found - expected).square().mean().sqrt() / expected.std()).item()


@pytest.mark.parametrize("name", [runtimes.EAGER, runtimes.SCRIPT, runtimes.ONNX, runtimes.OPENVINO])
def test_float32_equals_eager_on_every_size(
    load: Callable[[str], runtimes.Runtime], network: nn.Module, name: str
) -> None:
    runtime = load(name)
    for size in SIZES:
        image = torch.randn(size)
        torch.testing.assert_close(runtime(image), network(image), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "bound"), [(runtimes.AUTOCAST, 0.03), (runtimes.OPENVINO_BFLOAT16, 0.03), (runtimes.INT8, 0.15)]
)
def test_lower_precision_is_close_to_eager_and_comes_back_as_float32(
    load: Callable[[str], runtimes.Runtime], network: nn.Module, name: str, bound: float
) -> None:
    runtime = load(name)
    for size in SIZES:
        image = torch.randn(size)
        found = runtime(image)
        assert found.dtype == torch.float32
        assert error(found, network(image)) < bound


def test_openvino_compiles_for_the_first_shape_and_then_for_all(
    load: Callable[[str], runtimes.Runtime], monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime, core, free = load(runtimes.OPENVINO), runtimes._core(), []

    class Core:
        def compile_model(self, model: Any, *args: Any) -> Any:
            free.append(model.is_dynamic())
            return core.compile_model(model, *args)

    monkeypatch.setattr(runtimes, "_core", Core)
    for size in (SIZES[0], SIZES[0], SIZES[1], SIZES[0], SIZES[2]):
        runtime(torch.randn(size))
    assert free == [False, True]


@pytest.mark.parametrize("name", [runtimes.ONNX, runtimes.OPENVINO])
def test_a_result_survives_the_next_call(load: Callable[[str], runtimes.Runtime], name: str) -> None:
    runtime, image = load(name), torch.randn(SIZES[0])
    first = runtime(image)
    kept = first.clone()
    runtime(torch.randn(SIZES[0]))
    torch.testing.assert_close(first, kept, rtol=0, atol=0)


def test_conversion_is_silent(load: Callable[[str], runtimes.Runtime], capfd: pytest.CaptureFixture[str]) -> None:
    load(runtimes.SCRIPT)
    load(runtimes.INT8)
    assert capfd.readouterr() == ("", "")


def test_runtimes_that_are_not_installed_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(runtimes, "cpu_has_bfloat16", lambda: True)
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in ("nncf", "onnxruntime") else find(name)
    )
    assert not {runtimes.INT8, runtimes.ONNX} & set(runtimes.available())
    assert runtimes.missing_packages(runtimes.ONNX) == ["onnxruntime"]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert runtimes.available() == (runtimes.EAGER, runtimes.AUTOCAST, runtimes.SCRIPT)


def test_bfloat16_needs_a_processor_that_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtimes, "cpu_has_bfloat16", lambda: False)
    assert not set(runtimes.BFLOAT16) & set(runtimes.available())


def test_an_unknown_runtime_names_the_known(network: nn.Module) -> None:
    patches: Sequence[Tensor] = ()
    with pytest.raises(ValueError, match=r"unknown runtime 'tensorflow'; choose from eager float32, .*OpenVINO int8"):
        runtimes.load("tensorflow", network, Path("model.onnx"), patches)
