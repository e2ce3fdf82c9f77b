"""The examples do what their pages say."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize("example", ["plain_pytorch.py", "lightning_module.py"])
def test_a_student_learns_from_labels_and_then_from_the_teacher_too(example: str, tmp_path: Path) -> None:
    command = [sys.executable, "-W", "ignore", str(EXAMPLES / example)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    found = re.findall(r"epoch (\d): segmentation ([\d.]+), distillation ([\d.]+)", done.stdout)
    epochs, segmentation, distillation = zip(*[map(float, row) for row in found], strict=True)
    assert epochs == tuple(range(6))
    assert segmentation[-1] < 0.8 * segmentation[0]
    assert distillation[:2] == (0, 0)  # the weight rises after epoch 1
    assert 0 < distillation[-1] < distillation[2]


class StandIn:
    """What the example uses of nnU-Net 2.8.1's trainer, in the order in which that calls it."""

    def __init__(self, folder: Path, epochs: int) -> None:
        self.device, self.fold, self.local_rank, self.disable_checkpointing = torch.device("cpu"), 0, 0, False
        self.folder, self.num_epochs, self.current_epoch, self.num_input_channels = folder, epochs, 0, 2
        self.configuration_manager = SimpleNamespace(
            network_arch_class_name="Network",
            network_arch_init_kwargs={"features_per_stage": [8, 16]},
            network_arch_init_kwargs_req_import=[],
            patch_size=[8, 12, 8],
        )
        self.was_initialized = False

    def initialize(self) -> None:
        torch.manual_seed(0)
        self.network = self.build_network_architecture(None, self.configuration_manager, 2, 3, True).to(self.device)
        self.optimizer, self.lr_scheduler = self.configure_optimizers()
        self.loss = self._build_loss()
        self.was_initialized = True

    @staticmethod
    def build_network_architecture(plans: Any, plan: Any, inputs: int, outputs: int, supervision: bool) -> nn.Module:
        return network_of("Network", plan.network_arch_init_kwargs, [], inputs, outputs, True, supervision)

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
        optimizer = torch.optim.SGD(self.network.parameters(), 0.01, momentum=0.99, nesterov=True)
        return optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)

    def _build_loss(self) -> Callable[[list[Tensor], Tensor], Tensor]:
        return lambda output, target: nn.functional.cross_entropy(output[0], target)

    def train_step(self, batch: dict[str, Tensor]) -> dict[str, Any]:
        self.optimizer.zero_grad(set_to_none=True)
        value = self.loss(self.network(batch["data"].to(self.device)), batch["target"])
        value.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.network.parameters(), 12)
        self.optimizer.step()
        return {"loss": value.item()}

    def validation_step(self, batch: dict[str, Tensor]) -> float:
        return self.loss(self.network(batch["data"]), batch["target"]).item()

    def on_train_epoch_start(self) -> None:
        self.network.train()

    def on_train_end(self) -> None:
        self.save_checkpoint(str(self.folder / "checkpoint_final.pth"))

    def save_checkpoint(self, filename: str) -> None:
        epoch, state = self.current_epoch, self.optimizer.state_dict()
        torch.save({"weights": self.network.state_dict(), "epoch": epoch, "optimizer": state}, filename)

    def load_checkpoint(self, filename_or_checkpoint: str) -> None:
        if not self.was_initialized:
            self.initialize()
        checkpoint = torch.load(filename_or_checkpoint)
        self.network.load_state_dict(checkpoint["weights"])
        self.optimizer.load_state_dict(checkpoint["optimizer"])
        self.current_epoch = checkpoint["epoch"]

    def run_training(self) -> list[float]:
        if not self.was_initialized:
            self.initialize()
        for epoch in range(self.current_epoch, self.num_epochs):
            self.current_epoch = epoch
            self.on_train_epoch_start()
            self.train_step(batch_of(epoch))
            with torch.no_grad():
                self.network.eval()
                self.validation_step(batch_of(9))
        self.current_epoch = self.num_epochs
        self.on_train_end()
        return []


