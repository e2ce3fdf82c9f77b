"""The page on nnU-Net, from raw data to the masks of nnU-Net's own programs."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from nnunet.programs import TRAINERS, page_lines, run
from numpy.typing import NDArray
from tiny import ROOT

from dcd_components.networks.nnunet import read_checkpoint

#: The first is the page's; the other has regions for outputs and residual blocks.
KINDS: dict[str, tuple[str, str, dict[str, str]]] = {
    "labels": ("Dataset701_Labels", "nnUNetPlans", {}),
    "regions": ("Dataset702_Regions", "nnUNetResEncUNetMPlans", {"701": "702"}),
}
SHORT = "nnUNetTrainerShort"
#: A round each for two workers.
ROUNDS = {kind: pytest.param(kind, marks=pytest.mark.xdist_group(kind)) for kind in KINDS}
only_labels = pytest.mark.parametrize("followed", [ROUNDS["labels"]], indirect=True)


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


@pytest.fixture(scope="module", params=ROUNDS.values())
def followed(request: pytest.FixtureRequest, raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Round:
    """The page up to the masks of nnU-Net, in a small setting."""
    dataset, plans, words = KINDS[request.param]
    work = tmp_path_factory.mktemp(request.param)
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
    if request.param != "labels":
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


def test_the_teacher_s_masks_are_nnunet_s(followed: Round) -> None:
    expected = followed.masks("EXPECTED")
    assert max(unequal(followed.masks("TEACHER"), expected)) <= 1
    assert all(mask.any() for mask in expected.values())


@only_labels
def test_so_are_they_without_mirroring(followed: Round) -> None:
    places = {**followed.places, **{name: followed.work / name for name in ("EXACT", "PLAIN")}}
    lines = [
        f"nnUNetv2_predict -d 701 -c 3d_fullres -f 0 -i IMAGES -o PLAIN --disable_tta {followed.trained}",
        "dcd run segment tumours --dataset_dir IMAGES --output_dir EXACT --overlay teacher",
    ]
    run(lines, followed.work, places, followed.variables)
    one = Round(followed.work, places, followed.variables, "")
    assert max(unequal(one.masks("EXACT"), one.masks("PLAIN"))) <= 1
    assert min(unequal(one.masks("EXACT"), one.masks("EXPECTED"))) > 1


def test_the_student_s_masks_are_nnunet_s(followed: Round) -> None:
    expected = followed.masks("MASKS")
    assert max(unequal(followed.masks("MIRRORED"), expected)) <= 1
    assert all(mask.any() for mask in expected.values())


@only_labels
def test_the_masks_of_several_folds_are_nnunet_s(followed: Round) -> None:
    second = Path(shutil.copytree(followed.places["RESULT"] / "fold_0", followed.places["RESULT"] / "fold_1"))
    checkpoint = read_checkpoint(second / "checkpoint_final.pth")
    torch.manual_seed(0)
    for weight in checkpoint["network_weights"].values():
        weight *= 1 + torch.randn_like(weight) / 10
    torch.save(checkpoint, second / "checkpoint_final.pth")
    places = {**followed.places, **{name: followed.work / name for name in ("BOTH", "FOLDS")}}
    lines = [
        "dcd from_nnunet RESULT both --fold 0 1",
        "dcd run segment both --dataset_dir IMAGES --output_dir BOTH --overlay teacher mirror",
        f"nnUNetv2_predict -d 701 -c 3d_fullres -f 0 1 -i IMAGES -o FOLDS {followed.trained}",
    ]
    run(lines, followed.work, places, followed.variables)
    one = Round(followed.work, places, followed.variables, "")
    assert max(unequal(one.masks("BOTH"), one.masks("FOLDS"))) <= 1
    assert min(unequal(one.masks("FOLDS"), one.masks("EXPECTED"))) > 1


#: In the folder of the trainer, before it in the alphabet: the same for some iterations.
LIGHT = '''
import nnunet_trainer
class nnUNetTrainerDCD(nnunet_trainer.nnUNetTrainerDCD):
    def initialize(self):
        self.num_epochs, self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = 2, 5, 1
        super().initialize()
    def perform_actual_validation(self, save_probabilities=False):
        """Takes long."""
'''


@only_labels
def test_nnunet_s_trainer_distils_a_student_that_nnunet_runs_by_itself(followed: Round, tmp_path: Path) -> None:
    (trainers := tmp_path / "trainers").mkdir()
    (trainers / "light.py").write_text(LIGHT)
    places = {**followed.places, "TRAINERS": trainers, "DISTILLED": tmp_path / "masks"}
    *train, predict = page_lines("cp examples", "nnUNetv2_predict -d 701 -c 3d_fullres -tr nnUNetTrainerDCD")
    run([*train, f"{train[-1]} --val"], ROOT, places, {**followed.variables, "PYTHONPATH": str(ROOT)})
    alone = {name: value for name, value in followed.variables.items() if name != "nnUNet_extTrainer"}
    run([predict], tmp_path, places, alone)
    assert [*Round(tmp_path, places, alone, "").masks("DISTILLED")] == ["gli_03", "gli_13"]

    teacher = Path(followed.places["RESULT"])
    student = teacher.with_name("nnUNetTrainerDCD__nnUNetPlans__3d_fullres")
    widths = [features(folder) for folder in (teacher, student)]
    assert widths == [[8, 16, 32, 64], [8, 8, 8, 16]]
    checkpoint = read_checkpoint(student / "fold_0" / "checkpoint_final.pth")
    losses = [checkpoint["logging"][name] for name in ("train_losses", "val_losses")]
    assert np.isfinite(losses).all()
    assert np.shape(losses) == (2, 2)
    projections = checkpoint["projections"].values()
    groups = [group["params"] for group in checkpoint["optimizer_state"]["param_groups"]]
    assert [tuple(one.shape[:2]) for one in projections] == [(8, 8), (16, 8), (32, 8), (64, 16)]
    assert len(groups[1]) == 4
    moments = [checkpoint["optimizer_state"]["state"][one]["momentum_buffer"] for one in groups[1]]
    assert all(moment.any() for moment in moments)


def features(folder: Path) -> list[int]:
    plans = json.loads((folder / "plans.json").read_text())
    found: list[int] = plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]["features_per_stage"]
    return found
