"""The demo's result: one table over its models, their training curves, and pictures of cases."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import nibabel
import numpy as np
from monai.bundle import ConfigParser
from nibabel.processing import resample_from_to
from numpy.typing import NDArray

from dcd_components.data.datalists import read_datalist
from dcd_components.data.file_naming import files_of
from dcd_components.handlers.pictures import CasePicture, case_figure, plot_curves
from dcd_components.metrics.summary import summarise
from dcd_components.networks.cost import cost
from dcd_components.tables import markdown_table, read_csv, write_csv

#: Heading and format of the table's columns; those of the labels stand where the mean over them does.
COLUMNS = {
    "model": ("Model", ""),
    "parameters": ("Parameters, M", ".3f"),
    "gmac": ("GMAC a patch", ".2f"),
    "iterations": ("Iterations", ".0f"),
    "minutes": ("Training, min", ".1f"),
    "mean_dice": ("Mean Dice", ".3f"),
    "mean_hd95_mm": ("HD95, mm", ".1f"),
    "mean_nsd": ("NSD at {tolerance:g} mm", ".3f"),
    "lesion_f1": ("Lesion F1", ".2f"),
    "small_lesion_recall": ("Small lesions found", ".2f"),
    "false_lesions": ("False lesions a case", ".1f"),
    "lesion_count_difference": ("Lesion count off by", ".1f"),
    "volume_difference_ml": ("Volume off by, ml", ".1f"),
    "seconds": ("Seconds a case", ".2f"),
}
CAPTION = """\
{cases:.0f} cases of patients that no training saw. Plain and distilled student: same first weights, same data in the
same order, same number of iterations. "Plain, same time": the plain student again, trained for as long as the
distilled one took, the teacher's training not counted. Dice, HD95 and NSD: means over the labels; a label absent
from truth and prediction is left out, one absent from either scores Dice 0, NSD 0 and the image's diagonal. Lesions:
components of {lesions}, found if one voxel is, small up to 0.5 ml. Seconds a case: sliding windows only, bfloat16
where the processor has it.\
"""


def write(folder: Path, configs: Sequence[str], logs: Mapping[str, Path]) -> str:
    """Write ``table.md``, ``table.csv``, ``curves.png``, ``cases.png`` and ``new_case.png`` into the demo's folder.

    Args:
        folder: where the demo put ``patients``, ``masks/<model>/scores.csv`` and ``new_case``, with data lists.
        configs: files that define the networks.
        logs: training log of each model, in the table's order.

    Returns:
        The table in Markdown, with its caption.
    """
    parser = ConfigParser()
    parser.read_config(list(configs))
    labels, tolerance = parser["labels"], parser["tolerance_mm"]
    columns = {key: (heading.format(tolerance=tolerance), style) for key, (heading, style) in _columns(labels).items()}
    scores = {model: read_csv(folder / "masks" / model / "scores.csv") for model in logs}
    curves = {model: read_csv(path) for model, path in logs.items()}
    costs = _costs(parser)
    rows = [_row(model, scores[model], curves[model], list(labels), costs[model == "teacher"]) for model in logs]
    lesions = " and ".join(name for name, value in labels.items() if value in parser["lesions"])
    table = markdown_table(rows, columns) + "\n\n" + CAPTION.format(cases=rows[0]["cases"], lesions=lesions)
    (folder / "table.md").write_text(table + "\n")
    write_csv([{key: row[key] for key in (*columns, "cases")} for row in rows], folder / "table.csv")
    plot_curves(curves, folder / "curves.png")
    shown = [model for model in logs if model in ("teacher", "plain", "distilled")]
    names = _telling_cases(scores["plain"], scores["distilled"], list(labels))
    pictures = [_picture(folder, name, shown, scores, list(labels)) for name in names]
    case_figure(pictures, labels).savefig(folder / "cases.png")
    case_figure([_new_case(folder / "new_case")], labels).savefig(folder / "new_case.png")
    return table


def _columns(labels: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Columns of the table, with one for each label where there are several."""
    names = list(labels)
    each = {f"dice_{name}": (name, ".3f") for name in names} if len(names) > 1 else {}
    before = list(COLUMNS).index("mean_dice") + 1
    return {**dict(list(COLUMNS.items())[:before]), **each, **dict(list(COLUMNS.items())[before:])}


