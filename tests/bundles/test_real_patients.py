"""The same bundle on real patients, whose licences keep them out of the repository: skipped where they are absent.

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

from dcd_components import datalists
from dcd_components.reporting import read_csv

DATA = Path(os.environ.get("DCD_DATA", Path(__file__).parents[3] / "shared" / "data"))
SEQUENCES = ["Flair_subtrMeanDivStd", "T1c_subtrMeanDivStd"]
LABELS = {"necrosis": 1, "oedema": 2, "non_enhancing": 3, "enhancing": 4}


def needs(name: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not (DATA / name).is_dir(), reason=f"no real patients at {DATA / name}; set DCD_DATA")


@needs("brats2013")
def test_two_sequences_with_float_labels_by_overrides_alone(workflow: Workflow, tmp_path: Path) -> None:
    cases = datalists.make_datalist(DATA / "brats2013", SEQUENCES, "OTMultiClass", folds=3)
    datalists.write_datalist(cases, tmp_path / "list.json", "made by the tests")
    data: dict[str, Any] = {"dataset_dir": str(DATA / "brats2013"), "datalist": str(tmp_path / "list.json")}
    task = {**data, "sequences": SEQUENCES, "labels": LABELS}
    train = {**task, "train_folds": [0, 1], "val_folds": [1]}
    regions = {name: [value] for name, value in LABELS.items()}
    for names, overrides in (
        (["train", "teacher"], {**train, "ckpt_path": str(tmp_path / "teacher.pt")}),
        (["train", "distill"], train),
        (["evaluate"], {**task, "test_folds": [2], "regions": regions, "lesions": [1, 3, 4]}),
    ):
        flow = workflow("inference", *names, "quick", **overrides)
        flow.initialize()
        flow.run()
    (row,) = read_csv(tmp_path / "eval" / "scores.csv")
    assert row["case"] == next(case["case"] for case in cases if case["fold"] == 2)
    assert 0 <= float(row["dice_oedema"]) <= 1


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
