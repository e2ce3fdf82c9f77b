"""Lesion-wise scores against the program of BraTS 2024, a second definition voxel by voxel, and cases made by hand."""

import math
from itertools import product
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dcd_components.metrics.lesion_wise import lesion_wise_scores

Maps = tuple[NDArray[np.int64], NDArray[np.int64]]

REGIONS = {"NETC": [1], "SNFH": [2], "ET": [3], "RC": [4], "TC": [1, 3], "WT": [1, 2, 3]}
MISSED_MM = 337


def score(pred: NDArray[Any], label: NDArray[Any], spacing_mm: Any = (1, 1, 1), **regions: Any) -> dict[str, float]:
    masks = ({name: np.isin(one, values) for name, values in (regions or REGIONS).items()} for one in (pred, label))
    return lesion_wise_scores(next(masks), next(masks), spacing_mm, MISSED_MM)


def counts(scores: dict[str, float], region: str) -> list[float]:
    return [scores[f"lesionwise_{name}_{region}"] for name in ("tp", "fn", "fp")]


def bars(*starts: int, value: int = 3, count: int = 24, length: int = 60) -> NDArray[np.int64]:
    """Bars of 2x3x4 voxels, each from a place on the first axis on; with fewer voxels if so asked."""
    volume = np.zeros((length, 9, 10), dtype=np.int64)
    for start in starts:
        bar = np.zeros(24, dtype=np.int64)
        bar[:count] = value
        volume[start : start + 2, 3:6, 3:7] = bar.reshape(2, 3, 4)
    return volume


# -- the official program


def random_case(seed: int) -> Maps:
    """Ellipsoids of all labels, most of them predicted a little aside."""
    rng = np.random.default_rng(seed)
    label, pred = np.zeros((2, 48, 40, 44), dtype=np.int64)
    grid = np.indices(label.shape)
    for number in range(24):
        centre, radius = rng.uniform(0, 44, 3), rng.choice([1.2, 1.8, 2.5, 5.0]) * rng.uniform(0.7, 1.4, 3)
        shift, value = rng.integers(-2, 3, 3), int(rng.integers(1, 5))
        for volume, middle, missing in ((label, centre, number % 4 == 1), (pred, centre + shift, number % 5 == 0)):
            inside = sum(((grid[axis] - middle[axis]) / radius[axis]) ** 2 for axis in range(3)) < 1
            volume[inside & (not missing)] = value
    return pred, label


OFFICIAL = [  # metrics_GLI.py at commit f1131e3: TP, FN, FP, Dice, HD95
    {
        "WT": (4, 1, 0, 0.307842, 70.3161),
        "TC": (4, 1, 0, 0.401891, 69.1856),
        "NETC": (3, 1, 0, 0.395981, 85.9230),
        "SNFH": (1, 0, 1, 0.117021, 169.6180),
        "ET": (1, 1, 0, 0.212766, 169.6180),
        "RC": (3, 0, 0, 0.439218, 5.5757),
    },
    {
        "WT": (4, 2, 1, 0.087362, 146.1530),
        "TC": (2, 3, 1, 0.058712, 225.4476),
        "NETC": (2, 0, 1, 0.117424, 113.8952),
        "SNFH": (1, 0, 0, 0.0, 4.1231),
        "ET": (2, 2, 1, 0.163684, 202.7657),
        "RC": (3, 0, 1, 0.230158, 95.5546),
    },
]


@pytest.mark.parametrize("seed", range(2))
def test_scores_are_those_of_the_official_program(seed: int) -> None:
    scores = score(*random_case(seed))
    for region, (*numbers, dice, hd95_mm) in OFFICIAL[seed].items():
        assert counts(scores, region) == numbers
        assert scores[f"lesionwise_dice_{region}"] == pytest.approx(dice, abs=1e-6)
        assert scores[f"lesionwise_hd95_mm_{region}"] == pytest.approx(hd95_mm, abs=1e-4)


# -- a second definition, in mm


def parts(voxels: set[tuple[int, ...]]) -> list[set[tuple[int, ...]]]:
    """The 26-connected components."""
    left, found = set(voxels), []
    for start in sorted(voxels):
        if start in left:
            part, front = {start}, [start]
            while front:
                at = front.pop()
                near = {tuple(a + b for a, b in zip(at, step, strict=True)) for step in product((-1, 0, 1), repeat=3)}
                front += near & left - part
                part |= near & left
            left -= part
            found.append(part)
    return found


def grow(voxels: set[tuple[int, ...]], reach_mm: float, spacing_mm: Any, shape: Any) -> set[tuple[int, ...]]:
    """All voxels of the image whose offset in mm is in reach of one of the voxels."""
    everywhere = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1).reshape(-1, 1, 3)
    apart_mm = np.abs(everywhere - np.array(sorted(voxels))[None]) * spacing_mm
    near = ((apart_mm.max(-1) <= reach_mm) & (apart_mm.sum(-1) <= 2 * reach_mm)).any(1)
    return {tuple(map(int, at)) for at in everywhere[near, 0]}


