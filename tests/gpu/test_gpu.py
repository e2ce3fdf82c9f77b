"""What differs on a GPU: the matrix passes, half precision with a real GradScaler, memory, nccl, and no waiting.

Run alone by ``make test-gpu``. The same lines run without a GPU in other tests: the matrix passes on the CPU, and a
whole iteration on torch's ``meta`` device, which refuses whatever would wait for the device.
"""

from __future__ import annotations

import copy
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import interrupted
import nibabel
import numpy as np
import pytest
import torch
from iteration import distilling, network
from monai.bundle import ConfigParser
from monai.engines import SupervisedTrainer
from result_folders import REAL, needs_real, unequal_voxels, voxels
from tiny import BRATS, ROOT, TINY, config_files
from torch import Tensor

from dcd_components import AutocastInferer, TrainingLog, WaveletDetailLoss, dwt3
from dcd_components.benchmarks.published_loss import PublishedLoss
from dcd_components.benchmarks.timing import extra_megabytes
from dcd_components.tables import read_csv

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU and torch built for it"),
    pytest.mark.filterwarnings("ignore:.torch.cuda.amp.GradScaler:FutureWarning"),  # MONAI's trainer makes one
]
GPU = torch.device("cuda", 0)


def maps(channels: int, size: int = 20, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, channels, size, size + 1, size - 3, generator=generator, dtype=torch.float64).to(dtype)


def values(loss: torch.nn.Module, student: Tensor, teacher: Tensor) -> list[Tensor]:
    """Loss and gradients with respect to the student's map and the projection, on the CPU in double precision."""
    student = student.clone().requires_grad_()
    value = loss(student, teacher)
    gradients = torch.autograd.grad(value, [student, *loss.parameters()])
    return [x.detach().cpu().double() for x in (value, *gradients)]


@pytest.mark.parametrize("wavelet", ["haar", "db4", "bior2.2"])
@pytest.mark.parametrize("mode", ["periodization", "symmetric"])
@pytest.mark.parametrize("normalize", [False, True])
def test_the_loss_and_its_gradients_are_those_of_the_cpu(wavelet: str, mode: str, normalize: bool) -> None:
    loss = WaveletDetailLoss(3, 5, wavelet=wavelet, levels=2, mode=mode, normalize=normalize).double()
    student, teacher = maps(3), maps(5, seed=1)
    expected = values(loss, student, teacher)
    torch.testing.assert_close(values(loss.to(GPU), student.to(GPU), teacher.to(GPU)), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 1e-2), (torch.float16, 1e-2)])
def test_maps_of_any_precision_and_layout(
    dtype: torch.dtype, tolerance: float, memory_format: torch.memory_format
) -> None:
    loss = WaveletDetailLoss(3, 5, levels=2)
    student, teacher = maps(3, dtype=dtype), maps(5, dtype=dtype, seed=1)
    expected = values(copy.deepcopy(loss).double(), student.double(), teacher.double())
    moved = [x.to(GPU, memory_format=memory_format) for x in (student, teacher)]
    for ours, theirs in zip(values(loss.to(GPU), *moved), expected, strict=True):
        assert (ours - theirs).norm() <= tolerance * theirs.norm()


