from pathlib import Path

import pytest
import torch
from ignite.engine import Engine
from torch import nn

from dcd_components.errors import InputError
from dcd_components.handlers.checkpoint_loader import SafeCheckpointLoader
from dcd_components.networks.weights import save_weights


def small() -> nn.Module:
    return nn.Sequential(nn.Conv3d(1, 2, 1), nn.Conv3d(2, 1, 1))


def ran(loader: SafeCheckpointLoader, epochs: int = 1) -> Engine:
    engine = Engine(lambda engine, batch: None)
    loader.attach(engine)
    engine.run([0], max_epochs=epochs)
    return engine


def test_weights_are_loaded_before_the_run(tmp_path: Path) -> None:
    trained, network = small(), small()
    save_weights(trained.state_dict(), tmp_path / "model.pt")
    ran(SafeCheckpointLoader(network, tmp_path / "model.pt"))
    assert all(torch.equal(value, trained.state_dict()[key]) for key, value in network.state_dict().items())


def test_what_is_left_out_keeps_its_own_weights(tmp_path: Path) -> None:
    trained, network = small(), small()
    before = network.state_dict()["1.weight"].clone()
    other_head = {**trained.state_dict(), "1.weight": torch.zeros(7, 2, 1, 1, 1)}
    save_weights(other_head, tmp_path / "model.pt")
    with pytest.raises(InputError, match=r"1\.weight is \(7, 2, 1, 1, 1\) instead of \(1, 2, 1, 1, 1\)"):
        ran(SafeCheckpointLoader(network, tmp_path / "model.pt"))
    ran(SafeCheckpointLoader(network, tmp_path / "model.pt", left_out=["1."]))
    assert torch.equal(network.state_dict()["1.weight"], before)
    assert torch.equal(network.state_dict()["0.weight"], trained.state_dict()["0.weight"])


def test_a_run_that_goes_on_keeps_its_weights(tmp_path: Path) -> None:
    save_weights(small().state_dict(), tmp_path / "model.pt")
    network = small()
    engine = ran(SafeCheckpointLoader(network, tmp_path / "model.pt"))
    nn.init.zeros_(network[0].weight)  # type: ignore[index]  # as a federated server would set them
    engine.run([0], max_epochs=2)
    assert not network.state_dict()["0.weight"].any()


def test_weights_that_were_trained_otherwise_are_refused(tmp_path: Path) -> None:
    save_weights(small().state_dict(), tmp_path / "model.pt", {"spacing": [3.0, 3.0, 3.0]})
    loader = SafeCheckpointLoader(small(), tmp_path / "model.pt", trained_on={"spacing": [1.0, 1.0, 1.0]})
    with pytest.raises(InputError, match=r"model\.pt was trained with spacing"):
        ran(loader)