def _costs(parser: ConfigParser) -> dict[bool, dict[str, float]]:
    """Cost of one patch for the student (False) and the teacher (True)."""
    size = [len(parser["files"]), *parser["patch_size"]]
    architecture, widths = parser.get_parsed_content("architecture"), parser.get_parsed_content("widths")
    return {
        False: cost(architecture(filters=widths), size),
        True: cost(architecture(filters=parser["teacher_widths"]), size),
    }


def _row(
    model: str,
    scores: Sequence[Mapping[str, Any]],
    log: Sequence[Mapping[str, Any]],
    labels: Sequence[str],
    network: Mapping[str, float],
) -> dict[str, Any]:
    course = {"iterations": log[-1]["iteration"], "minutes": log[-1]["seconds"] / 60}
    return {"model": model, **network, **course, **summarise(scores, labels)}


def _mean_dice(row: Mapping[str, Any], labels: Sequence[str]) -> float:
    known = [x for label in labels if not math.isnan(x := row[f"dice_{label}"])]
    return fmean(known) if known else math.nan


def _telling_cases(
    plain: Sequence[Mapping[str, Any]], distilled: Sequence[Mapping[str, Any]], labels: Sequence[str]
) -> list[str]:
    """Names of the cases at the 10th, 50th and 90th percentile of what distillation gained, so not the best three."""
    gains = {p["case"]: _mean_dice(d, labels) - _mean_dice(p, labels) for p, d in zip(plain, distilled, strict=True)}
    ranked = sorted((case for case in gains if not math.isnan(gains[case])), key=gains.__getitem__)
    return [ranked[round(share * (len(ranked) - 1))] for share in (0.1, 0.5, 0.9)]


def _picture(
    folder: Path,
    name: str,
    models: Sequence[str],
    scores: Mapping[str, Sequence[Mapping[str, Any]]],
    labels: Sequence[str],
) -> CasePicture:
    images, truth = _images(folder / "patients", name)
    masks = {model: _voxels(nibabel.load(folder / "masks" / model / f"{name}_seg.nii.gz")) for model in models}
    rows = {model: next(row for row in scores[model] if row["case"] == name) for model in models}
    captions = {model: f"Dice {_mean_dice(row, labels):.2f}" for model, row in rows.items()}
    return CasePicture(name, images, {"truth": truth, **masks}, captions)


def _new_case(folder: Path) -> CasePicture:
    (case,) = read_datalist(folder / "datalist.json").cases
    images, truth = _images(folder, case["case"])
    mask = _voxels(nibabel.load(folder / f"{case['case']}_seg.nii.gz"))
    return CasePicture(case["case"], images, {"truth": truth, "student": mask})


def _images(folder: Path, name: str) -> tuple[dict[str, NDArray[Any]], NDArray[Any]]:
    """Sequences of a case, on the grid of its label, and the label."""
    datalist = read_datalist(folder / "datalist.json")
    case = next(case for case in datalist.cases if case["case"] == name)
    label = nibabel.load(folder / case["label"])
    paths = files_of(str(folder / case["image"]), datalist.layout.files)
    images = {sequence: nibabel.load(path) for sequence, path in paths.items()}
    for sequence in datalist.layout.own_grid:
        images[sequence] = resample_from_to(images[sequence], label, order=1)
    return {sequence: _voxels(image) for sequence, image in images.items()}, _voxels(label)


def _voxels(image: Any) -> NDArray[Any]:
    """Voxels of an image in RAS orientation."""
    return np.asarray(nibabel.as_closest_canonical(image).dataobj)
