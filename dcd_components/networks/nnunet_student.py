"""The U-Net of nnU-Net by MONAI's ``DynUNet``, and its weights by the names of either."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from monai.networks.blocks import UnetResBlock, UnetUpBlock
from monai.networks.nets import DynUNet
from torch import Tensor, nn

from dcd_components.errors import InputError

#: Names of the first kernels of nnU-Net's stages.
FIRST_OF_STAGE = re.compile(r"encoder\.stages\.\d+\.0\.convs\.0\.conv\.weight")


class NnunetUNet(DynUNet):  # type: ignore[misc]
    """MONAI's ``DynUNet`` without residual blocks, with the kernels of nnU-Net's ``PlainConvUNet`` in the decoder.

    A block of nnU-Net's decoder has the kernel of the encoder's stage of its resolution; ``DynUNet`` takes that of the
    stage below. They differ where slices are thick, whose first kernels are flat.
    """

    def get_upsamples(self) -> nn.ModuleList:
        """Blocks of the decoder, the deepest first."""
        below, above = self.filters[1:][::-1], self.filters[:-1][::-1]
        blocks: nn.ModuleList = self.get_module_list(
            below,
            above,
            self.kernel_size[:-1][::-1],
            self.strides[1:][::-1],
            UnetUpBlock,
            self.upsample_kernel_size[::-1],
            trans_bias=self.trans_bias,
        )
        return blocks


def nnunet_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a :class:`NnunetUNet` by the names of nnU-Net's ``PlainConvUNet`` with two convolutions a block.

    nnU-Net's convolutions have a bias, which the norm after them takes away, and so is 0 here; and so are the outputs
    of the lower resolutions, which only its training uses. nnU-Net reads strictly, hence each weight is there by all
    the names that it has in nnU-Net.

    Args:
        weights: by the names of ``DynUNet``.

    Raises:
        InputError: for weights that such a network does not have, as those of residual blocks.
    """
    depth = len({name.split(".")[1] for name in weights if name.startswith("upsamples.")})
    blocks = {"input_block": "encoder.stages.0.0", "bottleneck": f"encoder.stages.{depth}.0"}
    blocks |= {f"downsamples.{k}": f"encoder.stages.{k + 1}.0" for k in range(depth - 1)}
    blocks |= {f"upsamples.{k}.conv_block": f"decoder.stages.{k}" for k in range(depth)}
    left = {name: value for name, value in weights.items() if not name.startswith("skip_layers.")}
    made: dict[str, Tensor] = {}
    try:
        for ours, theirs in blocks.items():
            for number in (0, 1):
                made |= dict(_convolution(left, f"{ours}.{{}}{number + 1}", f"{theirs}.convs.{number}"))
        for k in range(depth):
            for kind in ("weight", "bias"):
                made[f"decoder.transpconvs.{k}.{kind}"] = left.pop(f"upsamples.{k}.transp_conv.conv.{kind}")
        output = {kind: left.pop(f"output_block.conv.conv.{kind}") for kind in ("weight", "bias")}
    except KeyError as error:
        raise InputError(f"the weights lack {error.args[0]}, which a plain U-Net of nnU-Net has") from None
    if left:
        raise InputError(f"the weights have {next(iter(left))}, which no plain U-Net of nnU-Net has")
    for k in range(depth):
        channels = made[f"decoder.transpconvs.{k}.weight"].shape[1]
        last = k == depth - 1
        shape = (len(output["bias"]), channels, 1, 1, 1)
        made[f"decoder.seg_layers.{k}.weight"] = output["weight"] if last else torch.zeros(shape)
        made[f"decoder.seg_layers.{k}.bias"] = output["bias"] if last else torch.zeros(shape[0])
    return made | {f"decoder.{name}": value for name, value in made.items() if name.startswith("encoder.")}


def _convolution(left: dict[str, Tensor], ours: str, theirs: str) -> Iterator[tuple[str, Tensor]]:
    """A convolution and its norm, by both of the names that nnU-Net has for each; they are taken out of the weights."""
    weight = left.pop(f"{ours.format('conv')}.conv.weight")
    norm = {kind: left.pop(f"{ours.format('norm')}.{kind}") for kind in ("weight", "bias")}
    for alias in ("conv", "all_modules.0"):
        yield f"{theirs}.{alias}.weight", weight
        yield f"{theirs}.{alias}.bias", torch.zeros(len(weight))
    for alias in ("norm", "all_modules.1"):
        yield from ((f"{theirs}.{alias}.{kind}", value) for kind, value in norm.items())


def in_student_class(teacher: nn.Module, student: nn.Module) -> nn.Module:
    """A network of a student's class in its teacher's widths, which computes what the teacher does.

    Args:
        teacher: of the student's class, which is returned as it is; or nnU-Net's ``PlainConvUNet``, for a student that
            is MONAI's ``DynUNet`` without residual blocks.
        student: of any widths.

    Returns:
        The network, frozen.

    Raises:
        InputError: for any other teacher, and one that is built otherwise than the student.
    """
    kind, wanted = type(teacher).__name__, type(student).__name__
    if kind == wanted:
        return teacher
    if kind != "PlainConvUNet" or not isinstance(student, DynUNet) or isinstance(student.input_block, UnetResBlock):
        raise InputError(f"init: teacher needs a teacher of the student's class, {wanted}, got {kind}")
    theirs = teacher.state_dict()
    widths = [theirs[name].shape[0] for name in theirs if FIRST_OF_STAGE.fullmatch(name)]
    built: dict[str, Any] = {
        name: getattr(student, name) for name in ("kernel_size", "strides", "norm_name", "act_name")
    }
    built |= {name: getattr(student, name) for name in ("in_channels", "out_channels", "dropout", "trans_bias")}
    with torch.random.fork_rng(devices=[]):  # a student that starts at random must train in the same order
        wide = type(student)(3, filters=widths, upsample_kernel_size=student.upsample_kernel_size, **built)
    state = wide.state_dict()
    named = nnunet_weights(state)
    if other := [name for name in {**named, **theirs} if _shape(named, name) != _shape(theirs, name)]:
        raise InputError(f"init: teacher needs a teacher that is built as its student, but differs in {other[0]}")
    names = {id(value): name for name, value in state.items()}
    places = {name: names[id(value)] for name, value in named.items() if id(value) in names}
    for name, ours in places.items():  # all of them: nnunet_weights leaves none out
        state[ours].copy_(theirs[name])
    frozen: nn.Module = wide.to(next(teacher.parameters()).device).eval().requires_grad_(False)
    return frozen


def _shape(weights: Mapping[str, Tensor], name: str) -> tuple[int, ...] | None:
    return tuple(weights[name].shape) if name in weights else None
