"""The benchmarks: what distillation costs while training, and what the networks cost afterwards."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dcd_components.benchmarks import data as data_benchmark
from dcd_components.benchmarks import inference as inference_benchmark
from dcd_components.benchmarks import loss as loss_benchmark
from dcd_components.benchmarks import step as step_benchmark
from dcd_components.benchmarks import timing
from dcd_components.benchmarks.inference_setting import Setting
from dcd_components.bundle.configs import BUNDLES
from dcd_components.errors import InputError
from dcd_components.tables import markdown_table, write_csv

Rows = Sequence[Mapping[str, Any]]
BRATS = BUNDLES / "brats_gli_dcd"


def run_loss(out: Path, sizes: Sequence[int] = (32, 64), levels: Sequence[int] = (1, 2, 3), repeats: int = 7) -> str:
    """Measure the loss, forward and backward, against the published algorithm and, where installed, ptwt.

    Args:
        out: new folder for ``loss.csv``, ``loss.md`` and ``loss.png``.
        sizes: voxels along the axes of the patches.
        levels: of the wavelet transform.
        repeats: rounds of which the median is taken.

    Returns:
        The table in Markdown.

    Raises:
        InputError: when ``out`` exists.
    """
    _refuse_existing(out)
    torch.manual_seed(0)
    rows = loss_benchmark.measure(sizes, levels, repeats)
    heading = "The loss, forward and backward, float32"
    return _write(out, "loss", rows, f"## {heading}\n\n{_table(rows, loss_benchmark.COLUMNS, repeats)}", _plot_loss)


def run_step(out: Path, repeats: int = 7) -> str:
    """Measure a training step of the student alone, of distillation, and of the published algorithm.

    Args:
        out: new folder for ``step.csv``, ``step.md`` and ``step.png``.
        repeats: rounds of which the median is taken.

    Returns:
        The table in Markdown.

    Raises:
        InputError: when ``out`` exists.
    """
    _refuse_existing(out)
    torch.manual_seed(0)
    rows = step_benchmark.measure(BRATS, repeats)
    heading = f"A training step, {str(step_benchmark.precision()).removeprefix('torch.')}"
    return _write(out, "step", rows, f"## {heading}\n\n{_table(rows, step_benchmark.COLUMNS, repeats)}", _plot_step)


def run_inference(
    out: Path,
    bundle: Path = BRATS,
    overlays: Sequence[str] = (),
    case_size: Sequence[int] = (240, 240, 155),
    repeats: int = 7,
    settings: Mapping[str, Any] | None = None,
) -> str:
    """Measure teacher and student on the CPU in every runtime that is installed: patches, whole cases and Dice.

    Args:
        out: new folder for ``inference.csv``, ``inference.md`` and ``inference.png``.
        bundle: folder of the bundle whose networks are measured.
        overlays: its configs that made the weights, on top of the inference, by name, such as ``quick``.
        case_size: voxels along each axis of a whole case.
        repeats: rounds of which the median is taken.
        settings: of the configs, by key. With the student's weights (``ckpt_path``) and a data set (``dataset_dir``,
            ``datalist``, ``val_folds``, ``test_folds``) int8 is calibrated on training cases and Dice measured on test
            cases; by default weights are random, which costs the same, and int8 is calibrated on noise.

    Returns:
        The table in Markdown.

    Raises:
        InputError: when ``out`` exists, for a case without three axes, and for a data set without weights.
    """
    _refuse_existing(out)
    if len(case_size) != 3 or min(case_size) < 1:
        raise InputError(f"case_size must be three positive numbers of voxels, got {list(case_size)}")
    setting = Setting(bundle, overlays, settings or {}, case_size)
    torch.manual_seed(0)
    rows = inference_benchmark.measure(setting, repeats)
    table = _table(rows, inference_benchmark.COLUMNS, repeats)
    return _write(out, "inference", rows, f"## Inference\n\n{table}\n{setting.note()}\n", _plot_inference)


def run_data(
    out: Path,
    dataset_dir: Path,
    bundle: Path = BRATS,
    epoch_length: int = 6,
    num_workers: int = 2,
    repeats: int = 3,
) -> str:
    """Measure how much of a training's time is spent waiting for data, with and without the cache on disk.

    Args:
        out: new folder for ``data.csv`` and ``data.md``.
        dataset_dir: the data set, with its datalist.json; all its cases are trained on.
        bundle: folder of the bundle whose student is trained.
        epoch_length: iterations per epoch.
        num_workers: processes that load data.
        repeats: epochs that are measured once the caches are full.

    Returns:
        The table in Markdown.

    Raises:
        InputError: when ``out`` exists.
    """
    _refuse_existing(out)
    settings = {"dataset_dir": str(dataset_dir), "epoch_length": epoch_length, "num_workers": num_workers}
    return data_benchmark.measure(bundle, out, repeats, settings)


def _refuse_existing(out: Path) -> None:
    if out.exists():
        raise InputError(f"{out} exists: name a new folder")


def _table(rows: Rows, columns: Mapping[str, tuple[str, str]], repeats: int) -> str:
    rounds = f"Medians of {repeats} rounds, three for what takes more than 2 s, all rows of a patch in turns"
    return f"{markdown_table(rows, columns)}\n\n{rounds}; {timing.machine()}.\n"


def _write(out: Path, name: str, rows: Rows, text: str, plot: Callable[[Axes, Rows], None]) -> str:
    """Write the rows, the text and a picture; the text."""
    out.mkdir(parents=True)
    write_csv(rows, out / f"{name}.csv")
    (out / f"{name}.md").write_text(text)
    figure = Figure(figsize=(6.5, 4.5), layout="constrained")
    plot(figure.subplots(), rows)
    figure.savefig(out / f"{name}.png", dpi=120)
    return text


def _plot_loss(axes: Axes, rows: Rows) -> None:
    """Times over the patch, at most levels and all stages."""
    deepest = max(row["levels"] for row in rows)
    chosen = [row for row in rows if row["levels"] == deepest and row["stages"] == "all"]
    for name in dict.fromkeys(row["loss"] for row in chosen):
        curve = [row for row in chosen if row["loss"] == name]
        axes.plot([row["patch"] for row in curve], [row["seconds"] for row in curve], "o-", label=name)
    axes.set(yscale="log", xlabel="patch", ylabel="seconds", title=f"loss, all stages, {deepest} levels")
    axes.legend()


def _plot_step(axes: Axes, rows: Rows) -> None:
    axes.barh([f"{row['step']}\n{row['patch']}" for row in rows], [row["times"] for row in rows])
    axes.set(xlabel="times the student's step", title="training step")
    axes.invert_yaxis()


def _plot_inference(axes: Axes, rows: Rows) -> None:
    """Times of a patch, a bar for each network and runtime."""
    for offset, name in ((-0.2, inference_benchmark.TEACHER), (0.2, inference_benchmark.STUDENT)):
        chosen = [row for row in rows if row["network"] == name]
        places = [number + offset for number in range(len(chosen))]
        bars = axes.barh(places, [row["patch_seconds"] for row in chosen], height=0.4, label=name)
        axes.bar_label(bars, fmt="%.2g", padding=2, fontsize=8)
    axes.set_yticks(range(len(chosen)), [row["runtime"].replace(", ", ",\n") for row in chosen])
    axes.set(xscale="log", xlabel="seconds a patch", title="inference")
    axes.margins(x=0.15)
    axes.invert_yaxis()
    axes.legend()
