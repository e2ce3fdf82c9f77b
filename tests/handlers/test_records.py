import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from monai.data import DataLoader, MetaTensor
from monai.engines import SupervisedEvaluator
from monai.engines.utils import IterationEvents
from monai.handlers import from_engine
from torch import nn

from dcd_components.errors import InputError
from dcd_components.handlers import training_guard
from dcd_components.handlers.case_scores import CaseScores
from dcd_components.handlers.training_guard import TrainingGuard
from dcd_components.handlers.training_log import LossesForTrackers, TrainingLog, clock
from dcd_components.tables import read_csv


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (59.4, "0:59"), (59.6, "1:00"), (605, "10:05"), (3599.6, "1:00:00"), (36_061, "10:01:01")],
)
def test_durations_are_written_as_on_a_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def trainer(outputs: list[dict[str, float]]) -> Engine:
    """A bare engine whose iterations give ``outputs`` in turn."""
    pending = iter(outputs)

    def step(engine: Engine, batch: Any) -> Any:
        engine.state.output = {name: torch.tensor(value) for name, value in next(pending).items()}
        for event in (IterationEvents.LOSS_COMPLETED, IterationEvents.BACKWARD_COMPLETED):
            engine.fire_event(event)
        return engine.state.output

    engine = Engine(step)
    engine.register_events(*IterationEvents)
    engine.optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.25)
    return engine


def validator(trainer: Engine, metrics: dict[str, Any], interval: int) -> Engine:
    """An engine that is run as MONAI's ValidationHandler runs its validator."""
    engine = Engine(lambda *_: None)

    def validate() -> None:
        engine.state.epoch = trainer.state.epoch - 1
        engine.state.max_epochs = trainer.state.epoch
        engine.run([0], max_epochs=trainer.state.epoch)
        engine.state.metrics = metrics

    trainer.add_event_handler(Events.EPOCH_COMPLETED(every=interval), validate)
    return engine


def test_each_epoch_has_a_row_of_means_in_a_csv_file(tmp_path: Path) -> None:
    engine = trainer([{"loss": loss} for loss in (1.0, 2.0, 3.0, 5.0)])
    TrainingLog(tmp_path / "logs" / "training.csv").attach(engine)
    engine.run([0, 0], max_epochs=2)
    rows = read_csv(tmp_path / "logs" / "training.csv")
    assert all(float(row.pop("seconds")) >= 0 for row in rows)
    assert rows == [
        {"epoch": 1, "iteration": 2, "learning_rate": 0.25, "loss": 1.5, "segmentation_loss": 1.5},
        {"epoch": 2, "iteration": 4, "learning_rate": 0.25, "loss": 4.0, "segmentation_loss": 4.0},
    ]


def test_a_loss_that_is_no_number_ends_the_training_and_keeps_what_was_written(tmp_path: Path) -> None:
    engine = trainer([{"loss": 1.0}, {"loss": math.nan}])
    for handler in (TrainingGuard(), TrainingLog(tmp_path / "training.csv")):
        handler.attach(engine)
    said = r"^the loss is nan in iteration 2 of epoch 2, case 7 \(segmentation_loss nan\): look for NaN"
    with pytest.raises(InputError, match=said):
        engine.run([{"case": ["case 7"]}], max_epochs=3)
    assert len(read_csv(tmp_path / "training.csv")) == 1


def test_the_guard_sees_what_handlers_add_to_the_loss_that_are_listed_later() -> None:
    engine = trainer([{"loss": 1.0}])
    TrainingGuard().attach(engine)

    def add(engine: Engine) -> None:
        parts = {"segmentation_loss": torch.tensor(1.0), "distillation_loss/stem": torch.tensor(math.inf)}
        engine.state.output |= {"loss": torch.tensor(math.inf), **parts}

    engine.add_event_handler(IterationEvents.LOSS_COMPLETED, add)
    with pytest.raises(InputError, match=r"inf in iteration 1 .* \(segmentation_loss 1, distillation_loss/stem inf\)"):
        engine.run([0])


