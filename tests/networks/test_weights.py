import os
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dcd_components.errors import InputError
from dcd_components.networks.cost import cost
from dcd_components.networks.weights import (
    check_record,
    load_frozen,
    read_record,
    read_weights,
    save_weights,
    weights_digest,
)


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
    with pytest.raises(InputError, match=r"no weights at .*model\.pt: train the network first"):
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
        pytest.param({"weights": small().state_dict()}, id="nested elsewhere"),
        pytest.param({"0.weight": 1.0}, id="number"),
        pytest.param([torch.zeros(1)], id="list"),
    ],
)
def test_what_is_no_flat_state_dict_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(
        ValueError, match=r"model\.pt must hold a state dict of tensors, at its top or under model, state_dict"
    ):
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


@pytest.mark.parametrize(
    ("place", "prefix"),
    [
        (None, "module."),
        (None, "_orig_mod."),
        (None, "module._orig_mod."),
        ("model", ""),
        ("state_dict", "net."),
        ("network_weights", ""),
    ],
)
def test_weights_of_other_programs_are_taken_and_the_log_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, place: str | None, prefix: str
) -> None:
    trained, network = small(), small()
    weights = {prefix + key: value for key, value in trained.state_dict().items()}
    torch.save({place: weights, "epoch": 3} if place else weights, tmp_path / "model.pt")
    with caplog.at_level("INFO"):
        network.load_state_dict(read_weights(network, tmp_path / "model.pt"))
    assert all(torch.equal(value, trained.state_dict()[key]) for key, value in network.state_dict().items())
    (line,) = caplog.messages
    assert (place or prefix) in line
    torch.save(trained.state_dict(), tmp_path / "own.pt")
    assert weights_digest(tmp_path / "own.pt") == weights_digest(tmp_path / "model.pt")


def test_a_prefix_that_the_network_has_itself_is_kept(tmp_path: Path) -> None:
    network = nn.ModuleDict({"net": small()})
    torch.save(network.state_dict(), tmp_path / "model.pt")
    assert read_weights(network, tmp_path / "model.pt").keys() == network.state_dict().keys()


def test_what_is_left_out_need_not_fit(tmp_path: Path) -> None:
    torch.save(small(3).state_dict(), tmp_path / "model.pt")
    with pytest.raises(ValueError, match="does not fit"):
        read_weights(small(), tmp_path / "model.pt", ["2.", "1."])
    torch.save({**small().state_dict(), "2.weight": torch.zeros(5, 2, 1, 1, 1)}, tmp_path / "model.pt")
    kept = read_weights(small(), tmp_path / "model.pt", ["2."])
    assert kept.keys() == {key for key in small().state_dict() if not key.startswith("2.")}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_neither_written_nor_read(tmp_path: Path, value: float) -> None:
    weights = small().state_dict()
    save_weights(weights, tmp_path / "model.pt")
    before = (tmp_path / "model.pt").read_bytes()
    weights["1.running_mean"][0] = value
    with pytest.raises(InputError, match=r"model\.pt is not written: 1\.running_mean holds NaN or Inf"):
        save_weights(weights, tmp_path / "model.pt")
    assert (tmp_path / "model.pt").read_bytes() == before
    torch.save(weights, tmp_path / "model.pt")
    with pytest.raises(InputError, match=r"model\.pt must hold finite weights, but 1\.running_mean holds NaN or Inf"):
        read_weights(small(), tmp_path / "model.pt")
    assert [one.name for one in tmp_path.iterdir()] == ["model.pt"]


def test_a_record_travels_with_the_weights_unseen_by_others(tmp_path: Path) -> None:
    record = {"spacing": [1.0, 2.0], "labels": {"ET": 3}, "epoch": 2}
    save_weights(small().state_dict(), tmp_path / "model.pt", record)
    assert read_record(tmp_path / "model.pt") == record
    small().load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    torch.save(small().state_dict(), tmp_path / "other.pt")
    assert read_record(tmp_path / "other.pt") == {}


def test_weights_are_used_as_they_were_trained(tmp_path: Path) -> None:
    save_weights(small().state_dict(), tmp_path / "model.pt", {"spacing": [3.0, 3.0, 3.0], "sequences": ["t1"]})
    assert check_record(tmp_path / "model.pt", {"spacing": [3, 3, 3], "labels": {"ET": 3}})["sequences"] == ["t1"]
    with pytest.raises(InputError, match=r"model\.pt was trained with spacing \[3\.0, 3\.0, 3\.0\], the config says"):
        load_frozen(small(), tmp_path / "model.pt", {"spacing": [1.0, 1.0, 1.0]})


def test_the_digest_hangs_on_names_and_values_alone(tmp_path: Path) -> None:
    weights = small().state_dict()
    torch.save(weights, tmp_path / "a.pt")
    save_weights(dict(reversed(weights.items())), tmp_path / "b.pt", {"epoch": 1})
    assert weights_digest(tmp_path / "a.pt") == weights_digest(tmp_path / "b.pt")
    for name, changed in (("c", {"0.bias": weights["0.bias"] + 1}), ("d", {"0.bias": weights["0.bias"].double()})):
        torch.save({**weights, **changed}, tmp_path / f"{name}.pt")
    assert len({weights_digest(tmp_path / f"{name}.pt") for name in "acd"}) == 3


def test_a_teacher_whose_training_was_cut_short_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_weights(small().state_dict(), tmp_path / "whole.pt", {"epoch": 400, "max_epochs": 500})
    save_weights(small().state_dict(), tmp_path / "cut.pt", {"epoch": 1, "max_epochs": 500})
    load_frozen(small(), tmp_path / "whole.pt")
    assert not caplog.messages
    load_frozen(small(), tmp_path / "cut.pt")
    assert "cut.pt is of epoch 1 of 500: was its training cut short?" in caplog.text


def test_a_compressed_file_which_might_fill_the_memory_is_refused(tmp_path: Path) -> None:
    torch.save({"0.weight": torch.zeros(1000, 1000)}, tmp_path / "model.pt")
    with (
        zipfile.ZipFile(tmp_path / "model.pt") as plain,
        zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for name in plain.namelist():
            bomb.writestr(name, plain.read(name))
    with pytest.raises(InputError, match=r"bomb\.pt is not a file of weights .*: it is compressed"):
        read_weights(small(), tmp_path / "bomb.pt")


def test_cost_of_a_convolution_is_counted_by_hand() -> None:
    assert cost(nn.Conv3d(2, 3, 3, padding=1), (2, 4, 5, 6)) == {
        "parameters": pytest.approx((3 * 2 * 27 + 3) / 1e6),
        "gmac": pytest.approx(4 * 5 * 6 * 3 * 2 * 27 / 1e9),
    }
