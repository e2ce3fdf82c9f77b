"""A narrower network that starts as the most important channels of a wide one."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dcd_components.distributed import all_reduce_sum
from dcd_components.errors import InputError
from dcd_components.networks.channel_groups import Group, Layout, follow_channels

Inferer = Callable[[Tensor, nn.Module], object]


def start_from_teacher(
    student: nn.Module,
    teacher: nn.Module,
    batches: Iterable[Mapping[str, Tensor]],
    loss: Callable[[Any, Tensor], Tensor],
    *,
    inferer: Inferer | None = None,
) -> nn.Module:
    r"""Give a student the weights of its teacher's most important channels.

    The importance of channel :math:`c` is what the loss would change by, to first order, if the channel were zero,

    .. math:: I_c = \sum_b \Big( \sum_\theta \theta \, \frac{\partial L_b}{\partial \theta} \Big)^2,

    over the batches :math:`b` and the weights :math:`\theta` that make the channel: the scale and shift of its norm, or
    the kernel and bias of its convolution where no norm follows. Channels that the network adds, as residual sums do,
    are one. A convolution that reads the kept channels keeps their part of its kernels.

    Source: Molchanov et al., "Importance Estimation for Neural Network Pruning", CVPR 2019.

    Args:
        student: of the same architecture as the teacher, but for its widths. What it has alone, such as heads for deep
            supervision, stays as it is.
        teacher: trained; it is not changed.
        batches: with ``image`` ``(B, C, D, H, W)`` and ``label`` ``(B, 1, D, H, W)``, or both without D; not many are
            needed.
        loss: of the teacher's output and the label.
        inferer: how the teacher is run; called by default.

    Returns:
        The student.

    Raises:
        InputError: for a student that is no narrower copy of the teacher, and a network whose channels cannot be
            followed, see :func:`.follow_channels`.
    """
    scored = copy.deepcopy(teacher).eval().requires_grad_(True)
    device = next(scored.parameters()).device
    layout: Layout | None = None
    scores: dict[Group, Tensor] = {}
    with torch.random.fork_rng(devices=[]):  # a student that starts at random must train in the same order
        for batch in batches:
            image, label = (batch[key].as_subclass(Tensor).to(device) for key in ("image", "label"))
            if layout is None:
                layout = follow_channels(scored, image.shape[1:])
            scored.zero_grad()
            loss(inferer(image, scored) if inferer else scored(image), label).backward()  # type: ignore[no-untyped-call]
            for group, change in _changes(scored, layout).items():
                square = all_reduce_sum(change).square()
                scores[group] = scores[group] + square if group in scores else square
    if layout is None:
        raise InputError("to start from a teacher takes at least one batch, got none")
    if not all(bool(score.isfinite().all()) for score in scores.values()):
        raise InputError("channels cannot be chosen: the loss of the teacher, or its gradient, is NaN or Inf")
    _take(student, teacher, layout, scores)
    return student


def _changes(network: nn.Module, layout: Layout) -> dict[Group, Tensor]:
    """What the loss would change by, to first order, for each channel: ``(channels,)`` by group."""
    changes: dict[Group, Tensor] = {}
    for name, weight in network.named_parameters():
        if weight.grad is None or name not in layout.makes:
            continue
        axis = layout.makes[name]
        each = (weight * weight.grad).detach().double().movedim(axis, 0).reshape(weight.shape[axis], -1).sum(1)
        groups = layout.axes[name][axis]
        for group, part in zip(groups, torch.split(each, [group.size for group in groups]), strict=True):
            changes[group] = changes.get(group, torch.zeros_like(part)) + part
    return changes


@torch.no_grad()
def _take(student: nn.Module, teacher: nn.Module, layout: Layout, scores: Mapping[Group, Tensor]) -> None:
    """Copy the kept channels of each weight."""
    ours, theirs = _weights(student), _weights(teacher)
    if alone := sorted(set(theirs) - set(ours)):
        raise InputError(f"a student that starts from its teacher must be built as it is, but has no {alone[0]}")
    kept = _kept(ours, layout, scores)
    for name, weight in theirs.items():
        for axis, groups in layout.axes.get(name, {}).items():
            places = torch.split(torch.arange(weight.shape[axis]), [group.size for group in groups])
            index = torch.cat([place[kept[group]] for place, group in zip(places, groups, strict=True)])
            weight = weight.index_select(axis, index.to(weight.device))
        if weight.shape != ours[name].shape:
            shapes = f"{tuple(ours[name].shape)}, not {tuple(weight.shape)} as channels of the teacher have it"
            raise InputError(f"weight {name} of a student that starts from its teacher is {shapes}")
        ours[name].copy_(weight)


def _weights(network: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, each once."""
    return {**dict(network.named_parameters()), **dict(network.named_buffers())}


def _kept(ours: Mapping[str, Tensor], layout: Layout, scores: Mapping[Group, Tensor]) -> dict[Group, Tensor]:
    """Indices of the channels of each group that the student has place for, in their order."""
    sizes: dict[Group, set[int]] = defaultdict(set)
    for name, axes in layout.axes.items():
        for axis, groups in axes.items():
            if len(groups) == 1 and name in ours:
                sizes[groups[0]].add(ours[name].shape[axis])
    kept = {}
    for group, found in sizes.items():
        if len(found) > 1 or (number := min(found)) > group.size:
            several = " and ".join(map(str, sorted(found)))
            raise InputError(
                f"the student must be a narrower copy of its teacher, but has {several} of {group.size} channels"
            )
        if number == group.size:
            kept[group] = torch.arange(number)
        elif group in layout.fixed or group not in scores:
            raise InputError(
                f"student and teacher must have the same inputs and classes, but one has {number} of {group.size}"
            )
        else:
            kept[group] = scores[group].topk(number).indices.sort().values.cpu()
    return kept
