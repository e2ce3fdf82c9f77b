import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dcd_components.errors import InputError
from dcd_components.networks.cost import cost
from dcd_components.networks.weights import load_frozen, read_weights


def small(channels: int = 2) -> nn.Module:
    return nn.Sequential(nn.Conv3d(1, channels, 1), nn.BatchNorm3d(channels), nn.Conv3d(channels, 1, 1))


def test_loaded_network_is_frozen_and_has_the_weights(tmp_path: Path) -> None:
    trained, network = small(), small()
    trained[1](torch.randn(2, 2, 3, 3, 3))  # type: ignore[index]  # moves the running statistics
    torch.save(trained.state_dict(), tmp_path / "model.pt")
    assert load_frozen(network, tmp_path / "model.pt") is network
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())
    x = torch.randn(1, 1, 4, 4, 4)
    assert torch.equal(network(x), trained.eval()(x))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no weights at .*model\.pt: train the teacher first"):
        load_frozen(small(), tmp_path / "model.pt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(
            {"3.weight": torch.zeros(1)}, r"model\.pt does not fit Sequential: has unknown 3.weight", id="foreign"
        ),
        pytest.param({"0.bias": torch.zeros(3)}, r"0.bias is \(3,\) instead of \(2,\)", id="shape"),
        pytest.param({"0.bias": None}, "does not fit Sequential: lacks 0.bias$", id="missing"),
    ],
)
def test_weights_of_another_network_are_refused_and_leave_it_as_it_was(
    tmp_path: Path, change: dict[str, torch.Tensor | None], message: str
) -> None:
    weights = {key: value for key, value in {**small().state_dict(), **change}.items() if value is not None}
    torch.save(weights, tmp_path / "model.pt")
    network = small()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        load_frozen(network, tmp_path / "model.pt")
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert network.training


def test_only_the_first_four_of_many_faults_are_listed(tmp_path: Path) -> None:
    torch.save({}, tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"lacks 0.weight; lacks 0.bias; lacks 1.weight; lacks 1.bias and 5 more$"):
        read_weights(small(), tmp_path / "model.pt")


@pytest.mark.parametrize(
    "content",
    [
        pytest.param({"model": small().state_dict()}, id="nested"),
        pytest.param({"0.weight": 1.0}, id="number"),
        pytest.param([torch.zeros(1)], id="list"),
    ],
)
def test_what_is_no_flat_state_dict_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"model\.pt must hold a flat state dict of tensors"):
        load_frozen(small(), tmp_path / "model.pt")


def test_code_in_a_file_of_weights_is_not_run(tmp_path: Path) -> None:
    class Code:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "was run"),)

    torch.save({"0.weight": Code()}, tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"model\.pt is not a file of weights that torch can read safely"):
        load_frozen(small(), tmp_path / "model.pt")
    assert not (tmp_path / "was run").exists()


@pytest.mark.parametrize("content", [b"", b"not weights", b"PK\x03\x04"], ids=["empty", "text", "cut off"])
def test_a_broken_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.pt").write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.pt is not a file of weights"):
        load_frozen(small(), tmp_path / "model.pt")


def test_cost_of_a_convolution_is_counted_by_hand() -> None:
    assert cost(nn.Conv3d(2, 3, 3, padding=1), (2, 4, 5, 6)) == {
        "parameters": pytest.approx((3 * 2 * 27 + 3) / 1e6),
        "gmac": pytest.approx(4 * 5 * 6 * 3 * 2 * 27 / 1e9),
    }
