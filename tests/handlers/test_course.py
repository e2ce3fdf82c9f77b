"""What is compared when a training goes on."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from dcd_components.handlers.course import case_names, described, difference, plain


def made(momentum: float = 0.9, layers: int = 1, total_iters: int = 5) -> dict[str, Any]:
    network = nn.Sequential(*(nn.Linear(1, 1) for _ in range(layers)))
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=momentum)
    schedule = torch.optim.lr_scheduler.PolynomialLR(optimizer, total_iters)
    return plain(described({"network": network, "optimizer": optimizer, "schedule": schedule}))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, None),
        ({"momentum": 0.5}, ("optimizer::param_groups::0::momentum", "0.9", "0.5")),
        ({"layers": 2}, ("network::tensors", "2", "4")),
        ({"total_iters": 6}, ("schedule::total_iters", "5", "6")),
    ],
)
def test_networks_optimizers_and_schedules_are_told_apart(options: Any, expected: Any) -> None:
    assert difference(made(), made(**options)) == expected


@pytest.mark.parametrize(
    ("saved", "given", "expected"),
    [
        ({"a": 1, "b": {"c": 2}}, {"a": 1}, ("b::c", "2", "None")),
        ({"a": 1}, {"a": 1, "b": {"c": 2}}, ("b::c", "None", "2")),
        ({"a": [1, 2]}, {"a": [2, 1]}, ("a", "[1, 2]", "[2, 1]")),
        ({"a": [*range(100)]}, {"a": [*range(98), 7, 8]}, ("a", "98, 99", "the same in another order, or fewer")),
    ],
)
def test_a_setting_that_differs_is_named(saved: Any, given: Any, expected: Any) -> None:
    assert difference(saved, given) == expected


def test_cases_are_known_by_their_names() -> None:
    data = SimpleNamespace(data=[{"case": "a"}, {"case": "b"}])
    assert case_names(SimpleNamespace(dataset=data)) == ["a", "b"]
    assert case_names(SimpleNamespace(dataset=[0, 1])) == case_names(None) == []
