import math
import re
from typing import Any

import numpy as np
import pytest
import torch
from monai.metrics import compute_hausdorff_distance, compute_surface_dice
from numpy.typing import NDArray

from dcd_components.errors import InputError
from dcd_components.metrics.case_scores import case_scores

SCORES = ["dice", "hd95_mm", "nsd_0.5mm", "nsd_1mm", "nsd_2mm", "boundary_dice"]
SCORES += ["lesionwise_dice", "lesionwise_hd95_mm", "lesionwise_f1"]
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
def test_scores_equal_brute_force_on_voxels_of_unequal_size(seed: int) -> None:
    pred, label = random_maps(seed)
    scores = score(pred, label, nsd_tolerances_mm=[0.5, 1, 2.5])
    for region, values in REGIONS.items():
        for tolerance_mm in (0.5, 1, 2.5):
            expected = brute_force(np.isin(pred, values), np.isin(label, values), tolerance_mm)
            found = [scores[f"{name}_{region}"] for name in ("dice", "hd95_mm", f"nsd_{tolerance_mm}mm")]
            assert found == pytest.approx(expected, rel=1e-5)


def test_volumes_are_those_of_the_label() -> None:
    assert score(box((6, 6, 6), 4), box((6, 6, 6)))["volume_ml_ET"] == pytest.approx(125 * 1.75 / 1000)


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
    scores = score(pred, label, (1, 1, 1), nsd_tolerances_mm=[2, 1.9])
    assert scores["nsd_2mm_ET"] == 1
    assert scores["nsd_1.9mm_ET"] < 1


@pytest.mark.parametrize("size_mm", [0.9999999, 1.0000001, float(np.float32(0.1)) * 10])
def test_single_precision_of_the_spacing_moves_no_score(size_mm: float) -> None:
    """A header has 1 mm as 1.0000001 mm where its axes are oblique."""
    pred, label = box((7, 6, 6)), box((6, 6, 6))
    exact, rounded = (score(pred, label, (1, 1, one)) for one in (1, size_mm))
    assert rounded == pytest.approx(exact, rel=1e-5, nan_ok=True)
    along = score(pred.T, label.T, (1, 1, size_mm))
    assert along["nsd_1mm_ET"] == exact["nsd_1mm_ET"] == 1
    assert along["boundary_dice_ET"] == exact["boundary_dice_ET"]


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
    scores = score(pred, label)
    assert (scores["hd95_mm_SNFH"], scores["nsd_1mm_SNFH"]) == pytest.approx((hd95.item(), nsd.item()))


def test_the_boundary_dice_of_a_box_in_a_box_is_that_computed_by_hand() -> None:
    """Layers 1 and 2 of boxes of 10 and 12 voxels; layer 1 of the inner one is layer 2 of the outer one."""
    label, pred = np.zeros((2, 20, 20, 20), dtype=np.int64)
    label[5:15, 5:15, 5:15] = pred[4:16, 4:16, 4:16] = 3
    shared, bands = 10**3 - 8**3, (10**3 - 6**3) + (12**3 - 8**3)
    assert score(pred, label, (1, 1, 1))["boundary_dice_ET"] == pytest.approx(2 * shared / bands)


def test_the_boundary_of_thick_voxels_is_their_surface() -> None:
    """Along the axis of 5 mm one layer, along the others two."""
    label, pred = np.zeros((2, 20, 20, 20), dtype=np.int64)
    label[5:15, 5:15, 5:15] = 3
    pred[5:15, 5:15, 6:16] = 3
    bands = 2 * (10**3 - 6 * 6 * 8)
    kernel_apart = 6 * 6 * 7  # in both masks, in the boundary of neither
    ends = 2 * 6 * 6  # in both masks, in the boundary of exactly one
    assert score(pred, label, (1, 1, 5))["boundary_dice_ET"] == pytest.approx(
        2 * (10 * 10 * 9 - kernel_apart - ends) / bands
    )


@pytest.mark.parametrize("spacing_mm", [(1, 1, 1), SPACING_MM, (3, 0.4, 1)])
def test_the_boundary_dice_equals_brute_force(spacing_mm: Any) -> None:
    pred, label = random_maps(4, (8, 7, 9))
    masks = [np.isin(one, [1, 2, 3]) for one in (np.where(pred, pred, label), np.where(label, label, 1) * (pred < 3))]
    bands = []
    for mask in masks:
        outside = np.argwhere(~np.pad(mask, 6))
        at = np.argwhere(np.pad(mask, 6))
        steps = np.abs(at[:, None] - outside[None])
        near = (np.linalg.norm(steps * spacing_mm, axis=-1) <= 2) | (steps.sum(-1) == 1)
        bands.append({tuple(voxel) for voxel in at[near.any(1)]})
    expected = 2 * len(bands[0] & bands[1]) / (len(bands[0]) + len(bands[1]))
    pred, label = (mask.astype(np.int64) for mask in masks)
    found = score(pred, label, spacing_mm)["boundary_dice_WT"]
    assert found == pytest.approx(expected)
    assert 0 < found < 1


