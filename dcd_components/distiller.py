"""Distillation of a student from a frozen teacher, for any training loop."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from dcd_components.distillation_schedules import Schedule, constant
from dcd_components.distributed import all_reduce_mean, broadcast, world_size
from dcd_components.errors import InputError
from dcd_components.losses.wavelet_detail import WaveletDetailLoss
from dcd_components.networks.stage_recorder import StageRecorder, unwrap

#: How a network is run on an image; MONAI's inferers are such functions.
Inferer = Callable[[Tensor, nn.Module], object]


class Distiller(nn.Module):
    r"""Compare a student with a frozen teacher at stages of their encoders.

    .. math:: L(e) = w(e)\, \frac{1}{K} \sum_{k=1}^{K} L_k\big(s_k,\, t_k\big)

    :math:`s_k` and :math:`t_k` are the maps that the two networks return at stage :math:`k`, :math:`L_k` is the loss of
    that stage, and :math:`w(e)` the weight in epoch :math:`e`. In a loop::

        distiller = Distiller(student, teacher, ["encoder.0", "encoder.1"], image_shape=(4, 128, 128, 128))
        optimizer = torch.optim.SGD([*student.parameters(), *distiller.parameters()], lr=0.01)
        with distiller:
            for epoch in range(epochs):
                for image, label in batches:
                    optimizer.zero_grad()
                    loss = criterion(student(image), label) + distiller.loss(image, epoch)
                    loss.backward()
                    optimizer.step()

    Hooks on the student record its maps, from :meth:`open`, or the beginning of the ``with`` block, to :meth:`close`,
    or its end. They record passes with gradient alone, and :meth:`loss` lets go of the maps. ``open(epoch)`` at the
    start of every epoch removes the hooks while the weight is 0.

    The parameters, and so the ``state_dict``, are those of the losses: their projections. Neither network is a
    sub-module, so that the teacher is not trained or saved, nor sent by a federated client. Construction freezes the
    teacher: ``eval`` and ``requires_grad_(False)``.

    ``DistributedDataParallel`` and ``torch.compile`` may wrap the student; compile it before its first pass, or open
    the distiller before. Where ``torch.distributed`` has several processes at construction, the projections start as in
    the first process, and their gradients are averaged: nothing else needs to wrap the distiller.

    Args:
        student: network in training, on its device.
        teacher: trained network. It follows the image's device.
        stages: module paths in the student, such as ``encoder.0``.
        image_shape: ``(C, D, H, W)`` of an input. The channels of the stages are those of a pass of copies without
            weights and values, which costs next to nothing and changes nothing.
        loss: makes the loss of a stage of the channels of the student's and of the teacher's map, such as
            ``functools.partial(WaveletDetailLoss, levels=2)``.
        weight: a number, or epoch, counted from 0, to weight; see :mod:`dcd_components.distillation_schedules`.
        teacher_stages: module paths in the teacher; those of the student by default.

    Attributes:
        stages: as given.
        weight: epoch to weight.
        terms: the losses of the stages of the last call by the student's paths, detached; none if its weight was 0.
        unweighted: their mean, detached; 0 if the weight was.

    Raises:
        InputError: for an unknown path, unequally many stages, or stages whose maps differ in spatial size.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        stages: Iterable[str],
        *,
        image_shape: Sequence[int],
        loss: Callable[[int, int], nn.Module] = WaveletDetailLoss,
        weight: float | Schedule = 1.0,
        teacher_stages: Iterable[str] | None = None,
    ) -> None:
        super().__init__()
        self._student = StageRecorder(student, stages)
        self.stages = self._student.stages
        self._teacher = StageRecorder(
            teacher.eval().requires_grad_(False),
            self.stages if teacher_stages is None else teacher_stages,
            stop=True,
        )
        if len(self.stages) != len(self._teacher.stages):
            raise InputError(
                f"{len(self.stages)} stages of the student cannot match {len(self._teacher.stages)} of the teacher"
            )
        self.weight: Schedule = weight if callable(weight) else constant(weight)
        self.terms: dict[str, Tensor] = {}
        self.unweighted = torch.zeros(())
        self.losses = nn.ModuleList(loss(*pair) for pair in self._channels(image_shape))
        self.losses.to(next((parameter.device for parameter in student.parameters()), None))
        if world_size() > 1:
            for parameter in self.parameters():
                broadcast(parameter.detach())
                parameter.register_hook(all_reduce_mean)  # type: ignore[no-untyped-call]

    def open(self, epoch: int | None = None) -> None:
        """Register the hooks on the student; or remove them, if an epoch is given whose weight is 0."""
        if epoch is None or self.weight(epoch) > 0:
            self._student.open()
        else:
            self.close()

    def close(self) -> None:
        """Remove the hooks and forget what they recorded."""
        self._student.close()

    def __enter__(self) -> Distiller:
        """Register the hooks."""
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the hooks."""
        self.close()

    def loss(self, image: Tensor, epoch: int, inferer: Inferer | None = None) -> Tensor:
        """Return the weighted loss of the student's last pass; 0, and the teacher is not run, where the weight is.

        Args:
            image: what the student was given, ``(B, C, D, H, W)``.
            epoch: counted from 0.
            inferer: how the teacher is run; by default called, in the caller's precision.

        Raises:
            RuntimeError: when the student's pass was not recorded.
        """
        weight = self.weight(epoch)
        self.terms, self.unweighted = {}, torch.zeros((), device=image.device)
        if weight == 0:
            self._student.forget()
            return self.unweighted
        maps = [_plain(x) for x in self._student.pop()]
        targets = self._run_teacher(_plain(image), inferer or _call)
        terms = [loss(*pair) for loss, *pair in zip(self.losses, maps, targets, strict=True)]
        mean = torch.stack(terms).mean()
        self.terms = {stage: term.detach() for stage, term in zip(self.stages, terms, strict=True)}
        self.unweighted = mean.detach()
        return weight * mean

    def _run_teacher(self, image: Tensor, inferer: Inferer) -> list[Tensor]:
        teacher = self._teacher.network
        if any(parameter.device != image.device for parameter in teacher.parameters()):
            teacher.to(image.device)  # as a sub-module it would have gone with the student
        return self._teacher.features(lambda network: inferer(image, network))

    def _channels(self, image_shape: Sequence[int]) -> list[tuple[int, int]]:
        """Channels of student and teacher at each stage."""
        sizes = []
        for stage, *maps in zip(
            self.stages, _dry_pass(self._student, image_shape), _dry_pass(self._teacher, image_shape), strict=True
        ):
            ours, theirs = (tuple(x.shape[1:]) for x in maps)
            if ours[1:] != theirs[1:]:
                raise InputError(f"maps of stage {stage} differ in size: student {ours}, teacher {theirs}")
            sizes.append((ours[0], theirs[0]))
        return sizes


def _dry_pass(recorder: StageRecorder, image_shape: Sequence[int]) -> list[Tensor]:
    """Maps without values that a network would return for two images at its stages."""
    network = unwrap(recorder.network)
    parameters = list(network.parameters())
    dtype = next((x.dtype for x in parameters if x.is_floating_point()), torch.float32)
    images = torch.empty(2, *image_shape, dtype=dtype, device="meta")  # a batch norm refuses one number a channel
    memo = {id(x): nn.Parameter(torch.empty_like(x, device="meta"), x.requires_grad) for x in parameters}
    with _WithoutValues():
        empty = copy.deepcopy(network, memo)
    with torch.random.fork_rng(devices=[]):
        return StageRecorder(empty, recorder.stages, stop=True).features(lambda network: network(images))


class _WithoutValues(TorchFunctionMode):
    """Copies of tensors have their shape and type, but no values."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.__deepcopy__:
            return torch.empty_like(args[0], device="meta", requires_grad=False)
        return func(*args, **(kwargs or {}))


def _call(image: Tensor, network: nn.Module) -> object:
    return network(image)


def _plain(x: Tensor) -> Tensor:
    """Drop the meta data that tensors of sub-classes, such as MONAI's, carry through every operation."""
    return x if type(x) is Tensor else x.as_subclass(Tensor)
