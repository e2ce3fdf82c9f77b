"""Resampling by matrices against scipy's own, and labels against a plain second definition."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from dcd_components.data.resampling import Order, new_shape, resampled, resampled_labels, thick_axis

Array = NDArray[Any]
SHAPE, EDGES = (9, 7, 11), (1.0, 1.3, 0.9)
orders = pytest.mark.parametrize("order", [1, 3])


def volumes(shape: Sequence[int] = SHAPE, kind: Any = np.float32) -> Array:
    return np.random.default_rng(0).normal(size=(2, *shape)).astype(kind)


def zoomed(volume: Array, shape: Sequence[int], order: int) -> Array:
    """By scipy, of any number of axes."""
    factors = [new / old for new, old in zip(shape, volume.shape, strict=True)]
    given: Any = {"order": order, "mode": "nearest", "grid_mode": True}
    values: Array = ndimage.zoom(volume.astype(float), factors, **given)
    return values.clip(volume.min(), volume.max())


def nearest(volume: Array, size: int, axis: int) -> Array:
    """Along an axis, the voxel in which the middle of a new one lies."""
    length = volume.shape[axis]
    return np.stack([volume.take(int((2 * n + 1) * length / (2 * size)), axis) for n in range(size)], axis)


@orders
@pytest.mark.parametrize("shape", [(5, 9, 11), (13, 7, 8), (1, 20, 3)], ids=str)
def test_values_are_those_of_scipy(shape: tuple[int, ...], order: Order) -> None:
    whole = volumes()
    made = resampled(whole, shape, EDGES, EDGES, order)
    assert made.dtype == np.float32
    expected = np.stack([zoomed(volume, shape, order) for volume in whole])
    np.testing.assert_allclose(made, expected, rtol=1e-6, atol=1e-6)
    assert whole.min() <= made.min() < made.max() <= whole.max()


def test_the_clip_is_that_of_each_volume() -> None:
    """Splines of order 3 reach beyond the values of a step: without the clip this fails."""
    step = np.zeros((2, 8, 8, 8), np.float32)
    step[0, 4:], step[1, 4:] = 1, 10
    made = resampled(step, (13, 8, 8), (1, 1, 1), (0.6, 1, 1), 3)
    assert [(one.min(), one.max()) for one in made] == [(0, 1), (0, 10)]


@orders
@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("made_thick", [False, True], ids=["from thick", "to thick"])
def test_across_thick_slices_the_nearest_counts(axis: int, made_thick: bool, order: Order) -> None:
    thick, fine = [1.2, 1.2, 1.2], [1.0, 1.0, 1.0]
    thick[axis] = 6
    shape = [8, 9, 10]
    shape[axis] = 3 if made_thick else 17
    whole = volumes()
    pair = (fine, thick) if made_thick else (thick, fine)
    made = resampled(whole, shape, *pair, order)
    within = [length for one, length in enumerate(shape) if one != axis]
    for volume, found in zip(whole, made, strict=True):
        slices = [zoomed(volume.take(n, axis), within, order) for n in range(volume.shape[axis])]
        expected = nearest(np.stack(slices, axis), shape[axis], axis)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("spacing", "target", "axis"),
    [
        ((6, 1, 1), (1, 1, 1), 0),
        ((1, 1, 1), (1, 1, 3.1), 2),
        ((1, 1, 3), (1, 1, 1), None),  # a ratio of 3 is not yet thick
        ((6, 6, 1), (1, 1, 1), None),  # two thick axes
        ((1, 4, 1), (5, 1, 1), 1),  # that of the volume first
        ((4, 1, 4), (5, 1, 1), None),
    ],
)
def test_which_axis_is_thick(spacing: Sequence[float], target: Sequence[float], axis: int | None) -> None:
    assert thick_axis(spacing, target) == axis


def test_what_has_the_shape_is_left_as_it_is() -> None:
    whole, labels = volumes(), np.arange(8).reshape(2, 2, 2)
    assert resampled(whole, SHAPE, EDGES, EDGES, 3) is whole
    assert resampled_labels(labels, (2, 2, 2), EDGES, EDGES) is labels


def test_half_precision_stays() -> None:
    made = resampled(volumes(kind=np.float16), (5, 5, 5), EDGES, EDGES, 1)
    assert made.dtype == np.float16


def test_a_shape_is_rounded_half_to_even() -> None:
    assert new_shape((5, 7, 10), (0.5, 0.5, 1.0), (1.0, 1.0, 0.7)) == (2, 4, 14)


@pytest.mark.parametrize("shape", [(5, 9, 11), (13, 10, 8)], ids=str)
@pytest.mark.parametrize("thick", [False, True])
def test_a_label_is_the_one_with_the_largest_share(shape: tuple[int, ...], thick: bool) -> None:
    """Shares of blobs, interpolated linearly; where two share a voxel alike, either."""
    field = ndimage.gaussian_filter(np.random.default_rng(1).normal(size=SHAPE), 1.5)
    labels = np.digitize(field, [-0.05, 0.0, 0.08]).astype(np.uint8)
    spacing = (6.0, 1.0, 1.0) if thick else EDGES
    made = resampled_labels(labels, shape, spacing, (1.0, 1.0, 1.0))
    masks = [(labels == label).astype(float) for label in range(4)]
    if thick:
        slices = [[zoomed(mask[n], shape[1:], 1) for n in range(SHAPE[0])] for mask in masks]
        shares = np.stack([nearest(np.stack(several), shape[0], 0) for several in slices])
    else:
        shares = np.stack([zoomed(mask, shape, 1) for mask in masks])
    first, second = np.sort(shares, 0)[:-3:-1]
    clear = first - second > 1e-9
    assert made.dtype == np.uint8
    assert clear.mean() > 0.9
    assert np.array_equal(made[clear], shares.argmax(0)[clear])
    assert len(np.unique(made)) == 4