def test_the_transform_is_that_of_the_cpu() -> None:
    x = maps(2)
    ours, theirs = dwt3(x.to(GPU), "db3", levels=2), dwt3(x, "db3", levels=2)
    torch.testing.assert_close(ours.approximation.cpu(), theirs.approximation, rtol=1e-10, atol=1e-12)
    for level, expected in zip(ours.details, theirs.details, strict=True):
        torch.testing.assert_close({band: y.cpu() for band, y in level.items()}, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_distillation_with_a_real_grad_scaler(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    exact = distilling(GPU, iterations=6)
    exact.run()
    torch.manual_seed(0)
    mixed = distilling(GPU, iterations=6, amp=True, amp_kwargs={"dtype": dtype})
    mixed.run()
    assert mixed.scaler.get_scale() > 0
    losses = [float(one.state.output["loss"]) for one in (exact, mixed)]
    assert losses[1] == pytest.approx(losses[0], rel=0.05)
    assert all(p.isfinite().all() for group in mixed.optimizer.param_groups for p in group["params"])


def test_the_gradients_that_are_clipped_are_unscaled() -> None:
    trainer = distilling(GPU, iterations=3, amp=True, max_norm=1e-3)
    step, norms = trainer.optimizer.step, list[float]()

    def measured(*args: Any, **kwargs: Any) -> Any:
        gradients = [p.grad for group in trainer.optimizer.param_groups for p in group["params"] if p.grad is not None]
        norms.append(float(torch.stack([g.norm() for g in gradients]).norm()))
        return step(*args, **kwargs)

    trainer.optimizer.step = measured
    trainer.run()
    assert norms
    assert max(norms) <= 1.01e-3


def test_no_handler_waits_for_the_device(tmp_path: Path) -> None:
    """Batches lie on the GPU already; the first iterations fill caches, and may wait."""
    trainer = distilling(GPU, iterations=6, log=TrainingLog(tmp_path / "log.csv"))
    iteration: Callable[..., Any] = trainer._process_function

    def watched(engine: SupervisedTrainer, batch: Any) -> Any:
        torch.cuda.set_sync_debug_mode("error" if engine.state.iteration > 2 else "default")
        try:
            return iteration(engine, batch)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    trainer._process_function = watched
    trainer.run()
    assert trainer.state.iteration == 6


def test_the_loss_takes_a_small_part_of_the_memory_of_the_published_algorithm() -> None:
    student, teacher = (torch.randn(2, channels, 64, 64, 64, device=GPU) for channels in (8, 32))
    peaks = []
    for kind in (PublishedLoss, WaveletDetailLoss):
        loss = kind(8, 32).to(GPU)
        x = student.clone().requires_grad_()
        step = partial(_forward_and_backward, loss, x, teacher)
        step()
        peaks.append(extra_megabytes(step))
    assert peaks[1] < peaks[0] / 4


def _forward_and_backward(loss: torch.nn.Module, x: Tensor, teacher: Tensor) -> None:
    x.grad = None
    loss(x, teacher).backward()


def test_a_network_in_channels_last_computes_the_same() -> None:
    torch.manual_seed(0)
    plain = network([8, 8, 16]).to(GPU).eval()
    last = copy.deepcopy(plain).to(GPU, memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    x = torch.randn(1, 2, 16, 16, 16, device=GPU)
    with torch.no_grad():
        torch.testing.assert_close(last(x), plain(x), rtol=1e-3, atol=1e-3)


def test_the_autocast_of_the_cpu_leaves_a_gpu_alone() -> None:
    inferer = AutocastInferer(lambda x, network: network(x))
    assert inferer(torch.ones(1, device=GPU), lambda x: x * 2).dtype == torch.float32


def test_memory_that_runs_out_ends_with_the_settings_to_lower() -> None:
    program = "import dcd_components, torch; dcd_components.set_up_process(); torch.empty(1 << 60, device='cuda')"
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "error: memory ran out: lower batch_size" in result.stderr


def monai_bundle(*words: str, processes: int = 0) -> None:
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] if processes else []
    command = [sys.executable, "-W", "ignore", *launcher, "-m", "monai.bundle", "run", *words]
    subprocess.run(command, check=True, cwd=BRATS)


def words(keys: dict[str, Any]) -> list[str]:
    return [f"--{key}={value}" for key, value in keys.items()]


@pytest.mark.parametrize("processes", [0, 1, 2], ids=["alone", "nccl", "two GPUs"])
def test_a_bundle_trains_distils_and_scores(processes: int, patients: Path, tmp_path: Path) -> None:
    if torch.cuda.device_count() < processes:
        pytest.skip(f"needs {processes} GPUs")
    last = ["multi_gpu"] if processes else []
    folder = {"dataset_dir": patients, "cache_dir": tmp_path / "cache"}
    teacher, student = tmp_path / "teacher.pt", tmp_path / "student.pt"
    settings = {**TINY, "max_epochs": 2}
    task = {key: TINY[key] for key in ("spacing", "patch_size", "teacher_widths")}
    runs: list[tuple[str, list[str], dict[str, Any]]] = [
        ("training", ["train_teacher"], {**settings, **folder, "ckpt_path": teacher}),
        ("training", ["distill"], {**settings, **folder, "ckpt_path": student, "teacher_path": teacher}),
        ("evaluating", ["inference", "evaluate"], {**task, "dataset_dir": patients, "ckpt_path": student}),
    ]
    for name, configs, keys in runs:
        keys |= {"output_dir": tmp_path / "gpu"} if name == "evaluating" else {}
        files = repr(config_files(*configs, *last))
        monai_bundle(
            name, "--config_file", files, *(f"--{key}={value}" for key, value in keys.items()), processes=processes
        )
    assert len(read_csv(tmp_path / "gpu" / "scores.csv")) == 2
    assert torch.load(student, weights_only=True)


def test_a_training_that_was_stopped_goes_on(patients: Path, tmp_path: Path) -> None:
    settings = {**TINY, "max_epochs": 2, "dataset_dir": str(patients), "cache_dir": str(tmp_path / "cache")}
    faults: dict[str, list[interrupted.Fault | None]] = {"whole": [None], "stopped": [("iteration", 3, 15), None]}
    for name, several in faults.items():
        (tmp_path / name).mkdir()
        keys = {**settings, "ckpt_path": str(tmp_path / name / "model.pt"), "resume": True}
        for fault in several:
            process = interrupted.start(config_files("train_teacher"), keys, tmp_path / name / "log", fault)
            process.join(300)
            assert process.exitcode == (128 + signal.SIGTERM if fault else 0), (tmp_path / name / "log").read_text()
    whole, stopped = (
        torch.load(tmp_path / name / "model_checkpoints" / "iteration-000000004.pt", weights_only=True)
        for name in faults
    )
    assert whole.get("scaler") == stopped.get("scaler")
    torch.testing.assert_close(stopped["network"], whole["network"], rtol=1e-2, atol=1e-3)


def test_masks_are_those_of_the_cpu(patients: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    parser = ConfigParser()
    parser.read_config(config_files("inference"))
    task = {key: TINY[key] for key in ("spacing", "patch_size", "teacher_widths")}
    parser.update(task)
    torch.save(parser.get_parsed_content("network_def").state_dict(), tmp_path / "model.pt")
    for device in ("cuda:0", "cpu"):
        keys = {
            **task,
            "dataset_dir": patients,
            "ckpt_path": tmp_path / "model.pt",
            "output_dir": tmp_path / device[:3],
        }
        keys |= {"device": f"$torch.device('{device}')", "amp": False}
        monai_bundle("--config_file", *config_files("inference"), *(f"--{key}={value}" for key, value in keys.items()))
    masks = sorted((tmp_path / "cpu").glob("*.nii.gz"))
    assert len(masks) == 10
    for mask in masks:
        ours, theirs = (np.asarray(nibabel.load(path).dataobj) for path in (mask, tmp_path / "cud" / mask.name))
        assert np.mean(ours != theirs) < 1e-3


@needs_real
@pytest.mark.parametrize("name", ["plain", "residual", "regions"])
def test_masks_of_a_teacher_of_nnunet_are_those_that_nnunet_gave_on_a_cpu(name: str, tmp_path: Path) -> None:
    """But for a thousandth of the voxels of all labels, so that the mean of their Dice is about 0.999 or more."""
    path = sorted((REAL / "masks" / name).glob("*.nii.gz"))[-1]
    unequal = unequal_voxels(name, path, tmp_path, "mirror", device="cuda:0")
    assert unequal <= np.count_nonzero(voxels(path)) / 1000
