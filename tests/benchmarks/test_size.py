"""The width of a student for a budget."""

from __future__ import annotations

import math
import re
import shutil
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from releases import write_overlay
from tiny import BRATS, TINY
from torch.profiler import ProfilerActivity, profile

from dcd_components.benchmarks import size as of_size
from dcd_components.benchmarks import timing
from dcd_components.benchmarks.size import _Student
from dcd_components.commands import size
from dcd_components.data.memory import PIECES
from dcd_components.deploy.runtimes import Runtime
from dcd_components.errors import InputError

CASE = (24, 16, 40)
LONGER = {"sliding_window::stretch": 0.25, "longest_window": [16, 16, 20]}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """The bundle for BraTS with a tiny overlay, whose teacher is four times as wide as 8 channels."""
    configs = tmp_path / "mine" / "configs"
    configs.mkdir(parents=True)
    for name in ("inference", "mirror"):
        shutil.copyfile(BRATS / "configs" / f"{name}.yaml", configs / f"{name}.yaml")
    write_overlay(tmp_path / "mine", {**TINY, "teacher_widths": [32, 32, 64], "sliding_window::overlap": 0.5})
    return tmp_path / "mine"


def test_the_widest_student_within_the_budget_is_proposed(bundle: Path) -> None:
    said = size(bundle, 1000.0, 1000.0, CASE, ["tiny"])
    assert "cases of 24 x 16 x 40 voxels" in said
    assert said.endswith("the widest within 1000 s and 1000 GB: width_divisor=1")
    rows = re.findall(r"^ +(\d+)  ([\d ]+?) {2,}([\d.]+) +([\d.]+) +([\d.]+) +([\d.]+)  yes$", said, re.M)
    assert [row[:2] for row in rows] == [
        ("1", "32 32 64"),
        ("2", "16 16 32"),
        ("3", "10 10 21"),
        ("4", "8 8 16"),
        ("6", "8 8 10"),
        ("8", "8 8 8"),
    ]
    parameters, gmac = ([float(row[column]) for row in rows] for column in (2, 3))
    assert parameters == sorted(parameters, reverse=True)
    assert gmac == sorted(gmac, reverse=True)


def test_students_of_another_architecture_have_widths_too(bundle: Path) -> None:
    said = size(bundle, 1000.0, 1000.0, CASE, ["tiny", "unet_student"])
    assert said.endswith("the widest within 1000 s and 1000 GB: width_divisor=1")


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_runtime_is_what_is_timed(runtime: str, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip(runtime)
    student = _Student(bundle, 4, CASE, ["tiny"], {}, runtime)
    torch.testing.assert_close(student.predict(student.patch), student.network(student.patch), rtol=0.1, atol=0.1)
    calls = []

    load = of_size.LOADERS[runtime]

    def counting(path: Path) -> Runtime:
        run = load(path)

        def counted(image: torch.Tensor) -> torch.Tensor:
            calls.append(runtime)
            return run(image)

        return counted

    monkeypatch.setattr(of_size, "DIVISORS", (4,))
    monkeypatch.setattr(of_size, "LOADERS", {**of_size.LOADERS, runtime: counting})
    assert f", {runtime}; cases of" in size(bundle, 1000.0, 1000.0, CASE, ["tiny"], runtime=runtime)
    assert len(calls) > of_size.ROUNDS


def test_a_runtime_that_there_is_not_is_refused(bundle: Path) -> None:
    with pytest.raises(InputError, match=r"^runtime must be one of onnxruntime, openvino, got tensorrt$"):
        size(bundle, 1000.0, 1000.0, CASE, ["tiny"], runtime="tensorrt")


def test_a_case_takes_as_many_patches_as_it_has_windows(bundle: Path) -> None:
    assert [_Student(bundle, 4, shape, ["tiny"], {}).windows for shape in ((16, 16, 16), CASE)] == [1, 2 * 1 * 4]


def test_mirrored_windows_count_too(bundle: Path) -> None:
    plain, mirrored = (_Student(bundle, 1, CASE, ["tiny", *overlays], {}) for overlays in ([], ["mirror"]))
    assert mirrored.windows == plain.windows
    mirrored.predict = Mock(side_effect=mirrored.network)
    mirrored.run()
    assert mirrored.predict.call_count == 8


def test_a_patch_is_timed_as_inference_computes_it(bundle: Path) -> None:
    student = _Student(bundle, 4, CASE, ["tiny"], {})
    by = []
    for step in (student.run, lambda: student.network(student.patch)):
        with profile(activities=[ProfilerActivity.CPU]) as profiled:
            step()
        by.append("aten::mkldnn_convolution" in {event.key for event in profiled.key_averages()})
    assert by == [True, False]


def test_a_longer_window_counts_by_its_voxels(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "extra_megabytes", lambda step: 3000.0)
    plain, stretched = (_Student(bundle, 1, (16, 16, 20), ["tiny"], one) for one in ({}, LONGER))
    assert (plain.windows, stretched.windows) == (2, 1.25)
    assert stretched.gigabytes - plain.gigabytes == pytest.approx(PIECES * 3 * 0.25, abs=0.01)


def test_memory_is_that_of_the_network(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(megabytes: float) -> float:
        monkeypatch.setattr(timing, "extra_megabytes", lambda step: megabytes)
        found: float = _Student(bundle, 1, CASE, ["tiny"], {}).gigabytes
        return found

    estimated, few, many = measured(math.nan), measured(2000.0), measured(3000.0)
    assert many - few == pytest.approx(PIECES)
    assert estimated < few
    with pytest.raises(InputError, match=r"no student takes at most 1000 s and 3 GB\n"):
        size(bundle, 1000.0, 3.0, CASE, ["tiny"])


@pytest.mark.parametrize("case_size", [(0, 24, 24), (24, -3, 24), (24, 24)])
def test_a_case_that_cannot_be_is_refused(bundle: Path, case_size: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="case_size must be three positive numbers of voxels, got"):
        size(bundle, 1000.0, 1000.0, case_size, ["tiny"])


@pytest.mark.parametrize(
    ("setting", "said"),
    [("patch_sise=[8,8,8]", "patch_sise.*patch_size"), ("width_divisor=2", "width_divisor is what dcd size looks for")],
)
def test_a_setting_that_is_none_is_refused(bundle: Path, setting: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        size(bundle, 1000.0, 1000.0, CASE, ["tiny"], [setting])


@pytest.mark.parametrize("budget", [(0.0, 1.0), (1.0, -1.0), (float("inf"), 1.0)])
def test_a_budget_that_cannot_be_is_refused(bundle: Path, budget: tuple[float, float]) -> None:
    with pytest.raises(InputError, match=r"(seconds|gigabytes) must be a positive number, got"):
        size(bundle, *budget, CASE, ["tiny"])