class Later:
    """Stands in for an event of a GPU: the number is there when it was waited for."""

    def __init__(self, copy: torch.Tensor, value: torch.Tensor) -> None:
        self.copy, self.value = copy, value

    def synchronize(self) -> None:
        self.copy.copy_(self.value)


def arrives_late(x: torch.Tensor) -> tuple[torch.Tensor, Later]:
    copy = torch.zeros_like(x)
    return copy, Later(copy, x)


@pytest.mark.parametrize("late", [False, True], ids=["CPU", "GPU"])
def test_as_many_losses_as_allowed_are_skipped_as_if_they_had_not_been(
    late: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if late:
        monkeypatch.setattr(training_guard, "on_host", arrives_late)

    def train(factors: list[float], max_skipped: int) -> tuple[Any, Any, Any]:
        weight = nn.Parameter(torch.ones(1))
        optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9, weight_decay=0.1)

        def step(engine: Engine, factor: float) -> Any:
            optimizer.zero_grad()
            engine.state.output = {"loss": (factor * weight).sum()}
            engine.fire_event(IterationEvents.LOSS_COMPLETED)
            engine.state.output["loss"].backward()
            engine.fire_event(IterationEvents.BACKWARD_COMPLETED)
            optimizer.step()
            return engine.state.output

        engine = Engine(step)
        engine.register_events(*IterationEvents)
        engine.optimizer = optimizer
        for handler in (TrainingGuard(max_skipped), TrainingLog(tmp_path / "training.csv")):
            handler.attach(engine)
        engine.run(factors)
        return weight, optimizer.state[weight]["momentum_buffer"], read_csv(tmp_path / "training.csv")[0]["loss"]

    nan = math.nan
    for one, other in zip(train([1.0, nan, 3.0, nan], 2), train([1.0, 3.0], 0), strict=True):
        assert one == other
    with pytest.raises(
        InputError, match=r"^the loss is nan in iteration 4 .*, after 1 that were skipped: look for NaN"
    ):
        train([1.0, nan, 3.0, nan], 1)


def test_the_number_of_skipped_iterations_is_kept_when_a_training_goes_on() -> None:
    first, second = TrainingGuard(2), TrainingGuard(2)
    first.skipped = 2
    second.load_state_dict(first.state_dict())
    engine = trainer([{"loss": math.nan}])
    second.attach(engine)
    with pytest.raises(InputError, match="after 2 that were skipped"):
        engine.run([0])


def test_a_training_that_goes_on_must_have_a_learning_rate_left() -> None:
    engine = trainer([{"loss": 1.0}, {"loss": 1.0}])
    TrainingGuard().attach(engine)
    engine.run([0], max_epochs=1)
    engine.optimizer.param_groups[0]["lr"] = 0.0
    with pytest.raises(InputError, match=r"^the learning rate has come to 0: say with fl_rounds how often"):
        engine.run([0], max_epochs=2)


def test_trackers_find_the_losses_of_an_iteration_in_a_list(tmp_path: Path) -> None:
    engine = trainer([{"loss": 3.0, "image": 7.0, "segmentation_loss": 2.0, "distillation_loss/stem": 4.0}])
    TrainingLog(tmp_path / "training.csv").attach(engine)
    LossesForTrackers().attach(engine)
    engine.run([0], max_epochs=1)
    assert engine.state.output == [{"loss": 3.0, "segmentation_loss": 2.0, "distillation_loss/stem": 4.0}]
    assert from_engine(["loss"], first=True)(engine.state.output) == 3.0


def test_the_log_leaves_the_output_of_an_iteration_as_it_is(tmp_path: Path) -> None:
    engine = trainer([{"loss": 3.0, "image": 7.0}])
    TrainingLog(tmp_path / "training.csv").attach(engine)
    engine.run([0], max_epochs=1)
    assert engine.state.output == {"loss": 3.0, "image": 7.0}


