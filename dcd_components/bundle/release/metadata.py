"""A release's metadata.json: the bundle's own, with the versions it was packed with and its measured scores."""

from __future__ import annotations

import importlib.metadata
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dcd_components.errors import InputError
from dcd_components.files import read_json
from dcd_components.metrics.summary import region_score_names, summarise
from dcd_components.tables import read_csv

#: Distributions, besides MONAI, PyTorch and NumPy, that `python -m monai.bundle run` imports for inference, and those
#: that training takes besides. The latter are not called optional_packages_version: MONAI takes that for the old name
#: of the former, and puts them in their place.
INFERENCE = ("fire", "nibabel", "pytorch-ignite", "PyYAML")
TRAINING = ("numba", "PyWavelets", "scikit-learn", "scipy", "tqdm")


def fill_metadata(
    path: Path, regions: Mapping[str, Sequence[int]], scores: Path | None = None, weights: str = ""
) -> dict[str, Any]:
    """Read a bundle's metadata and bring its versions and ``eval_metrics`` up to date.

    Args:
        path: metadata.json.
        regions: labels that make up each region that is scored.
        scores: CSV file that ``configs/evaluate.yaml`` wrote for the weights.
        weights: their digest, see :func:`.weights_digest`.

    Raises:
        InputError: for a version that its changelog does not tell of, and for scores of another task or other weights.
    """
    metadata = read_json(path)
    version = metadata.get("version")
    if version not in metadata.get("changelog", {}):
        raise InputError(f"{path} must say in its changelog what is new in its version {version}")
    more = metadata.get("required_packages_version", {})  # of a bundle that needs others too
    for name in ("eval_metrics", "weights_origin"):
        metadata.pop(name, None)  # of other weights
    metadata |= {
        "monai_version": installed("monai"),
        "pytorch_version": installed("torch"),
        "numpy_version": installed("numpy"),
        "required_packages_version": {name: installed(name) for name in dict.fromkeys([*INFERENCE, *more])},
        "training_packages_version": {name: installed(name) for name in TRAINING if is_installed(name)},
    }
    return metadata | ({"eval_metrics": mean_scores(scores, regions, weights)} if scores else {})


def is_installed(distribution: str) -> bool:
    """Whether a distribution is installed; numba need not be."""
    return any(importlib.metadata.distributions(name=distribution))


def installed(distribution: str) -> str:
    """Version of an installed distribution, less its build, as in ``2.13.0+cpu``."""
    return importlib.metadata.version(distribution).partition("+")[0]


def mean_scores(path: Path, regions: Mapping[str, Sequence[int]], weights: str) -> dict[str, float]:
    """Average a CSV file of an evaluation: number of cases, and the means over labels and of each region.

    Raises:
        InputError: when it lacks a region's scores, holds what is none, or scores of other weights.
    """
    rows = read_csv(path, ("case", "weights", "method", "patient"))  # the latter two in the rows of a study
    scores = region_score_names(rows[0])
    columns = [f"{score}_{name}" for name in regions for score in scores]
    if missing := [name for name in ("case", "weights", *columns) if name not in rows[0]]:
        raise InputError(f"{path} must be the scores.csv of this bundle's evaluation, but lacks {', '.join(missing)}")
    if others := {row["weights"] for row in rows} - {weights}:
        raise InputError(f"{path} has the scores of other weights, {', '.join(sorted(others))}, not of {weights}")
    for column in columns:
        top = math.inf if "hd95" in column else 1
        if wrong := [row["case"] for row in rows if not _is_score(row[column], top)]:
            raise InputError(f"{path} must hold scores, but {column} of case {wrong[0]} is none")
    try:
        means = summarise(rows, [name for name, labels in regions.items() if len(labels) == 1])
    except ValueError as error:
        raise InputError(f"{path} must be the scores.csv of this bundle's evaluation: {error}") from None
    kept = {name: means[name] for name in (*(f"mean_{score}" for score in scores), *columns)}
    return {"cases": len(rows), **{name: round(value, 4) for name, value in kept.items() if not math.isnan(value)}}


def _is_score(value: str | float, top: float) -> bool:
    return isinstance(value, float) and (math.isnan(value) or 0 <= value <= top)
