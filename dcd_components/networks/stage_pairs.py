"""Which modules of two networks can be compared: maps by a pass without values, and stages of their encoders."""

from __future__ import annotations

import copy
import functools
import math
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from dcd_components.errors import InputError
from dcd_components.networks.stage_recorder import unwrap

#: Instead of the paths of stages: those that two encoders share.
AUTO = "auto"


@dataclass(frozen=True)
class StageMap:
    """What a module returns.

    Args:
        path: of the module.
        channels: of its map.
        size: of its map along each axis.
        encodes: whether it is of the encoder, see :func:`stage_maps`.
        read: when it was first read beside an enlarged map, or enlarged itself, by number; None if it was not.
    """

    path: str
    channels: int
    size: tuple[int, ...]
    encodes: bool
    read: int | None = None


def stage_maps(network: nn.Module, image_shape: Sequence[int]) -> list[StageMap]:
    """Maps of a network's modules, in the order in which they are made.

    A map is one tensor ``(B, C, ...)`` whose sizes divide those of the image, of more than one voxel. Left out are
    modules that run more than once, those that pad a map or are there for wiring alone, and what lies within a module
    whose maps are all of the size that it returns, as the convolutions of a block.

    The encoder ends where a map is enlarged: by a module or a function that returns a larger map than it is given, as
    :func:`torch.nn.functional.interpolate`. What is made later is of the encoder only if it is made of nothing that has
    been enlarged and is read beside such a map, as with nested skips. Where nothing is enlarged, no map is known to be
    the encoder's.

    Args:
        network: any network; it is not changed, and no values are computed.
        image_shape: ``(C, D, H, W)`` of an input, or ``(C, H, W)``.
    """
    watched = _Calls(network, image_shape)
    times = Counter(call.path for call in watched.made)
    found = [call for call in watched.made if call.path and call.size and times[call.path] == 1 and not call.is_wiring]
    blocks = {call.path for call in found if all(one.size == call.size for one in found if _is_within(one, call.path))}
    enlarging = {call.path for call in watched.made if call.enlarges}
    return [
        StageMap(
            call.path,
            call.channels,
            call.size,
            encodes=watched.has_enlarged
            and not call.is_enlarged
            and (not call.is_late or call.output_id in watched.skips)
            and not any(_is_within(call, path) for path in enlarging),
            read=watched.skips.get(call.output_id),
        )
        for call in found
        if not any(_is_within(call, path) for path in blocks)
    ]


def encoder_stages(maps: Sequence[StageMap]) -> dict[tuple[int, ...], StageMap]:
    """A map of each size in an encoder, the largest first: that which the decoder reads first, or else the last one.

    Args:
        maps: of a network, by :func:`stage_maps`.
    """
    found: dict[tuple[int, ...], StageMap] = {}
    for one in maps:
        other = found.get(one.size)
        if one.encodes and (other is None or other.read is None or (one.read is not None and one.read <= other.read)):
            found[one.size] = one
    return dict(sorted(found.items(), key=lambda item: -math.prod(item[0])))


def encoder_pairs(ours: Sequence[StageMap], theirs: Sequence[StageMap]) -> list[tuple[StageMap, StageMap]]:
    """Pair the stages of two encoders: those of the same size, and what lies between these in their order.

    Networks halve axes of thick voxels at different stages, so that maps of 16 x 8 x 8 and 8 x 8 x 8 voxels may be of
    one stage. Where one network has more of these, those farthest from a stage of the same size are in no pair. Without
    two of the same size there are no pairs.

    Args:
        ours: maps of a network, by :func:`stage_maps`.
        theirs: maps of another, for the same images.

    Returns:
        Pairs, the largest first.
    """
    student, teacher = encoder_stages(ours), encoder_stages(theirs)
    shared = [size for size in student if size in teacher]
    pairs = [(student[size], teacher[size]) for size in shared]
    before, *others = zip(*(_between(stages, shared) for stages in (student, teacher)), strict=True)
    if shared:
        pairs += zip(*map(reversed, before), strict=False)
        pairs += [pair for several in others for pair in zip(*several, strict=False)]
    return sorted(pairs, key=lambda pair: -math.prod(pair[0].size))


def _between(stages: Mapping[tuple[int, ...], StageMap], shared: Container[tuple[int, ...]]) -> list[list[StageMap]]:
    """Stages before, between and after those of shared sizes."""
    found: list[list[StageMap]] = [[]]
    for size, stage in stages.items():
        if size in shared:
            found.append([])
        else:
            found[-1].append(stage)
    return found