def test_distillation_has_columns_of_its_own_from_the_epoch_it_starts_in(tmp_path: Path) -> None:
    stages = {"distillation_loss/stem": 3.0, "distillation_loss/downsamples.0": 5.0}
    term = {"segmentation_loss": 1.0, "distillation_loss": 4.0, "distillation_weight": 0.5, **stages}
    engine = trainer([{"loss": 1.0}, {"loss": 3.0, **term}])
    TrainingLog(tmp_path / "training.csv").attach(engine)
    engine.run([0], max_epochs=2)
    first, second = read_csv(tmp_path / "training.csv")
    assert list(first)[4:] == ["loss", *term]
    assert [first[name] for name in term] == [1.0, None, None, None, None]
    assert {name: second[name] for name in term} == term


def test_metrics_are_taken_along_in_the_epochs_of_a_validation_only(tmp_path: Path) -> None:
    engine = trainer([{"loss": 1.0}] * 4)
    metrics = {"val_mean_dice": 0.5, "as_tensor": torch.tensor(2.0), "per_class": [0.1, 0.2]}
    log = TrainingLog(tmp_path / "training.csv", validator(engine, metrics, interval=2))
    log.attach(engine)
    engine.run([0], max_epochs=4)
    rows = read_csv(tmp_path / "training.csv")
    assert [row["val_mean_dice"] for row in rows] == [None, 0.5, None, 0.5]
    assert [row["as_tensor"] for row in rows] == [None, 2.0, None, 2.0]
    assert "per_class" not in rows[0]


def test_later_handlers_find_the_figures_at_the_end_of_an_epoch_and_only_there(tmp_path: Path) -> None:
    engine = trainer([{"loss": 1.0}, {"loss": 3.0, "segmentation_loss": 2.0, "distillation_loss": 2.0}])
    during, after = [], []
    TrainingLog(tmp_path / "training.csv", validator(engine, {"val_mean_dice": 0.5}, interval=1)).attach(engine)
    engine.add_event_handler(Events.ITERATION_COMPLETED, lambda: during.append(dict(engine.state.metrics)))
    engine.add_event_handler(Events.EPOCH_COMPLETED, lambda: after.append(dict(engine.state.metrics)))
    engine.run([0], max_epochs=2)
    assert during == [{}, {}]
    assert after[0] == {"learning_rate": 0.25, "loss": 1.0, "segmentation_loss": 1.0}
    assert after[1] == {"learning_rate": 0.25, "loss": 3.0, "segmentation_loss": 2.0, "distillation_loss": 2.0}


def test_each_epoch_is_logged_in_one_line_with_the_time_left(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = iter([100.0, 110.0, 120.0, 130.0])
    monkeypatch.setattr("time.monotonic", lambda: next(now))
    engine = trainer([{"loss": 1.25, "distillation_loss/stem": 2.0}] * 3)
    TrainingLog(tmp_path / "training.csv", validator(engine, {"val_mean_dice": 0.5}, interval=3)).attach(engine)
    with caplog.at_level(logging.INFO, logger=engine.logger.name):
        engine.run([0], max_epochs=3)
    lines = [record.getMessage() for record in caplog.records if record.getMessage().startswith("epoch ")]
    assert lines == [
        "epoch 1/3: loss 1.25; 0:20 left",
        "epoch 2/3: loss 1.25; 0:10 left",
        "epoch 3/3: loss 1.25, val mean dice 0.5; 0:00 left",
    ]


def evaluator(handler: CaseScores, batch_size: int = 1) -> SupervisedEvaluator:
    """Two cases of a cube each; the "network" copies the image, which is right for b and empty for a."""
    cases, affine = [], torch.diag(torch.tensor([1.0, 1.0, 2.0, 1.0]))
    for case, found in (("b", True), ("a", False)):
        label = torch.zeros(1, 6, 6, 6)
        label[:, 2:4, 2:4, 2:4] = 1
        label[:, 5, 5, 5] = 2
        cases.append(
            {"case": case} | {key: MetaTensor(x, affine) for key, x in (("image", label * found), ("label", label))}
        )
    return SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(cases, batch_size=batch_size),
        network=nn.Identity(),
        val_handlers=[handler],
    )


