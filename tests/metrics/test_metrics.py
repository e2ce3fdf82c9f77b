import math
from typing import Any

import numpy as np
import pytest
import torch
from monai.metrics import compute_hausdorff_distance, compute_surface_dice
from numpy.typing import NDArray

from dcd_components.metrics.case_scores import case_scores

REGIONS = {"NETC": [1], "SNFH": [2], "ET": [3], "TC": [1, 3], "WT": [1, 2, 3]}
SPACING_MM = (1.0, 2.5, 0.7)


def score(pred: Any, label: Any, spacing_mm: Any = SPACING_MM, **options: Any) -> dict[str, float]:
    return case_scores(pred, label, spacing_mm, REGIONS, [1, 2, 3], **options)


def surface_mm(mask: NDArray[np.bool_], spacing_mm: tuple[float, ...]) -> NDArray[np.float64]:
    """Positions of the voxels that have a face neighbour outside the mask, found voxel by voxel."""
    padded = np.pad(mask, 1)
    steps = [sign * step for step in np.eye(3, dtype=int) for sign in (1, -1)]
    inside = [at for at in np.argwhere(padded) if not all(padded[tuple(at + step)] for step in steps)]
    return np.array([at * spacing_mm for at in inside])


def brute_force(pred: NDArray[np.bool_], label: NDArray[np.bool_], tolerance_mm: float) -> tuple[float, float, float]:
    between = surface_mm(pred, SPACING_MM)[:, None] - surface_mm(label, SPACING_MM)[None]
    distance_mm = np.sqrt((between**2).sum(-1))
    directed = distance_mm.min(1), distance_mm.min(0)
    near = sum((d <= tolerance_mm).sum() for d in directed) / sum(map(len, directed))
    hd95_mm = max(np.percentile(d, 95) for d in directed)
    return 2 * (pred & label).sum() / (pred.sum() + label.sum()), hd95_mm, near


def random_maps(seed: int, shape: tuple[int, ...] = (9, 8, 10)) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    label = rng.choice(4, shape, p=(0.7, 0.1, 0.1, 0.1))
    return np.where(rng.random(shape) < 0.1, rng.choice(4, shape), label), label


def box(start: tuple[int, int, int], size: int = 5, value: int = 3) -> NDArray[np.int64]:
    volume = np.zeros((24, 22, 20), dtype=np.int64)
    volume[tuple(slice(first, first + size) for first in start)] = value
    return volume


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("nsd_tolerance_mm", [0.5, 1.0, 2.5])
def test_scores_equal_brute_force_on_voxels_of_unequal_size(seed: int, nsd_tolerance_mm: float) -> None:
    pred, label = random_maps(seed)
    scores = score(pred, label, nsd_tolerance_mm=nsd_tolerance_mm)
    for region, values in REGIONS.items():
        expected = brute_force(np.isin(pred, values), np.isin(label, values), nsd_tolerance_mm)
        found = [scores[f"{name}_{region}"] for name in ("dice", "hd95_mm", "nsd")]
        assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_shifted_box_is_as_many_mm_away_as_its_axis_says(axis: int) -> None:
    start = [6, 6, 6]
    start[axis] += 3
    scores = score(box((start[0], start[1], start[2])), box((6, 6, 6)))
    assert scores["hd95_mm_ET"] == pytest.approx(3 * SPACING_MM[axis], rel=1e-6)
    assert scores["dice_ET"] == pytest.approx(0.4)


@pytest.mark.parametrize("order", [(1, 2, 0), (2, 0, 1), (0, 2, 1)])
def test_axes_and_spacing_permuted_together_change_nothing(order: tuple[int, int, int]) -> None:
    pred, label = random_maps(5)
    turned = score(pred.transpose(order), label.transpose(order), [SPACING_MM[axis] for axis in order])
    assert turned == pytest.approx(score(pred, label), rel=1e-6)


def test_nsd_counts_a_shift_of_exactly_the_tolerance_as_near() -> None:
    pred, label = box((8, 6, 6)), box((6, 6, 6))
    assert score(pred, label, (1, 1, 1), nsd_tolerance_mm=2.0)["nsd_ET"] == 1
    assert score(pred, label, (1, 1, 1), nsd_tolerance_mm=1.9)["nsd_ET"] < 1


