"""What distillation costs while training: the loss by itself and the whole step, as a table and a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from dcd_components import loss_benchmark, step_benchmark, timing
from dcd_components.reporting import markdown_table, write_csv

BUNDLES = Path(__file__).parents[1] / "bundles"
TEXT = """\
## The loss, forward and backward, float32

{loss}

## A training step, bfloat16

{step}

Medians of {repeats} rounds, three for what takes more than 2 s, all rows of a patch in turns; {machine}.
"""


def run(
    out: str,
    sizes: Sequence[int] = (32, 64),
    levels: Sequence[int] = (1, 2, 3),
    repeats: int = 7,
    bundle: str = str(BUNDLES / "brats_gli_dcd"),
) -> str:
    """Measure the loss and the step against the published algorithm and, where it is installed, against ptwt.

    Args:
        out: new folder for the tables and the picture.
        sizes: voxels along the axes of the patches, "(32,64)".
        levels: of the wavelet transform, "(1,2,3)".
        repeats: rounds of which the median is taken.
        bundle: folder of the bundle whose networks are trained.

    Returns:
        The tables in Markdown.

    Raises:
        ValueError: when ``out`` exists, or sizes or levels are no lists.
    """
    folder = Path(str(out))
    if folder.exists():
        raise ValueError(f"{folder} exists: name a new folder with --out")
    if not all(isinstance(given, Sequence) and given for given in (sizes, levels)):
        raise ValueError(f"--sizes and --levels must be lists, such as '(32,64)' and '(1,2,3)', got {sizes}, {levels}")
    torch.manual_seed(0)
    losses = loss_benchmark.measure(sizes, levels, repeats)
    steps = step_benchmark.measure(Path(bundle), repeats)
    folder.mkdir(parents=True)
    write_csv(losses, folder / "loss.csv")
    write_csv(steps, folder / "step.csv")
    _plot(losses, steps, folder / "benchmark.png")
    tables = {
        "loss": markdown_table(losses, loss_benchmark.COLUMNS),
        "step": markdown_table(steps, step_benchmark.COLUMNS),
    }
    text = TEXT.format(**tables, repeats=repeats, machine=timing.machine())
    (folder / "benchmark.md").write_text(text)
    return text


def _plot(losses: Sequence[Mapping[str, Any]], steps: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw the losses' times over the patch, at most levels and all stages, and the steps' times as bars."""
    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    deepest = max(row["levels"] for row in losses)
    chosen = [row for row in losses if row["levels"] == deepest and row["stages"] == "all"]
    for name in dict.fromkeys(row["loss"] for row in chosen):
        curve = [row for row in chosen if row["loss"] == name]
        left.plot([row["patch"] for row in curve], [row["seconds"] for row in curve], "o-", label=name)
    left.set(yscale="log", xlabel="patch", ylabel="seconds", title=f"loss, all stages, {deepest} levels")
    left.legend()
    names = [f"{row['step']}\n{row['patch']}" for row in steps]
    right.barh(names, [row["times"] for row in steps])
    right.set(xlabel="times the student's step", title="training step")
    right.invert_yaxis()
    figure.savefig(path, dpi=120)
