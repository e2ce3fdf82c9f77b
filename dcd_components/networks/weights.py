"""Weights read strictly, and without running code from their file."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from dcd_components.errors import InputError


def load_frozen(network: nn.Module, path: str | Path) -> nn.Module:
    """Load weights into ``network`` strictly and freeze it.

    The file holds a flat state dict of tensors and is read without running code from it.

    Returns:
        The same network in evaluation mode, without gradients.

    Raises:
        InputError: when there is no such file, it is no state dict, or a key or shape differs.
    """
    network.load_state_dict(read_weights(network, path))
    return network.eval().requires_grad_(False)


def read_weights(network: nn.Module, path: str | Path) -> dict[str, Tensor]:
    """Read the state dict at ``path`` and check that it fits ``network``; see :func:`load_frozen`."""
    if not Path(path).is_file():
        raise InputError(f"no weights at {path}: train the teacher first, or say where they are")
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001 - torch raises many kinds
        raise InputError(f"{path} is not a file of weights that torch can read safely: {error}") from None
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise InputError(f"{path} must hold a flat state dict of tensors, as the bundle's training writes it")
    faults = _mismatches(network.state_dict(), weights)
    if faults:
        more = f" and {len(faults) - 4} more" if len(faults) > 4 else ""
        raise InputError(f"{path} does not fit {type(network).__name__}: {'; '.join(faults[:4])}{more}")
    return weights


def _mismatches(expected: dict[str, Tensor], found: dict[str, Tensor]) -> list[str]:
    missing = [f"lacks {key}" for key in expected if key not in found]
    foreign = [f"has unknown {key}" for key in found if key not in expected]
    shapes = [
        f"{key} is {tuple(found[key].shape)} instead of {tuple(expected[key].shape)}"
        for key in expected
        if key in found and found[key].shape != expected[key].shape
    ]
    return shapes + missing + foreign
