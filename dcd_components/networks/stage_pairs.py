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
        encodes: whether nothing that it is made of has been enlarged.
        is_skip: whether it is of the encoder and read beside an enlarged map, or enlarged itself.
    """

    path: str
    channels: int
    size: tuple[int, ...]
    encodes: bool
    is_skip: bool = False


def stage_maps(network: nn.Module, image_shape: Sequence[int]) -> list[StageMap]:
    """Maps of a network's modules, in the order in which they are made.

    A map is one tensor ``(B, C, ...)`` whose sizes divide those of the image, of more than one voxel. Left out are
    modules that run more than once, those that hand on what they are given, pad it or lay it beside another's map, and
    what lies within a module whose maps are all of the size that it returns, as the convolutions of a block.

    The encoder ends where a map is enlarged: by a module that returns a larger map than it is given, or by a function
    as :func:`torch.nn.functional.interpolate`. Where none is, no map is known to be the encoder's.

    Args:
        network: any network; it is not changed, and no values are computed.
        image_shape: ``(C, D, H, W)`` of an input, or ``(C, H, W)``.
    """
    watched = _Calls(network, image_shape)
    calls = watched.made
    number = Counter(call.path for call in calls)
    found = [call for call in calls if call.path and call.size and number[call.path] == 1 and not call.is_wiring]
    enlarged = [call for call in calls if call.is_enlarged]
    enlarging = {call.path for call in enlarged if call.enlarges}
    blocks = {call.path for call in found if all(one.size == call.size for one in found if _is_within(one, call.path))}
    kept = [call for call in found if not any(_is_within(call, path) for path in blocks)]
    return [
        StageMap(
            call.path,
            call.channels,
            call.size,
            not call.is_enlarged and bool(enlarged) and not any(_is_within(call, path) for path in enlarging),
            call.number in watched.skips,
        )
        for call in kept
    ]


def encoder_stages(maps: Sequence[StageMap]) -> dict[tuple[int, ...], StageMap]:
    """The last map of each size in an encoder, of those that the decoder reads if there are any, the largest first.

    Args:
        maps: of a network, by :func:`stage_maps`.
    """
    last = {one.size: one for one in sorted(maps, key=lambda one: one.is_skip) if one.encodes}
    return dict(sorted(last.items(), key=lambda item: -math.prod(item[0])))


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
    number: int  # of what it returns, among the tensors of the pass
    is_enlarged: bool  # or made of what was enlarged
    enlarges: bool
    is_wiring: bool


class _Calls(TorchFunctionMode):
    """Calls of modules in a pass, in the order in which they end, and what becomes of their maps."""

    #: Functions that return larger maps than they take.
    ENLARGING = (functional.interpolate, torch.conv_transpose2d, torch.conv_transpose3d)
    #: Modules that hand on what they are given, perhaps padded.
    WIRING = (
        nn.Identity,
        *(nn.ConstantPad2d, nn.ReflectionPad2d, nn.ReplicationPad2d, nn.CircularPad2d),
        *(nn.ConstantPad3d, nn.ReflectionPad3d, nn.ReplicationPad3d, nn.CircularPad3d),
    )

    def __init__(self, network: nn.Module, image_shape: Sequence[int]) -> None:
        super().__init__()
        self.made: list[_Call] = []
        self.skips = set[int]()
        self._image = tuple(image_shape[1:])
        self._enlarged = set[int]()
        self._joined = dict[int, set[int]]()
        self._kept: list[object] = []  # so that no other tensor has the number of one that is gone
        empty = empty_copy(network)
        for path, module in empty.named_modules():
            module.register_forward_hook(functools.partial(self._end, path))
        try:
            with self, torch.no_grad(), torch.random.fork_rng(devices=[]):
                empty(empty_images(network, image_shape))
        except (RuntimeError, ValueError) as error:
            shape = "x".join(map(str, image_shape))
            raise InputError(f"{type(unwrap(network)).__name__} takes no images of {shape}: {error}") from error

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if func is torch.cat:
            self._joined[id(output)] = {id(one) for one in _tensors((args, kwargs))}
        if getattr(func, "__name__", "") != "__get__":  # the size of a map is not the map
            self._follow((args, kwargs), output, enlarges=func in self.ENLARGING)
        return output

    def _follow(self, given: object, output: object, *, enlarges: bool) -> None:
        """What is made of an enlarged map counts as enlarged; a map of the encoder beside it is a skip."""
        tensors = _tensors(given)
        if enlarges or any(id(one) in self._enlarged for one in tensors):
            self.skips.update(id(one) for one in tensors if id(one) not in self._enlarged)
            self._enlarged.update(map(id, _tensors(output)))
        self._kept += [given, output]

    def _end(self, path: str, module: nn.Module, given: Sequence[object], output: object) -> None:
        size, before = self._size(output), self._size(given[0]) if given else ()
        lies_beside = bool(given) and id(given[0]) in self._joined.get(id(output), ())  # as of MONAI's SkipConnection
        is_wiring = isinstance(module, self.WIRING) or lies_beside
        enlarges = not is_wiring and bool(before) and math.prod(size) > math.prod(before)
        self._follow(given, output, enlarges=enlarges)
        number, channels = id(output), output.shape[1] if isinstance(output, Tensor) and size else 0
        self.made.append(_Call(path, channels, size, number, number in self._enlarged, enlarges, is_wiring))

    def _size(self, value: object) -> tuple[int, ...]:
        if not isinstance(value, Tensor) or value.ndim != len(self._image) + 2 or len(value) != 2:
            return ()
        sizes = tuple(value.shape[2:])
        if math.prod(sizes) == 1:  # of the whole image, as in squeeze and excitation
            return ()
        return sizes if all(one and not whole % one for one, whole in zip(sizes, self._image, strict=True)) else ()


def _tensors(tree: object) -> list[Tensor]:
    return [one for one in tree_leaves(tree) if isinstance(one, Tensor)]


def _is_within(call: _Call, path: str) -> bool:
    return call.path.startswith(f"{path}.")