@pytest.mark.parametrize("start", [(10, 9, 8), (0, 0, 0), (19, 17, 15), (0, 9, 15)])
def test_the_crop_changes_no_score_not_even_at_the_border(start: tuple[int, int, int]) -> None:
    label = box(start)
    pred = np.where(np.random.default_rng(0).random(label.shape) < 0.2, 0, label)
    inside, scores = score(np.pad(pred, 9), np.pad(label, 9)), score(pred, label)
    assert inside == pytest.approx(scores, nan_ok=True)


@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")
def test_scores_equal_those_of_monai_on_the_whole_image() -> None:
    pred, label = (np.pad(volume, 4) for volume in random_maps(7))
    masks = [torch.from_numpy(volume == 2)[None, None] for volume in (pred, label)]
    hd95 = compute_hausdorff_distance(*masks, include_background=True, percentile=95, spacing=list(SPACING_MM))
    nsd = compute_surface_dice(*masks, class_thresholds=[1.0], include_background=True, spacing=list(SPACING_MM))
    scores = score(pred, label, nsd_tolerance_mm=1.0)
    assert (scores["hd95_mm_SNFH"], scores["nsd_SNFH"]) == pytest.approx((hd95.item(), nsd.item()))


def test_a_region_absent_from_both_scores_nan() -> None:
    scores = score(box((6, 6, 6)), box((6, 6, 6)))
    assert all(math.isnan(scores[f"{name}_NETC"]) for name in ("dice", "hd95_mm", "nsd"))
    assert (scores["dice_ET"], scores["hd95_mm_ET"], scores["nsd_ET"]) == (1, 0, 1)


@pytest.mark.parametrize("swapped", [False, True])
def test_a_region_absent_from_one_is_a_diagonal_away(swapped: bool) -> None:
    maps = [np.zeros((24, 22, 20)), box((6, 6, 6))]
    scores = score(*(maps[::-1] if swapped else maps))
    assert (scores["dice_ET"], scores["nsd_ET"]) == (0, 0)
    assert scores["hd95_mm_ET"] == pytest.approx(math.hypot(24 * 1.0, 22 * 2.5, 20 * 0.7))


def test_the_diagonal_of_a_brats_image_is_373_mm() -> None:
    label = np.zeros((240, 240, 155), dtype=np.int8)
    label[0, 0, 0] = 3
    assert score(np.zeros_like(label), label, (1, 1, 1))["hd95_mm_ET"] == pytest.approx(373.13, abs=0.01)


def test_lesions_are_counted_as_on_a_map_drawn_by_hand() -> None:
    label, pred = np.zeros((2, 30, 30, 30), dtype=np.int64)
    label[1:11, 1:11, 1:11] = 2  # large, 1000 voxels, found
    label[11, 11, 11] = 1  # touches it by a corner, so it is the same lesion
    label[20:22, 20:22, 20:22] = 3  # small, found by a voxel of another label
    label[25, 2, 2] = 1  # small, missed: the prediction is next to it
    label[2, 20:25, 20:24] = 4  # no lesion: 4 is not among the lesion labels
    pred[5:8, 5:8, 5:8] = 1
    pred[21, 21, 21] = 1
    pred[26, 2, 2] = 1
    pred[2, 21, 21] = 2
    scores = score(pred, label, (1, 1, 1))
    names = ("lesions", "tp_lesions", "small_lesions", "tp_small_lesions", "fp_lesions")
    assert [scores[name] for name in names] == [3, 2, 2, 1, 2]


def grown(mask: NDArray[np.bool_]) -> list[set[tuple[int, ...]]]:
    """The 26-connected components as sets of voxels, grown voxel by voxel."""
    left, components = {tuple(map(int, at)) for at in np.argwhere(mask)}, []
    while left:
        component, front = set[tuple[int, ...]](), [left.pop()]
        while front:
            at = front.pop()
            component.add(at)
            near = {other for other in left if max(abs(a - b) for a, b in zip(at, other, strict=True)) == 1}
            left -= near
            front += near
        components.append(component)
    return components


