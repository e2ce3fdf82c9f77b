"""The whole story in minutes: simulate patients, train a teacher, distil it, and show what that gained and cost."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from monai.bundle import ConfigParser

from dcd_components import networks, reporting
from dcd_components.records import clock

BUNDLE = Path(__file__).parents[1] / "bundles" / "brats_gli_dcd"
CASES, FOLDS = 120, 12  # ten cases a fold
TEST_FOLDS, VAL_FOLDS, TRAIN_FOLDS = [0, 1, 2, 3, 4], [5], [6, 7, 8, 9, 10, 11]
TEACHER_EPOCHS, STUDENT_EPOCHS = 36, 24

#: Configs beside inference.yaml, and the typical minutes of each step on two cores, from which the time left follows.
MODELS = {
    "teacher": ("train", "teacher"),
    "plain": ("train",),
    "distilled": ("train", "distill"),
    "plain, same time": ("train",),
}
MINUTES = {"simulate": 2.0, "train teacher": 6.5, "train plain": 2.2, "train distilled": 3.5, "train plain, same time": 3.5}
COLUMNS = {
    "model": ("Model", "s"),
    "parameters": ("M parameters", ".3f"),
    "gmac": ("GMAC", ".2f"),
    "iterations": ("Iterations", ".0f"),
    "minutes": ("Training, min", ".1f"),
    "mean_dice": ("Dice", ".3f"),
    "dice_NETC": ("NETC", ".3f"),
    "dice_SNFH": ("SNFH", ".3f"),
    "dice_ET": ("ET", ".3f"),
    "dice_RC": ("RC", ".3f"),
    "mean_hd95_mm": ("HD95, mm", ".1f"),
    "mean_nsd": ("NSD at 1 mm", ".3f"),
    "small_lesion_recall": ("Small lesions found", ".2f"),
    "false_lesions": ("False lesions a case", ".1f"),
    "seconds": ("Seconds a case", ".2f"),
}


def run(out: str = "demo", seed: int = 0) -> None:
    """Simulate, train, distil, evaluate and report; everything is trained live, in about a quarter of an hour.

    Args:
        out: new folder for the table, the pictures, the scores, the weights and the logs.
        seed: of the simulated patients and of the networks' first weights.
    """
    folder = Path(out)
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty: name a new folder with --out (make demo OUT=...)")
    if not BUNDLE.is_dir():
        raise ValueError(f"the demo needs the bundle at {BUNDLE}: run it in a clone of the repository")
    Demo(folder, seed).run()


class Demo:
    """One run of the demo in one folder."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder.absolute()
        self.seed = seed
        self.start = time.monotonic()
        self.done = 0.0

    def run(self) -> None:
        """Do all steps."""
        (self.folder / "logs").mkdir(parents=True, exist_ok=True)
        self._simulate("patients", CASES, self.seed)
        self._simulate("new_case", 1, 10_000 + self.seed)
        epochs = {"teacher": TEACHER_EPOCHS, "plain": STUDENT_EPOCHS, "distilled": STUDENT_EPOCHS}
        for model in epochs:
            self._train(model, epochs[model])
        ratio = self._log("distilled")[-1]["seconds"] / self._log("plain")[-1]["seconds"]
        self._train("plain, same time", round(STUDENT_EPOCHS * ratio))
        for model in MODELS:
            self._evaluate(model)
        self._bundle("segment the new case", [], dataset_dir=self.folder / "new_case", output_dir=self.folder / "new_case",
                     ckpt_path=self._weights("distilled"))
        self._report()

    def _simulate(self, name: str, cases: int, seed: int) -> None:
        folds = min(FOLDS, cases)
        options = [f"--out={self.folder / name}", f"--cases={cases}", f"--seed={seed}", f"--folds={folds}"]
        self._step("simulate", ["dcd_components", "phantom", "brats_gli", *options])

    def _train(self, model: str, epochs: int) -> None:
        overrides: dict[str, Any] = {"epochs": epochs, "train_folds": TRAIN_FOLDS, "val_folds": VAL_FOLDS}
        if model == "distilled":
            overrides["teacher_path"] = self._weights("teacher")
        self._bundle(f"train {model}", MODELS[model], ckpt_path=self._weights(model), seed=self.seed, **overrides)

    def _evaluate(self, model: str) -> None:
        configs = ["evaluate", "teacher"] if model == "teacher" else ["evaluate"]
        self._bundle(f"evaluate {model}", configs, ckpt_path=self._weights(model), test_folds=TEST_FOLDS,
                     output_dir=self._masks(model))

    def _bundle(self, step: str, configs: Sequence[str], **overrides: Any) -> None:
        ...
