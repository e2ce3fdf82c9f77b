"""The smallest patients and networks on which the bundles run, shared by their tests."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from monai.bundle import ConfigWorkflow

ROOT = Path(__file__).parents[1]
BUNDLES = ROOT / "bundles"
BRATS, ISLES, HIPPOCAMPUS = (BUNDLES / f"{name}_dcd" for name in ("brats_gli", "isles22", "hippocampus"))
#: MONAI's schema of metadata.json, which it does not ship.
SCHEMA = Path(os.environ.get("DCD_SCHEMA", BUNDLES.parents[1] / "shared" / "schema" / "meta_schema_20240725.json"))
SEQUENCES = ("t1n", "t1c", "t2w", "t2f")
TINY: dict[str, Any] = {
    "spacing": [4.0, 4.0, 4.0],
    "patch_size": [16, 16, 16],
    "teacher_widths": [16, 16, 32],
    "batch_size": 2,
    "max_epochs": 1,
    "epoch_length": 2,
    "val_interval": 1,
    "num_workers": 0,
    "sliding_window::overlap": 0.0,  # a third of the windows, which take most of the time of validations
    "sliding_window::sw_batch_size": 9,  # and what they take is mostly the calls
}
#: Of them, what a network is run with.
OF_INFERENCE = ("spacing", "patch_size", "teacher_widths", "sliding_window::overlap", "sliding_window::sw_batch_size")
#: Configs of the trainings.
TRAININGS = ("train_teacher", "train_student", "distill")
Workflow = Callable[..., ConfigWorkflow]


def tiny_for(bundle: Path, names: Sequence[str] = tuple(TINY)) -> dict[str, Any]:
    """Those of the smallest patients and networks that a bundle has: nnU-Net's windows take no batch size."""
    nnunet = "NnunetInferer" in (bundle / "configs" / "inference.yaml").read_text(encoding="utf-8")
    return {name: TINY[name] for name in names if not (nnunet and name == "sliding_window::sw_batch_size")}


def config_files(*names: str, bundle: Path = BRATS) -> list[str]:
    return [str(bundle / "configs" / f"{name}.yaml") for name in names]


def by_fold(patients: Path, path: Path, folds: list[int]) -> str:
    """Write the data list with other folds, one a case."""
    listed = json.loads((patients / "datalist.json").read_text())
    listed["training"] = [
        {**case, "fold": fold} for case, fold in zip(listed["training"][: len(folds)], folds, strict=True)
    ]
    path.write_text(json.dumps(listed))
    return str(path)
