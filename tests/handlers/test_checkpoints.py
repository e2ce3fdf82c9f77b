import os
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine
from monai.networks.nets import DynUNet
from torch import nn

from dcd_components.errors import InputError
from dcd_components.handlers.checkpoints import BestCheckpoint, InferenceWeights
from dcd_components.networks.weights import load_frozen


def dynunet(**options: Any) -> nn.Module:
    widths = [4, 6, 8, 10]
    kernels, strides = [3] * 4, [1, 2, 2, 2]
    network: nn.Module = DynUNet(3, 1, 2, kernels, strides, strides[1:], filters=widths, res_block=True, **options)
    return network


def small(channels: int = 2) -> nn.Module:
    return nn.Sequential(nn.Conv3d(1, channels, 1), nn.BatchNorm3d(channels), nn.Conv3d(channels, 1, 1))


def test_the_weights_of_the_best_validation_are_kept(tmp_path: Path) -> None:
    network, scores = small(), iter([0.2, 0.7, 0.5])
    validation = Engine(lambda engine, batch: None)
    validation.state.key_metric_name, validation.state.metrics = "dice", {"dice": 0.0}

    def validate(engine: Engine) -> None:
        engine.state.metrics["dice"] = next(scores)
        with torch.no_grad():
            network[0].weight.fill_(engine.state.metrics["dice"])  # type: ignore[index]

    validation.add_event_handler("EPOCH_COMPLETED", validate)
    BestCheckpoint(network, tmp_path / "model.pt").attach(validation)
    validation.run([0], max_epochs=3)
    assert torch.load(tmp_path / "model.pt", weights_only=True)["0.weight"].unique().item() == pytest.approx(0.7)


def test_published_weights_load_strictly_into_a_network_without_heads(tmp_path: Path) -> None:
    trained = dynunet(deep_supervision=True, deep_supr_num=2)
    published = InferenceWeights(trained).state_dict()
    assert any("head" in key for key in trained.state_dict())
    torch.save(published, tmp_path / "model.pt")
    network = load_frozen(dynunet(), tmp_path / "model.pt")
    x = torch.randn(1, 1, 16, 16, 16)
    with torch.no_grad():
        assert torch.equal(network(x), trained.eval()(x))


def test_published_weights_follow_the_training() -> None:
    network = small()
    published = InferenceWeights(network)
    with torch.no_grad():
        network[0].weight.fill_(7)  # type: ignore[index]
    assert (published.state_dict()["0.weight"] == 7).all()


def test_all_weights_of_a_network_without_heads_are_published() -> None:
    assert list(InferenceWeights(small()).state_dict()) == list(small().state_dict())


def test_other_parts_can_be_left_out() -> None:
    assert not [key for key in InferenceWeights(small(), without=["1."]).state_dict() if key.startswith("1.")]


def test_the_folder_of_a_checkpoint_is_made_and_left_empty(tmp_path: Path) -> None:
    BestCheckpoint(small(), tmp_path / "models" / "teacher" / "model.pt")
    assert list((tmp_path / "models" / "teacher").iterdir()) == []


def test_an_earlier_checkpoint_is_kept_under_the_time_of_its_writing(tmp_path: Path) -> None:
    checkpoint = tmp_path / "model.pt"
    checkpoint.write_bytes(b"weights")
    os.utime(checkpoint, (0, 86_399))
    BestCheckpoint(small(), checkpoint)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        "model.pt": b"weights",
        "model-19700101T235959.pt": b"weights",
    }


def test_a_checkpoint_that_could_not_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "models").touch()
    with pytest.raises(InputError, match="models"):
        BestCheckpoint(small(), tmp_path / "models" / "model.pt")
