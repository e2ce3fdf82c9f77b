"""The page on nnU-Net as it stands, with labels, and what follows of it on several folds and on nnU-Net's trainer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunet.programs import page_lines, run
from nnunet.rounds import Round, check_masks, follow, unequal
from tiny import ROOT

from dcd_components.networks.nnunet import read_checkpoint


@pytest.fixture(scope="module")
def followed(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Round:
    return follow("labels", raw, tmp_path_factory.mktemp("labels"))


def test_the_teacher_s_masks_are_nnunet_s(followed: Round) -> None:
    check_masks(followed, "TEACHER", "EXPECTED")


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
    check_masks(followed, "MIRRORED", "MASKS")


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


def test_nnunet_s_trainer_distils_a_student_that_nnunet_runs_by_itself(followed: Round, tmp_path: Path) -> None:
    (light := tmp_path / "light.py").write_text(LIGHT)
    own = {"TRAINERS": tmp_path / "trainers", "LIGHT": light, "DISTILLED": tmp_path / "masks"}
    places = {**followed.places, **own}
    make, *train, predict = page_lines("mkdir", "nnUNetv2_predict -d 701 -c 3d_fullres -tr nnUNetTrainerDCD")
    lines = [make, "cp LIGHT TRAINERS", *train, f"{train[-1]} --val"]
    run(lines, ROOT, places, {**followed.variables, "PYTHONPATH": str(ROOT)})
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
