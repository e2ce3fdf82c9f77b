"""The demo's result: one table over its models, their training curves, and pictures of cases."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from dcd_components.data.datalists import read_datalist
from dcd_components.data.masks import mask_path
from dcd_components.handlers.case_pictures import Patients, load_picture, mean_dice
from dcd_components.handlers.pictures import CasePicture, case_figure, plot_curves
from dcd_components.metrics.case_scores import nsd_name
from dcd_components.metrics.summary import summarise
from dcd_components.networks.cost import cost
from dcd_components.tables import markdown_table, read_csv, write_csv

TEACHER, PLAIN, DISTILLED, EQUAL_COST = "teacher", "plain", "distilled", "plain, equal cost"

#: Heading and format of the table's columns.
COLUMNS = {
    "model": ("Model", ""),
    "parameters": ("Parameters, M", ".3f"),
    "mean_dice": ("Mean Dice", ".3f"),
    "mean_hd95_mm": ("HD95, mm", ".1f"),
    "mean_{nsd}": ("NSD at {tolerance:g} mm", ".3f"),
    "small_lesion_recall": ("Small-lesion recall", ".2f"),
}
#: What else table_all.md has, in three tables; the Dice of each label goes before the lesions.
COST_COLUMNS = {
    "gmac": ("GMAC per patch", ".2f"),
    "iterations": ("Iterations", ".0f"),
    "iteration_seconds": ("Cost of an iteration, s", ".3f"),
    "minutes": ("Training, min", ".1f"),
    "seconds": ("Inference, seconds per case", ".2f"),
}
LESION_COLUMNS = {
    "lesion_f1": ("Lesion F1", ".2f"),
    "fp_lesions": ("FP lesions per case", ".1f"),
    "lesion_count_difference": ("Difference in lesion count", ".1f"),
    "volume_difference_ml": ("Difference in volume, ml", ".1f"),
}
CAPTION = """\
{cases:.0f} cases of patients that no training saw. {comparison} Dice, HD95 and NSD are means over the labels: a label
absent from truth and prediction is left out, one absent from exactly one of them scores Dice 0, NSD 0 and the image's
diagonal.{lesions}\
"""
LESIONS = """ Lesions are connected components of {labels}; one is found if one of its voxels is, and small up to 0.5
ml.\
"""
SETTING = """\
This is not the paper's setting: quick.yaml trains for minutes, with {optimizer} and an average of the
weights over fewer iterations (decay {decay:g}); the distillation's loss is {normalised} and its weight {weight:g}
({shape}).\
"""
EQUAL = """\
The plain student starts at random, the distilled one as the most important channels of its teacher; both have the same
data in the same order and the same number of iterations. "Plain, equal cost" is the plain student trained for longer,
because distillation makes an iteration {ratio:.2f} times as dear (measured in turns on this machine, the start
included); the teacher's training is not counted.\
"""


def file_name(model: str) -> str:
    """Name of a model's files and folders."""
    return model.replace(",", "").replace(" ", "_")


def write(
    folder: Path,
    patients: Patients,
    evaluations: Mapping[str, ConfigParser],
    distillation: ConfigParser,
    iteration_seconds: Mapping[str, float],
) -> str:
    """Write ``table.md``, ``table_all.md``, ``table.csv``, ``curves.png``, ``cases.png`` and ``new_case.png``.

    Args:
        folder: of the demo, with ``masks/<model>/scores.csv``, ``new_case`` and ``logs/<model>.csv``.
        patients: that were trained on and scored.
        evaluations: configs that each model is evaluated with, in the table's order.
        distillation: configs of the distillation.
        iteration_seconds: what an iteration takes of the plain and of the distilled student's training, with its share
            of what comes before the first.

    Returns:
        The table of six columns in Markdown, with its caption.
    """
    task, labels = evaluations[PLAIN], evaluations[PLAIN]["labels"]
    scores = {model: read_csv(folder / "masks" / file_name(model) / "scores.csv") for model in evaluations}
    curves = {model: read_csv(folder / "logs" / f"{file_name(model)}.csv") for model in evaluations}
    seconds = {**iteration_seconds, EQUAL_COST: iteration_seconds[PLAIN]}
    rows = [
        {
            "model": model,
            **_cost(evaluations[model]),
            "iterations": curves[model][-1]["iteration"],
            "iteration_seconds": seconds.get(model, math.nan),
            "minutes": curves[model][-1]["seconds"] / 60,
            **summarise(scores[model], list(labels)),
        }
        for model in evaluations
    ]
    ratio = iteration_seconds[DISTILLED] / iteration_seconds[PLAIN]
    table = _write_tables(folder, rows, task, f"{_setting(distillation)} {EQUAL.format(ratio=ratio)}")
    plot_curves(curves, folder / "curves.png")
    shown = [model for model in evaluations if model != EQUAL_COST]
    names = _telling_cases(scores[PLAIN], scores[DISTILLED], list(labels))
    pictures = [_picture(folder, patients, name, shown, scores, list(labels)) for name in names]
    case_figure(pictures, labels).savefig(folder / "cases.png")
    case_figure([_new_case(folder / "new_case")], labels).savefig(folder / "new_case.png")
    return table


