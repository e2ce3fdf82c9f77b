r"""Distance of a projected map from another in the energy of sub-bands, without the projected map.

The form :math:`A` of :class:`.BandEnergy` acts on space and a projection :math:`P` on
channels, so the two commute, and with :math:`R = A s`

.. math:: E(P s - t) = \langle R,\, P^\top P s - 2 P^\top t \rangle + E(t), \qquad
          \tfrac{1}{2} \nabla_s = P^\top P R - A P^\top t, \qquad
          \tfrac{1}{2} \nabla_P = P (s R^\top) - t R^\top.

All but the constant :math:`E(t)` is computed on the student's channels, and inner products of channels are all that
the value and the gradient of :math:`P` need.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dcd_components.wavelets.band_energies import BandEnergy, Survey

#: Voxels of which inner products are summed at once.
PART = 1 << 15


def projected_distance(
    s: Tensor, projection: Tensor, t: Tensor, survey: Survey, weights: Tensor, form: BandEnergy
) -> Tensor:
    """Energy of ``P s - t`` in a form's bands, weighted by level; gradients flow to ``s`` and ``P`` alone.

    Args:
        s: map ``(B, c, D, H, W)``.
        projection: matrix ``(C, c)``.
        t: map ``(B, C, D, H, W)``.
        survey: of ``t``, see :meth:`BandEnergy.survey`.
        weights: one a level.
        form: the bands.
    """
    value: Tensor = _ProjectedDistance.apply(s, projection, t, survey, weights, form)  # type: ignore[no-untyped-call]
    return value


class _ProjectedDistance(torch.autograd.Function):
    """``E(P s - t)``; gradients flow to ``s`` and ``P``."""

    @staticmethod
    def forward(
        ctx: Any, s: Tensor, projection: Tensor, t: Tensor, survey: Survey, weights: Tensor, form: BandEnergy
    ) -> Tensor:
        half = projection.T.to(t.dtype)  # rounded as autocast rounds weights
        middle = half @ survey.centre.mean(0).to(t.dtype)
        pulled = _mix(half, t, middle.expand(len(t), -1)[..., None])
        both = torch.cat([s, pulled]).contiguous()
        del pulled  # maps are most of the memory that a step needs
        response, pulled_response = form.gradient(both, weights, form.centre(both)).chunk(2)
        del both
        rounded = response.to(t.dtype)
        inner, outer = _products(rounded, s).T, _products(rounded, t).T
        gram = projection.T @ projection
        to_student = _mix(gram, response, pulled_response.flatten(2)).to(s.dtype) if ctx.needs_input_grad[0] else None
        ctx.save_for_backward(to_student, projection @ inner - outer if ctx.needs_input_grad[1] else None)
        return (gram * inner).sum() - 2 * (projection * outer).sum() + (survey.energies * weights).sum()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError("the wavelet loss has no second derivative: call it without create_graph")
        gradients = [None if half is None else 2 * grad * half for half in ctx.saved_tensors]
        return *gradients, None, None, None, None


def _mix(matrix: Tensor, x: Tensor, less: Tensor) -> Tensor:
    """Multiply the channels of ``(B, C, D, H, W)`` by a matrix, and subtract."""
    mixed = torch.baddbmm(less, matrix.expand(len(x), *matrix.shape), x.flatten(2), beta=-1)
    return mixed.view(len(x), -1, *x.shape[2:])


def _products(x: Tensor, y: Tensor) -> Tensor:
    """Inner products of the channels of two maps ``(B, channels, D, H, W)``.

    In parts, for products come rounded to bfloat16 where the maps are: their sum in float32 is less so.
    """
    pairs = zip(*(torch.split(maps.flatten(2), PART, 2) for maps in (x, y)), strict=True)
    parts = [one @ other.T for some, others in pairs for one, other in zip(some, others, strict=True)]
    return torch.stack(parts).sum(0, dtype=torch.promote_types(x.dtype, torch.float32))
