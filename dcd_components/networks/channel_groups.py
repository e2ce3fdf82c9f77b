"""Which channels of a network's weights are the same, found by a pass without values."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from dcd_components.errors import InputError

CONVOLUTIONS = {"conv1d", "conv2d", "conv3d"}
TRANSPOSED = {"conv_transpose1d", "conv_transpose2d", "conv_transpose3d"}
NORMS = {"instance_norm", "batch_norm"}
SUMS = {"add", "add_", "__add__", "__iadd__", "__radd__"}
#: What leaves the channels as they are.
CHANNELWISE = {
    *("leaky_relu", "leaky_relu_", "relu", "relu_", "elu", "gelu", "silu", "mish", "hardswish", "sigmoid"),
    *("dropout", "dropout2d", "dropout3d", "interpolate", "pad", "contiguous", "clone", "to", "float", "detach"),
    *(f"{kind}_pool{n}d" for kind in ("avg", "max", "adaptive_avg", "adaptive_max") for n in (1, 2, 3)),
}


@dataclass(eq=False)
class Group:
    """Channels that are kept or left out together.

    Args:
        size: number of channels.
    """

    size: int
    _same_as: Group | None = None

    def root(self) -> Group:
        """The group that stands for all that are the same."""
        return self if self._same_as is None else self._same_as.root()

    def join(self, other: Group) -> None:
        """Make two groups the same."""
        if (mine := self.root()) is not (theirs := other.root()):
            mine._same_as = theirs


Groups = tuple[Group, ...]


@dataclass
class Layout:
    """Groups of the channels of a network's weights.

    Args:
        axes: by weight and axis, the groups along it, several where maps were concatenated.
        makes: weights that make channels, and the axis of these: of a norm's channels its own, not what it reads.
        fixed: groups of the input and the output.
    """

    axes: dict[str, dict[int, Groups]] = field(default_factory=dict)
    makes: dict[str, int] = field(default_factory=dict)
    fixed: set[Group] = field(default_factory=set)


def follow_channels(network: nn.Module, image_shape: Sequence[int]) -> Layout:
    """Follow the channels of a network through a pass of a copy without values.

    Known are convolutions and transposed ones, instance and batch norms, activations, pooling, interpolation, dropout,
    sums, and concatenations: what U-Nets are made of, residual ones too.

    Args:
        network: in evaluation mode.
        image_shape: ``(C, D, H, W)`` of an input, or ``(C, H, W)``.

    Raises:
        InputError: for an operation that is none of these, for grouped convolutions, and for norms without a scale, by
            which their channels could be told important.
    """
    empty = copy.deepcopy(network).to("meta").eval()
    dtype = next((x.dtype for x in empty.parameters() if x.is_floating_point()), torch.float32)
    image = torch.empty(1, *image_shape, dtype=dtype, device="meta")
    follower = _Follower(empty, image)
    with torch.no_grad(), follower:
        out = empty(image)
    fixed = {group.root() for x in (image, *_tensors([out])) for group in follower.groups(x)}
    axes = {
        name: {axis: tuple(group.root() for group in groups) for axis, groups in by_axis.items()}
        for name, by_axis in follower.layout.axes.items()
    }
    return Layout(axes, follower.layout.makes, fixed)


class _Follower(TorchFunctionMode):
    """Notes the groups of each tensor's channels, axis 1, as functions are called."""

    def __init__(self, network: nn.Module, image: Tensor) -> None:
        super().__init__()
        self.layout = Layout()
        self._names = {id(x): name for name, x in [*network.named_parameters(), *network.named_buffers()]}
        self._groups: dict[int, Groups] = {}
        self._made_by: dict[int, list[str]] = {}
        self._alive: list[Tensor] = []  # so that no other tensor takes the id of one that is known
        self._know(image, (Group(image.shape[1]),))

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given: dict[Any, Any] = {**dict(enumerate(args)), **(kwargs or {})}
        out = func(*args, **(kwargs or {}))
        read = [x for x in _tensors(given.values()) if id(x) in self._groups]
        if isinstance(out, Tensor) and read:
            self._know(out, self._made(func.__name__, given, read, out))
        return out

    def groups(self, x: Tensor) -> Groups:
        """Groups of the channels of a tensor."""
        return self._groups[id(x)]

    def _made(self, name: str, given: Mapping[Any, Any], read: Sequence[Tensor], out: Tensor) -> Groups:
        """Groups of the result of a function."""
        groups = [self._groups[id(x)] for x in read]
        if name in CONVOLUTIONS | TRANSPOSED:
            return self._convolved(name, given, groups[0], out)
        if name in NORMS:
            return self._normalised(name, given, groups[0], read[0])
        if name in SUMS:
            return self._summed(groups, read)
        if name == "cat" and given.get("dim", given.get(1)) == 1 and len(read) == len(given[0]):
            return sum(groups, ())
        if name in CHANNELWISE and out.shape[:2] == read[0].shape[:2]:
            return groups[0]
        raise InputError(f"channels cannot be followed through {name}: start the student from random weights instead")

    def _normalised(self, name: str, given: Mapping[Any, Any], groups: Groups, read: Tensor) -> Groups:
        weights = [x for x in _tensors(given.values()) if id(x) in self._names]
        if not any(isinstance(x, nn.Parameter) for x in weights):
            raise InputError(f"channels cannot be chosen after {name} without scale and shift (affine: true)")
        for weight in weights:
            self._note(weight, {0: groups}, 0 if isinstance(weight, nn.Parameter) else None)
        for one in self._made_by.get(id(read), ()):  # scaled anew by the norm
            self.layout.makes.pop(one, None)
        return groups

    def _convolved(self, name: str, given: Mapping[Any, Any], groups: Groups, out: Tensor) -> Groups:
        weight, bias = given.get("weight", given.get(1)), given.get("bias", given.get(2))
        to, of = (1, 0) if name in TRANSPOSED else (0, 1)
        if weight.shape[of] != sum(group.size for group in groups) or weight.shape[to] != out.shape[1]:
            raise InputError("channels cannot be followed through grouped convolutions")
        made = (Group(out.shape[1]),)
        self._note(weight, {to: made, of: groups}, to)
        if bias is not None:
            self._note(bias, {0: made}, 0)
        self._made_by[id(out)] = [self._names[id(x)] for x in (weight, bias) if x is not None]
        return made

    def _summed(self, groups: Sequence[Groups], read: Sequence[Tensor]) -> Groups:
        for others in groups[1:]:
            if [one.size for one in others] != [one.size for one in groups[0]]:
                raise InputError("channels cannot be followed through a sum of maps that were concatenated otherwise")
            for one, other in zip(groups[0], others, strict=True):
                one.join(other)
        return groups[0]

    def _note(self, weight: Tensor, axes: dict[int, Groups], makes: int | None) -> None:
        name = self._names[id(weight)]
        for axis, groups in self.layout.axes.get(name, {}).items():  # used before: the same channels again
            for one, other in zip(groups, axes[axis], strict=True):
                one.join(other)
        self.layout.axes[name] = axes
        if makes is not None:
            self.layout.makes[name] = makes

    def _know(self, x: Tensor, groups: Groups) -> None:
        self._groups[id(x)] = groups
        self._alive.append(x)


def _tensors(values: Any) -> list[Tensor]:
    """Tensors among arguments, also in lists."""
    flat = [one for value in values for one in (value if isinstance(value, list | tuple) else [value])]
    return [one for one in flat if isinstance(one, Tensor)]