def _cost(parser: ConfigParser) -> dict[str, float]:
    """Cost of one patch."""
    size = [len(parser["sequences"]), *parser["patch_size"]]
    return cost(parser.get_parsed_content("network_def"), size)


def _write_tables(folder: Path, rows: Sequence[Mapping[str, Any]], task: ConfigParser, comparison: str) -> str:
    """Write the tables; the one of the most important columns, with its caption."""
    tolerance = task["nsd_tolerances_mm"][0]
    columns = {
        key.format(nsd=nsd_name(tolerance)): (heading.format(tolerance=tolerance), style)
        for key, (heading, style) in COLUMNS.items()
    }
    each_label = {f"dice_{name}": (f"Dice {name}", ".3f") for name in task["labels"]}
    lesions = " and ".join(name for name, value in task["labels"].items() if value in task["lesion_labels"])
    of_lesions = LESION_COLUMNS if lesions else {}
    if not lesions:
        del columns["small_lesion_recall"]
    caption = CAPTION.format(
        cases=rows[0]["cases"], comparison=comparison, lesions=LESIONS.format(labels=lesions) if lesions else ""
    )
    table = f"{markdown_table(rows, columns)}\n\n{textwrap.fill(caption, 100)}"
    (folder / "table.md").write_text(table + "\n")
    model = {"model": COLUMNS["model"]}
    more = [{**model, **several} for several in (each_label, of_lesions, COST_COLUMNS) if several]
    (folder / "table_all.md").write_text("\n\n".join([table, *(markdown_table(rows, one) for one in more)]) + "\n")
    keys = [*columns, *each_label, *of_lesions, *COST_COLUMNS, "cases"]
    write_csv([{key: row[key] for key in keys} for row in rows], folder / "table.csv")
    return table


def _setting(parser: ConfigParser) -> str:
    """Sentence on how the quick setting differs from the paper's, as the configs of the distillation say."""
    schedule = parser["distillation_weight"]
    return SETTING.format(
        optimizer=parser["optimizer"]["_target_"].rpartition(".")[2],
        decay=parser["ema_decay"],
        normalised="normalised" if parser["normalize"] else "not normalised",
        weight=schedule["maximum"],
        shape=schedule["_target_"].rpartition(".")[2].replace("_", " "),
    )


def _telling_cases(
    plain: Sequence[Mapping[str, Any]], distilled: Sequence[Mapping[str, Any]], labels: Sequence[str]
) -> list[str]:
    """Names of the cases at the 10th, 50th and 90th percentile of what distillation gained, so not the best three."""
    gains = {p["case"]: mean_dice(d, labels) - mean_dice(p, labels) for p, d in zip(plain, distilled, strict=True)}
    ranked = sorted((case for case in gains if not math.isnan(gains[case])), key=gains.__getitem__)
    return [ranked[round(share * (len(ranked) - 1))] for share in (0.1, 0.5, 0.9)]


def _picture(
    folder: Path,
    patients: Patients,
    name: str,
    models: Sequence[str],
    scores: Mapping[str, Sequence[Mapping[str, Any]]],
    labels: Sequence[str],
) -> CasePicture:
    masks = {model: mask_path(folder / "masks" / file_name(model), name) for model in models}
    rows = {model: next(row for row in scores[model] if row["case"] == name) for model in models}
    captions = {model: f"Dice {mean_dice(row, labels):.2f}" for model, row in rows.items()}
    return load_picture(patients, name, masks, captions)


def _new_case(folder: Path) -> CasePicture:
    patients = Patients(folder, read_datalist(folder / "datalist.json"))
    (case,) = patients.datalist.cases
    return load_picture(patients, case["case"], {"student": mask_path(folder, case["case"])}, {})