def slow_counts_and_dice(maps: Maps, spacing_mm: Any, reach_mm: float, ignored_mm3: float) -> tuple[list[int], float]:
    """TP, FN, FP and Dice of a region that no other one joins."""
    voxel_mm3, lesions = np.prod(spacing_mm), []
    for volume in maps:
        mask = {tuple(map(int, at)) for at in np.argwhere(volume)}
        grown = parts(grow(mask, reach_mm, spacing_mm, volume.shape)) if mask else []
        lesions.append([(part & mask, part) for part in grown])
    found = [inside for inside, _ in lesions[0] if len(inside) * voxel_mm3 > ignored_mm3]
    hit, tp, fn, total = set(), 0, 0, 0.0
    for inside, reached in lesions[1]:
        hits = [number for number, lesion in enumerate(found) if lesion & reached]
        hit |= set(hits)
        if len(inside) * voxel_mm3 > ignored_mm3:
            tp, fn = tp + bool(hits), fn + (not hits)
            union = set().union(*(found[number] for number in hits))
            total += 2 * len(union & inside) / (len(union) + len(inside))
    fp = len(found) - len(hit)
    return [tp, fn, fp], total / (tp + fn + fp)


@pytest.mark.parametrize(
    "spacing_mm", [(1, 1, 1), (1.0000001, 1, 1), (2, 2, 2), (0.7, 1.5, 2.6), (3, 0.9, 4), (4, 4, 4)]
)
@pytest.mark.parametrize("seed", range(2))
def test_scores_equal_a_second_definition_in_mm(spacing_mm: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    label, pred = np.zeros((2, 22, 14, 12), dtype=np.int64)
    for _ in range(7):
        at, size = rng.integers(0, (20, 12, 10)), rng.integers(1, 4, 3)
        for volume, moved, there in ((label, at, rng.random() < 0.8), (pred, at + rng.integers(0, 3, 3), True)):
            volume[tuple(slice(a, a + n) for a, n in zip(moved, size, strict=True))] = there
    scores = score(pred, label, spacing_mm, core=[1])
    numbers, dice = slow_counts_and_dice((pred, label), np.round(spacing_mm, 3), 3, 20)
    assert counts(scores, "core") == numbers
    assert scores["lesionwise_dice_core"] == pytest.approx(dice)


@pytest.mark.parametrize("order", [(1, 2, 0), (0, 2, 1)])
def test_axes_and_spacing_permuted_together_change_nothing(order: tuple[int, int, int]) -> None:
    pred, label = random_case(0)
    straight = score(pred, label, (0.9, 1.4, 2.5), ET=[3])
    turned = score(pred.transpose(order), label.transpose(order), [(0.9, 1.4, 2.5)[axis] for axis in order], ET=[3])
    assert turned == pytest.approx(straight, rel=1e-6)


@pytest.mark.parametrize("axis", range(3))
def test_the_hd95_of_a_lesion_is_in_mm(axis: int) -> None:
    label = np.zeros((20, 20, 20), dtype=np.int64)
    label[6:11, 6:11, 6:11] = 3
    scores = score(np.roll(label, 2, axis), label, (1, 2.5, 0.7), ET=[3])
    assert scores["lesionwise_hd95_mm_ET"] == pytest.approx(2 * (1, 2.5, 0.7)[axis], rel=1e-6)


# -- by hand


@pytest.mark.parametrize(("region", "value", "gap"), [("ET", 3, 6), ("SNFH", 2, 6), ("NETC", 1, 10), ("RC", 4, 10)])
def test_components_whose_dilations_touch_are_one_lesion(region: str, value: int, gap: int) -> None:
    """Two bars of 2 voxels, with a gap of twice the reach or of one more."""
    near, far = (bars(5, 7 + apart, value=value) for apart in (gap, gap + 1))
    assert counts(score(near, near), region) == [1, 0, 0]
    assert counts(score(far, far), region) == [2, 0, 0]


def test_the_reach_is_in_mm() -> None:
    """Voxels of 1.5 mm: the reach of 3 mm is two of them."""
    near, far = bars(5, 11), bars(5, 12)
    assert counts(score(near, near, (1.5, 1.5, 1.5)), "ET") == [1, 0, 0]
    assert counts(score(far, far, (1.5, 1.5, 1.5)), "ET") == [2, 0, 0]


def test_missed_and_false_lesions_count_as_0_and_as_a_far_distance() -> None:
    label, pred = bars(5, 20), bars(5, 40)
    scores = score(pred, label)
    assert counts(scores, "ET") == [1, 1, 1]
    assert scores["lesionwise_dice_ET"] == pytest.approx(1 / 3)
    assert scores["lesionwise_hd95_mm_ET"] == pytest.approx(2 * MISSED_MM / 3)
    assert scores["lesionwise_f1_ET"] == pytest.approx(0.5)


def test_a_lesion_is_compared_with_all_predicted_ones_in_its_reach_together() -> None:
    """A bar 20 voxels long and two predicted parts of it, 8 and 4 voxels long, that are two lesions."""
    label, pred = np.zeros((2, 60, 9, 9), dtype=np.int64)
    label[10:30, 3:6, 3:6] = 3
    pred[10:18, 3:6, 3:6] = pred[26:30, 3:6, 3:6] = 3
    scores = score(pred, label)
    assert counts(scores, "ET") == [1, 0, 0]
    assert scores["lesionwise_dice_ET"] == pytest.approx(2 * 12 / 32)


def test_a_lesion_is_found_by_one_within_its_reach_that_it_does_not_share_a_voxel_with() -> None:
    """Its Dice is 0, but its HD95 is what is measured."""
    found, missed = score(bars(9), bars(5)), score(bars(10), bars(5))
    assert (counts(found, "ET"), found["lesionwise_dice_ET"]) == ([1, 0, 0], 0)
    assert found["lesionwise_hd95_mm_ET"] == pytest.approx(4)
    assert counts(missed, "ET") == [0, 1, 1]


@pytest.mark.parametrize(("region", "value", "ignored"), [("ET", 3, 10), ("NETC", 1, 20), ("RC", 4, 20), ("WT", 2, 20)])
def test_lesions_of_few_mm3_are_left_out(region: str, value: int, ignored: int) -> None:
    large, small = (bars(30, value=value, count=count) for count in (ignored + 1, ignored))
    other = bars(5, value=value)
    assert counts(score(other, other + large), region) == [1, 1, 0]
    assert counts(score(other, other + small), region) == [1, 0, 0]
    assert counts(score(other + large, other), region) == [1, 0, 1]
    assert counts(score(other + small, other), region) == [1, 0, 0]
    halved = np.repeat(large, 2, axis=0)  # as many mm3 of half as thick voxels
    assert counts(score(halved, halved, (0.5, 1, 1)), region) == [1, 0, 0]


def test_what_finds_a_lesion_that_is_left_out_is_not_false() -> None:
    small, large = bars(30, count=10), bars(30)
    assert counts(score(large, small), "ET") == [0, 0, 0]


@pytest.mark.parametrize(
    ("region", "others"),
    [
        ("NETC", {"ET": 1, "RC": 1, "SNFH": 2}),
        ("ET", {"NETC": 1, "RC": 1, "SNFH": 2}),
        ("RC", {"ET": 1, "NETC": 1, "SNFH": 2}),
        ("SNFH", {"ET": 1, "RC": 1, "NETC": 1}),
    ],
)
def test_lesions_that_touch_the_same_lesion_of_another_label_are_one(region: str, others: dict[str, int]) -> None:
    """Two bars at the ends of a long one of another label, or each at one of its own."""
    for other, lesions in others.items():
        joint = bars(5, 40, value=REGIONS[region][0])
        apart = joint.copy()
        joint[7:40, 3:6, 3:7] = REGIONS[other][0]
        apart[7:17, 3:6, 3:7] = apart[30:40, 3:6, 3:7] = REGIONS[other][0]
        assert counts(score(joint, joint), region) == [lesions, 0, 0]
        assert counts(score(apart, apart), region) == [2, 0, 0]


def test_a_lesion_that_touches_two_of_another_label_goes_with_the_first() -> None:
    """ET, NETC, ET, NETC, ET in a row: the second ET goes with the first one, and the third stays alone."""
    row = bars(5, 49)
    row[15:41, 3:6, 3:7] = 3
    row[7:15, 3:6, 3:7] = row[41:49, 3:6, 3:7] = 1
    assert counts(score(row, row), "ET") == [2, 0, 0]


def test_only_regions_of_the_challenge_have_its_other_definitions() -> None:
    ends = bars(5, 40)
    ends[7:40, 3:6, 3:7] = 1
    assert counts(score(ends, ends, necrosis=[1], tumour=[3]), "tumour") == [2, 0, 0]
    small = bars(30, count=12)
    assert counts(score(small, small, tumour=[3]), "tumour") == [0, 0, 0]


def test_nothing_to_find_and_nothing_found_scores_nan() -> None:
    scores = score(bars(), bars())
    assert counts(scores, "ET") == [0, 0, 0]
    assert all(math.isnan(scores[f"lesionwise_{name}_ET"]) for name in ("dice", "hd95_mm", "f1"))


@pytest.mark.parametrize("swapped", [False, True])
def test_lesions_in_one_mask_only_score_0(swapped: bool) -> None:
    maps = [bars(5, 20, 40), bars()]
    scores = score(*(maps[::-1] if swapped else maps))
    assert counts(scores, "ET") == ([0, 3, 0] if swapped else [0, 0, 3])
    assert [scores[f"lesionwise_{name}_ET"] for name in ("dice", "hd95_mm", "f1")] == [0, MISSED_MM, 0]