@pytest.mark.parametrize("batch_size", [1, 2])
def test_each_case_has_a_row_of_scores_in_mm_in_a_csv_file(tmp_path: Path, batch_size: int) -> None:
    regions = {"ET": [1], "RC": [2], "WT": [1, 2]}
    engine = evaluator(CaseScores(tmp_path / "new" / "scores.csv", regions, [1, 2], [1.0, 0.5]), batch_size)
    engine.run()
    rows = read_csv(tmp_path / "new" / "scores.csv")
    assert [row["case"] for row in rows] == ["a", "b"]
    assert [row["dice_WT"] for row in rows] == [0, 1]
    assert rows[0]["hd95_mm_ET"] == pytest.approx((6**2 + 6**2 + 12**2) ** 0.5)
    assert [row["tp_lesions"] for row in rows] == [0, 2]
    assert all(float(row["seconds"]) >= 0 for row in rows)
    assert engine.state.metrics["mean_dice"] == 0.5
    assert engine.state.metrics["cases"] == 2


def test_wrong_tolerances_are_refused_before_any_case(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nsd_tolerances_mm must be a list .* got \[-1\]"):
        CaseScores(tmp_path / "scores.csv", {"ET": [1]}, [1], [-1])


def test_later_handlers_find_the_means_at_the_end_of_the_epoch(tmp_path: Path) -> None:
    engine = evaluator(CaseScores(tmp_path / "scores.csv", {"ET": [1]}, [1], [1.0, 0.5]))
    found: list[float] = []
    engine.add_event_handler(Events.EPOCH_COMPLETED, lambda: found.append(engine.state.metrics["mean_dice"]))
    engine.run()
    assert found == [0.5]


def test_the_mean_over_labels_leaves_out_regions_of_several(tmp_path: Path) -> None:
    engine = evaluator(CaseScores(tmp_path / "scores.csv", {"ET": [1], "NONE": [7], "WT": [1, 2]}, [1, 2], [1.0, 0.5]))
    engine.run()
    assert engine.state.metrics["mean_dice"] == engine.state.metrics["dice_ET"] == 0.5
    assert "dice_NONE" not in engine.state.metrics  # NaN would win or lose every comparison of checkpoints


def test_a_second_evaluation_starts_anew(tmp_path: Path) -> None:
    engine = evaluator(CaseScores(tmp_path / "scores.csv", {"ET": [1]}, [1], [1.0, 0.5]))
    engine.run()
    engine.run()
    assert len(read_csv(tmp_path / "scores.csv")) == 2


def test_each_case_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    engine = evaluator(CaseScores(tmp_path / "scores.csv", {"ET": [1]}, [1], [1.0, 0.5]))
    with caplog.at_level(logging.INFO, logger=engine.logger.name):
        engine.run()
    lines = [record.getMessage() for record in caplog.records if record.getMessage().startswith("case ")]
    assert lines == ["case 1/2: b; 0:00 left", "case 2/2: a; 0:00 left"]


@pytest.mark.parametrize(
    ("lesion_labels", "lesions"),
    [([1], ", lesion F1 0.500, small-lesion recall 0.500, 0.0 FP lesions per case"), ([], "")],
    ids=["lesions", "organs"],
)
def test_an_evaluation_ends_with_its_means_in_one_line(
    lesion_labels: list[int], lesions: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engine = evaluator(CaseScores(tmp_path / "scores.csv", {"ET": [1]}, lesion_labels, [1.0, 0.5]))
    with caplog.at_level(logging.INFO, logger=engine.logger.name):
        engine.run()
    (line,) = [record.getMessage() for record in caplog.records if record.getMessage().startswith("means of ")]
    assert line == (
        "means of 2 cases: mean Dice 0.500, HD95 7.3 mm, NSD 0.500 at 1 mm"
        f"{lesions}; each case in {tmp_path / 'scores.csv'}"
    )
