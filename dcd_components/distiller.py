"""Distillation of a student from a frozen teacher, for any training loop."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dcd_components.distillation_schedules import Schedule, constant
from dcd_components.distributed import all_reduce_mean, broadcast, world_size
from dcd_components.errors import InputError
from dcd_components.losses.feature import FeatureLoss
from dcd_components.losses.logits import LogitsLoss
from dcd_components.losses.wavelet_detail import WaveletDetailLoss
from dcd_components.networks.stage_pairs import empty_copy, empty_images, named_stages
from dcd_components.networks.stage_recorder import StageRecorder

logger = logging.getLogger(__name__)

#: How a network is run on an image; MONAI's inferers are such functions.
Inferer = Callable[[Tensor, nn.Module], object]
#: Makes the loss of two maps of their numbers of channels, the student's and the teacher's.
LossMaker = Callable[[int, int], nn.Module]


class Distiller(nn.Module):
    r"""Compare a student with a frozen teacher at stages of their encoders.

    .. math:: L(e) = w(e)\, \frac{1}{K} \sum_{k=1}^{K} L_k\big(s_k,\, t_k\big)
        + v(e)\, L_\mathrm{out}\big(s_\mathrm{out},\, t_\mathrm{out}\big)

    :math:`s_k` and :math:`t_k` are the maps that the two networks return at stage :math:`k`, :math:`L_k` is the loss of
    that stage, and :math:`w(e)` the weight in epoch :math:`e`. The second term is there if an output is given, such as
    that of the logits; its loss and weight :math:`v(e)` are its own. One pass of the teacher serves both. In a loop::

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
    start of every epoch removes the hooks while the weights are 0.

    The parameters, and so the ``state_dict``, are those of the losses: their projections. Neither network is a
    sub-module, so that the teacher is not trained or saved, nor sent by a federated client. Construction freezes the
    teacher: ``eval`` and ``requires_grad_(False)``.

    ``DistributedDataParallel`` and ``torch.compile`` may wrap the student; compile it before its first pass, or open
    the distiller before. Where ``torch.distributed`` has several processes at construction, the projections start as in
    the first process, and their gradients are averaged: nothing else needs to wrap the distiller.

    Args:
        student: network in training, on its device.
        teacher: trained network. It follows the image's device.
        stages: module paths in the student, such as ``encoder.0``; or ``auto``, for the stages of both encoders whose
            maps are of the same size, see :func:`.stage_pairs`.
        image_shape: ``(C, D, H, W)`` of an input, or ``(C, H, W)``: shapes of batches, maps and labels of images are
            without D. The channels of the stages are those of a pass of copies without weights and values, which costs
            next to nothing and changes nothing.
        loss: makes the loss of a stage of the channels of the student's and of the teacher's map, such as
            ``functools.partial(WaveletDetailLoss, levels=2)``. A loss with a true ``needs_label`` is called with the
            label as well.
        weight: a number, or epoch, counted from 0, to weight; see :mod:`dcd_components.distillation_schedules`.
        teacher_stages: module paths in the teacher; those of the student by default. Where its map is of another size
            than the student's, it is brought to it: a finer one by means, a coarser one by linear interpolation.
        output: module path in the student of one map more, such as the logits, if that too is to be matched.
        output_loss: makes its loss, as ``loss`` does.
        output_weight: its weight, as ``weight``.
        teacher_output: module path of that map in the teacher; that in the student by default.

    Attributes:
        stages: as given or found.
        weight: epoch to weight.
        output_weight: epoch to weight, 0 without an output.
        terms: the losses of the stages and of the output of the last call by the student's paths, detached; without
            those whose weight was 0.
        unweighted: the mean of the stages' losses, detached; 0 if the weight was.
        settings: what is compared and by which losses with which arguments, as a record.

    Raises:
        InputError: for an unknown path or one that is named twice, unequally many stages, networks without stages of
            one size where these are to be found, or outputs of different size.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        stages: Iterable[str] | str,
        *,
        image_shape: Sequence[int],
        loss: LossMaker = WaveletDetailLoss,
        weight: float | Schedule = 1.0,
        teacher_stages: Iterable[str] | str | None = None,
        output: str | None = None,
        output_loss: LossMaker = LogitsLoss,
        output_weight: float | Schedule = 1.0,
        teacher_output: str | None = None,
    ) -> None:
        super().__init__()
        self.stages, theirs = named_stages(student, teacher, image_shape, stages, teacher_stages)
        last = () if output is None else (output,)
        their_last = () if output is None else (teacher_output or output,)
        if len({*self.stages, *last}) < len(self.stages) + len(last):
            raise InputError(f"a map is to be matched twice: stages {', '.join(self.stages)}, output {output}")
        teacher.eval().requires_grad_(False)
        self._student = StageRecorder(student, [*self.stages, *last])
        self._teacher = StageRecorder(teacher, theirs, stop=True)
        self._whole_teacher = StageRecorder(teacher, [*theirs, *their_last], stop=True)
        self.weight = _schedule(weight)
        self.output_weight = _schedule(0.0 if output is None else output_weight)
        self.settings = {"stages": [*self.stages], "teacher_stages": [*theirs], "loss": _described(loss)}
        self.settings |= {} if output is None else {"output": output, "output_loss": _described(output_loss)}
        self.settings |= {} if their_last == last else {"teacher_output": str(teacher_output)}
        self.terms: dict[str, Tensor] = {}
        self.unweighted = torch.zeros(())
        makers = [*[loss] * len(self.stages), *[output_loss] * len(last)]
        self.losses = nn.ModuleList(
            make(*channels) for make, channels in zip(makers, self._channels(image_shape), strict=True)
        )
        self.losses.to(next((parameter.device for parameter in student.parameters()), None))
        if world_size() > 1:
            for parameter in self.parameters():
                broadcast(parameter.detach())
                parameter.register_hook(all_reduce_mean)  # type: ignore[no-untyped-call]

    def open(self, epoch: int | None = None) -> None:
        """Register the hooks on the student; or remove them, if an epoch is given in which nothing is distilled."""
        if epoch is None or self.distils(epoch):
            self._student.open()
        else:
            self.close()

    def close(self) -> None:
        """Remove the hooks and forget what they recorded."""
        self._student.close()

    def distils(self, epoch: int) -> bool:
        """Whether a weight of an epoch is not 0."""
        return self.weight(epoch) > 0 or self.output_weight(epoch) > 0

    def __enter__(self) -> Distiller:
        """Register the hooks."""
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the hooks."""
        self.close()

    def loss(self, image: Tensor, epoch: int, inferer: Inferer | None = None, label: Tensor | None = None) -> Tensor:
        """Return the weighted loss of the student's last pass; 0, and the teacher is not run, where the weights are.

        The teacher runs only as far as the last map whose weight is not 0.

        Args:
            image: what the student was given, ``(B, C, D, H, W)``.
            epoch: counted from 0.
            inferer: how the teacher is run; by default called, in the caller's precision.
            label: classes ``(B, 1, D, H, W)``, for losses that need them.

        Raises:
            InputError: when a loss needs the label and there is none.
            RuntimeError: when the student's pass was not recorded.
        """
        weight, output_weight = self.weight(epoch), self.output_weight(epoch)
        self.terms, self.unweighted = {}, torch.zeros((), device=image.device)
        if not self.distils(epoch):
            self._student.forget()
            return self.unweighted
        maps = [_in_layout_of(self._student.network, _plain(x)) for x in self._student.pop()]
        recorder = self._whole_teacher if output_weight > 0 else self._teacher
        targets = _run(recorder, _plain(image), inferer or _call)
        label = None if label is None else _plain(label)
        # Without the output where its weight is 0, and without the stages where theirs is.
        asked = slice(0 if weight > 0 else len(self.stages), len(targets))
        compared = zip(*(one[asked] for one in (self._student.stages, [*self.losses], maps, targets)), strict=True)
        terms = {path: _compare(loss, ours, theirs, label) for path, loss, ours, theirs in compared}
        self.terms = {path: term.detach() for path, term in terms.items()}
        parts = [output_weight * term for path, term in terms.items() if path not in self.stages]
        if weight > 0:
            mean = torch.stack([terms[stage] for stage in self.stages]).mean()
            self.unweighted = mean.detach()
            parts.insert(0, weight * mean)
        return sum(parts[1:], parts[0])

    @torch.no_grad()
    def fit(self, images: Iterable[Tensor], inferer: Inferer | None = None) -> None:
        """Set projections to the best ones for some images, by least squares.

        A loss that is quadratic in its projection, as that of wavelet detail and that of the maps themselves are, is
        least where its gradient vanishes, and two gradients tell where that is. Other losses are left as they are.

        Args:
            images: ``(B, C, D, H, W)`` each.
            inferer: how both networks are run; by default called.
        """
        fitted = [(k, loss) for k, loss in enumerate(self.losses) if isinstance(loss, FeatureLoss)]
        sums: dict[int, Tensor] = {}
        student = StageRecorder(self._student.network, self._student.stages, stop=True)
        device = next((parameter.device for parameter in student.network.parameters()), None)
        training = [module for module in student.network.modules() if module.training]
        student.network.eval()  # a pass must not change the statistics of batch norms
        try:
            for image in images if fitted else ():
                recorders, plain = (student, self._whole_teacher), _plain(image).to(device)
                ours, theirs = (_run(one, plain, inferer or _call) for one in recorders)
                for k, loss in fitted:
                    target = _resized(theirs[k], ours[k].shape[2:])
                    found = _normal_equations(loss, ours[k].float(), target.float())
                    sums[k] = sums[k] + found if k in sums else found
        finally:
            for module in training:
                module.training = True
        for k, loss in fitted if sums else ():
            _solve(loss.projection.weight, all_reduce_mean(sums[k]))

    def _channels(self, image_shape: Sequence[int]) -> list[tuple[int, int]]:
        """Channels of student and teacher at each stage, and at the output if there is one."""
        sizes = []
        recorders = self._student, self._whole_teacher
        passes = (_dry_pass(recorder, image_shape) for recorder in recorders)
        for stage, *maps in zip(self._student.stages, *passes, strict=True):
            ours, theirs = (tuple(x.shape[1:]) for x in maps)
            if stage not in self.stages and ours[1:] != theirs[1:]:
                raise InputError(f"maps of the output {stage} differ in size: student {ours}, teacher {theirs}")
            if ours[1:] != theirs[1:]:
                logger.warning("at stage %s the teacher's map %s is brought to the size of %s", stage, theirs, ours)
            sizes.append((ours[0], theirs[0]))
        return sizes


def _schedule(weight: float | Schedule) -> Schedule:
    return weight if callable(weight) else constant(weight)


def _described(make: LossMaker) -> dict[str, Any]:
    """Name and arguments of what makes a loss."""
    made: Any = make.func if isinstance(make, partial) else make
    given = make.keywords if isinstance(make, partial) else {}
    return {"name": getattr(made, "__name__", type(made).__name__), **given}


def _run(recorder: StageRecorder, image: Tensor, inferer: Inferer) -> list[Tensor]:
    teacher = recorder.network
    if any(parameter.device != image.device for parameter in teacher.parameters()):
        teacher.to(image.device)  # as a sub-module it would have gone with the student
    return recorder.features(lambda network: inferer(image, network))


@torch.enable_grad()
def _normal_equations(loss: FeatureLoss, ours: Tensor, theirs: Tensor) -> Tensor:
    """G above C of a loss ``<P G, P> - 2 <P, C> + E`` of its projection P: ``(c + C, c)``, in float64."""
    weight, (wide, narrow) = loss.projection.weight, loss.projection.weight.shape[:2]
    before, halves = weight.detach().clone(), []
    probes = [torch.zeros(wide, narrow), *torch.split(torch.eye(narrow), wide)]  # as many rows of G a probe as P has
    for probe in probes:
        with torch.no_grad():
            weight.zero_()[: len(probe)] = probe.view(len(probe), narrow, 1, 1, 1)
        (gradient,) = torch.autograd.grad(loss(ours, theirs), weight)
        halves.append(gradient.view(wide, narrow).double() / 2)
    with torch.no_grad():
        weight.copy_(before)
    cross = -halves[0]
    rows = [(half + cross)[: len(probe)] for half, probe in zip(halves[1:], probes[1:], strict=True)]
    return torch.cat([*rows, cross])


def _solve(weight: Tensor, equations: Tensor) -> None:
    """Set a projection to the least squares fit; where a stage has nothing to be fitted by, it stays as it is."""
    size = equations.shape[1]
    gram, cross = (equations[:size] + equations[:size].T) / 2, equations[size:]
    scale = gram.diagonal().mean()
    if scale > 0 and bool(equations.isfinite().all()):
        ridge = 1e-4 * scale * torch.eye(size, dtype=gram.dtype, device=gram.device)
        weight.copy_(torch.linalg.solve(gram + ridge, cross.T).T.reshape(weight.shape))


def _compare(loss: nn.Module, ours: Tensor, theirs: Tensor, label: Tensor | None) -> Tensor:
    needs_label = getattr(loss, "needs_label", False)
    if needs_label and label is None:
        raise InputError(f"{type(loss).__name__} needs the label, and the batch has none")
    theirs = _resized(theirs, ours.shape[2:])
    value: Tensor = loss(ours, theirs, label) if needs_label else loss(ours, theirs)
    return value


def _dry_pass(recorder: StageRecorder, image_shape: Sequence[int]) -> list[Tensor]:
    """Maps without values that a network would return for two images at its stages."""
    images, empty = empty_images(recorder.network, image_shape), empty_copy(recorder.network)
    with torch.random.fork_rng(devices=[]):
        return StageRecorder(empty, recorder.stages, stop=True).features(lambda network: network(images))


def _resized(map_: Tensor, size: Sequence[int]) -> Tensor:
    """Bring a map to a size: by means along axes on which it is finer, by linear interpolation along the others."""
    if tuple(map_.shape[2:]) == tuple(size):
        return map_
    smaller = tuple(min(pair) for pair in zip(map_.shape[2:], size, strict=True))
    mean = nn.functional.interpolate(map_.float(), size=smaller, mode="area")
    linear = "bilinear" if map_.ndim == 4 else "trilinear"
    return nn.functional.interpolate(mean, size=tuple(size), mode=linear).to(map_)


def _in_layout_of(network: nn.Module, map_: Tensor) -> Tensor:
    """A map to whose gradient the layout is given that a network's convolutions give to theirs.

    Norms return contiguous maps also where channels are last in memory, and sums of gradients of two layouts take ten
    times as long as of one.
    """
    last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(map_.ndim)
    kernels = (weight for weight in network.parameters() if weight.ndim == map_.ndim)
    if not map_.requires_grad or last is None:
        return map_
    if any(weight.is_contiguous(memory_format=last) and not weight.is_contiguous() for weight in kernels):
        map_ = map_.view_as(map_)
        map_.register_hook(lambda gradient: gradient.contiguous(memory_format=last))  # type: ignore[no-untyped-call]
    return map_


def _call(image: Tensor, network: nn.Module) -> object:
    return network(image)


def _plain(x: Tensor) -> Tensor:
    """Drop the meta data that tensors of sub-classes, such as MONAI's, carry through every operation."""
    return x if type(x) is Tensor else x.as_subclass(Tensor)
