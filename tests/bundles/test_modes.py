"""Every list of configs initialises, has all properties and runs on tiny phantoms."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from tiny import Workflow

from dcd_components.bundle.configs import bundle_settings
from dcd_components.data.case_files import make_layout
from dcd_components.data.datalists import make_datalist, read_datalist, write_datalist
from dcd_components.tables import read_csv


@pytest.fixture
def bundle(every_bundle: Path) -> Path:
    return every_bundle


def run(workflow: Any) -> Any:
    workflow.initialize()
    assert workflow.check_properties() == []
    workflow.run()
    workflow.finalize()
    return workflow


@pytest.fixture
def trained(workflow: Workflow, tmp_path: Path) -> Path:
    """Weights of a student trained for one tiny epoch."""
    run(workflow("train_student", "quick"))
    return tmp_path / "model.pt"


def test_teacher_then_distilled_student(workflow: Workflow, tmp_path: Path) -> None:
    run(workflow("train_teacher", "quick", ckpt_path=str(tmp_path / "teacher.pt")))
    run(workflow("distill", "quick"))
    (row,) = read_csv(tmp_path / "model_training.csv")
    assert 0 < float(row["distillation_loss"]) < 2
    assert {"loss", "distillation_weight", "val_mean_dice", "learning_rate"} <= set(row)
    run(workflow("inference", "evaluate", "teacher", "quick", ckpt_path=str(tmp_path / "teacher.pt")))
    assert len(read_csv(tmp_path / "eval" / "scores.csv")) == 2


def test_other_programs_may_say_the_device_by_its_name_and_the_epochs_to_the_trainer(
    workflow: Workflow, tmp_path: Path
) -> None:
    said: dict[str, Any] = {"device": "cpu", "train::trainer::max_epochs": 2}
    run(workflow("train_student", "quick", max_epochs=1000, val_interval=10, **said))
    rows = read_csv(tmp_path / "model_training.csv")
    assert [bool(row["val_mean_dice"]) for row in rows] == [False, True]
    assert float(rows[-1]["learning_rate"]) < float(rows[0]["learning_rate"]) / 2
    run(workflow("inference", "quick", device="cpu"))


def test_one_sequence_is_enough(workflow: Workflow, bundle: Path) -> None:
    name = bundle_settings(bundle)["reference"]
    one = {"sequences": {name: bundle_settings(bundle)["sequences"][name]}, "resampled": []}
    run(workflow("train_student", "quick", **one))
    run(workflow("inference", "quick", **one))


def test_plain_and_distilled_student_start_from_the_same_weights_and_see_the_same_data(
    workflow: Workflow, tmp_path: Path
) -> None:
    run(workflow("train_teacher", "quick", ckpt_path=str(tmp_path / "teacher.pt")))
    seen = []
    for name in ("train_student", "distill"):
        flow = workflow(name, "quick", seed=3)
        flow.initialize()
        weights = [value.clone() for value in flow.parser.get_parsed_content("network").state_dict().values()]
        batches = [batch["image"].as_tensor() for batch in flow.parser.get_parsed_content("train::dataloader")]
        seen.append([*weights, *batches])
    assert len(seen[0]) == len(seen[1]) > 10
    assert all(torch.equal(plain, distilled) for plain, distilled in zip(*seen, strict=True))


def test_the_projections_are_trained(workflow: Workflow, tmp_path: Path) -> None:
    run(workflow("train_teacher", "quick", ckpt_path=str(tmp_path / "teacher.pt")))
    flow = workflow("distill", "quick")
    flow.initialize()
    loss = flow.parser.get_parsed_content("distiller")
    before = [parameter.detach().clone() for parameter in loss.parameters()]
    flow.run()
    assert len(before) == 3
    assert all(not torch.equal(old, new) for old, new in zip(before, loss.parameters(), strict=True))


def test_a_checkpoint_holds_no_heads_and_a_previous_one_is_kept(trained: Path, workflow: Workflow) -> None:
    weights = torch.load(trained, weights_only=True)
    assert all(isinstance(value, torch.Tensor) and "head" not in key for key, value in weights.items())
    run(workflow("train_student", "quick", seed=1))
    (previous,) = trained.parent.glob("model-*.pt")
    kept = torch.load(previous, weights_only=True)
    assert all(torch.equal(kept[key], weights[key]) for key in weights)


@pytest.mark.usefixtures("trained")
@pytest.mark.parametrize(("names", "cases"), [(["quick"], 10), (["quick", "mirror"], 2)], ids=["plain", "mirrored"])
def test_masks_lie_in_the_geometry_of_the_reference(
    names: list[str], cases: int, workflow: Workflow, bundle: Path, data: Path, tmp_path: Path
) -> None:
    settings = {} if cases == 10 else {"datalist": unlabelled(cases, bundle, data, tmp_path)}
    flow = run(workflow("inference", *names, **settings))
    found, layout, labels = (flow.parser.get_parsed_content(key) for key in ("data", "layout", "labels"))
    assert len(found) == len(list((tmp_path / "eval").glob("*_seg.nii.gz"))) == cases
    for case in found:
        mask = nib.load(tmp_path / "eval" / f"{case['case']}_seg.nii.gz")
        image = nib.load(case["image"][list(layout.sequences).index(layout.reference)])
        assert mask.shape == image.shape
        assert np.allclose(mask.affine, image.affine, atol=1e-5)
        assert mask.get_data_dtype() == np.uint8
        assert set(np.unique(mask.dataobj)) <= {0, *labels.values()}


def unlabelled(number: int, bundle: Path, data: Path, folder: Path) -> str:
    """A list of the first cases without their labels."""
    listed, _ = make_datalist(data, make_layout({**bundle_settings(bundle), "label_file": None}))
    write_datalist(replace(listed, cases=listed.cases[:number]), folder / "list.json")
    return str(folder / "list.json")


@pytest.mark.usefixtures("trained")
def test_a_list_of_unlabelled_cases_is_segmented(workflow: Workflow, data: Path, bundle: Path, tmp_path: Path) -> None:
    path = unlabelled(3, bundle, data, tmp_path)
    run(workflow("inference", "quick", datalist=path))
    names = {path.name for path in (tmp_path / "eval").glob("*_seg.nii.gz")}
    assert len(names) == 3
    assert names == {f"{case['case']}_seg.nii.gz" for case in read_datalist(Path(path)).cases}


@pytest.mark.usefixtures("trained")
def test_evaluation_scores_every_case_of_its_fold(workflow: Workflow, tmp_path: Path) -> None:
    flow = run(workflow("inference", "evaluate", "quick", test_folds=[0, 3]))
    rows = read_csv(tmp_path / "eval" / "scores.csv")
    assert len(rows) == 4
    regions = flow.parser["regions"]
    scores = ("dice", "hd95_mm", "nsd_1mm", "boundary_dice", "lesionwise_dice")
    assert {f"{score}_{region}" for region in regions for score in scores} < set(rows[0])
    assert {"case", "lesion_f1", "volume_difference_ml", "lesion_count_difference", "seconds"} < set(rows[0])
    assert "mean_dice" in flow.evaluator.state.metrics
