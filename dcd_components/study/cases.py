"""Pictures of test cases in which the students differ."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import numpy as np

from dcd_components.data.datalists import read_datalist
from dcd_components.data.masks import mask_path
from dcd_components.errors import InputError
from dcd_components.files import whole_file
from dcd_components.handlers.case_pictures import Patients, load_picture, mean_dice
from dcd_components.handlers.pictures import case_figure
from dcd_components.study.plan import TEACHER
from dcd_components.study.results import Results
from dcd_components.study.runner import Places
from dcd_components.tables import read_csv

#: Cases that are shown, half of them gains and half losses.
CASES = 4


def draw_cases(
    results: Results, baseline: str, others: Sequence[str], labels: Mapping[str, int], places: Places, path: Path
) -> None:
    """Show the test cases of the first seed in which the others gain or lose most against the baseline.

    Args:
        results: of the study.
        baseline: the method that the others are compared with.
        others: methods beside it and the teacher, whose mean decides.
        labels: values of the masks by name.
        places: of the patients, and of the masks that the study's evaluations left.
        path: picture to write.

    Raises:
        InputError: when masks are missing, or are not those that were scored.
    """
    seed = results.records[TEACHER][0]["seed"]
    methods = [TEACHER, baseline, *others]
    folders = {method: _masks(results, method, seed, places.work) for method in methods}
    dice = {
        method: {row["case"]: mean_dice(row, results.labels) for row in results.rows[method] if row["seed"] == seed}
        for method in methods
    }
    gains = {case: fmean(dice[one][case] for one in others) - dice[baseline][case] for case in dice[baseline]}
    patients = Patients(places.dataset_dir, read_datalist(places.datalist))
    pictures = []
    for case in telling_cases(gains):
        masks = {method: mask_path(folder, case) for method, folder in folders.items()}
        if missing := [mask for mask in masks.values() if not mask.is_file()]:
            raise InputError(f"no mask at {missing[0]}: --work must be the folder that the study was run with")
        captions = {method: f"Dice {dice[method][case]:.3f}" for method in methods}
        title = f"{case}\n{gains[case]:+.3f}"
        picture = load_picture(patients, case, masks, captions, patients.datalist.sequences[-1:], title)
        differ = sum((picture.masks[one] != picture.masks[baseline]).astype(int) for one in others)
        pictures.append(replace(picture, level=int(np.sum(differ, axis=(0, 1)).argmax())))
    with whole_file(path) as partial:
        case_figure(pictures, labels).savefig(partial)


def telling_cases(gains: Mapping[str, float]) -> list[str]:
    """The cases with the largest gains, then those with the largest losses."""
    ranked = sorted((case for case in gains if not math.isnan(gains[case])), key=gains.__getitem__, reverse=True)
    return ranked if len(ranked) <= CASES else [*ranked[: CASES // 2], *ranked[-CASES // 2 :]]


def _masks(results: Results, method: str, seed: int, work: Path) -> Path:
    """Folder of a run's masks."""
    folder = work / f"{method}-{seed}" / "eval"
    if not (folder / "scores.csv").is_file():
        raise InputError(f"no masks in {folder}: --work must be the folder that the study was run with")
    record = next(one for one in results.records[method] if one["seed"] == seed)
    if read_csv(folder / "scores.csv", None)[0]["weights"] != record["weights"]:
        raise InputError(f"the masks in {folder} are of other weights than those that the study reports")
    return folder
