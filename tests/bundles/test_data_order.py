"""Patches and their augmentation follow from seed, epoch and place alone."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import Workflow


@pytest.fixture
def bundle(every_bundle: Path) -> Path:
    return every_bundle


def batches(loader: Any, epoch: int, start: int = 0) -> list[dict[str, Any]]:
    loader.sampler.set_epoch(epoch)
    loader.sampler.start = start
    return [*loader]


def same(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> bool:
    """Whether batches are equal, but for the last bits, which hang on the number of threads that make them."""
    return len(one) == len(other) and all(
        a["case"] == b["case"]
        and torch.equal(a["label"], b["label"])
        and torch.allclose(a["image"], b["image"], rtol=0, atol=1e-5)
        for a, b in zip(one, other, strict=True)
    )


def test_patches_are_the_same_whoever_loads_them_and_whatever_was_drawn_before(workflow: Workflow) -> None:
    here = workflow("train_student", epoch_length=6).parser.get_parsed_content("train::dataloader")
    first, second = batches(here, 1), batches(here, 2)
    assert not same(first, second)
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    flow = workflow("train_student", epoch_length=6, num_workers=2)
    elsewhere = flow.parser.get_parsed_content("train::dataloader")
    assert same(batches(elsewhere, 2, start=4), second[2:])
    assert same(batches(elsewhere, 1), first)


def test_nothing_random_is_drawn_from_a_state_that_others_share(workflow: Workflow) -> None:
    """Of all transforms of the training, also those that are rarely on."""
    loader: Any = workflow("train_student", epoch_length=30).parser.get_parsed_content("train::dataloader")
    state: Any = np.random.get_state()
    states = random.getstate(), state[1].copy(), torch.get_rng_state()
    assert all(loader.dataset[draw] for draw in loader.sampler)
    assert random.getstate() == states[0]
    state = np.random.get_state()
    assert (state[1] == states[1]).all()
    assert torch.equal(torch.get_rng_state(), states[2])