def stage_pairs(student: nn.Module, teacher: nn.Module, image_shape: Sequence[int]) -> list[tuple[StageMap, StageMap]]:
    """Pair the stages of two encoders, see :func:`encoder_pairs`.

    Args:
        student: any network.
        teacher: any network for the same images.
        image_shape: ``(C, D, H, W)`` of an input, or ``(C, H, W)``.

    Raises:
        InputError: when there are no pairs, and for images of a size that a network does not take.
    """
    maps = [stage_maps(network, image_shape) for network in (student, teacher)]
    if pairs := encoder_pairs(*maps):
        return pairs
    sizes = [", ".join("x".join(map(str, size)) for size in encoder_stages(one)) or "none" for one in maps]
    raise InputError(
        f"no stages of {type(student).__name__} and {type(teacher).__name__} are of one size (student: {sizes[0]}; "
        f"teacher: {sizes[1]}): name them by stages and teacher_stages, see dcd stages"
    )


def named_stages(
    student: nn.Module,
    teacher: nn.Module,
    image_shape: Sequence[int],
    stages: Iterable[str] | str,
    teacher_stages: Iterable[str] | str | None = None,
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Module paths of the stages of both networks.

    Args:
        student: any network.
        teacher: any network for the same images.
        image_shape: ``(C, D, H, W)`` of an input, or ``(C, H, W)``.
        stages: module paths in the student, or :data:`AUTO` for those of both by :func:`stage_pairs`.
        teacher_stages: module paths in the teacher; those of the student, or what ``auto`` finds, by default.

    Raises:
        InputError: for unequally many, ``auto`` for one of the two alone, and where there are no stages of one size to
            be found.
    """
    if stages == AUTO and teacher_stages in (None, AUTO):
        pairs = stage_pairs(student, teacher, image_shape)
        return tuple(ours.path for ours, _ in pairs), tuple(theirs.path for _, theirs in pairs)
    if isinstance(stages, str) or isinstance(teacher_stages, str) or stages == AUTO:
        raise InputError(
            f"stages must be module paths of student and teacher, or {AUTO} for both, got {stages} and {teacher_stages}"
        )
    ours = tuple(stages)
    theirs = ours if teacher_stages is None else tuple(teacher_stages)
    if len(ours) != len(theirs):
        raise InputError(f"{len(ours)} stages of the student cannot match {len(theirs)} of the teacher")
    return ours, theirs


def empty_copy(network: nn.Module) -> nn.Module:
    """A copy without values, in next to no memory, whose passes give shapes alone."""
    network = unwrap(network)
    parameters = list(network.parameters())
    memo = {id(x): nn.Parameter(torch.empty_like(x, device="meta"), x.requires_grad) for x in parameters}
    with _WithoutValues():
        return copy.deepcopy(network, memo)


def empty_images(network: nn.Module, image_shape: Sequence[int]) -> Tensor:
    """Two images without values; a batch norm would refuse a single number a channel."""
    dtype = next((x.dtype for x in network.parameters() if x.is_floating_point()), torch.float32)
    return torch.empty(2, *image_shape, dtype=dtype, device="meta")


class _WithoutValues(TorchFunctionMode):
    """Copies of tensors have their shape and type, but no values."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.__deepcopy__:
            return torch.empty_like(args[0], device="meta", requires_grad=False)
        return func(*args, **(kwargs or {}))


@dataclass(frozen=True)
class _Call:
    """One call of a module."""

    path: str
    channels: int
    size: tuple[int, ...]  # empty where there is no map
    output_id: int
    is_late: bool  # whether something was enlarged before it began
    is_enlarged: bool  # what it returns, or what that is made of
    enlarges: bool
    is_wiring: bool


class _Calls(TorchFunctionMode):
    """Calls of modules in a pass, in the order in which they end, and what becomes of their maps."""

    #: Functions that may enlarge; of others, as of permutations of axes, sizes do not tell.
    ENLARGING = (
        *(functional.interpolate, functional.grid_sample, functional.max_unpool2d, functional.max_unpool3d),
        *(torch.conv_transpose2d, torch.conv_transpose3d, torch.pixel_shuffle),
        *(torch.repeat_interleave, Tensor.repeat_interleave),
    )
    PADDING = (
        *(nn.ConstantPad2d, nn.ReflectionPad2d, nn.ReplicationPad2d, nn.CircularPad2d),
        *(nn.ConstantPad3d, nn.ReflectionPad3d, nn.ReplicationPad3d, nn.CircularPad3d),
    )
    #: Classes, also those of MONAI, which need not be installed.
    WIRING = ("Identity", "SkipConnection")

    def __init__(self, network: nn.Module, image_shape: Sequence[int]) -> None:
        super().__init__()
        self.made: list[_Call] = []
        self.skips: dict[int, int] = {}
        self._image = tuple(image_shape[1:])
        self._enlarged, self._channels_last, self._late = set[int](), set[int](), dict[str, bool]()
        self._kept: list[object] = []  # so that no other tensor has the id of one that is gone
        empty = empty_copy(network)
        for path, module in empty.named_modules():
            module.register_forward_pre_hook(functools.partial(self._begin, path))
            module.register_forward_hook(functools.partial(self._end, path), with_kwargs=True)
        try:
            with self, torch.no_grad(), torch.random.fork_rng(devices=[]):
                empty(empty_images(network, image_shape))
        except (RuntimeError, ValueError) as error:
            shape = "x".join(map(str, image_shape))
            raise InputError(f"{type(unwrap(network)).__name__} takes no images of {shape}: {error}") from error

    @property
    def has_enlarged(self) -> bool:
        """Whether any map has been enlarged."""
        return bool(self._enlarged)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        written = args[0] if func is Tensor.__setitem__ else output
        self._follow_layout(func, (args, kwargs), written)
        self._follow((args, kwargs), written, may_enlarge=func in self.ENLARGING)
        return output

    def _follow_layout(self, func: Any, given: object, output: object) -> None:
        """Tell apart what has its channels in the last axis, as in transformers: its sizes are not those of a map."""
        if func in (Tensor.permute, torch.permute):
            axes = [one for one in tree_leaves(given) if isinstance(one, int)]
            order, last = [axis % len(axes) for axis in axes], len(axes) - 1
            if order == [0, *range(2, last + 1), 1]:
                self._channels_last.add(id(output))
            if order == [0, last, *range(1, last)]:
                return
        if any(id(one) in self._channels_last for one in _tensors(given)):
            self._channels_last.update(map(id, _tensors(output)))

    def _follow(self, given: object, output: object, *, may_enlarge: bool) -> bool:
        """Whether a map is enlarged. What is made of one counts so too; a map of the encoder beside it is a skip."""
        tensors = _tensors(given)
        enlarges = may_enlarge and 0 < max(map(self._voxels, tensors), default=0) < self._voxels(output)
        if enlarges or any(id(one) in self._enlarged for one in tensors):
            for one in tensors:
                if id(one) not in self._enlarged:
                    self.skips.setdefault(id(one), len(self.skips))
            self._enlarged.update(map(id, _tensors(output)))
        self._kept += [given, output]
        return enlarges

    def _begin(self, path: str, module: nn.Module, given: object) -> None:
        self._late[path] = self.has_enlarged

    def _end(self, path: str, module: nn.Module, given: object, named: object, output: object) -> None:
        is_padding = isinstance(module, self.PADDING)
        enlarges = self._follow((given, named), output, may_enlarge=not is_padding)
        size = self._size(output)
        channels = output.shape[1] if isinstance(output, Tensor) and size else 0
        is_wiring = is_padding or type(module).__name__ in self.WIRING
        is_enlarged = id(output) in self._enlarged
        self.made.append(
            _Call(path, channels, size, id(output), self._late[path], is_enlarged, enlarges, is_wiring=is_wiring)
        )

    def _voxels(self, value: object) -> int:
        size = self._size(value)
        return math.prod(size) if size else 0

    def _size(self, value: object) -> tuple[int, ...]:
        if not isinstance(value, Tensor) or value.ndim != len(self._image) + 2 or len(value) != 2:
            return ()
        if id(value) in self._channels_last:
            return ()
        sizes = tuple(value.shape[2:])
        if math.prod(sizes) == 1:  # of the whole image, as in squeeze and excitation
            return ()
        return sizes if all(one and not whole % one for one, whole in zip(sizes, self._image, strict=True)) else ()


def _tensors(tree: object) -> list[Tensor]:
    return [one for one in tree_leaves(tree) if isinstance(one, Tensor)]


def _is_within(call: _Call, path: str) -> bool:
    return call.path.startswith(f"{path}.")
