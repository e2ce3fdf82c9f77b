"""The distiller in loops of every kind."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import distilled
import pytest
import torch
from bare_python import Python, link_distributions
from distilled import LOSS, OUTPUT, STAGES, Network, distiller_of, image, networks
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.networks.nets import DynUNet
from torch import Tensor, nn

from dcd_components.distillation_schedules import cosine_ramp
from dcd_components.distiller import Distiller
from dcd_components.losses.feature import FeatureLoss
from dcd_components.losses.frequency import FrequencyLoss
from dcd_components.losses.intra_class import IntraClassLoss
from dcd_components.losses.logits import LogitsLoss
from dcd_components.losses.wavelet_detail import WaveletDetailLoss


def hooks(*modules: nn.Module) -> int:
    return sum(len(module._forward_hooks) for one in modules for module in one.modules())


def expected_terms(distiller: Distiller, student: Network, teacher: Network, x: Tensor) -> list[Tensor]:
    """Compute the terms of the stages without hooks."""
    pairs = zip(student.maps(x), teacher.maps(x), strict=True)
    return [loss(ours, theirs) for loss, (ours, theirs) in zip(distiller.losses, pairs, strict=False)]


def test_the_loss_is_the_weighted_mean_of_the_stages() -> None:
    student, teacher = networks()
    distiller = distiller_of(student, teacher, weight=0.3)
    with distiller:
        student(image())
        value = distiller.loss(image(), epoch=0)
    terms = expected_terms(distiller, student, teacher, image())
    torch.testing.assert_close(value, 0.3 * torch.stack(terms).mean())
    torch.testing.assert_close(distiller.unweighted, value.detach() / 0.3)
    assert list(distiller.terms) == STAGES
    assert not any(term.requires_grad for term in (*distiller.terms.values(), distiller.unweighted))
    torch.testing.assert_close(list(distiller.terms.values()), [term.detach() for term in terms])


def test_one_stage_scores_as_that_stage() -> None:
    student, teacher = networks()
    distiller = Distiller(student, teacher, STAGES[:1], image_shape=image().shape[1:], loss=LOSS)
    with distiller:
        student(image())
        value = distiller.loss(image(), epoch=0)
    assert torch.equal(value, distiller.losses[0](student.stem(image()), teacher.stem(image())))


def logits_term(student: Network, teacher: Network, x: Tensor) -> Tensor:
    with torch.no_grad():
        value: Tensor = LogitsLoss(2, 2, by_class=True)(student(x), teacher(x))
    return value


def test_the_loss_of_the_output_comes_on_top_with_a_weight_of_its_own() -> None:
    student, teacher = networks()
    distiller = distiller_of(student, teacher, weight=0.3, output_weight=2.0, **OUTPUT)
    with distiller:
        student(image())
        value = distiller.loss(image(), epoch=0)
    stages = torch.stack(expected_terms(distiller, student, teacher, image()))
    last = logits_term(student, teacher, image())
    torch.testing.assert_close(value, 0.3 * stages.mean() + 2 * last)
    torch.testing.assert_close(distiller.unweighted, stages.mean().detach())
    assert list(distiller.terms) == [*STAGES, "decoder"]
    torch.testing.assert_close(distiller.terms["decoder"], last)
    value.backward()  # type: ignore[no-untyped-call]
    assert student.decoder.weight.grad is not None


@pytest.mark.parametrize(
    ("epoch", "passes", "terms"),
    [(0, (0, 0), []), (1, (1, 0), STAGES), (2, (1, 1), ["decoder"]), (3, (1, 1), [*STAGES, "decoder"])],
    ids=["nothing", "stages", "output", "both"],
)
def test_one_pass_of_the_teacher_goes_as_far_as_the_weights_ask(
    epoch: int, passes: tuple[int, int], terms: list[str]
) -> None:
    student, teacher = networks()
    distiller = distiller_of(
        student, teacher, weight=lambda e: 0.5 * (e % 2), output_weight=lambda e: float(e // 2), **OUTPUT
    )
    distiller.open(epoch)
    student(image())
    value = distiller.loss(image(), epoch) if epoch else torch.zeros(())
    assert (teacher.calls, teacher.decoder_calls) == passes
    assert list(distiller.terms) == terms
    assert hooks(student) == (3 if epoch else 0)
    last = distiller.terms.get("decoder", torch.zeros(()))
    torch.testing.assert_close(value.detach(), 0.5 * distiller.unweighted + last)
    distiller.close()
    assert hooks(student, teacher) == 0


def test_the_logits_of_a_monai_network_with_deep_supervision_are_those_of_its_main_head() -> None:
    torch.manual_seed(0)
    student, teacher = dynunet(4, 8, 12, 16), dynunet(8, 16, 24, 32)
    x = torch.randn(2, 4, 16, 16, 16)
    distiller = Distiller(student, teacher, ["output_block"], image_shape=x.shape[1:], loss=LogitsLoss)
    with distiller:
        heads = student(x)
        value = distiller.loss(x, epoch=0)
    torch.testing.assert_close(value, LogitsLoss(3, 3)(heads[:, 0], teacher(x)))


def test_a_loss_that_needs_the_label_is_given_it_and_says_so_if_there_is_none() -> None:
    student, teacher = networks()
    loss = partial(IntraClassLoss, num_classes=2)
    label = (image() > 0).float()
    with distiller_of(student, teacher, loss=loss, **OUTPUT) as distiller:
        student(image())
        value = distiller.loss(image(), epoch=0, label=MetaTensor(label))
        pairs = zip(student.maps(image()), teacher.maps(image()), strict=True)
        stages = torch.stack([loss(1, 1)(*pair, label) for pair in pairs])
        torch.testing.assert_close(value, stages.mean() + logits_term(student, teacher, image()))
        assert type(value) is Tensor
        student(image())
        with pytest.raises(ValueError, match="IntraClassLoss needs the label, and the batch has none"):
            distiller.loss(image(), epoch=0)


def test_its_settings_say_what_is_compared_and_how() -> None:
    networks_ = networks()
    assert distiller_of(*networks_).settings == {
        "stages": STAGES,
        "teacher_stages": STAGES,
        "loss": {"name": "WaveletDetailLoss", "wavelet": "db2", "levels": 2},
    }
    with_output = distiller_of(*networks_, loss=FeatureLoss, **OUTPUT).settings
    assert with_output["loss"] == {"name": "FeatureLoss"}
    assert with_output["output"] == "decoder"
    assert with_output["output_loss"] == {"name": "LogitsLoss", "by_class": True}


def test_a_schedule_says_the_weight_of_each_epoch() -> None:
    student, teacher = networks()
    distiller = distiller_of(student, teacher, weight=cosine_ramp(0.5, start=2, length=4))
    with distiller:
        for epoch, weight in enumerate([0, 0, 0, 0.0732233, 0.25, 0.4267767, 0.5]):
            student(image())
            assert distiller.loss(image(), epoch).item() == pytest.approx(weight * distiller.unweighted.item())
            assert (distiller.unweighted > 0) == (weight > 0)


def test_at_weight_zero_the_teacher_does_not_run_and_nothing_is_kept() -> None:
    student, teacher = networks()
    distiller = distiller_of(student, teacher, weight=lambda epoch: float(epoch))
    with distiller:
        student(image())
        value = distiller.loss(image(), epoch=0)
        assert value.item() == 0
        assert distiller.terms == {}
        assert teacher.calls == 0
        with pytest.raises(RuntimeError, match="no features recorded"):
            distiller.loss(image(), epoch=1)


def test_epochs_that_weigh_nothing_are_not_recorded_where_they_are_opened() -> None:
    student, teacher = networks()
    distiller, counts = distiller_of(student, teacher, weight=lambda epoch: [0.0, 1.0, 0.0][epoch]), []
    for epoch in range(3):
        distiller.open(epoch)
        counts.append(hooks(student))
    assert counts == [0, 2, 0]


def test_the_teacher_stops_after_its_last_stage() -> None:
    student, teacher = networks()
    with distiller_of(student, teacher) as distiller:
        student(image())
        distiller.loss(image(), epoch=0)
    assert (teacher.calls, teacher.decoder_calls) == (1, 0)
    assert hooks(teacher) == 0


def test_what_the_distiller_learns_and_saves_are_its_projections() -> None:
    student, teacher = networks()
    distiller = distiller_of(student, teacher)
    shapes = {name: tuple(x.shape) for name, x in distiller.state_dict().items()}
    assert shapes == {"losses.0.projection.weight": (6, 2, 1, 1, 1), "losses.1.projection.weight": (8, 3, 1, 1, 1)}
    assert [tuple(x.shape) for x in distiller.parameters()] == list(shapes.values())
    other = distiller_of(*networks())
    other.load_state_dict(distiller.state_dict())
    assert all(torch.equal(x, y) for x, y in zip(other.parameters(), distiller.parameters(), strict=True))


def test_the_teacher_is_frozen_and_nothing_of_the_student_is_changed() -> None:
    student, teacher = networks()
    before = {name: x.clone() for name, x in student.state_dict().items()}
    modes = [module.training for module in student.modules()]
    distiller_of(student, teacher)
    assert not any(module.training for module in teacher.modules())
    assert not any(x.requires_grad for x in teacher.parameters())
    assert [module.training for module in student.modules()] == modes
    assert student.norm.num_batches_tracked == 0
    assert all(torch.equal(x, before[name]) for name, x in student.state_dict().items())
    assert student.calls == teacher.calls == 0
    assert hooks(student, teacher) == 0


def test_construction_draws_nothing_but_the_projections() -> None:
    student, teacher = networks()
    torch.manual_seed(3)
    [loss(*channels) for loss, channels in ((LOSS, (2, 6)), (LOSS, (3, 8)))]
    expected = torch.rand(1)
    torch.manual_seed(3)
    distiller_of(student, teacher)
    assert torch.equal(torch.rand(1), expected)


def dynunet(*filters: int) -> DynUNet:
    return DynUNet(
        *(3, 4, 3, [3] * 4, [1, 2, 2, 2], [2] * 3),
        filters=filters,
        deep_supervision=True,
        deep_supr_num=2,
        res_block=True,
        dropout=0.1,
    )


@pytest.mark.parametrize("after_a_pass", [False, True], ids=["fresh", "after a pass"])
def test_stages_of_a_monai_network_with_deep_supervision_are_found(after_a_pass: bool) -> None:
    student, teacher = dynunet(4, 8, 12, 16), dynunet(8, 16, 24, 32)
    x = torch.randn(2, 4, 16, 16, 16)
    if after_a_pass:
        student(x)  # it keeps the outputs of its heads
    stages = ["input_block", "downsamples.0", "downsamples.1", "bottleneck"]
    distiller = Distiller(student, teacher, stages, image_shape=x.shape[1:])
    assert [tuple(p.shape[:2]) for p in distiller.parameters()] == [(8, 4), (16, 8), (24, 12), (32, 16)]
    with distiller:
        student(x)
        distiller.loss(x, epoch=0).backward()  # type: ignore[no-untyped-call]
    assert all(x.device.type == "cpu" for x in student.heads)


def test_channels_of_a_plain_sequence_are_found_and_the_paths_may_differ() -> None:
    student = nn.Sequential(nn.Conv3d(1, 2, 3, padding=1), nn.BatchNorm3d(2), nn.ReLU(), nn.MaxPool3d(8), nn.Flatten())
    teacher = nn.Sequential(nn.Sequential(nn.Conv3d(1, 5, 3, padding=1), nn.ReLU()), nn.Conv3d(5, 6, 1))
    distiller = Distiller(
        student, teacher, ["2"], teacher_stages=["0.1"], image_shape=(1, 8, 8, 8), loss=FeatureLoss, weight=2.0
    )
    assert [tuple(p.shape[:2]) for p in distiller.parameters()] == [(5, 2)]
    with distiller:
        student(image())
        assert distiller.loss(image(), 0) > 0
    assert list(distiller.terms) == ["2"]


def test_a_config_of_monai_makes_a_distiller() -> None:
    config = {
        "_target_": "dcd_components.Distiller",
        "student": "$@networks[0]",
        "teacher": "$@networks[1]",
        "stages": STAGES,
        "image_shape": [1, 8, 8, 8],
        "loss": {"_target_": "dcd_components.WaveletDetailLoss", "_mode_": "callable", "wavelet": "db2", "levels": 1},
        "weight": {"_target_": "dcd_components.cosine_ramp", "maximum": 0.5, "start": 3, "length": 9},
    }
    parser = ConfigParser({"distiller": config, "networks": None})
    parser["networks"] = list(networks())
    distiller = parser.get_parsed_content("distiller")
    assert isinstance(distiller, Distiller)
    losses = [cast(WaveletDetailLoss, loss) for loss in distiller.losses]
    assert [(loss.wavelet, loss.levels) for loss in losses] == [("db2", 1), ("db2", 1)]
    assert distiller.weight(100) == 0.5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        pytest.param({"stages": ["stem", "dwn"]}, "Network has no stage 'dwn'; did you mean down", id="path"),
        pytest.param({"teacher_stages": ["stem"]}, "2 stages of the student cannot match 1 of the teacher", id="count"),
        pytest.param(
            {"output": "decoder", "teacher_output": "stem"},
            r"maps of the output decoder differ in size: student \(2, 4, 4, 4\), teacher \(6, 8, 8, 8\)",
            id="size",
        ),
        pytest.param({"weight": -1.0}, "must not be negative, got -1.0", id="weight"),
        pytest.param({"stages": []}, "stages must name at least one sub-module", id="none"),
        pytest.param({"output": "decode"}, "Network has no stage 'decode'; did you mean decoder", id="output"),
        pytest.param({"output": "down"}, "matched twice: stages stem, down, output down", id="twice"),
        pytest.param({"output": "decoder", "output_weight": -1.0}, "not be negative, got -1.0", id="output weight"),
        pytest.param({"stages": ["stem"], "loss": LogitsLoss}, "2 classes cannot match those of 6", id="channels"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Distiller(*networks(), **{"stages": STAGES, "image_shape": (1, 8, 8, 8), **settings})


def test_a_pass_before_the_block_is_named_as_the_reason() -> None:
    student, teacher = networks()
    distiller = distiller_of(student, teacher)
    student(image())
    with pytest.raises(RuntimeError, match="run the network, with gradient, after the recorder is opened"):
        distiller.loss(image(), epoch=0)


def test_hooks_are_gone_after_an_exception() -> None:
    student, teacher = networks()
    with pytest.raises(RuntimeError, match="expected input"), distiller_of(student, teacher):
        student(image()[:, [0, 0]])
    assert hooks(student, teacher) == 0


def test_validation_amid_training_is_not_recorded() -> None:
    student, teacher = networks()
    with distiller_of(student, teacher) as distiller:
        with torch.no_grad():
            student(image())
        with pytest.raises(RuntimeError, match="no features recorded"):
            distiller.loss(image(), epoch=0)


def test_the_tensors_of_monai_are_taken_as_plain_ones() -> None:
    student, teacher = networks()
    values = []
    with distiller_of(student, teacher) as distiller:
        for x in (image(), MetaTensor(image())):
            student(x)
            values.append(distiller.loss(x, epoch=0))
    assert type(values[1]) is Tensor
    assert torch.equal(*values)


def test_an_inferer_may_run_the_teacher() -> None:
    student, teacher = networks()
    seen: list[nn.Module] = []

    def inferer(x: Tensor, network: nn.Module) -> object:
        seen.append(network)
        return network(x)

    with distiller_of(student, teacher) as distiller:
        student(image())
        distiller.loss(image(), 0, inferer)
    assert seen == [teacher]


def test_under_autocast_both_networks_run_in_half_precision_and_the_loss_in_single() -> None:
    student, teacher = networks()
    dtypes: list[torch.dtype] = []

    class Noting(FeatureLoss):
        def forward(self, input: Tensor, target: Tensor) -> Tensor:
            dtypes.extend((input.dtype, target.dtype))
            return super().forward(input, target)

    distiller = distiller_of(student, teacher, loss=Noting)
    with distiller, torch.autocast("cpu", torch.bfloat16):
        student(image())
        value = distiller.loss(image(), epoch=0)
    assert set(dtypes) == {torch.bfloat16}
    assert value.dtype == torch.float32


def gradients(student: nn.Module, distiller: Distiller, batches: list[Tensor], run: Callable[..., Any]) -> list[Tensor]:
    student.zero_grad()
    distiller.zero_grad()
    with distiller:
        for x in batches:
            (run(x).square().mean() + distiller.loss(x, epoch=0)).backward()
    return [cast(Tensor, x.grad).clone() for x in (*student.parameters(), *distiller.parameters())]


def test_gradients_of_several_batches_add_up() -> None:
    student, teacher = networks()
    student.eval()  # a batch norm's statistics are those of a batch
    distiller = distiller_of(student, teacher)
    first, second = (gradients(student, distiller, [image(seed)], student) for seed in (0, 1))
    both = gradients(student, distiller, [image(0), image(1)], student)
    for one, other, whole in zip(first, second, both, strict=True):
        torch.testing.assert_close(whole, one + other)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d], ids=str)
def test_gradients_come_in_the_layout_of_the_student_s_weights(layout: torch.memory_format) -> None:
    """Those of its convolutions, to which they are added, do too; a norm may have changed that of the map."""
    student, teacher = (nn.Sequential(nn.Conv3d(2, n, 3, padding=1), nn.InstanceNorm3d(n)) for n in (2, 6))
    student.to(memory_format=layout)  # type: ignore[call-overload]
    found: list[Tensor] = []

    def note(module: nn.Module, inputs: Any, output: Tensor) -> None:
        output.register_hook(found.append)  # type: ignore[no-untyped-call]

    distiller = Distiller(student, teacher, ["1"], image_shape=(2, 8, 8, 8), loss=LOSS)
    x = torch.randn(2, 2, 8, 8, 8)
    with distiller, student[1].register_forward_hook(note):
        assert student(x).is_contiguous()
        distiller.loss(x, epoch=0).backward()  # type: ignore[no-untyped-call]
    assert [gradient.is_contiguous(memory_format=layout) for gradient in found] == [True]


@pytest.mark.parametrize("when", ["before", "after", "in place"])
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_compiled_student_learns_the_same(backend: str, when: str) -> None:
    torch.compiler.reset()
    with torch._dynamo.config.patch(skip_nnmodule_hook_guards=True):
        found = []
        for compiled in (False, True):
            student, teacher = networks()
            run: nn.Module = student
            if compiled and when == "before":
                run = cast(nn.Module, torch.compile(student, backend=backend))
            torch.manual_seed(5)
            distiller = distiller_of(run, teacher)
            if compiled and when == "after":
                run = cast(nn.Module, torch.compile(student, backend=backend))
            elif compiled and when == "in place":
                student.compile(backend=backend)
            found.append(gradients(student, distiller, [image(seed) for seed in range(3)], run))
    torch.compiler.reset()
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-6)


def test_the_teacher_follows_the_image_s_device() -> None:
    """As a framework moves its module, but not the teacher, which is no sub-module; here to a device without values."""

    class Loss(nn.Module):
        def __init__(self, *channels: int) -> None:
            super().__init__()
            self.channels = channels

        def forward(self, input: Tensor, target: Tensor) -> Tensor:
            return input.mean() - target.mean()

    student, teacher = networks()
    distiller = distiller_of(student, teacher, loss=Loss)
    student.to("meta")
    with distiller:
        student(image().to("meta"))
        assert distiller.loss(image().to("meta"), 0).device.type == "meta"
    assert {x.device.type for x in teacher.parameters()} == {"meta"}


#: Float32 rounds sums that are split otherwise.
TOLERANCE = 1e-6
LAUNCHER = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]


def test_two_processes_learn_what_one_does_with_both_batches(tmp_path: Path) -> None:
    subprocess.run([*LAUNCHER, distilled.__file__, str(tmp_path)], check=True, timeout=300, capture_output=True)
    distilled.train(tmp_path)
    alone, first, second = (torch.load(tmp_path / name) for name in ("alone.pt", "0.pt", "1.pt"))
    assert len(alone) == len(list(Network(2, 3).parameters())) + 2
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    torch.testing.assert_close(first, alone, rtol=0, atol=TOLERANCE)
    start = distiller_of(*networks()).parameters()
    assert all((now - then).abs().max() > 1000 * TOLERANCE for now, then in zip(alone[-2:], start, strict=True))


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Python:
    """Python in which torch, numpy and PyWavelets, what they need, and this project are all there is."""
    folder = link_distributions(["torch", "numpy", "PyWavelets"], tmp_path_factory.mktemp("bare") / "packages")
    (folder / "dcd_components").symlink_to(Path(distilled.__file__).parents[1] / "dcd_components")
    return Python(folder)


@pytest.mark.parametrize("absent", ["monai", "ignite", "numba", "scipy", "nibabel", "matplotlib", "fire", "tqdm"])
def test_the_bare_environment_is_bare(bare: Python, absent: str, tmp_path: Path) -> None:
    assert "ModuleNotFoundError" in bare("-c", f"import {absent}", cwd=tmp_path, check=False).stderr


def test_loss_recorder_schedules_and_distiller_need_torch_and_pywavelets_alone(bare: Python, tmp_path: Path) -> None:
    result = bare(str(distilled.__file__), str(tmp_path), cwd=tmp_path)
    said = "No module named 'numba': `pip install numba` makes the wavelet loss"
    assert result.stderr.count(said) == 1  # whatever the number of losses and steps
    distilled.train(tmp_path / "here")
    with_numba, without = (torch.load(folder / "alone.pt") for folder in (tmp_path / "here", tmp_path))
    torch.testing.assert_close(without, with_numba, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("widths", [(3, 8), (8, 3)], ids=["narrower", "wider"])
@pytest.mark.parametrize(
    "loss", [FeatureLoss, partial(WaveletDetailLoss, normalize=True, levels=2, wavelet="haar")], ids=["maps", "detail"]
)
def test_projections_are_fitted_to_where_the_loss_is_least(loss: Any, widths: tuple[int, int]) -> None:
    student, teacher = (
        nn.Sequential(nn.Conv3d(1, width, 3, padding=1), nn.BatchNorm3d(width), nn.ReLU()) for width in widths
    )
    distiller = Distiller(student, teacher, ["2"], image_shape=(1, 8, 8, 8), loss=loss)
    images = [image() + number for number in range(2)]
    before = {name: x.clone() for name, x in student.state_dict().items()}

    distiller.fit(images)

    assert student.training
    assert all(torch.equal(x, before[name]) for name, x in student.state_dict().items())  # statistics too
    student.eval()
    with distiller:
        total = torch.zeros(())
        for one in images:
            student(one)
            total = total + distiller.loss(one, 0)
    (gradient,) = torch.autograd.grad(total, [*distiller.parameters()])
    assert total > 0
    assert gradient.abs().max() < 2e-3  # but for the small ridge


@pytest.mark.parametrize("dead", [0, 1], ids=["student", "teacher"])
def test_a_stage_without_anything_to_be_fitted_by_keeps_its_projection(dead: int) -> None:
    both = networks()
    for parameter in both[dead].get_submodule(STAGES[1]).parameters():
        nn.init.zeros_(parameter)
    loss = partial(WaveletDetailLoss, normalize=True, levels=1, wavelet="haar")
    distiller = Distiller(*both, STAGES, image_shape=(1, 8, 8, 8), loss=loss)
    before = [x.detach().clone() for x in distiller.parameters()]
    distiller.fit([image()])
    changed = [not torch.equal(one, other) for one, other in zip(before, distiller.parameters(), strict=True)]
    assert changed == [True, False]


def test_images_are_brought_to_the_student_s_device() -> None:
    """Not the networks to the image's, amid a training."""
    student, teacher = (network.to("meta") for network in networks())
    distiller = Distiller(student, teacher, STAGES, image_shape=(1, 8, 8, 8), loss=FeatureLoss)
    seen: list[str] = []

    def inferer(x: Tensor, network: nn.Module) -> object:
        seen.append(x.device.type)
        if network is teacher:
            raise InterruptedError  # maps without values cannot be fitted
        return network(x)

    with pytest.raises(InterruptedError):
        distiller.fit([image()], inferer)
    assert seen == ["meta", "meta"]
    assert next(student.parameters()).device.type == "meta"


def test_losses_that_are_not_quadratic_keep_their_projections() -> None:
    distiller = Distiller(*networks(), STAGES, image_shape=(1, 8, 8, 8), loss=FrequencyLoss)
    before = [x.clone() for x in distiller.parameters()]
    distiller.fit([image()])
    assert all(torch.equal(one, other) for one, other in zip(before, distiller.parameters(), strict=True))
