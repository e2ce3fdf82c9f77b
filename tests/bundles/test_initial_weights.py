"""A training starts from weights that are given: all of them, or all but what is drawn anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import Workflow

from dcd_components.errors import InputError, root_cause
from dcd_components.networks.weights import save_weights

#: A step so small that weights stay what they were.
STILL: dict[str, Any] = {"learning_rate": 1e-30, "epoch_length": 1, "optimizer::weight_decay": 0.0}


@pytest.fixture
def released(workflow: Workflow, tmp_path: Path) -> Path:
    """Weights of a student, as inference uses them."""
    torch.manual_seed(7)
    weights = workflow("inference").parser.get_parsed_content("network_def").state_dict()
    save_weights(weights, tmp_path / "released.pt", {"spacing": [9.0, 9.0, 9.0]})
    return tmp_path / "released.pt"


def trained(workflow: Workflow, tmp_path: Path, *names: str, **settings: Any) -> dict[str, torch.Tensor]:
    flow = workflow(*names, **STILL, **settings)
    flow.initialize()
    flow.run()
    weights: dict[str, torch.Tensor] = torch.load(tmp_path / "model.pt", weights_only=True)
    return weights


def test_a_training_starts_from_released_weights(released: Path, workflow: Workflow, tmp_path: Path) -> None:
    given = torch.load(released, weights_only=True)
    found = trained(workflow, tmp_path, "train_student", initial_weights=str(released))
    assert found.keys() == given.keys()
    torch.testing.assert_close(found, dict(given))


def test_what_is_left_out_is_drawn_anew(released: Path, workflow: Workflow, tmp_path: Path) -> None:
    """Five labels instead of four, as for other data."""
    given = torch.load(released, weights_only=True)
    labels = {"NETC": 1, "SNFH": 2, "ET": 3, "RC": 4, "other": 5}
    settings: dict[str, Any] = {"labels": labels, "initial_weights": str(released)}
    with pytest.raises(Exception, match=r".") as caught:
        trained(workflow, tmp_path, "train_student", **settings)
    assert "output_block" in str(root_cause(caught.value))
    assert isinstance(root_cause(caught.value), InputError)
    found = trained(workflow, tmp_path, "train_student", **settings, left_out=["output_block"])
    head = {key for key in found if "output_block" in key}
    assert len(head) == 2
    assert all(torch.allclose(found[key], given[key]) == (key not in head) for key in found.keys() - head)
    assert {len(found[key]) for key in head} == {6}


def test_a_training_that_goes_on_needs_no_initial_weights(released: Path, workflow: Workflow, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"initial_weights": str(released), "resume": True}
    before = trained(workflow, tmp_path, "train_student", **settings)
    released.unlink()
    after = trained(workflow, tmp_path, "train_student", **settings)
    torch.testing.assert_close(after, before, rtol=0, atol=0)