@pytest.mark.parametrize("share", [0.02, 0.08])
@pytest.mark.parametrize("seed", range(3))
def test_lesion_scores_equal_brute_force_on_voxels_of_unequal_size(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    label = rng.random((9, 8, 10)) < share
    pred = np.where(rng.random(label.shape) < 0.4, False, label) | (rng.random(label.shape) < share / 3)
    wanted, given = grown(label), grown(pred)
    precision_hits = sum(any(lesion & other for other in wanted) for lesion in given)
    found, false = sum(any(lesion & other for other in given) for lesion in wanted), len(given) - precision_hits
    scores = score(3 * pred, 2 * label)
    assert scores["lesion_f1"] == pytest.approx(found / (found + (false + len(wanted) - found) / 2))
    assert scores["lesion_count_difference"] == abs(len(wanted) - len(given))
    volume_ml = [sum(map(len, lesions)) * 1.0 * 2.5 * 0.7 / 1000 for lesions in (wanted, given)]
    assert scores["volume_difference_ml"] == pytest.approx(abs(volume_ml[0] - volume_ml[1]))


def test_f1_and_differences_are_those_computed_by_hand() -> None:
    label, pred = np.zeros((2, 20, 20, 20), dtype=np.int64)
    label[2:4, 2:4, 2:4] = 1  # both found by one predicted lesion
    label[2:4, 2:4, 8:10] = 1
    label[10, 10, 10] = 2  # missed
    pred[3, 3, 3:9] = 1
    pred[16, 16, 16] = 1  # false, and joined to the next by a corner
    pred[17, 17, 17] = 3
    scores = score(pred, label, (2, 2, 5))
    assert scores["lesion_f1"] == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    assert scores["lesion_count_difference"] == 1
    assert scores["volume_difference_ml"] == pytest.approx((17 - 8) * 20 / 1000)


@pytest.mark.parametrize("swapped", [False, True])
def test_lesions_in_one_mask_only_score_an_f1_of_0(swapped: bool) -> None:
    maps = [np.zeros((24, 22, 20)), box((6, 6, 6)) + box((15, 15, 14))]
    scores = score(*(maps[::-1] if swapped else maps))
    assert (scores["lesion_f1"], scores["lesion_count_difference"]) == (0, 2)
    assert scores["volume_difference_ml"] == pytest.approx(250 * 1.75 / 1000)


@pytest.mark.parametrize(("spacing_mm", "small"), [((5, 5, 20), 1), ((5, 5, 20.1), 0)])
def test_a_small_lesion_is_measured_in_mm3_and_the_limit_included(spacing_mm: Any, small: int) -> None:
    label = np.zeros((4, 4, 4), dtype=np.int64)
    label[1, 1, 1] = 1
    assert score(label, label, spacing_mm)["small_lesions"] == small


def test_maps_without_anything_have_no_lesions() -> None:
    scores = score(np.zeros((4, 4, 4)), np.zeros((4, 4, 4)))
    assert [value for name, value in scores.items() if "lesions" in name] == [0] * 5
    assert (scores["lesion_count_difference"], scores["volume_difference_ml"]) == (0, 0)
    assert math.isnan(scores["lesion_f1"])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float32])
def test_tensors_with_a_channel_score_as_arrays_do(dtype: torch.dtype) -> None:
    pred, label = random_maps(3)
    tensors = (torch.from_numpy(volume)[None].to(dtype) for volume in (pred, label))
    scores = score(next(tensors), next(tensors), torch.tensor(SPACING_MM))
    assert scores == pytest.approx(score(pred, label), rel=1e-6)


@pytest.mark.parametrize(
    ("pred", "spacing_mm", "nsd_tolerance_mm", "message"),
    [
        (np.zeros((4, 4, 5)), (1, 1, 1), 2, r"the same shape, got \(4, 4, 5\) and \(4, 4, 4\)"),
        (np.zeros((2, 4, 4, 4)), (1, 1, 1), 2, r"pred must have shape .* got \(2, 4, 4, 4\)"),
        (np.full((4, 4, 4), 0.5), (1, 1, 1), 2, "pred must hold integer labels"),
        (np.full((4, 4, 4), np.nan), (1, 1, 1), 2, "pred must hold integer labels"),
        (np.zeros((4, 4, 4)), (1, 1), 2, r"three positive numbers, got \(1, 1\)"),
        (np.zeros((4, 4, 4)), (1, 0, 1), 2, r"three positive numbers, got \(1, 0, 1\)"),
        (np.zeros((4, 4, 4)), (1, 1, math.nan), 2, "three positive numbers"),
        (np.zeros((4, 4, 4)), (1, 1, 1), -1, "nsd_tolerance_mm must not be negative, got -1"),
    ],
)
def test_bad_input_is_refused(pred: Any, spacing_mm: Any, nsd_tolerance_mm: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        score(pred, np.zeros((4, 4, 4)), spacing_mm, nsd_tolerance_mm=nsd_tolerance_mm)
