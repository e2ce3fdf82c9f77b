"""Stages of encoders, found by a pass without values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from monai.networks.blocks import SubpixelUpsample
from monai.networks.nets import (
    AttentionUnet,
    BasicUNet,
    BasicUNetPlusPlus,
    DynUNet,
    FlexibleUNet,
    MedNeXt,
    SegResNet,
    SwinUNETR,
    UNet,
)
from torch import Tensor, nn

from dcd_components.distiller import Distiller
from dcd_components.errors import InputError
from dcd_components.losses.feature import FeatureLoss
from dcd_components.networks.stage_pairs import StageMap, encoder_pairs, encoder_stages, stage_maps, stage_pairs

IMAGE = (2, 32, 64, 32)
OF_NNUNET = {
    "input_channels": 2,
    "num_classes": 3,
    "n_stages": 4,
    "features_per_stage": [8, 12, 16, 24],
    "conv_op": nn.Conv3d,
    "kernel_sizes": 3,
    "strides": [1, 2, 2, 2],
    "n_conv_per_stage_decoder": 1,
    "norm_op": nn.InstanceNorm3d,
}


def dynunet(strides: Sequence[Any] = (1, 2, 2, 2), **options: object) -> DynUNet:
    return DynUNet(3, 2, 3, [3] * 4, strides, strides[1:], filters=[8, 12, 16, 24], **options)


NESTED = ["model.0", "model.1.submodule.0", "model.1.submodule.1.submodule"]
EXPECTED: dict[str, tuple[Callable[..., nn.Module], list[str], list[int]]] = {
    "dynunet": (dynunet, ["input_block", "downsamples.0", "downsamples.1", "bottleneck"], [8, 12, 16, 24]),
    "supervised": (
        lambda: dynunet(deep_supervision=True, deep_supr_num=2, res_block=True),
        ["input_block", "downsamples.0", "downsamples.1", "bottleneck"],
        [8, 12, 16, 24],
    ),
    "plain": (
        lambda: PlainConvUNet(n_conv_per_stage=2, **OF_NNUNET),
        [f"encoder.stages.{k}" for k in range(4)],
        [8, 12, 16, 24],
    ),
    "residual": (
        lambda: ResidualEncoderUNet(n_blocks_per_stage=[1, 2, 2, 2], **OF_NNUNET),
        [f"encoder.stages.{k}" for k in range(4)],
        [8, 12, 16, 24],
    ),
    # The decoder begins with a convolution at the smallest size, which is no stage of the encoder.
    "segresnet": (lambda: SegResNet(3, 8, 2, 3), [f"down_layers.{k}" for k in range(4)], [8, 16, 32, 64]),
    # The coarsest stage, not the wiring that lays it beside the stage before it.
    "unet": (lambda: UNet(3, 2, 3, [8, 16, 32], [2, 2], num_res_units=1), [NESTED[0], NESTED[2]], [8, 32]),
    "attention": (lambda: AttentionUnet(3, 2, 3, [8, 16, 32], [2, 2]), NESTED, [8, 16, 32]),
    "basic": (lambda: BasicUNet(3, 2, 3), ["conv_0", *(f"down_{k}" for k in range(1, 5))], [32, 32, 64, 128, 256]),
    "mednext": (
        lambda: MedNeXt(3, 8, 2, 3),
        [*(f"enc_stages.{k}" for k in range(4)), "bottleneck"],
        [8, 16, 32, 64, 128],
    ),
    "nested": (
        lambda: BasicUNetPlusPlus(3, 2, 3, features=(8, 8, 8, 8, 8, 8)),
        [f"conv_{k}_0" for k in range(5)],
        [8] * 5,
    ),
    # Neither the padding before a convolution nor the wider maps within the first block of the next stage.
    "flexible": (
        lambda: FlexibleUNet(2, 3, "efficientnet-b0", spatial_dims=3),
        [f"encoder._blocks.{k}" for k in (0, 1, 2, 4)],
        [16, 24, 40, 112],
    ),
    # Within its transformer channels are the last axis, and as many as are sizes of maps.
    "narrow_swin_unetr": (
        lambda: SwinUNETR(2, 3, feature_size=24),
        ["encoder1", "encoder2", "encoder3", "encoder4", "swinViT.layers3.0", "encoder10"],
        [24, 24, 48, 96, 192, 384],
    ),
    "swin_unetr": (
        lambda: SwinUNETR(2, 3, feature_size=12),
        ["encoder1", "encoder2", "encoder3", "encoder4", "swinViT.layers3.0", "encoder10"],
        [12, 12, 24, 48, 96, 192],
    ),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_the_stages_are_the_last_maps_of_each_size_before_the_decoder(name: str) -> None:
    build, paths, channels = EXPECTED[name]
    shape = (2, 96, 96, 96) if name == "narrow_swin_unetr" else IMAGE
    found = [*encoder_stages(stage_maps(build(), shape)).values()]
    assert [one.path for one in found][: len(paths)] == paths
    assert [one.channels for one in found][: len(paths)] == channels
    assert [one.size for one in found] == sorted((one.size for one in found), reverse=True)


def test_a_pass_changes_nothing_and_computes_nothing() -> None:
    network = dynunet(norm_name="batch")
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = torch.get_rng_state()
    stage_maps(network, IMAGE)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_maps_are_listed_without_what_lies_within_a_block_of_one_size() -> None:
    maps = stage_maps(dynunet(), IMAGE)
    assert not [one for one in maps if one.path.startswith("downsamples.0.")]
    sizes = {one.path: one.size for one in maps}
    assert (sizes["input_block"], sizes["bottleneck"]) == ((32, 64, 32), (4, 8, 4))
    encodes = {one.path: one.encodes for one in maps}
    assert encodes["bottleneck"]
    assert not encodes["upsamples.0"]


class Flat(nn.Module):
    """A network for slices."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.down = nn.Conv2d(4, 8, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(8, 2, 2, stride=2)

    def forward(self, image: Tensor) -> Tensor:
        result: Tensor = self.up(self.down(self.stem(image)))
        return result


