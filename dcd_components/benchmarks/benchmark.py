"""What distillation costs while training, and what the networks cost afterwards: tables and a picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dcd_components.benchmarks import inference as inference_benchmark
from dcd_components.benchmarks import loss as loss_benchmark
from dcd_components.benchmarks import step as step_benchmark
from dcd_components.benchmarks import timing
from dcd_components.benchmarks.inference_setting import Setting
from dcd_components.bundle.configs import BUNDLES
from dcd_components.errors import InputError
from dcd_components.tables import markdown_table, write_csv

LOSS, STEP, INFERENCE = "loss", "step", "inference"
HEADINGS = {LOSS: "The loss, forward and backward, float32", STEP: "A training step, bfloat16", INFERENCE: "Inference"}
COLUMNS = {LOSS: loss_benchmark.COLUMNS, STEP: step_benchmark.COLUMNS, INFERENCE: inference_benchmark.COLUMNS}
Rows = Sequence[Mapping[str, Any]]


def run(
    out: str,
    sizes: Sequence[int] = (32, 64),
    levels: Sequence[int] = (1, 2, 3),
    repeats: int = 7,
    bundle: str = str(BUNDLES / "brats_gli_dcd"),
    parts: Sequence[str] = (LOSS, STEP, INFERENCE),
    overlays: Sequence[str] = (),
    patch: Sequence[int] | None = None,
    case: Sequence[int] = (240, 240, 155),
    weights: str | None = None,
    dataset_dir: str | None = None,
    datalist: str | None = None,
    test_folds: Sequence[int] | None = None,
    val_folds: Sequence[int] | None = None,
) -> str:
    """Measure the loss and the step against the published algorithm and, where installed, ptwt; then inference.

    Args:
        out: new folder for the tables and the picture.
        sizes: voxels along the axes of the patches of the loss, "(32,64)".
        levels: of the wavelet transform, "(1,2,3)".
        repeats: rounds of which the median is taken.
        bundle: folder of the bundle whose networks are measured.
        parts: what is measured, "('loss','step','inference')".
        overlays: configs of the bundle on top of inference.yaml that made the weights, "('quick',)"; for inference, as
            is all that follows.
        patch: voxels along each axis of a patch, "(128,128,128)"; the bundle's by default.
        case: voxels along each axis of a whole case, "(240,240,155)".
        weights: of the student; random ones by default, which cost the same.
        dataset_dir: the data set that int8 is calibrated on and Dice measured with; noise and no Dice by default.
        datalist: its cases; DATASET_DIR/datalist.json by default.
        test_folds: folds for Dice; the bundle's by default.
        val_folds: folds neither for Dice nor for calibration; the bundle's by default.

    Returns:
        The tables in Markdown.

    Raises:
        InputError: when ``out`` exists, an option that is a list is none, or a part is unknown.
    """
    folder = Path(str(out))
    if folder.exists():
        raise InputError(f"{folder} exists: name a new folder with --out")
    optional = {"overlays": overlays or None, "patch": patch, "test_folds": test_folds, "val_folds": val_folds}
    chosen = {name: values for name, values in optional.items() if values is not None}
    _check_lists(sizes=sizes, levels=levels, parts=parts, case=case, **chosen)
    if unknown := sorted(set(parts) - set(HEADINGS)):
        raise InputError(f"unknown part {unknown[0]!r}; choose from {', '.join(HEADINGS)}")
    given = {"ckpt_path": weights, "dataset_dir": dataset_dir, "datalist": datalist}
    folds = {"test_folds": test_folds, "val_folds": val_folds, "patch_size": patch}
    overrides = {key: value for key, value in {**given, **folds}.items() if value is not None}
    setting = Setting(Path(bundle), overlays, overrides, case)
    torch.manual_seed(0)
    measures: dict[str, Callable[[], Rows]] = {
        LOSS: lambda: loss_benchmark.measure(sizes, levels, repeats),
        STEP: lambda: step_benchmark.measure(Path(bundle), repeats),
        INFERENCE: lambda: inference_benchmark.measure(setting, repeats),
    }
    tables = {part: measure() for part, measure in measures.items() if part in parts}
    text = _text(tables, setting, repeats)
    folder.mkdir(parents=True)
    for part, rows in tables.items():
        write_csv(rows, folder / f"{part}.csv")
    _plot(tables, folder / "benchmark.png")
    (folder / "benchmark.md").write_text(text)
    return text


def _check_lists(**given: Sequence[object]) -> None:
    for name, values in given.items():
        if not isinstance(values, Sequence) or isinstance(values, str) or not values:
            raise InputError(f"--{name} must be a list, such as '(32,64)', got {values!r}")
        if name in ("patch", "case") and len(values) != 3:
            raise InputError(f"--{name} must be three numbers of voxels, such as '(64,64,64)', got {values}")


def _text(tables: Mapping[str, Rows], setting: Setting, repeats: int) -> str:
    sections = [f"## {HEADINGS[part]}\n\n{markdown_table(rows, COLUMNS[part])}\n" for part, rows in tables.items()]
    rounds = f"Medians of {repeats} rounds, three for what takes more than 2 s, all rows of a patch in turns"
    note = f"\n{setting.note()}\n" if INFERENCE in tables else ""
    return "\n".join([*sections, f"{rounds}; {timing.machine()}.\n{note}"])


def _plot(tables: Mapping[str, Rows], path: Path) -> None:
    """Draw a panel for each table."""
    figure = Figure(figsize=(5.5 * len(tables), 4.5), layout="constrained")
    panels: dict[str, Callable[[Axes, Rows], None]] = {LOSS: _plot_loss, STEP: _plot_step, INFERENCE: _plot_inference}
    for axes, (part, rows) in zip(figure.subplots(1, len(tables), squeeze=False)[0], tables.items(), strict=True):
        panels[part](axes, rows)
    figure.savefig(path, dpi=120)


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
