"""What the losses of two feature maps share."""

from __future__ import annotations

import torch
from torch import Tensor

from dcd_components.errors import InputError
from dcd_components.precision import sum_dtype


def wide_maps(input: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Student's and teacher's :func:`volumes` in float32 or wider, the teacher's without gradient."""
    input, target = volumes(input, target)
    return input.to(sum_dtype(input)), target.detach().to(sum_dtype(target))


def volumes(input: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Student's and teacher's map as ``(B, C, D, H, W)``: that of an image, ``(B, C, H, W)``, has one plane.

    Raises:
        InputError: when they differ in batch or spatial size, and when they are no such maps.
    """
    if input.shape[0] != target.shape[0] or input.shape[2:] != target.shape[2:]:
        raise InputError(
            f"student's and teacher's maps must agree in batch and spatial size, "
            f"got {tuple(input.shape)} and {tuple(target.shape)}"
        )
    if input.ndim not in (4, 5):
        raise InputError(f"maps must be (B, C, D, H, W), or (B, C, H, W) of images, got {tuple(input.shape)}")
    return (input, target) if input.ndim == 5 else (input.unsqueeze(2), target.unsqueeze(2))


def relative(errors: Tensor, energies: Tensor, whole: Tensor) -> Tensor:
    """Divide errors by the teacher's energies; 0 where it has next to none of its whole, and so nothing to match."""
    present = energies > 1e-6 * whole
    return torch.where(present, errors / torch.where(present, energies, 1.0), 0.0)