def test_networks_for_slices_have_stages_too() -> None:
    assert [one.path for one in encoder_stages(stage_maps(Flat(), (1, 16, 16))).values()] == ["stem", "down"]


def test_pairs_are_those_of_one_size() -> None:
    pairs = stage_pairs(UNet(3, 2, 3, [8, 16, 32], [2, 2]), dynunet(), IMAGE)
    assert [(ours.path, theirs.path) for ours, theirs in pairs] == [
        ("model.0", "downsamples.0"),
        ("model.1.submodule.1.submodule", "downsamples.1"),
    ]


@pytest.mark.parametrize(
    ("strides", "expected"),
    [
        ([1, [1, 2, 2], 2, 2], ["32x64x32 32x64x32", "16x32x16 32x32x16", "8x16x8 16x16x8", "4x8x4 8x8x4"]),
        ([1, 2, [1, 2, 2], 2], ["32x64x32 32x64x32", "16x32x16 16x32x16", "8x16x8 16x16x8", "4x8x4 8x8x4"]),
        ([1, [1, 4, 4], [2, 1, 1], 2], ["32x64x32 32x64x32", "16x32x16 32x16x8", "8x16x8 16x16x8", "4x8x4 8x8x4"]),
        ([1, [2, 2, 1], [1, 1, 2], 2], ["32x64x32 32x64x32", "16x32x16 16x32x16", "8x16x8 8x16x8"]),
    ],
)
def test_what_lies_between_stages_of_one_size_is_paired_in_order(strides: list[Any], expected: list[str]) -> None:
    """As of thick slices, whose axes are halved at other stages than a network's that knows nothing of them."""
    student = SegResNet(in_channels=2, out_channels=3, init_filters=8)
    pairs = stage_pairs(student, dynunet(strides), IMAGE)
    assert [" ".join("x".join(map(str, one.size)) for one in pair) for pair in pairs] == expected


def test_before_the_first_stage_of_one_size_those_next_to_it_are_paired() -> None:
    """A student that begins at half of the resolution has no stage for the teacher's first."""
    ours, theirs = (
        [StageMap(str(k), 8, size, encodes=True) for k, size in enumerate(sizes)]
        for sizes in ([(8, 32, 32), (8, 16, 16)], [(16, 64, 64), (16, 32, 32), (8, 16, 16)])
    )
    assert [(one.path, other.path) for one, other in encoder_pairs(ours, theirs)] == [("0", "1"), ("1", "2")]


