"""Bundles on real patients, whose licences keep them out of the repository: skipped where they are absent.

``DCD_DATA`` names the folder; it holds ``brats2013`` (three BRATS 2013 patients as the DeepMedic authors prepared them)
and ``brats_gli`` (one unlabelled patient in BraTS 2024 naming).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from tiny import Workflow

from dcd_components import commands
from dcd_components.data.check import runner
from dcd_components.tables import read_csv

DATA = Path(os.environ.get("DCD_DATA", Path(__file__).parents[3] / "shared" / "data"))
LABELS = {"necrosis": 1, "oedema": 2, "non_enhancing": 3, "enhancing": 4}


def needs(name: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not (DATA / name).is_dir(), reason=f"no real patients at {DATA / name}; set DCD_DATA")


@needs("brats2013")
def test_a_new_bundle_for_two_sequences_and_float_labels(workflow: Workflow, tmp_path: Path) -> None:
    """From the folder as it was downloaded to the masks of a distilled student."""
    patients, listed = DATA / "brats2013", tmp_path / "list.json"
    files = {name: f"{{case}}/{name}_subtrMeanDivStd.nii.gz" for name in ("Flair", "T1c")}
    told: dict[str, Any] = {
        "sequences": files,
        "label_file": "{case}/OTMultiClass.nii.gz",
        "dataset_dir": str(patients),
    }
    commands.new_bundle("gliomas", [*files], LABELS, **told, out=str(tmp_path))
    bundle = tmp_path / "gliomas"
    commands.datalist(str(patients), bundle=str(bundle), folds=3, out=str(listed))
    assert runner.check_datalist(listed, patients, tmp_path / "check.csv", workers=1).faults == 0

    def run(*names: str, **overrides: Any) -> None:
        flow = workflow(*names, "quick", bundle=bundle, dataset_dir=str(patients), **overrides)
        flow.initialize()
        flow.run()

    # After some iterations masks are no longer noise, whose surfaces take minutes to score.
    folds = {"datalist": str(listed), "train_folds": [0, 1], "val_folds": [1], "epoch_length": 20, "ema_decay": 0.5}
    run("train_teacher", **folds, ckpt_path=str(tmp_path / "teacher.pt"))
    run("distill", **folds)
    run("inference", "evaluate", datalist=str(listed), test_folds=[2])
    (row,) = read_csv(tmp_path / "eval" / "scores.csv")
    assert all(0 <= float(row[f"dice_{label}"]) <= 1 for label in LABELS)
    run("inference", output_dir=str(tmp_path / "masks"))
    cases = sorted(path.name for path in patients.iterdir())
    assert sorted(path.name for path in (tmp_path / "masks").iterdir()) == [f"{case}_seg.nii.gz" for case in cases]
    mask = nib.load(tmp_path / "masks" / f"{cases[0]}_seg.nii.gz")
    image = nib.load(patients / files["Flair"].format(case=cases[0]))
    assert mask.shape == image.shape
    assert np.allclose(mask.affine, image.affine)


@needs("brats_gli")
def test_a_raw_patient_is_segmented_in_its_own_geometry(workflow: Workflow, tmp_path: Path) -> None:
    flow = workflow("inference", "quick", dataset_dir=str(DATA / "brats_gli"))
    torch.save(flow.parser.get_parsed_content("network_def").state_dict(), tmp_path / "model.pt")
    flow.initialize()
    flow.run()
    (path,) = (tmp_path / "eval").glob("*_seg.nii.gz")
    case = path.name.removesuffix("_seg.nii.gz")
    image = nib.load(DATA / "brats_gli" / case / f"{case}-t1n.nii.gz")
    assert nib.load(path).shape == image.shape == (240, 240, 155)
    assert np.allclose(nib.load(path).affine, image.affine)
