"""Pictures of segmented cases, from the files of a data set and of masks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import nibabel
import numpy as np
from nibabel.processing import resample_from_to
from numpy.typing import NDArray

from dcd_components.data.datalists import DataList
from dcd_components.handlers.pictures import CasePicture


@dataclass(frozen=True)
class Patients:
    """Where the cases are: a folder, and the list of what is in it."""

    folder: Path
    datalist: DataList


def load_picture(
    patients: Patients,
    name: str,
    masks: Mapping[str, Path],
    captions: Mapping[str, str],
    sequences: Sequence[str] | None = None,
    title: str = "",
) -> CasePicture:
    """Read a case, its label and its masks, as :func:`.case_figure` shows them.

    Args:
        patients: whose case it is.
        name: of the case.
        masks: files by the name that is shown, on the grid of the label, which is called ``truth``.
        captions: text under a mask, by its name.
        sequences: that are shown; all by default.
        title: that is shown; the name of the case by default.
    """
    images, truth = _images(patients, name, sequences or patients.datalist.sequences)
    read = {model: _voxels(nibabel.load(path)) for model, path in masks.items()}
    return CasePicture(title or name, images, {"truth": truth, **read}, captions)


def mean_dice(row: Mapping[str, Any], labels: Sequence[str]) -> float:
    """Mean Dice over the labels that a case or its mask has; NaN where neither has any."""
    known = [x for label in labels if (x := row[f"dice_{label}"]) is not None and not math.isnan(x)]
    return fmean(known) if known else math.nan


def _images(patients: Patients, name: str, sequences: Sequence[str]) -> tuple[dict[str, NDArray[Any]], NDArray[Any]]:
    """Sequences of a case, on the grid of its label, and the label."""
    folder, datalist = patients.folder, patients.datalist
    case = next(case for case in datalist.cases if case["case"] == name)
    label = nibabel.load(folder / case["label"])
    paths = dict(zip(datalist.sequences, case["image"], strict=True))
    images = {sequence: nibabel.load(folder / paths[sequence]) for sequence in sequences}
    for sequence in set(datalist.resampled) & set(images):
        images[sequence] = resample_from_to(images[sequence], label, order=1)
    return {sequence: _voxels(image) for sequence, image in images.items()}, _voxels(label)


def _voxels(image: Any) -> NDArray[Any]:
    """Voxels of an image in RAS orientation."""
    return np.asarray(nibabel.as_closest_canonical(image).dataobj)