def test_networks_without_a_common_size_and_images_that_do_not_fit_are_refused() -> None:
    coarse = nn.Sequential(nn.Conv3d(2, 4, 3, stride=4, padding=1), nn.ConvTranspose3d(4, 3, 4, stride=4))
    odd = nn.Sequential(nn.Conv3d(2, 4, 3, stride=8, padding=1), nn.ConvTranspose3d(4, 3, 8, stride=8))
    with pytest.raises(InputError, match=r"no stages of Sequential and Sequential are of one size .student: 8x16x8; "):
        stage_pairs(coarse, odd, IMAGE)
    with pytest.raises(InputError, match="DynUNet takes no images of 2x33x64x32: "):
        stage_pairs(dynunet(), dynunet(), (2, 33, 64, 32))


def test_a_distiller_finds_its_stages_and_learns_across_architectures() -> None:
    torch.manual_seed(0)
    student, teacher, image = dynunet(), SegResNet(3, 8, 2, 3), torch.randn(1, *IMAGE)
    distiller = Distiller(student, teacher, "auto", image_shape=IMAGE, loss=FeatureLoss)
    assert distiller.settings["teacher_stages"] == [f"down_layers.{k}" for k in range(4)]
    optimizer = torch.optim.Adam([*student.parameters(), *distiller.parameters()], lr=0.01)
    values = []
    with distiller:
        for _ in range(5):
            optimizer.zero_grad()
            student(image)
            loss = distiller.loss(image, 0)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            values.append(loss.item())
    assert values[-1] < 0.7 * values[0]


def test_a_map_of_another_size_is_brought_to_the_students(caplog: pytest.LogCaptureFixture) -> None:
    student, teacher = dynunet(), dynunet()
    image = torch.randn(1, *IMAGE)
    theirs = ["input_block", "bottleneck"]
    distiller = Distiller(
        student, teacher, ["downsamples.0", "downsamples.1"], image_shape=IMAGE, loss=FeatureLoss, teacher_stages=theirs
    )
    assert "the teacher's map (8, 32, 64, 32) is brought to the size of (12, 16, 32, 16)" in caplog.text
    with distiller:
        student(image)
        distiller.loss(image, 0)
    finer, coarser = teacher.input_block(image), None
    with torch.no_grad():
        x = student.input_block(image)
        ours = student.downsamples[0](x)
        coarser = teacher.bottleneck(teacher.downsamples[1](teacher.downsamples[0](finer)))
    expected = [
        distiller.losses[0](ours, nn.functional.avg_pool3d(finer, 2)),
        distiller.losses[1](
            student.downsamples[1](ours), nn.functional.interpolate(coarser, scale_factor=2.0, mode="trilinear")
        ),
    ]
    torch.testing.assert_close([*distiller.terms.values()], [one.detach() for one in expected])


