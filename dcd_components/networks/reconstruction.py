"""Convolutions of a narrowed network that give, as nearly as they can, what those of the wide one gave."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from dcd_components.distributed import all_reduce_sum
from dcd_components.networks.stage_recorder import StopForward
from dcd_components.precision import sum_dtype

Inferer = Callable[[Tensor, nn.Module], object]
#: Voxels of each map of an image that are fitted to, drawn at random.
VOXELS = 2048
#: What pulls a kernel to what it was, in units of the mean square of what it reads.
RIDGE = 1e-3
_SEED = 0


@dataclass(frozen=True)
class Fitted:
    """A convolution that is fitted.

    Args:
        kept: indices of the teacher's channels that the student has, of the output.
        shifts: whether a constant may be added to the output: by a bias, or since a norm that follows takes it away.
    """

    kept: Tensor
    shifts: bool


@torch.no_grad()
def fit_convolutions(
    student: nn.Module, teacher: nn.Module, images: Sequence[Tensor], fitted: Mapping[str, Fitted], run: Inferer
) -> None:
    r"""Fit the convolutions of a narrowed student, in the order of a pass, to its teacher's maps.

    A convolution that reads a part of the channels lacks what the others brought, and what it reads has changed with
    the layers before it. So each gets the kernel :math:`K` and the bias :math:`b` with the least

    .. math:: \sum_v \|(K * x_s + b - y_t)_v\|^2 + \lambda\, \|K - K_0\|^2,

    where :math:`x_s` is what the student, of which all layers before are fitted, gives it, :math:`y_t` the kept
    channels of what the teacher's convolution returns, :math:`K_0` the kernel that it had, and :math:`v` are voxels
    drawn at random. A convolution that a pass uses several times stays as it is.

    Source: He, Zhang and Sun, "Channel Pruning for Accelerating Very Deep Neural Networks", ICCV 2017, section 3.1.

    Args:
        student: its convolutions are changed; others than those of the teacher stay.
        teacher: wide, in evaluation mode.
        images: batches ``(B, C, D, H, W)`` or ``(B, C, H, W)``, on the device of the networks.
        fitted: by the path of the convolution.
        run: how the networks are run.
    """
    modules = dict(student.named_modules())
    training = [module for module in student.modules() if module.training]
    student.eval()  # a pass must not change the statistics of batch norms
    try:
        for name, targets in _targets(teacher, images, fitted, run).items():
            read = (_read(student, modules[name], image, run) for image in images)
            _fit(modules[name], zip(read, targets, strict=True), fitted[name].shifts)
    finally:
        for module in training:
            module.training = True


@dataclass(frozen=True)
class _Target:
    """Some voxels of the teacher's map of an image: their places in it, and their values ``(voxels, channels)``."""

    places: Tensor
    values: Tensor


def _targets(
    teacher: nn.Module, images: Sequence[Tensor], fitted: Mapping[str, Fitted], run: Inferer
) -> dict[str, list[list[_Target]]]:
    """What the convolutions are fitted to, in the order of a pass, by batch and image."""
    drawn = torch.Generator().manual_seed(_SEED)
    found: dict[str, list[list[_Target]]] = {}
    modules = dict(teacher.named_modules())

    def note(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            maps = output.flatten(2)
            kept = fitted[name].kept.to(maps.device)
            places = [torch.randperm(maps.shape[2], generator=drawn)[:VOXELS].to(maps.device) for _ in maps]
            values = [one[kept][:, place].T.to(sum_dtype(one)) for one, place in zip(maps, places, strict=True)]
            found.setdefault(name, []).append([_Target(*pair) for pair in zip(places, values, strict=True)])

        return hook

    hooks = [modules[name].register_forward_hook(note(name)) for name in fitted]
    try:
        for image in images:
            run(image, teacher)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: targets for name, targets in found.items() if len(targets) == len(images)}


def _read(student: nn.Module, module: nn.Module, image: Tensor, run: Inferer) -> Tensor:
    """What a convolution of the student reads."""
    read: list[Tensor] = []

    def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        read.append(inputs[0])
        raise StopForward

    handle = module.register_forward_pre_hook(hook)
    try:
        with contextlib.suppress(StopForward):
            run(image, student)
    finally:
        handle.remove()
    return read[0].to(sum_dtype(read[0]))


def _fit(module: nn.Module, batches: Iterator[tuple[Tensor, Sequence[_Target]]], shifts: bool) -> None:
    """Set kernel and bias by the normal equations of some batches of maps and of what they are to become."""
    gram = cross = torch.zeros(())
    for maps, targets in batches:
        for map_, target in zip(maps, targets, strict=True):
            rows = torch.cat([_taps(module, channel)[:, target.places] for channel in map_.split(1)]).T
            rows = torch.cat([rows, torch.ones_like(rows[:, :1]) if shifts else rows[:, :0]], 1)
            gram, cross = gram + (rows.T @ rows).double(), cross + (rows.T @ target.values).double()
    gram, cross = all_reduce_sum(gram), all_reduce_sum(cross)
    axis = 1 if _transposed(module) else 0
    kernel = module.get_parameter("weight")
    ahead = kernel.movedim(axis, -1)
    before = ahead.flatten(0, -2).double()
    if shifts:
        before = torch.cat([before, before.new_zeros(1, before.shape[1])])
    pull = RIDGE * gram.diagonal()[: ahead[..., 0].numel()].mean() * torch.ones_like(gram[0])
    pull[ahead[..., 0].numel() :] = 0  # a bias is free
    after = before + torch.linalg.solve(gram + pull.diag(), cross - gram @ before)
    kernel.copy_(after[: ahead[..., 0].numel()].view_as(ahead).movedim(-1, axis))
    if isinstance(bias := module.bias, nn.Parameter):
        bias.copy_(after[-1])


def _taps(module: nn.Module, channel: Tensor) -> Tensor:
    """What each weight of a convolution's kernel multiplies in a channel ``(1, D, H, W)``: ``(weights, voxels)``."""
    size = tuple(module.kernel_size)  # type: ignore[arg-type]
    number = math.prod(size)
    each = torch.eye(number, dtype=channel.dtype, device=channel.device)
    weights = {"weight": each.view(1, number, *size) if _transposed(module) else each.view(number, 1, *size)}
    if module.bias is not None:
        weights["bias"] = each.new_zeros(number)
    out: Tensor = functional_call(module, weights, (channel[None],))
    return out[0].flatten(1)


def _transposed(module: nn.Module) -> bool:
    return bool(module.transposed)
