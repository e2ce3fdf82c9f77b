"""Rounds of the page on nnU-Net, from raw data to the masks of nnU-Net's own programs."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nnunet.programs import TRAINERS, page_lines, run
from numpy.typing import NDArray

#: The first is the page's; the other has regions for outputs and residual blocks.
KINDS: dict[str, tuple[str, str, dict[str, str]]] = {
    "labels": ("Dataset701_Labels", "nnUNetPlans", {}),
    "regions": ("Dataset702_Regions", "nnUNetResEncUNetMPlans", {"701": "702"}),
}
SHORT = "nnUNetTrainerShort"


@dataclass(frozen=True)
class Round:
    """Folders of a round of the page."""

    work: Path
    places: Mapping[str, Any]
    variables: Mapping[str, str]
    trained: str

    def masks(self, name: str) -> dict[str, NDArray[Any]]:
        """Masks by case."""
        found = sorted(Path(self.places[name]).glob("*.nii.gz"))
        return {path.name[:6]: np.asarray(nibabel.load(path).dataobj) for path in found}


def follow(kind: str, raw: Path, work: Path) -> Round:
    """Follow the page up to the masks of nnU-Net, in a small setting."""
    dataset, plans, words = KINDS[kind]
    folders = {name: work / name for name in ("preprocessed", "results")}
    variables = {"nnUNet_raw": str(raw), **{f"nnUNet_{name}": str(path) for name, path in folders.items()}}
    variables["nnUNet_extTrainer"] = str(TRAINERS)
    result, data = folders["results"] / dataset, raw / dataset
    places: dict[str, Any] = {
        **words,
        "RESULT": result / f"{SHORT}__{plans}__3d_fullres",
        "STUDENT": result / "nnUNetTrainer__StudentPlans__3d_fullres",
        "SPLITS": folders["preprocessed"] / dataset / "splits_final.json",
        "DIR": data,
        "IMAGES": data / "imagesTs",
        **{name: work / name for name in ("OUT", "MIRRORED", "TEACHER", "EXPECTED", "MASKS")},
    }
    plan, train = page_lines("nnUNetv2_plan_and_preprocess", "nnUNetv2_train")
    trained = f" -tr {SHORT} -p {plans}"
    run([plan + (" -pl nnUNetPlannerResEncM" if "ResEnc" in plans else "")], work, places, variables)
    make_small(folders["preprocessed"] / dataset / f"{plans}.json")
    found = page_lines("dcd from_nnunet", "nnUNetv2_predict -d 701 -c 3d_fullres -p")
    if kind != "labels":
        found = [line for line in found if not re.search("evaluate|check|OUT", line)]
    found = [line + trained if "EXPECTED" in line else line for line in found]
    run([train + trained, *found], work, places, variables)
    return Round(work, places, variables, trained)


def make_small(plans: Path) -> None:
    """Few features and blocks, and a patch smaller than the images."""
    content = json.loads(plans.read_text())
    configuration = content["configurations"]["3d_fullres"]
    configuration["patch_size"] = [24, 32, 24]
    settings = configuration["architecture"]["arch_kwargs"]
    settings["features_per_stage"] = [8 * 2**stage for stage in range(settings["n_stages"])]
    if "n_blocks_per_stage" in settings:
        settings["n_blocks_per_stage"] = [1, 2] + [1] * (settings["n_stages"] - 2)
    plans.write_text(json.dumps(content))


def unequal(one: Mapping[str, NDArray[Any]], other: Mapping[str, NDArray[Any]]) -> list[int]:
    """Voxels that differ, by case."""
    assert [*one] == [*other] == ["gli_03", "gli_13"]
    return [int((one[case] != other[case]).sum()) for case in one]


def check_masks(followed: Round, ours: str, theirs: str) -> None:
    """Masks of the bundle are those of nnU-Net's programs but for a voxel, and not empty."""
    expected = followed.masks(theirs)
    assert max(unequal(followed.masks(ours), expected)) <= 1
    assert all(mask.any() for mask in expected.values())
