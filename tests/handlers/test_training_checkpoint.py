"""Checkpoints of trainings of a network of one layer; whole trainings that are killed are in tests/bundles."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine
from torch import nn

from dcd_components.errors import InputError
from dcd_components.handlers.resume import TrainingCheckpoint


def training(folder: Path, epochs: int, fail_in: int = 0, scaled: bool = False, **options: Any) -> Engine:
    """A training of two iterations an epoch, which fails at the start of one."""
    network = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(network.parameters(), 0.1)

    def step(engine: Any, batch: int) -> None:
        if engine.state.iteration == fail_in:
            raise RuntimeError("of the test")
        loss = network(torch.ones(1, 1)).sum()
        (engine.scaler.scale(loss) if scaled else loss).backward()
        if scaled:
            engine.scaler.step(optimizer)
            engine.scaler.update()

    engine: Any = Engine(step)
    if scaled:
        engine.scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=3)
    TrainingCheckpoint(folder, {"network": network, "optimizer": optimizer}, **options).attach(engine)
    engine.run([0, 0], max_epochs=epochs)
    return engine


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")


def test_a_checkpoint_that_was_written_just_now_stays_beside_a_damaged_newer_one(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="of the test"):
        training(tmp_path / "all", 4, fail_in=7, kept=3)
    (tmp_path / "all" / "iteration-000000006.pt").write_bytes(b"")
    (tmp_path / "all" / "iteration-000000004.pt").write_bytes(b"")
    with pytest.raises(RuntimeError, match="of the test"):
        training(tmp_path / "all", 4, fail_in=5, kept=1, resume=True)
    damaged = [f"iteration-00000000{number}.pt.damaged" for number in (4, 6)]
    assert names(tmp_path / "all") == ["iteration-000000004.pt", *damaged]


def test_no_damaged_checkpoint_gets_another_name_where_none_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "all" / "iteration-000000002.pt"
    path.parent.mkdir()
    path.write_bytes(b"")
    for _ in range(2):
        with pytest.raises(InputError, match=r"no checkpoint in .* can be read"):
            training(tmp_path / "all", 4, resume=True)
    assert names(tmp_path / "all") == [path.name]


def test_a_compressed_checkpoint_which_might_fill_the_memory_is_not_unpacked(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    training(tmp_path / "all", 1)
    path = tmp_path / "all" / "iteration-000000002.pt"
    with zipfile.ZipFile(path) as plain, zipfile.ZipFile(tmp_path / "bomb", "w", zipfile.ZIP_DEFLATED) as bomb:
        for name in plain.namelist():
            bomb.writestr(name, plain.read(name))
    (tmp_path / "bomb").replace(path)
    with pytest.raises(InputError, match=r"no checkpoint in .* can be read"):
        training(tmp_path / "all", 1, resume=True)
    assert "iteration-000000002.pt is not a checkpoint that torch can read safely: it is compressed" in caplog.text


def test_the_scale_of_a_loss_in_half_precision_goes_on(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="of the test"):
        training(tmp_path / "all", 4, fail_in=5, scaled=True)  # after four steps; it doubled after three
    undisturbed = training(tmp_path / "other", 4, scaled=True)
    resumed = training(tmp_path / "all", 4, scaled=True, resume=True)
    assert resumed.scaler.state_dict() == undisturbed.scaler.state_dict()
    assert resumed.scaler.get_scale() == 16.0
