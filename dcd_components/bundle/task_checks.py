"""The numbers of a task, checked before anything is built of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from dcd_components.errors import InputError

#: Trainings hold labels in 8 bits.
LARGEST_LABEL = 255


def check_task(
    spacing: Sequence[float],
    patch_size: Sequence[int],
    strides: Sequence[int | Sequence[int]],
    widths: Sequence[int],
    labels: Mapping[str, int],
    multiple_of: int = 1,
) -> None:
    """Make sure that a network of some widths and strides takes patches of some size.

    Args:
        spacing: size of a voxel along each axis, mm.
        patch_size: voxels along each axis.
        strides: of each stage, along all axes or along each.
        widths: channels of each stage.
        labels: values by name.
        multiple_of: voxels of which another architecture than that of the strides takes multiples.

    Raises:
        InputError: which names the key.
    """
    _three("spacing", spacing, "lengths in mm", whole=False)
    _three("patch_size", patch_size, "numbers of voxels", whole=True)
    if len(strides) < 3:
        raise InputError(f"strides must be of at least three stages, got {strides!r}")
    if len(widths) != len(strides) or not all(_positive(width, whole=True) for width in widths):
        raise InputError(f"widths must be a positive whole number for each of {len(strides)} stages, got {widths!r}")
    for axis, size in enumerate(patch_size):
        step = math.prod(stride if isinstance(stride, int) else stride[axis] for stride in strides)
        if size % step or size < 2 * step:
            raise InputError(
                f"patch_size must be a multiple of {step}, and at least {2 * step}, along axis {axis}, as the strides "
                f"halve it to the last stage, got {list(patch_size)}"
            )
    if any(size % multiple_of for size in patch_size):
        raise InputError(f"patch_size must be a multiple of {multiple_of}, as the overlay says, got {list(patch_size)}")
    values = [*labels.values()] if isinstance(labels, Mapping) else []
    whole = all(_positive(value, whole=True) and value <= LARGEST_LABEL for value in values)
    if not values or len({*values}) < len(values) or not whole:
        raise InputError(f"labels must give each name a whole number of its own, 1 to {LARGEST_LABEL}, got {labels!r}")


def check_training(**numbers: float) -> None:
    """Make sure that settings of a training, by their keys, are positive, and whole but for the learning rate.

    Raises:
        InputError: which names the key.
    """
    for key, value in numbers.items():
        whole = key != "learning_rate"
        if not _positive(value, whole=whole):
            hint = "; YAML reads 1e-4 as a text, write 1.0e-4" if isinstance(value, str) else ""
            raise InputError(f"{key} must be a positive {'whole ' if whole else ''}number, got {value!r}{hint}")


def _three(key: str, values: Any, meaning: str, *, whole: bool) -> None:
    several = isinstance(values, Sequence) and not isinstance(values, str)
    if not several or len(values) != 3 or not all(_positive(value, whole=whole) for value in values):
        raise InputError(f"{key} must be three positive {meaning}, such as [1, 1, 1], got {values!r}")


def _positive(value: Any, *, whole: bool) -> bool:
    kind = int if whole else (int, float)
    return isinstance(value, kind) and not isinstance(value, bool) and 0 < value < math.inf
