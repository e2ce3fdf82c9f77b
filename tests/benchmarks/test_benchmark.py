from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.image import imread
from monai.bundle import ConfigParser
from monai.inferers import SimpleInferer
from result_folders import small
from tiny import BRATS, config_files

from dcd_components import commands
from dcd_components.benchmarks import benchmark, inference_setting, timing, training
from dcd_components.benchmarks import inference as inference_benchmark
from dcd_components.benchmarks import loss as loss_benchmark
from dcd_components.benchmarks import step as step_benchmark
from dcd_components.benchmarks.inference import LOSSY, NOISE, STUDENT, TEACHER
from dcd_components.benchmarks.inference_setting import Setting
from dcd_components.benchmarks.published_loss import PublishedLoss
from dcd_components.deploy import calibration, runtimes
from dcd_components.errors import InputError
from dcd_components.handlers.student_start import StudentStart
from dcd_components.tables import read_csv


def test_steps_are_run_in_turns_and_slow_ones_three_times() -> None:
    calls: list[str] = []
    steps = {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}
    found = timing.seconds(steps, repeats=5, least=1e-12)
    assert "".join(calls) == "ab" * 4
    assert set(found) == {"a", "b"}
    assert all(value > 0 for value in found.values())


def test_the_time_of_the_cores_leaves_out_what_is_only_waited_for() -> None:
    steps = {"wait": lambda: time.sleep(0.05), "work": lambda: sum(range(1_000_000))}
    found = timing.seconds(steps, 3, clock=time.process_time)
    assert found["wait"] < 0.01 < timing.seconds(steps, 3)["wait"]
    assert found["work"] > found["wait"]


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="the system does not tell peaks")
def test_extra_memory_is_what_a_step_holds_at_most() -> None:
    def step() -> None:
        torch.ones(25_000_000)

    assert timing.extra_megabytes(step) == pytest.approx(100, rel=0.1)


def test_extra_memory_is_unknown_where_the_system_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert math.isnan(timing.extra_megabytes(lambda: None))


def test_the_published_transform_does_not_invert_itself_and_ours_is_another_number() -> None:
    """As the audit of the released code found; the row is for timing alone."""
    loss = PublishedLoss(2, 2, levels=1)
    x = torch.randn(1, 2, 16, 16, 16)
    bands = torch.nn.functional.conv3d(x.flatten(0, 1)[:, None], loss.analysis, stride=2, padding=loss.padding)
    back = torch.nn.functional.conv_transpose3d(bands, loss.synthesis, stride=2, padding=loss.padding)
    assert back.shape == (2, 1, 16, 16, 16)
    assert (back[:, 0] - x[0]).norm() > x.norm()
    assert loss(x, torch.zeros_like(x)) > 0


@pytest.fixture(scope="module", autouse=True)
def tiny() -> Iterator[None]:
    """Everything that is measured in its smallest form."""
    parser = Setting.parser

    def narrow(self: Setting, *configs: str) -> ConfigParser:
        found = parser(self, *configs)
        found.update({"teacher_widths": [16, 16, 32], "spacing": [4.0, 4.0, 4.0]})
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loss_benchmark, "WIDTHS", (8, 16))
        patch.setattr(step_benchmark, "CASES", ((16, 1, (8, 16, 16)),))
        patch.setattr(Setting, "parser", narrow)
        patch.setattr(inference_setting, "PATCHES", 3)
        yield


