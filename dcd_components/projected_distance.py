r"""Distance of a projected map from another in the energy of sub-bands, without the projected map.

The form :math:`A` of :class:`dcd_components.band_energy.BandEnergy` acts on space and a projection :math:`P` on
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
from torch.autograd.function import once_differentiable

from dcd_components.band_energy import BandEnergy


def projected_distance(
    s: Tensor, projection: Tensor, t: Tensor, pulled: Tensor, energies: Tensor, weights: Tensor, form: BandEnergy
) -> Tensor:
    """Energy of ``P s - t`` in a form's bands, weighted by level; gradients flow to ``s`` and ``P`` alone.

    Args:
        s: map ``(B, c, D, H, W)``.
        projection: matrix ``(C, c)``.
        t: map ``(B, C, D, H, W)``.
        pulled: ``P' t`` as :meth:`BandEnergy.survey` gives it, ``(B, c, D, H, W)``.
        energies: of ``t``, one a level, from the same survey.
        weights: one a level.
        form: the bands.
    """
    value: Tensor = _ProjectedDistance.apply(s, projection, t, pulled, energies, weights, form)  # type: ignore[no-untyped-call]
    return value


class _ProjectedDistance(torch.autograd.Function):
    """``E(P s - t)``; gradients flow to ``s`` and ``P``."""

    @staticmethod
    def forward(
        ctx: Any,
        s: Tensor,
        projection: Tensor,
        t: Tensor,
        pulled: Tensor,
        energies: Tensor,
        weights: Tensor,
        form: BandEnergy,
    ) -> Tensor:
        response = form.gradient(s, weights)
        inner = _product(s.to(response.dtype), response)
        outer = _product(t, response.to(t.dtype)).to(inner.dtype)
        gram = projection.T @ projection
        ctx.save_for_backward(response, form.gradient(pulled, weights), gram, projection @ inner - outer)
        ctx.dtype = s.dtype
        return (gram * inner).sum() - 2 * (projection * outer).sum() + (energies * weights).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        response, pulled_response, gram, to_projection = ctx.saved_tensors
        to_student = (2 * grad * gram @ response.flatten(2)).reshape(response.shape)
        to_student.addcmul_(pulled_response, grad, value=-2)
        return to_student.to(ctx.dtype), 2 * grad * to_projection, None, None, None, None, None


def _product(x: Tensor, y: Tensor) -> Tensor:
    """Inner products of the channels of two maps, ``(channels of x, channels of y)``."""
    return (x.flatten(2) @ y.flatten(2).transpose(1, 2)).sum(0)
