from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ignite.engine import Engine
from monai.transforms import Compose, Lambdad
from torch.utils.data import DataLoader

from dcd_components.data.cache import DiskCache
from dcd_components.errors import InputError
from dcd_components.handlers.prepared_cases import PreparedCases


def refuse_negative(label: torch.Tensor) -> torch.Tensor:
    if label.min() < 0:
        raise InputError(f"label {int(label.min())}: negative")
    return label


@pytest.fixture
def trained(tmp_path: Path) -> Callable[[list[int], list[int]], list[int]]:
    """Run an engine with cases of one label each to train on and to validate; the numbers of its epochs."""

    def run(training: list[int], validation: list[int]) -> list[int]:
        caches = [
            DiskCache([{"label": torch.tensor([value])} for value in values], transform(), tmp_path / "cache")
            for values in (training, validation)
        ]
        epochs: list[int] = []
        engine = Engine(lambda engine, batch: epochs.append(engine.state.epoch))
        PreparedCases(SimpleNamespace(data_loader=SimpleNamespace(dataset=caches[1]))).attach(engine)
        engine.run(DataLoader(caches[0]), max_epochs=2, epoch_length=1)
        return epochs

    def transform() -> Any:
        return Compose([Lambdad("label", refuse_negative)])

    return run


def test_all_cases_are_there_before_the_first_epoch(
    trained: Callable[[list[int], list[int]], list[int]], tmp_path: Path
) -> None:
    assert trained([1, 2], [0, 3]) == [1, 2]
    assert len(list((tmp_path / "cache").iterdir())) == 4


def test_what_is_wrong_with_any_case_is_told_at_once(trained: Callable[[list[int], list[int]], list[int]]) -> None:
    with pytest.raises(InputError, match=r"^label -1: negative; label -3: negative$"):
        trained([-1, 2, -1], [0, -3])
    with pytest.raises(InputError, match=r"^label -1: negative; .*; label -8: negative; and 4 more$"):
        trained([-value for value in range(1, 13)], [])


def test_a_validation_without_a_labelled_voxel_is_refused(trained: Callable[[list[int], list[int]], list[int]]) -> None:
    with pytest.raises(InputError, match=r"^none of the 2 cases of the validation has a labelled voxel, .* val_folds$"):
        trained([1, 2], [0, 0])