@pytest.fixture(scope="module")
def written(tiny: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a benchmark of inference, without a data set."""
    out = tmp_path_factory.mktemp("benchmark") / "out"
    text = benchmark.run_inference(out, case_size=(20, 24, 16), repeats=1, settings={"patch_size": [16, 16, 16]})
    assert text == (out / "inference.md").read_text()
    return out


def test_the_loss_is_compared_with_the_published_algorithm(tmp_path: Path) -> None:
    text = benchmark.run_loss(tmp_path / "out", sizes=(16,), levels=(1, 2), repeats=1)
    assert text == (tmp_path / "out" / "loss.md").read_text()
    rows = read_csv(tmp_path / "out" / "loss.csv", text=["patch", "stages", "loss"])
    assert {row["loss"] for row in rows} >= {loss_benchmark.OURS, loss_benchmark.PUBLISHED}
    assert {row["stages"] for row in rows} == {"all", "first"}
    assert imread(tmp_path / "out" / "loss.png").std() > 0.05


def test_a_step_is_compared_with_the_student_s_and_the_published_one(tmp_path: Path) -> None:
    text = benchmark.run_step(tmp_path / "out", repeats=1)
    assert text == (tmp_path / "out" / "step.md").read_text()
    rows = read_csv(tmp_path / "out" / "step.csv", text=["patch", "widths", "step"])
    assert [row["step"] for row in rows] == [
        step_benchmark.STUDENT,
        step_benchmark.ENCODER,
        step_benchmark.OURS,
        step_benchmark.PUBLISHED,
    ]
    assert imread(tmp_path / "out" / "step.png").std() > 0.05


@pytest.mark.parametrize(("native", "dtype"), [(True, torch.bfloat16), (False, torch.float32)], ids=str)
def test_a_step_is_of_the_precision_of_a_training(
    native: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step_benchmark, "cpu_has_bfloat16", lambda: native)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert step_benchmark.precision() is dtype
    training = step_benchmark._Training(BRATS, 16, 1, (8, 16, 16))
    seen: list[torch.dtype] = []
    training.student.register_forward_hook(lambda *found: seen.append(found[-1].dtype))
    training.steps()[step_benchmark.STUDENT]()
    assert seen[0] is dtype


def test_the_benchmark_of_inference_says_what_it_measured(written: Path) -> None:
    text = (written / "inference.md").read_text()
    assert "Patches of 16 x 16 x 16, a case of 20 x 24 x 16 voxels with a brain of 58% x 79% x 88%" in text
    assert "calibrated on noise" in text
    assert imread(written / "inference.png").std() > 0.05


@pytest.mark.parametrize("entry", [benchmark.run_loss, benchmark.run_step, benchmark.run_inference])
def test_a_folder_that_is_there_is_refused(entry: Callable[[Path], str], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="exists: name a new folder"):
        entry(tmp_path)


def test_ratios_of_inference_are_to_the_teacher_in_the_same_runtime(written: Path) -> None:
    rows = read_csv(written / "inference.csv", text=["network", "runtime"])
    names = [name + NOISE * (name == runtimes.INT8) for name in runtimes.available()]
    assert [(row["network"], row["runtime"]) for row in rows] == [
        (n, name) for n in (TEACHER, STUDENT) for name in names
    ]
    found = {(row["network"], row["runtime"]): row for row in rows}
    for name in names:
        teacher, student = found[TEACHER, name], found[STUDENT, name]
        assert student["parameters"] < teacher["parameters"]
        for kind in ("patch", "case", "long_windows"):
            assert student[f"{kind}_of_teacher"] == student[f"{kind}_seconds"] / teacher[f"{kind}_seconds"]
    assert all(math.isnan(row["dice"]) for row in rows)


def test_dice_is_that_of_the_held_out_cases(patients: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, weights = tmp_path / "out", tmp_path / "model.pt"
    narrow = Setting(BRATS, settings={"patch_size": [16, 16, 16]})
    torch.save(narrow.parser("inference").get_parsed_content("network").state_dict(), weights)
    exact = (runtimes.EAGER, runtimes.SCRIPT, runtimes.ONNX, runtimes.INT8)
    monkeypatch.setattr(runtimes, "available", lambda: [n for n in exact if not runtimes.missing_packages(n)])
    settings = {"patch_size": [16, 16, 16], "ckpt_path": str(weights), "dataset_dir": str(patients)}
    text = benchmark.run_inference(out, case_size=(20, 24, 16), repeats=1, settings=settings)
    rows = read_csv(out / "inference.csv", text=["network", "runtime"])
    rows = [row for row in rows if row["network"] == STUDENT]
    dice = {str(row["runtime"]).removesuffix(LOSSY): float(row["dice"]) for row in rows}
    assert 0 < dice[runtimes.EAGER] < 1
    assert all(value == pytest.approx(dice[runtimes.EAGER], abs=1e-3) for name, value in dice.items() if "32" in name)
    exact_rows = [row for row in rows if "32" in str(row["runtime"])]
    assert all(0 <= row["largest_loss"] < 0.02 for row in exact_rows)
    assert exact_rows[0]["largest_loss"] == 0  # eager float32 itself
    assert 0 < exact_rows[0]["long_windows_dice"] < 1
    assert "noise" not in text


def test_each_network_has_long_windows_that_it_takes() -> None:
    """Its teacher halves maps once more than a shallow student."""
    setting = Setting(BRATS, ["shallow_student"])
    longer = setting.teacher("long_windows"), setting.parser("inference", "long_windows")
    windows: dict[str, Any] = inference_benchmark._windows(*longer)
    assert windows[TEACHER].k_divisible == tuple(2 * one for one in windows[STUDENT].k_divisible)


def test_a_bundle_without_long_windows_is_measured_in_windows(tiny: None, tmp_path: Path, monkeypatch: Any) -> None:
    """As those with nnU-Net's windows are."""
    left_out = shutil.ignore_patterns("models", "eval", "cache", "long_windows.yaml")
    bundle = Path(shutil.copytree(BRATS, tmp_path / BRATS.name, ignore=left_out))
    monkeypatch.setattr(runtimes, "available", lambda: [runtimes.EAGER])
    small = {"patch_size": [16, 16, 16]}
    benchmark.run_inference(tmp_path / "out", bundle, case_size=(20, 24, 16), repeats=1, settings=small)
    rows = read_csv(tmp_path / "out" / "inference.csv", text=["network", "runtime"])
    assert all(row["case_seconds"] > 0 and math.isnan(row["long_windows_seconds"]) for row in rows)


def test_windows_of_an_nnunet_lie_over_the_brain_too(tiny: None, tmp_path: Path, monkeypatch: Any) -> None:
    """Its transforms have cropped a case before."""
    commands.from_nnunet(small(tmp_path / "results"), "mine", out=tmp_path)
    shapes, case = [], inference_benchmark._case

    def seen(window: Any, image: torch.Tensor, run: Any) -> Any:
        shapes.append(tuple(image.shape))
        return case(window, image, run)

    monkeypatch.setattr(inference_benchmark, "_case", seen)
    monkeypatch.setattr(runtimes, "available", lambda: [runtimes.EAGER, runtimes.SCRIPT])  # which traces it
    benchmark.run_inference(tmp_path / "out", tmp_path / "mine", case_size=(40, 40, 40), repeats=1)
    assert shapes == [(1, 4, 22, 30, 34)] * 4


def test_networks_of_another_architecture_are_measured(
    tiny: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TorchScript traces MedNeXt, whose code it cannot read."""
    monkeypatch.setattr(runtimes, "available", lambda: [runtimes.SCRIPT])
    settings = ["patch_size=[32,32,32]", *(f"network_def::blocks_{way}=[1,1,1,1]" for way in ("down", "up"))]
    options: dict[str, Any] = {"case_size": (40, 40, 40), "repeats": 1}
    commands.benchmark_inference(["mednext_student"], settings, out=tmp_path / "out", bundle=BRATS, **options)
    rows = read_csv(tmp_path / "out" / "inference.csv", text=["network", "runtime"])
    assert [row["network"] for row in rows] == ["teacher", "student"]
    assert rows[1]["parameters"] > 4 * rows[0]["parameters"]  # as a DynUNet of a quarter of the widths has not


def test_mean_dice_leaves_out_what_is_in_neither_map() -> None:
    prediction, truth = torch.tensor([[[1, 1, 2, 0]]]), torch.tensor([[[1, 0, 0, 0]]])
    masks = (torch.stack([one == label for label in (1, 2, 3)]) for one in (prediction, truth))
    found = calibration._dice(*masks)
    torch.testing.assert_close(found, torch.tensor([2 / 3, 0.0, math.nan]), equal_nan=True)


def test_the_largest_loss_is_that_of_a_case_and_not_below_0(monkeypatch: pytest.MonkeyPatch) -> None:
    dice = {
        runtimes.EAGER: torch.tensor([[0.8, 0.6], [0.5, math.nan]]),
        runtimes.INT8: torch.tensor([[0.6, 0.6], [0.7, math.nan]]),
        runtimes.ONNX: torch.tensor([[0.9, 0.6], [0.5, math.nan]]),
        inference_benchmark.LONG_WINDOWS: torch.tensor([[0.4, 0.2], [0.2, math.nan]]),
    }
    monkeypatch.setattr(calibration, "case_dice", lambda *_: dice)
    names = (runtimes.EAGER, runtimes.INT8, runtimes.ONNX)
    students: dict[str, runtimes.Runtime] = {name: lambda x: x for name in names}
    found = inference_benchmark._scores(Setting(BRATS), students, SimpleInferer(), SimpleInferer())
    assert {name: one["largest_loss"] for name, one in found.items()} == pytest.approx(
        {runtimes.EAGER: 0, runtimes.INT8: 0.1, runtimes.ONNX: 0}
    )
    assert found[runtimes.EAGER]["long_windows_dice"] == pytest.approx(0.25)
    assert found[runtimes.INT8]["dice"] == pytest.approx((0.65 + 0.6) / 2)


def test_int8_that_loses_dice_is_marked() -> None:
    def label(dice: float) -> str:
        return inference_benchmark._label(runtimes.INT8, {runtimes.EAGER: {"dice": 0.8}, runtimes.INT8: {"dice": dice}})

    assert label(0.794) == "OpenVINO int8, loses Dice"
    assert label(0.796) == runtimes.INT8
    assert inference_benchmark._label(runtimes.INT8, {}) == "OpenVINO int8, calibrated on noise"


def test_slow_cases_are_timed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference_benchmark, "SLOW", 0.01)
    calls: list[str] = []

    def slow() -> None:
        calls.append("slow")
        time.sleep(0.02)

    steps = {(TEACHER, "slow"): slow, (STUDENT, "quick"): lambda: calls.append("quick")}
    found = inference_benchmark._cases(steps, 3)
    assert calls == ["slow", "quick", "quick", "quick"]
    assert found[TEACHER, "slow"] > 0.02


def test_a_case_has_three_axes(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"case_size must be three positive numbers of voxels, got \[64, 64\]"):
        benchmark.run_inference(tmp_path / "out", case_size=(64, 64))


def test_a_data_set_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Dice wants trained weights: name them with ckpt_path"):
        benchmark.run_inference(tmp_path / "out", settings={"dataset_dir": "DIR"})


def test_the_command_takes_folds_and_refuses_unknown_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "run_inference", lambda **given: str(given["settings"]))
    folds = {"train_folds": [2], "val_folds": [1], "test_folds": [0, 3]}
    words = [f"{name}={value}" for name, value in folds.items()]
    assert commands.benchmark_inference(settings=words) == str(folds)
    with pytest.raises(InputError, match="no config has the key test_fold; the nearest is test_folds"):
        commands.benchmark_inference(settings=["test_fold=0"])


@pytest.mark.parametrize("rounds", [1, 2])
def test_trainings_are_timed_in_turns_by_the_iteration(patients: Path, tmp_path: Path, rounds: int) -> None:
    settings: dict[str, Any] = {"spacing": [4.0, 4.0, 4.0], "patch_size": [16, 16, 16], "teacher_widths": [16, 16, 32]}
    settings |= {"dataset_dir": str(patients), "cache_dir": str(tmp_path / "cache"), "num_workers": 0}
    files = config_files("train_student")
    found = training.seconds({"a": files, "b": files}, rounds, **settings)
    assert set(found) == {"a", "b"}
    assert all(0 < seconds < 60 for seconds in found.values())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache"]


@pytest.mark.parametrize("names", [("distill",), ("distill", "quick")], ids="-".join)
def test_timed_epochs_write_what_those_of_a_training_do(
    names: tuple[str, ...], patients: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint holds the weights of the distillation in all epochs, and a timing has more than its training."""
    settings: dict[str, Any] = {"spacing": [4.0, 4.0, 4.0], "patch_size": [16, 16, 16], "teacher_widths": [16, 16, 32]}
    settings |= {"dataset_dir": str(patients), "cache_dir": str(tmp_path / "cache"), "num_workers": 0, "batch_size": 1}
    settings |= {"teacher_path": str(tmp_path / "teacher.pt")}
    teacher = ConfigParser()
    teacher.read_config(config_files("inference", "teacher"))
    teacher.update({"teacher_widths": settings["teacher_widths"]})
    torch.save(teacher.get_parsed_content("network_def").state_dict(), settings["teacher_path"])
    places = {"ckpt_path": str(tmp_path / "model.pt"), "log_path": str(tmp_path / "training.csv")}
    one = training.Training(config_files(*names), **settings, **places, epoch_length=2)
    one.epoch()  # which fills the cache
    sizes: list[int] = []
    save: Any = torch.save

    def measured(content: Any, file: Any) -> None:
        save(content, file)
        sizes.append(file.tell())

    monkeypatch.setattr(torch, "save", measured)
    one.epoch()
    (expected,) = sizes
    sizes.clear()
    training.seconds({"a": config_files(*names)}, rounds=2, iterations=2, **settings)
    assert len(sizes) == 3  # a first turn that does not count
    assert max(sizes) < 1.1 * expected


def test_the_start_of_a_student_from_its_teacher_is_timed(
    patients: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"spacing": [4.0, 4.0, 4.0], "patch_size": [16, 16, 16], "teacher_widths": [16, 16, 32]}
    settings |= {"dataset_dir": str(patients), "cache_dir": str(tmp_path / "cache"), "num_workers": 0, "batch_size": 1}
    configs = ConfigParser()
    configs.read_config(config_files("inference", "teacher"))
    configs.update({"teacher_widths": settings["teacher_widths"]})
    torch.save(configs.get_parsed_content("network_def").state_dict(), tmp_path / "teacher.pt")
    started: list[int] = []
    monkeypatch.setattr(StudentStart, "start", lambda handler, batches, epochs: started.append(handler.number))
    own = {"started": {"teacher_path": str(tmp_path / "teacher.pt"), "init": "teacher"}}
    files = {"plain": config_files("train_student"), "started": config_files("distill")}
    found = training.start_seconds(files, own, **settings)
    assert set(found) == {"plain", "started"}
    assert started == [10] * 4  # a first one that does not count, and three of which the median is taken
