"""A student that starts as channels of its teacher."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import pytest
import torch
from monai.networks.nets import BasicUNet, DynUNet, SegResNet
from torch import Tensor, nn
from torch.nn import functional

from dcd_components.errors import InputError
from dcd_components.networks.channel_groups import Group, follow_channels
from dcd_components.networks.narrowing import start_from_teacher

WIDE, NARROW = (12, 16, 24), (4, 6, 8)


class PooledSkips(nn.Module):
    """Residual blocks as those of nnU-Net's encoder: what is skipped is pooled, and projected where widths differ."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv3d(2, widths[0], 3, padding=1), nn.BatchNorm3d(widths[0]), nn.LeakyReLU())
        first, second, _ = widths
        self.down = nn.Sequential(nn.Conv3d(first, second, 3, 2, 1), nn.InstanceNorm3d(second, affine=True))
        self.skip = nn.Sequential(nn.AvgPool3d(2), nn.Conv3d(first, second, 1), nn.InstanceNorm3d(second, affine=True))
        self.same = nn.Sequential(nn.Conv3d(second, second, 3, padding=1), nn.InstanceNorm3d(second, affine=True))
        self.up = nn.ConvTranspose3d(second, first, 2, 2, bias=True)
        self.head = nn.Conv3d(2 * first, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        stem = self.stem(x)
        down = functional.relu(self.down(stem) + self.skip(stem))
        same = self.same(down)
        same += down
        return self.head(torch.cat((self.up(functional.relu(same)), stem), dim=1))  # type: ignore[no-any-return]


def dynunet(widths: tuple[int, ...], res_block: bool = True, deep_supervision: bool = False) -> DynUNet:
    sizes = {"kernel_size": [3] * 3, "strides": [1, 2, 2], "upsample_kernel_size": [2, 2], "filters": widths}
    norm = ("INSTANCE", {"affine": True})
    return DynUNet(3, 2, 3, **sizes, norm_name=norm, res_block=res_block, deep_supervision=deep_supervision)


NETWORKS: dict[str, Callable[[tuple[int, ...]], nn.Module]] = {
    "residual": dynunet,
    "plain": lambda widths: dynunet(widths, res_block=False),
    "pooled skips": PooledSkips,
    "BasicUNet": lambda widths: BasicUNet(in_channels=2, out_channels=3, features=(*widths, *widths)),
}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def batch() -> dict[str, Tensor]:
    return {"image": torch.randn(2, 2, 32, 16, 16, dtype=torch.float64), "label": torch.randint(3, (2, 1, 32, 16, 16))}


def norm(width: int, kernel: int = 1, inputs: int = 2, affine: bool = True) -> nn.Sequential:
    convolution = nn.Conv3d(inputs, width, kernel, padding=kernel // 2)
    return nn.Sequential(convolution, nn.InstanceNorm3d(width, affine=affine), nn.ReLU(), nn.Conv3d(width, 3, 1))


def cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    return functional.cross_entropy(logits, label[:, 0])


def random_weights(network: nn.Module) -> nn.Module:
    """Norms that do not begin as 1 and 0, so that an exchange of channels is seen."""
    with torch.no_grad():
        for x in network.parameters():
            x.copy_(torch.randn_like(x))
        for name, y in network.named_buffers():
            if y.is_floating_point():
                y.copy_(torch.rand_like(y) + 0.5 * ("var" in name))
    return network.double().eval()


@torch.no_grad()
def hidden_in(wide: nn.Module, narrow: nn.Module, image: Tensor) -> nn.Module:
    """Make of a wide network one that does what the narrow one does, with channels of no use between."""
    layout = follow_channels(wide.double(), image.shape[1:])
    sources = dict(narrow.state_dict())
    places: dict[Group, Tensor] = {}
    for name, x in {**dict(wide.named_parameters()), **dict(wide.named_buffers())}.items():
        x.zero_()
        if not x.dim():
            continue  # the number of batches that a batch norm has seen
        index: list[Tensor] = [torch.arange(n) for n in x.shape]
        for axis, groups in layout.axes.get(name, {}).items():
            share = sources[name].shape[axis] // len(groups)
            start, parts = 0, []
            for group in groups:
                places.setdefault(group, torch.randperm(group.size)[:share].sort().values)
                parts.append(start + places[group])
                start += group.size
            index[axis] = torch.cat(parts)
        x[torch.meshgrid(*index, indexing="ij")] = sources[name]
    return wide.eval()


@pytest.mark.parametrize("kind", NETWORKS)
def test_channels_that_matter_are_found_wherever_they_are(kind: str, batch: Mapping[str, Tensor]) -> None:
    narrow = random_weights(NETWORKS[kind](NARROW))
    image = batch["image"]
    teacher = hidden_in(NETWORKS[kind](WIDE), narrow, image)
    expected = teacher(image)
    torch.testing.assert_close(expected, narrow(image))  # as it is hidden there
    student = NETWORKS[kind](NARROW).double().eval()

    start_from_teacher(student, teacher, [batch], cross_entropy)

    torch.testing.assert_close(student(image), expected)


@pytest.mark.parametrize("kind", NETWORKS)
def test_of_equal_widths_the_student_is_the_teacher(kind: str, batch: Mapping[str, Tensor]) -> None:
    teacher, student = random_weights(NETWORKS[kind](WIDE)), NETWORKS[kind](WIDE).double().eval()
    before = {name: x.clone() for name, x in teacher.state_dict().items()}
    start_from_teacher(student, teacher, [batch], cross_entropy)
    assert torch.equal(student(batch["image"]), teacher(batch["image"]))
    assert all(torch.equal(x, before[name]) for name, x in teacher.state_dict().items())
    assert all(x.grad is None for x in teacher.parameters())


@pytest.mark.parametrize(
    ("summed", "stage", "weights"),
    [
        (("down", "skip", "same"), 1, ("down.1.weight", "skip.2.bias", "same.0.bias")),
        (("stem.1",), 0, ("stem.0.weight", "stem.1.bias", "stem.1.running_mean")),
        (("up",), 0, ("up.bias",)),
    ],
    ids=["instance norms", "batch norm", "no norm"],
)
def test_importance_is_the_change_of_the_loss_to_first_order(
    summed: tuple[str, ...], stage: int, weights: tuple[str, ...], batch: Mapping[str, Tensor]
) -> None:
    """By a mask on the channels, of the sum where norms are added, rather than by the weights."""
    teacher = random_weights(PooledSkips(WIDE))
    modules = [teacher.get_submodule(name) for name in summed]
    batches = [batch, {key: x.flip(2) for key, x in batch.items()}]
    total = torch.zeros(WIDE[stage], dtype=torch.float64)
    for one in batches:
        mask = torch.ones(WIDE[stage], 1, 1, 1, dtype=torch.float64, requires_grad=True)
        hooks = [module.register_forward_hook(lambda _, __, y, m=mask: y * m) for module in modules]
        cross_entropy(teacher(one["image"]), one["label"]).backward()  # type: ignore[no-untyped-call]
        assert mask.grad is not None
        total += mask.grad.flatten().square()
        for hook in hooks:
            hook.remove()
    student = PooledSkips(NARROW).double()
    start_from_teacher(student, teacher, batches, cross_entropy)
    kept = total.topk(NARROW[stage]).indices.sort().values
    ours, theirs = student.state_dict(), teacher.state_dict()
    assert all(torch.equal(ours[name], theirs[name][kept]) for name in weights)


def test_heads_for_deep_supervision_stay(batch: Mapping[str, Tensor]) -> None:
    student = dynunet(NARROW, deep_supervision=True).double()
    heads = [x.clone() for x in student.deep_supervision_heads.parameters()]
    start_from_teacher(student, random_weights(dynunet(WIDE)), [batch], cross_entropy)
    assert all(torch.equal(x, head) for x, head in zip(student.deep_supervision_heads.parameters(), heads, strict=True))


def test_what_is_random_later_does_not_change(batch: Mapping[str, Tensor]) -> None:
    teacher, student = random_weights(dynunet(WIDE)), dynunet(NARROW)
    state = torch.get_rng_state()
    start_from_teacher(student, teacher, [batch], lambda x, y: cross_entropy(functional.dropout(x), y))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("student", "teacher", "words"),
    [
        (lambda: dynunet(WIDE), lambda: dynunet(NARROW), "narrower copy of its teacher"),
        (lambda: PooledSkips(NARROW), lambda: dynunet(WIDE), "must be built as it is, but has no "),
        (lambda: dynunet(NARROW), lambda: SegResNet(in_channels=2, out_channels=3), "through group_norm"),
        (lambda: nn.Conv3d(2, 2, 1), lambda: nn.Conv3d(2, 4, 1, groups=2), "grouped convolutions"),
        (lambda: norm(3, affine=False), lambda: norm(5, affine=False), "instance_norm without scale and shift"),
        (
            lambda: nn.Sequential(nn.Conv3d(2, 2, 1)),
            lambda: nn.Sequential(nn.Conv3d(2, 3, 1)),
            "same inputs and classes",
        ),
        (lambda: norm(3, inputs=1), lambda: norm(5), "same inputs and classes, but one has 1 of 2"),
        (
            lambda: norm(3, kernel=3),
            lambda: norm(5),
            "weight 0.weight of a student that starts from its teacher is (3, 2, 3",
        ),
        (lambda: norm(3), lambda: nn.Sequential(*norm(5), nn.PReLU()), "through prelu"),
    ],
    ids=[
        *(
            "wider",
            "another architecture",
            "group norm",
            "grouped",
            "no scale",
            "classes",
            "inputs",
            "kernels",
            "prelu",
        ),
    ],
)
def test_what_cannot_be_narrowed_is_said(
    student: Callable[[], nn.Module], teacher: Callable[[], nn.Module], words: str, batch: Mapping[str, Tensor]
) -> None:
    with pytest.raises(InputError, match=re.escape(words)):
        start_from_teacher(student(), teacher().double(), [batch], cross_entropy)


def test_a_teacher_that_gives_no_number_is_refused(batch: Mapping[str, Tensor]) -> None:
    batch = {**batch, "image": batch["image"] * torch.nan}
    with pytest.raises(InputError, match="the loss of the teacher, or its gradient, is NaN or Inf"):
        start_from_teacher(dynunet(NARROW), dynunet(WIDE).double(), [batch], cross_entropy)


def test_without_batches_there_is_nothing_to_choose_by() -> None:
    with pytest.raises(InputError, match="at least one batch"):
        start_from_teacher(dynunet(NARROW), dynunet(WIDE), [], cross_entropy)