class Excited(nn.Module):
    """Two levels with squeeze and excitation: what is pooled to one voxel is no stage."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv3d(2, 4, 3, padding=1)
        self.pool = nn.AdaptiveAvgPool3d(1)
        self.scale = nn.Conv3d(4, 4, 1)
        self.second = nn.Conv3d(4, 8, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose3d(8, 4, 2, stride=2)
        self.last = nn.Conv3d(4, 3, 1)

    def forward(self, image: Tensor) -> Tensor:
        x = self.first(image)
        x = x * self.scale(self.pool(x)).sigmoid()
        result: Tensor = self.last(self.up(self.second(x)))
        return result


class Shared(nn.Module):
    """One module twice, which would be recorded at its last call."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv3d(2, 4, 3, padding=1)
        self.block = nn.Conv3d(4, 4, 3, padding=1)
        self.down = nn.Conv3d(4, 4, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose3d(4, 3, 2, stride=2)

    def forward(self, image: Tensor) -> Tensor:
        result: Tensor = self.up(self.block(self.down(self.block(self.stem(image)))))
        return result


class Levels(nn.Module):
    """Three levels, whose maps are joined by :meth:`up` from the coarsest to the finest."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv3d(2, 4, 3, padding=1)
        self.second, self.third = (nn.Conv3d(4, 4, 3, stride=2, padding=1) for _ in range(2))
        self.mixed, self.last = (nn.Conv3d(8, 4, 1) for _ in range(2))

    def up(self, x: Tensor, skip: Tensor) -> Tensor:
        return torch.cat([nn.functional.interpolate(x, size=skip.shape[2:]), skip], dim=1)

    def forward(self, image: Tensor) -> Any:
        a = self.first(image)
        b = self.second(a)
        c = self.third(b)
        return self.end(a, b, c, self.last(self.up(self.mixed(self.up(c, b)), a)))

    def end(self, a: Tensor, b: Tensor, c: Tensor, logits: Tensor) -> Any:
        return logits


class Shuffled(Levels):
    """Enlarges by modules that move channels to voxels, in which no function tells it, and that are given names."""

    def __init__(self) -> None:
        super().__init__()
        self.shuffles = nn.ModuleList(SubpixelUpsample(3, 4, 4) for _ in range(2))

    def up(self, x: Tensor, skip: Tensor) -> Tensor:
        shuffle = self.shuffles[len(skip[0, 0]) // 32]
        return torch.cat([shuffle(x=x), skip], dim=1)


class Repeated(Levels):
    """Enlarges by repetition, into a map that was there before."""

    def up(self, x: Tensor, skip: Tensor) -> Tensor:
        both = skip.new_zeros(len(skip), 8, *skip.shape[2:])
        for axis in (2, 3, 4):
            x = x.repeat_interleave(2, axis)
        both[:, :4], both[:, 4:] = x.data, skip
        return both


class Supervised(Levels):
    """Has a head on the coarsest map, whose logits are enlarged, a branch beside it, and returns several maps."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.side = nn.Conv3d(4, 3, 1), nn.Conv3d(4, 3, 3, stride=2, padding=1)

    def end(self, a: Tensor, b: Tensor, c: Tensor, logits: Tensor) -> Any:
        return {"logits": [logits, nn.functional.interpolate(self.head(c), size=a.shape[2:])], "side": self.side(c)}


class Halved(Levels):
    """Brings its image to a size that it has already, and halves maps by the function that enlarges them."""

    def __init__(self) -> None:
        super().__init__()
        self.second.stride = self.third.stride = (1, 1, 1)

    def forward(self, image: Tensor) -> Any:
        a = self.first(nn.functional.interpolate(image, size=image.shape[2:]))
        b = self.second(nn.functional.interpolate(a, scale_factor=0.5))
        c = self.third(nn.functional.interpolate(b, scale_factor=0.5))
        return self.last(self.up(self.mixed(self.up(c, b)), a))


LEVELS = ["first", "second", "third"]


@pytest.mark.parametrize(
    ("network", "paths"),
    [
        (Excited(), ["first", "second"]),
        (Shared(), ["stem", "down"]),
        (Levels(), LEVELS),
        (Shuffled(), LEVELS),
        (Repeated(), LEVELS),
        (Supervised(), LEVELS),
        (Halved(), LEVELS),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_nothing_but_the_encoder_is_a_stage(network: nn.Module, paths: list[str]) -> None:
    assert [one.path for one in encoder_stages(stage_maps(network, IMAGE)).values()] == paths


def test_where_the_encoder_ends_must_be_seen() -> None:
    with pytest.raises(InputError, match=r"of one size \(student: none; .*name them by stages and teacher_stages"):
        stage_pairs(nn.Sequential(nn.Conv3d(2, 4, 3, padding=1), nn.Conv3d(4, 3, 1)), dynunet(), IMAGE)


@pytest.mark.parametrize(("ours", "theirs"), [("auto", ["0"]), (["input_block"], "auto"), ("input_block", None)])
def test_auto_is_for_both_networks(ours: list[str] | str, theirs: list[str] | str | None) -> None:
    with pytest.raises(InputError, match="stages must be module paths of student and teacher, or auto for both, got"):
        Distiller(dynunet(), dynunet(), ours, image_shape=IMAGE, teacher_stages=theirs)
