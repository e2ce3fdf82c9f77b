"""What the voxels of an image or a label map may be, and what is wrong with them."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from dcd_components.data.grids import Array

ROUNDING = 0.01  # how far from a whole number the scaling of a file may leave a label
MAX_VALUES = 256  # that a label map without declared values may have; an image in its place has more
SHOWN = 5  # values in one sentence


def image_faults(values: Array) -> Iterator[str]:
    """Why voxels are no image."""
    yield from number_faults(values)
    if (one := only_value(values)) is not None:
        yield f"all {values.size} voxels are {one:g}, expected an image"


def number_faults(values: Array) -> Iterator[str]:
    """How many voxels are no numbers."""
    if values.dtype.kind == "f" and not (finite := np.isfinite(values)).all():
        nans = np.count_nonzero(np.isnan(values))
        yield f"{nans} NaN and {values.size - np.count_nonzero(finite) - nans} Inf among {values.size} voxels"


def only_value(values: Array) -> float | None:
    """Value that all voxels have, whatever is NaN or Inf left out; None where there are several."""
    low, high = values.min(), values.max()
    if not np.isfinite([low, high]).all() and (finite := values[np.isfinite(values)]).size:
        low, high = finite.min(), finite.max()
    return float(low) if low == high and np.isfinite(low) else None


def digest(values: Array) -> str | None:
    """Tell contents apart; None for a single value, as all empty label maps share it."""
    if only_value(values) is not None:
        return None
    # Transposed, the voxels lie in the order of the file, and single precision is not copied.
    return hashlib.blake2b(np.ascontiguousarray(values.T, np.float32).data, digest_size=16).hexdigest()


def background_warning(values: Array) -> str | None:
    """Say so where all corners of an image have one value that is not 0, as what is 0 is taken for the outside."""
    corners = values[np.ix_(*((0, -1) for _ in values.shape))]
    one = only_value(corners)
    return f"background is {one:g}, expected 0" if one and only_value(values) is None else None


def count_labels(values: Array, labels: Mapping[str, int]) -> tuple[dict[str, int], list[str]]:
    """Count the voxels of each label; values within 0.01 of a whole number count as it.

    Args:
        values: of the label map.
        labels: declared values by name; none when nothing is declared.

    Returns:
        Voxels by name of the label, or by its value when nothing is declared; why the map is no label map.
    """
    fractions, voxels = Counter[float](), Counter[int]()
    found, counts = np.unique(values[(values != 0) & np.isfinite(values)], return_counts=True)
    for value, count in zip(found.tolist(), counts.tolist(), strict=True):
        if abs(value - round(value)) > ROUNDING:
            fractions[value] += count
        elif round(value):
            voxels[round(value)] += count
    negative = {value: count for value, count in voxels.items() if value < 0}
    unknown = {value: voxels[value] for value in voxels.keys() - negative.keys() - {*labels.values()}} if labels else {}
    expected = ", ".join(map(str, labels.values()))
    faults = [
        f"{_some(sorted(wrong))} in {sum(wrong.values())} of {values.size} voxels, expected {wanted}"
        for wrong, wanted in (
            (fractions, "whole numbers"),
            (negative, "no value below 0"),
            (unknown, f"0 or one of {expected}"),
        )
        if wrong
    ]
    if labels:
        return {name: voxels[value] for name, value in labels.items()}, faults
    if len(voxels) + len(fractions) > MAX_VALUES:
        return {}, [
            *faults,
            f"{len(voxels) + len(fractions)} different values, expected at most {MAX_VALUES} of a label",
        ]
    return {str(value): count for value, count in voxels.items()}, faults


def label_faults(values: Array, labels: Mapping[str, int]) -> list[str]:
    """Why voxels are no label map, see :func:`count_labels`."""
    return [*number_faults(values), *count_labels(values, labels)[1]]


def _some(values: Sequence[float]) -> str:
    more = f" and {len(values) - SHOWN} more" if len(values) > SHOWN else ""
    return ", ".join(f"{value:g}" for value in values[:SHOWN]) + more
