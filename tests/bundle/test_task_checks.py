from __future__ import annotations

from typing import Any

import pytest

from dcd_components.bundle.task_checks import check_task, check_training
from dcd_components.errors import InputError

TASK: dict[str, Any] = {
    "spacing": [1.0, 1, 2.5],
    "patch_size": [16, 32, 8],
    "strides": [1, 2, [2, 2, 1]],
    "widths": [8, 16, 32],
    "labels": {"core": 1, "oedema": 3},
}
TRAINING: dict[str, Any] = {"max_epochs": 1, "epoch_length": 150, "batch_size": 2, "learning_rate": 0.01}


def test_a_task_that_can_be_trained_passes() -> None:
    check_task(**TASK)
    check_training(**TRAINING)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("spacing", 2, "spacing must be three positive lengths in mm, such as [1, 1, 1], got 2"),
        ("spacing", [1, 1], "spacing must be three positive lengths"),
        ("spacing", [1, 0, 1], "spacing must be three positive lengths"),
        ("spacing", [1, float("nan"), 1], "spacing must be three positive lengths"),
        ("spacing", "[1, 1, 1]", "spacing must be three positive lengths"),
        ("patch_size", [16, 16.0, 16], "patch_size must be three positive numbers of voxels"),
        ("patch_size", [16, 30, 8], "patch_size must be a multiple of 4, and at least 8, along axis 1, as the strides"),
        ("patch_size", [4, 32, 8], "patch_size must be a multiple of 4, and at least 8, along axis 0"),
        ("patch_size", [16, 32, 3], "patch_size must be a multiple of 2, and at least 4, along axis 2"),
        ("multiple_of", 16, "patch_size must be a multiple of 16, as the overlay says, got [16, 32, 8]"),
        ("widths", [8, 0, 32], "widths must be a positive whole number for each of 3 stages, got [8, 0, 32]"),
        ("widths", [8, 16], "widths must be a positive whole number for each of 3 stages"),
        ("strides", [1, 2], "strides must be of at least three stages, got [1, 2]"),
        ("labels", {}, "labels must give each name a whole number of its own, 1 to 255, got {}"),
        ("labels", {"core": 0}, "labels must give"),
        ("labels", {"core": 1, "oedema": 1}, "labels must give"),
        ("labels", ["core"], "labels must give"),
        ("labels", {"core": 256}, "labels must give each name a whole number of its own, 1 to 255"),
    ],
)
def test_what_cannot_be_trained_is_refused_by_its_key(key: str, value: object, message: str) -> None:
    with pytest.raises(InputError) as caught:
        check_task(**{**TASK, key: value})
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("max_epochs", 0, "max_epochs must be a positive whole number, got 0"),
        ("epoch_length", 1.5, "epoch_length must be a positive whole number, got 1.5"),
        ("batch_size", True, "batch_size must be a positive whole number, got True"),
        ("learning_rate", "1e-4", "learning_rate must be a positive number, got '1e-4'; YAML reads 1e-4 as a text"),
        ("learning_rate", float("nan"), "learning_rate must be a positive number, got nan"),
    ],
)
def test_numbers_of_a_training_are_positive(key: str, value: object, message: str) -> None:
    with pytest.raises(InputError) as caught:
        check_training(**{**TRAINING, key: value})
    assert message in str(caught.value)