class Network(nn.Module):
    """Stages at the paths that nnU-Net's networks have."""

    def __init__(self, inputs: int, outputs: int, features: list[int]) -> None:
        super().__init__()
        sizes = zip([inputs, *features[:-1]], features, [1, 2], strict=True)
        stages = (nn.Conv3d(before, after, 3, stride, 1) for before, after, stride in sizes)
        self.encoder = nn.ModuleDict({"stages": nn.Sequential(*stages)})
        self.head = nn.ConvTranspose3d(features[-1], outputs, 2, 2)

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.head(self.encoder["stages"](x))]


def network_of(
    kind: str, settings: dict[str, Any], imports: Any, inputs: int, outputs: int, init: bool, supervision: bool
) -> nn.Module:
    assert kind == "Network"
    return Network(inputs, outputs, settings["features_per_stage"])


class Predictor:
    """Gives a finished teacher of the plans' widths."""

    def __init__(self, device: torch.device) -> None:
        self.network = Network(2, 3, [8, 16])

    def initialize_from_trained_model_folder(self, folder: str, use_folds: tuple[int, ...]) -> None:
        assert (folder, use_folds) == ("the/teacher", (0,))


def batch_of(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    data = torch.randn(2, 2, 8, 12, 8, generator=generator)
    return {"data": data, "target": torch.randint(3, (2, 8, 12, 8), generator=generator)}


@pytest.fixture
def trainer(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Class of the example on the stand-in."""
    classes: dict[str, dict[str, Any]] = {
        "training.nnUNetTrainer.nnUNetTrainer": {"nnUNetTrainer": StandIn},
        "inference.predict_from_raw_data": {"nnUNetPredictor": Predictor},
        "utilities.get_network_from_plans": {"get_network_from_plans": network_of},
    }
    for name, contents in classes.items():
        parts = ["nnunetv2", *name.split(".")]
        for depth in range(1, len(parts) + 1):
            monkeypatch.setitem(sys.modules, ".".join(parts[:depth]), ModuleType(".".join(parts[:depth])))
        vars(sys.modules[".".join(parts)]).update(contents)
    monkeypatch.setenv("DCD_TEACHER", os.path.join("the", "teacher"))
    monkeypatch.syspath_prepend(str(EXAMPLES))
    yield importlib.import_module("nnunet_trainer").nnUNetTrainerDCD
    del sys.modules["nnunet_trainer"]


def test_nnunet_s_trainer_distils_a_student_of_a_quarter_of_the_widths(trainer: Any, tmp_path: Path) -> None:
    training = trainer(tmp_path, 4)
    training.run_training()
    assert [stage.out_channels for stage in training.network.encoder["stages"]] == [2, 4]
    assert list(training.distiller.terms) == ["encoder.stages.0", "encoder.stages.1"]
    assert training.distiller.unweighted > 0
    learnt = [p for group in training.optimizer.param_groups for p in group["params"]]
    projections = list(training.distiller.parameters())
    assert [tuple(p.shape[:2]) for p in projections] == [(8, 2), (16, 4)]
    assert all(any(p is other for other in learnt) for p in projections)
    assert not any(module._forward_hooks for module in training.network.modules())


def test_nnunet_s_trainer_goes_on_with_its_projections(trainer: Any, tmp_path: Path) -> None:
    first = trainer(tmp_path, 4)
    first.run_training()
    other = trainer(tmp_path, 5)
    other.load_checkpoint(str(tmp_path / "checkpoint_final.pth"))
    assert other.current_epoch == 4
    for ours, theirs in zip(other.distiller.parameters(), first.distiller.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    other.run_training()
    assert not torch.equal(next(other.distiller.parameters()), next(first.distiller.parameters()))


def test_the_teacher_only_runs_in_training(trainer: Any, tmp_path: Path) -> None:
    training = trainer(tmp_path, 4)
    calls: list[int] = []
    training.initialize()
    teacher = training.distiller._teacher.network
    teacher.register_forward_pre_hook(lambda *_: calls.append(training.current_epoch))
    training.run_training()
    assert calls == [1, 2, 3]  # with a weight of 0 in the first epoch, and not in validations
