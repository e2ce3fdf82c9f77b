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
    s: Tensor, projection: Tensor, t: Tensor, energies: Tensor, weights: Tensor, form: BandEnergy
) -> Tensor:
    """Energy of ``P s - t`` in a form's bands, weighted by level; gradients flow to ``s`` and ``P`` alone.

    Args:
        s: map ``(B, c, D, H, W)``.
        projection: matrix ``(C, c)``.
        t: map ``(B, C, D, H, W)``.
        energies: of ``t``, one a level, see :meth:`BandEnergy.survey`.
        weights: one a level.
        form: the bands.
    """
    value: Tensor = _ProjectedDistance.apply(s, projection, t, energies, weights, form)  # type: ignore[no-untyped-call]
    return value


class _ProjectedDistance(torch.autograd.Function):
    """``E(P s - t)``; gradients flow to ``s`` and ``P``."""

    @staticmethod
    def forward(
        ctx: Any, s: Tensor, projection: Tensor, t: Tensor, energies: Tensor, weights: Tensor, form: BandEnergy
    ) -> Tensor:
        ctx.dtypes = s.dtype, projection.dtype
        s, t = (x.permute(0, 2, 3, 4, 1) for x in (s, t))
        half = projection.to(t.dtype)  # rounded as autocast rounds weights
        middle = form.centre(t).mean(0).to(t.dtype) @ half
        pulled = torch.addmm(middle, t.flatten(0, 3), half, beta=-1).view(*t.shape[:4], -1)
        response = form.gradient(s, weights).to(t.dtype)
        inner, outer = _products(response, s.to(t.dtype)).T, _products(response, t).T
        gram = projection.T @ projection
        to_student = torch.addmm(
            form.gradient(pulled, weights).to(t.dtype).flatten(0, 3),
            response.flatten(0, 3),
            gram.to(t.dtype),
            beta=-1,
        ).view(s.shape)
        ctx.save_for_backward(to_student.permute(0, 4, 1, 2, 3), projection @ inner - outer)
        return (gram * inner).sum() - 2 * (projection * outer).sum() + (energies * weights).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        to_student, to_projection = ctx.saved_tensors
        to_student = to_student * (2 * grad).to(to_student.dtype)
        return to_student.to(ctx.dtypes[0]), 2 * grad * to_projection, None, None, None, None


def _products(x: Tensor, y: Tensor) -> Tensor:
    """Inner products of the channels of two maps ``(B, D, H, W, channels)``, summed in float32 over planes at least."""
    planes = x.flatten(0, 1).flatten(1, 2).transpose(1, 2) @ y.flatten(0, 1).flatten(1, 2)
    return planes.sum(0, dtype=torch.promote_types(x.dtype, torch.float32))
