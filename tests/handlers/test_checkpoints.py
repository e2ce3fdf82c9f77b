import math
import os
import shutil
import uuid
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine
from monai.networks.nets import DynUNet
from torch import nn

from dcd_components.errors import InputError
from dcd_components.handlers.checkpoints import BestCheckpoint, InferenceWeights
from dcd_components.networks.weights import load_frozen, read_record


def dynunet(**options: Any) -> nn.Module:
    widths = [4, 6, 8, 10]
    kernels, strides = [3] * 4, [1, 2, 2, 2]
    network: nn.Module = DynUNet(3, 1, 2, kernels, strides, strides[1:], filters=widths, res_block=True, **options)
    return network


def small(channels: int = 2) -> nn.Module:
    return nn.Sequential(nn.Conv3d(1, channels, 1), nn.BatchNorm3d(channels), nn.Conv3d(channels, 1, 1))


def validation(network: nn.Module, scores: list[float], path: Path, **options: Any) -> Engine:
    """Validations of these scores, in which the network has weights of the same values; with its checkpoint."""
    engine, pending = Engine(lambda engine, batch: None), iter(scores)
    engine.state.best_metric, engine.state.best_metric_epoch = -1.0, -1

    def validate(engine: Engine) -> None:
        score = next(pending)
        with torch.no_grad():
            network[0].weight.fill_(score)  # type: ignore[index]
        if score > engine.state.best_metric:
            engine.state.best_metric, engine.state.best_metric_epoch = score, engine.state.epoch

    engine.add_event_handler("EPOCH_COMPLETED", validate)
    BestCheckpoint(network, path, **options).attach(engine)
    return engine


def weight(path: Path) -> float:
    return float(torch.load(path, weights_only=True)["0.weight"].unique().item())


def test_the_weights_of_the_best_validation_are_kept_with_their_record(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    validation(small(), [0.2, 0.7, 0.5], path, record={"labels": {"ET": 1}}).run([0], max_epochs=3)
    assert weight(path) == pytest.approx(0.7)
    record = read_record(path)
    assert (record["labels"], record["epoch"]) == ({"ET": 1}, 2)


def test_a_checkpoint_that_is_moved_away_is_written_anew(tmp_path: Path) -> None:
    path = tmp_path / "models" / "model.pt"
    engine = validation(small(), [0.2, 0.7], path)
    engine.add_event_handler("EPOCH_STARTED", lambda: shutil.rmtree(path.parent))
    engine.run([0], max_epochs=2)
    assert weight(path) == pytest.approx(0.7)


def test_weights_that_are_not_finite_are_not_written(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    engine = validation(small(), [0.2, math.inf], path)
    with pytest.raises(InputError, match=f"{path} is not written: 0.weight holds NaN or Inf"):
        engine.run([0], max_epochs=2)
    assert weight(path) == pytest.approx(0.2)
    assert list(tmp_path.iterdir()) == [path]


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
    path, earlier = tmp_path / "model.pt", tmp_path / "model-19700101T235959.pt"
    path.write_bytes(b"weights")
    os.utime(path, (0, 86_399))
    validation(small(), [0.2, 0.7], path).run([0], max_epochs=2)
    assert sorted(tmp_path.iterdir()) == [earlier, path]
    assert earlier.read_bytes() == b"weights"


def test_of_two_that_were_written_in_one_second_both_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    for content in (b"first", b"second"):
        path.write_bytes(content)
        os.utime(path, (0, 86_399))
        (tmp_path / f".{uuid.uuid4().hex}-model-19700101T235959.pt").touch()
        validation(small(), [0.2, 0.7], path).run([0], max_epochs=2)
    assert (tmp_path / "model-19700101T235959.pt").read_bytes() == b"first"
    assert len([*tmp_path.iterdir()]) == 3  # what a killed copy left, made by the loop, is gone
    assert (tmp_path / "model-19700101T235959-2.pt").read_bytes() == b"second"


def test_a_training_that_goes_on_knows_its_own_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    first, second = (BestCheckpoint(small(), path) for _ in range(2))
    engine = Engine(lambda engine, batch: None)
    engine.state.best_metric_epoch = 1
    first.attach(engine)
    engine.run([0])
    second.load_state_dict(first.state_dict())
    second.attach(engine)
    engine.run([0])
    assert list(tmp_path.iterdir()) == [path]


def test_half_a_file_of_a_training_that_was_killed_is_removed(tmp_path: Path) -> None:
    half, other = tmp_path / f".{32 * 'a'}-model.pt", tmp_path / ".other-model.pt"
    for file in (half, other):
        file.touch()
    engine = validation(small(), [0.2], tmp_path / "model.pt")
    assert half.exists()  # another training may be writing it, until this one has begun
    engine.run([0])
    assert sorted(tmp_path.iterdir()) == [other, tmp_path / "model.pt"]


def test_a_checkpoint_that_could_not_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "models").touch()
    with pytest.raises(InputError, match="models"):
        BestCheckpoint(small(), tmp_path / "models" / "model.pt")