def test_a_small_region_is_all_boundary() -> None:
    scores = score(box((7, 6, 6), 3), box((6, 6, 6), 3), (1, 1, 1))
    assert scores["boundary_dice_ET"] == scores["dice_ET"]


def test_a_region_absent_from_both_scores_nan() -> None:
    scores = score(box((6, 6, 6)), box((6, 6, 6)))
    assert all(math.isnan(scores[f"{name}_NETC"]) for name in SCORES)
    assert [scores[f"{name}_ET"] for name in SCORES] == [0 if "hd95" in name else 1 for name in SCORES]
    assert (scores["volume_ml_NETC"], scores["lesionwise_tp_NETC"], scores["lesionwise_fp_NETC"]) == (0, 0, 0)


@pytest.mark.parametrize("swapped", [False, True])
def test_a_region_absent_from_one_is_a_diagonal_away(swapped: bool) -> None:
    maps = [np.zeros((24, 22, 20)), box((6, 6, 6))]
    scores = score(*(maps[::-1] if swapped else maps))
    diagonal_mm = math.hypot(24 * 1.0, 22 * 2.5, 20 * 0.7)
    expected = {"hd95_mm": pytest.approx(diagonal_mm), "lesionwise_hd95_mm": math.floor(diagonal_mm)}
    assert [scores[f"{name}_ET"] for name in SCORES] == [expected.get(name, 0) for name in SCORES]


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


def test_lesions_are_counted_by_their_size_in_mm3_each_limit_in_the_bin_below() -> None:
    """Voxels of 20 mm3: rows of 1, 5, 6, 25, 100 and 501 of them, of which the 1, the 6 and the 501 are found."""
    label, pred = np.zeros((2, 510, 20, 3), dtype=np.int64)
    for column, count in enumerate((1, 5, 6, 25, 100, 501)):
        label[:count, 3 * column, 1] = 1
        pred[0, 3 * column, 1] = count in {1, 6, 501}
    scores = score(pred, label, (2, 2, 5))
    bins = ("0_100mm3", "100_500mm3", "500_2000mm3", "2000_10000mm3", "over_10000mm3")
    assert [scores[f"lesions_{name}"] for name in bins] == [2, 2, 1, 0, 1]
    assert [scores[f"tp_lesions_{name}"] for name in bins] == [1, 1, 0, 0, 1]
    assert (scores["lesions"], scores["small_lesions"], scores["tp_small_lesions"]) == (6, 4, 2)


@pytest.mark.parametrize(("spacing_mm", "small"), [((5, 5, 20), 1), ((5, 5, 20.1), 0)])
def test_a_small_lesion_is_measured_in_mm3_and_the_limit_included(spacing_mm: Any, small: int) -> None:
    label = np.zeros((4, 4, 4), dtype=np.int64)
    label[1, 1, 1] = 1
    assert score(label, label, spacing_mm)["small_lesions"] == small


def test_maps_without_anything_have_no_lesions() -> None:
    scores = score(np.zeros((4, 4, 4)), np.zeros((4, 4, 4)))
    assert [value for name, value in scores.items() if "lesions" in name] == [0] * 15
    assert (scores["lesion_count_difference"], scores["volume_difference_ml"]) == (0, 0)
    assert math.isnan(scores["lesion_f1"])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float32])
def test_tensors_with_a_channel_score_as_arrays_do(dtype: torch.dtype) -> None:
    pred, label = random_maps(3)
    tensors = (torch.from_numpy(volume)[None].to(dtype) for volume in (pred, label))
    scores = score(next(tensors), next(tensors), torch.tensor(SPACING_MM))
    assert scores == pytest.approx(score(pred, label), rel=1e-6)


@pytest.mark.parametrize(
    ("pred", "spacing_mm", "nsd_tolerances_mm", "message"),
    [
        (np.zeros((4, 4, 5)), (1, 1, 1), [2], r"the same shape, got \(4, 4, 5\) and \(4, 4, 4\)"),
        (np.zeros((2, 4, 4, 4)), (1, 1, 1), [2], r"pred must have shape .* got \(2, 4, 4, 4\)"),
        (np.full((4, 4, 4), 0.5), (1, 1, 1), [2], "pred must hold integer labels"),
        (np.full((4, 4, 4), np.nan), (1, 1, 1), [2], "pred must hold integer labels"),
        (np.zeros((4, 4, 4)), (1, 1), [2], r"three positive numbers, got \(1, 1\)"),
        (np.zeros((4, 4, 4)), (1, 0, 1), [2], r"three positive numbers, got \(1, 0, 1\)"),
        (np.zeros((4, 4, 4)), (1, 1, math.nan), [2], "three positive numbers"),
        *(
            (np.zeros((4, 4, 4)), (1, 1, 1), wrong, f"nsd_tolerances_mm must be a list .* got {re.escape(str(wrong))}$")
            for wrong in ([], [-1], [1, 1.0], [1, math.nan], [math.inf], ["1"], 1.0, "1", None)
        ),
    ],
)
def test_bad_input_is_refused(pred: Any, spacing_mm: Any, nsd_tolerances_mm: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        score(pred, np.zeros((4, 4, 4)), spacing_mm, nsd_tolerances_mm=nsd_tolerances_mm)
