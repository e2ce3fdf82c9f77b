import inspect
from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedTrainer
from monai.engines.utils import IterationEvents
from monai.inferers import Inferer
from torch import Tensor, nn

from dcd_components.distillation_schedules import constant
from dcd_components.distiller import Distiller
from dcd_components.errors import InputError
from dcd_components.handlers.distillation import DistillationHandler
from dcd_components.handlers.gradient_clipping import GradientClipping
from dcd_components.handlers.weight_average import WeightAverage, average_of
from dcd_components.losses.attention import AttentionLoss
from dcd_components.losses.feature import FeatureLoss
from dcd_components.losses.intra_class import IntraClassLoss

STAGES = ["encoder.0", "encoder.1"]
HALF = constant(0.5)
ACCUMULATES = "accumulation_steps" in inspect.signature(SupervisedTrainer).parameters
NEW_MONAI = pytest.mark.skipif(not ACCUMULATES, reason="MONAI before 1.6 does not accumulate gradients")


class Decoder(nn.Module):
    """A 1x1x1 convolution that counts its calls."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convolution = nn.Conv3d(channels, 1, 1)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        logits: Tensor = self.convolution(x)
        return logits


class Network(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv3d(1, channels, 1), nn.Conv3d(channels, channels, 1))
        self.decoder = Decoder(channels)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        logits: Tensor = self.decoder(self.encoder(x))
        return logits


class Distillation:
    """A bare engine with the handler, and all that it works on."""

    def __init__(self, weight: Callable[[int], float] = HALF, inferer: Inferer | None = None, **settings: Any) -> None:
        torch.manual_seed(0)
        self.student, self.teacher = Network(2).double(), Network(3).double()
        shared = {"image_shape": X.shape[1:], "loss": FeatureLoss, "weight": weight}
        self.distiller = Distiller(self.student, self.teacher, STAGES, **{**shared, **settings}).double()
        self.handler = DistillationHandler(self.distiller, inferer)
        self.outputs: list[dict[str, Any]] = []
        self.batch: dict[str, Tensor] = {}
        self.plain_loss: Callable[[Tensor], Tensor] = lambda logits: logits.square().mean()
        self.engine = Engine(self.step)
        self.engine.register_events(*IterationEvents)
        self.handler.attach(self.engine)

    def step(self, engine: Engine, image: Tensor) -> dict[str, Any]:
        output: dict[str, Any] = {"image": image, **self.batch}
        engine.state.output = output
        output["plain"] = output["loss"] = self.plain_loss(self.student(image))
        engine.fire_event(IterationEvents.LOSS_COMPLETED)
        output["loss"].backward()
        self.outputs.append(output)
        return output

    def run(self, epochs: int = 1) -> None:
        self.engine.run([X, Y], max_epochs=epochs)

    def expected(self, image: Tensor) -> Tensor:
        """The term by hand, without recorders."""
        maps = [[net.encoder[0](image), net.encoder(image)] for net in (self.student, self.teacher)]
        projections = self.distiller.parameters()
        pairs = [(p.view(3, 2) @ s.flatten(2), t.flatten(2)) for p, s, t in zip(projections, *maps, strict=True)]
        return torch.stack([(s - t).square().mean() for s, t in pairs]).mean().detach()


def noise(seed: int) -> Tensor:
    return torch.randn(2, 1, 4, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


X, Y = noise(0), noise(1)


def hooks(*networks: nn.Module) -> int:
    return sum(len(module._forward_hooks) for network in networks for module in network.modules())


def test_weighted_term_is_added_to_the_loss() -> None:
    case = Distillation(HALF)
    case.run()
    for output, image in zip(case.outputs, (X, Y), strict=True):
        torch.testing.assert_close(output["distillation_loss"], case.expected(image))
        assert not output["distillation_loss"].requires_grad
        assert output["distillation_weight"].item() == 0.5
        torch.testing.assert_close(output["loss"], output["plain"] + 0.5 * output["distillation_loss"])
        torch.testing.assert_close(output["segmentation_loss"], output["plain"].detach())
        stages = torch.stack([output[f"distillation_loss/{stage}"] for stage in STAGES])
        torch.testing.assert_close(stages.mean(), output["distillation_loss"])
        assert stages[0] != stages[1]


def test_the_term_of_the_output_is_added_and_recorded_apart() -> None:
    case = Distillation(lambda epoch: 0.5 * (epoch > 0), output="decoder", output_loss=AttentionLoss, output_weight=3.0)
    case.run(epochs=2)
    first, *_, last = case.outputs
    names = {name for name in first if name.startswith("distillation")}
    assert names == {"distillation_loss/decoder", "distillation_output_weight"}
    assert set(last) - set(first) == {
        *("distillation_loss", "distillation_weight"),
        *(f"distillation_loss/{stage}" for stage in STAGES),
    }
    for output, weight in ((first, 0.0), (last, 0.5)):
        total = output["plain"] + 3 * output["distillation_loss/decoder"]
        torch.testing.assert_close(output["loss"], total + weight * output.get("distillation_loss", 0))
        assert output["distillation_output_weight"].item() == 3
        assert not output["distillation_loss/decoder"].requires_grad
    assert case.teacher.calls == case.teacher.decoder.calls == 4


def test_the_label_is_handed_to_losses_that_need_it() -> None:
    loss = partial(IntraClassLoss, num_classes=2)
    with pytest.raises(InputError, match="IntraClassLoss needs the label, and the batch has none"):
        Distillation(loss=loss).run()
    case = Distillation(loss=loss)
    case.batch = {"label": (X > 0).double()}
    case.run()
    assert case.outputs[0]["distillation_loss"] > 0


def test_weight_follows_epochs_counted_from_zero() -> None:
    case = Distillation(lambda epoch: [0.0, 0.25, 0.75][epoch])
    case.run(epochs=3)
    weights = [output.get("distillation_weight", torch.zeros(())).item() for output in case.outputs]
    assert weights == [0, 0, 0.25, 0.25, 0.75, 0.75]


def test_weight_follows_the_epoch_after_a_resume() -> None:
    case = Distillation(lambda epoch: [0.0, 0.0, 0.75][epoch])
    case.engine.load_state_dict({"epoch_length": 2, "max_epochs": 3, "iteration": 4})
    case.engine.run([X, Y])
    assert [output["distillation_weight"].item() for output in case.outputs] == [0.75, 0.75]


def test_student_and_projections_learn_from_the_term_and_the_teacher_does_not() -> None:
    case = Distillation(constant(1))
    case.plain_loss = lambda logits: 0 * logits.mean()
    case.run()
    learners = [*case.student.encoder.parameters(), *case.distiller.parameters()]
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in learners)
    assert all(p.grad is None for p in case.teacher.parameters())


def test_teacher_runs_once_an_iteration_and_never_its_decoder() -> None:
    case = Distillation()
    case.run(epochs=2)
    assert case.teacher.calls == 4
    assert case.teacher.decoder.calls == 0
    assert case.student.decoder.calls == 4


def test_teacher_is_run_by_the_given_inferer() -> None:
    class Noted(Inferer):  # type: ignore[misc]
        def __init__(self) -> None:
            self.inputs: list[Tensor] = []

        def __call__(self, inputs: Tensor, network: nn.Module, *_: Any, **__: Any) -> Any:
            self.inputs.append(inputs)
            return network(inputs)

    inferer = Noted()
    Distillation(inferer=inferer).run()
    assert len(inferer.inputs) == 2
    assert torch.equal(inferer.inputs[0], X)


def test_nothing_runs_at_weight_zero() -> None:
    case = Distillation(constant(0))
    counts: list[int] = []
    case.engine.add_event_handler(
        IterationEvents.LOSS_COMPLETED, lambda: counts.append(hooks(case.student, case.teacher))
    )
    case.run()
    assert counts == [0, 0]
    assert case.teacher.calls == 0
    for output in case.outputs:
        assert output["loss"] is output["plain"]
        assert not any(key.startswith("distillation") for key in output)


def test_hooks_come_and_go_with_the_weight() -> None:
    case = Distillation(lambda epoch: [0.0, 1.0, 0.0][epoch])
    counts: list[int] = []
    case.engine.add_event_handler(Events.ITERATION_STARTED, lambda: counts.append(hooks(case.student)))
    case.run(epochs=3)
    assert counts == [0, 0, 2, 2, 0, 0]


def test_hooks_are_gone_after_the_run() -> None:
    case = Distillation()
    case.run(epochs=2)
    assert hooks(case.student, case.teacher) == 0


@pytest.mark.parametrize("where", ["student", "teacher", "interrupt"])
def test_hooks_are_gone_after_an_exception_which_still_gets_out(where: str) -> None:
    case = Distillation()
    kind = KeyboardInterrupt if where == "interrupt" else RuntimeError

    def fail(*_: Any) -> None:
        raise kind("out of memory")

    network = case.teacher if where == "teacher" else case.student
    network.encoder[1].register_forward_pre_hook(fail)
    with pytest.raises(kind, match="out of memory"):
        case.run()
    assert hooks(case.student, case.teacher) == 0


@pytest.mark.parametrize("skip_completed", [False, True], ids=["completed fires", "completed skipped"])
def test_hooks_are_gone_after_an_early_end(skip_completed: bool) -> None:
    case = Distillation()
    end = Events.ITERATION_COMPLETED(once=1)
    case.engine.add_event_handler(end, lambda: case.engine.terminate(skip_completed=skip_completed))
    case.run()
    assert len(case.outputs) == 1
    assert hooks(case.student, case.teacher) == 0


def test_validation_of_the_student_leaves_nothing_behind_and_training_goes_on() -> None:
    plain, case = Distillation(), Distillation()

    def validate() -> None:
        with torch.no_grad():
            case.student(torch.zeros(1, 1, 2, 2, 2, dtype=torch.float64))
        with pytest.raises(RuntimeError, match=r"no features recorded for encoder\.0, encoder\.1"):
            case.distiller.loss(X, epoch=0)

    case.engine.add_event_handler(Events.EPOCH_COMPLETED, validate)
    for each in (plain, case):
        each.run(epochs=2)
    assert case.student.calls == plain.student.calls + 2
    assert [output["loss"].item() for output in case.outputs] == [output["loss"].item() for output in plain.outputs]


class NotingSGD(torch.optim.SGD):
    """Keeps the gradient that each step uses."""

    def __init__(self, parameters: Iterator[nn.Parameter], **options: Any) -> None:
        super().__init__(parameters, **options)
        self.seen: list[Tensor] = []

    def step(self, closure: Any = None) -> Any:
        parameters = [p for group in self.param_groups for p in group["params"]]
        self.seen.append(torch.cat([p.grad.flatten() for p in parameters]).clone())
        return super().step(closure)


@pytest.mark.parametrize(
    ("accumulation_steps", "steps"),
    [
        pytest.param(1, [1, 2, 3], id="each step"),
        pytest.param(2, [2, 3], id="every second", marks=NEW_MONAI),
    ],
)
def test_what_the_optimizer_uses_is_clipped_once_a_step(
    monkeypatch: pytest.MonkeyPatch, accumulation_steps: int, steps: list[int]
) -> None:
    torch.manual_seed(0)
    network = Network(2)
    batches = [{"image": noise(i).float(), "label": 10.0 * noise(10 + i).float()} for i in range(3)]
    optimizer = NotingSGD(network.parameters(), lr=0.0)
    clipped_at: list[int] = []

    def clip(parameters: list[nn.Parameter], max_norm: float) -> None:
        clipped_at.append(trainer.state.iteration)
        original(parameters, max_norm)

    original = nn.utils.clip_grad_norm_
    monkeypatch.setattr(nn.utils, "clip_grad_norm_", clip)
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=1,
        train_data_loader=batches,
        network=network,
        optimizer=optimizer,
        loss_function=nn.MSELoss(),
        train_handlers=[GradientClipping(0.1)],
        epoch_length=len(batches),
        decollate=False,
        **({"accumulation_steps": accumulation_steps} if ACCUMULATES else {}),
    )
    trainer.run()
    assert clipped_at == steps

    def gradient(batch: dict[str, Tensor]) -> Tensor:
        loss = nn.functional.mse_loss(network(batch["image"]), batch["label"])
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(network.parameters()))])

    groups = [batches[:2], batches[2:]] if accumulation_steps == 2 else [[batch] for batch in batches]
    for seen, group in zip(optimizer.seen, groups, strict=True):
        whole = torch.stack([gradient(batch) for batch in group]).sum(0)
        torch.testing.assert_close(seen, 0.1 * whole / whole.norm(), rtol=1e-4, atol=1e-6)
        assert seen.norm() <= 0.1 * (1 + 1e-5)


def test_small_gradients_are_left_alone() -> None:
    parameter = nn.Parameter(torch.zeros(2))
    parameter.grad = torch.tensor([0.3, 0.4])
    GradientClipping(1.0)(step_of(parameter))
    assert torch.equal(parameter.grad, torch.tensor([0.3, 0.4]))


def test_norm_is_taken_over_all_groups_of_the_optimizer() -> None:
    first, second = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    first.grad, second.grad = torch.tensor([3.0]), torch.tensor([4.0])
    GradientClipping(1.0)(step_of(first, second))
    torch.testing.assert_close(torch.cat([first.grad, second.grad]), torch.tensor([0.6, 0.8]))


class Scaler:
    """Stands in for torch.amp.GradScaler, which needs a GPU."""

    def __init__(self) -> None:
        self.unscaled = 0

    def unscale_(self, optimizer: torch.optim.Optimizer) -> None:
        self.unscaled += 1
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad /= 1024


def step_of(*parameters: nn.Parameter, scaler: Scaler | None = None, iteration: int = 2) -> Any:
    """An engine at ``iteration`` of 3 that steps every second time, with one group a parameter."""
    optimizer = torch.optim.SGD([{"params": [parameter]} for parameter in parameters], lr=1.0)
    state = SimpleNamespace(iteration=iteration, epoch_length=3)
    return SimpleNamespace(
        optimizer=optimizer, scaler=scaler, amp=scaler is not None, accumulation_steps=2, state=state
    )


@pytest.mark.parametrize(
    ("iteration", "unscaled", "norm"),
    [
        pytest.param(1, 0, 5 * 1024, id="only accumulates"),
        pytest.param(2, 1, 1, id="steps"),
        pytest.param(3, 1, 1, id="steps at the end of the epoch"),
        pytest.param(4, 0, 5 * 1024, id="only accumulates in the next epoch"),
    ],
)
def test_gradients_are_unscaled_before_they_are_clipped(iteration: int, unscaled: int, norm: float) -> None:
    scaler, parameter = Scaler(), nn.Parameter(torch.zeros(2))
    parameter.grad = 1024 * torch.tensor([3.0, 4.0])
    GradientClipping(1.0)(step_of(parameter, scaler=scaler, iteration=iteration))
    assert scaler.unscaled == unscaled
    assert parameter.grad.norm().item() == pytest.approx(norm, rel=1e-5)


def test_scaled_but_small_gradients_are_only_unscaled() -> None:
    parameter = nn.Parameter(torch.zeros(2))
    parameter.grad = 1024 * torch.tensor([0.3, 0.4])
    GradientClipping(1.0)(step_of(parameter, scaler=Scaler()))
    torch.testing.assert_close(parameter.grad, torch.tensor([0.3, 0.4]))


@pytest.mark.parametrize("max_norm", [0.0, -1.0])
def test_a_largest_norm_that_is_not_positive_is_refused(max_norm: float) -> None:
    with pytest.raises(ValueError, match=f"max_norm must be positive, got {max_norm}"):
        GradientClipping(max_norm)


def test_the_average_starts_from_the_weights_that_a_training_starts_from() -> None:
    network = nn.Linear(1, 1, bias=False)
    averaged = average_of(network)
    assert isinstance(averaged, nn.Linear)
    average = WeightAverage(network, averaged, decay=0.75)
    engine = Engine(lambda engine, batch: nn.init.constant_(network.weight, 10.0))
    average.attach(engine)
    engine.add_event_handler(Events.STARTED, lambda engine: nn.init.constant_(network.weight, 2.0))  # as a loader does
    engine.run([0])
    assert averaged.weight.item() == 0.75 * 2.0 + 0.25 * 10.0
    engine.run([0])
    assert averaged.weight.item() == 0.75 * 2.0 + 0.25 * 10.0
    assert network.weight.item() == 10.0


@pytest.mark.parametrize("epochs", [3, 4])
def test_a_weight_of_0_in_every_epoch_is_warned_of(epochs: int, caplog: pytest.LogCaptureFixture) -> None:
    Distillation(constant(0.5, start=3)).engine.run([X], max_epochs=epochs)
    said = [one for one in caplog.messages if "nothing is distilled" in one]
    assert said == ["nothing is distilled: distillation_weight is 0 in each of the 3 epochs"] * (epochs == 3)


def test_a_distillation_that_never_distils_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    Distillation(constant(0.3, start=2)).run(epochs=2)
    said = "nothing is distilled: distillation_weight is 0 in each of the 2 epochs"
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [said]
    caplog.clear()
    Distillation(constant(0.3, start=1)).run(epochs=2)
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
