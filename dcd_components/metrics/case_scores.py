"""Scores of one segmented case: Dice, HD95 and NSD per region; counts, F1 and volume of lesions.

Empty masks: a region absent from prediction and label scores NaN three times, so that means leave it out, as nnU-Net's
evaluation does; a region absent from exactly one of them scores Dice 0, NSD 0 and HD95 = the diagonal of the image in
mm, which generalises the 374 mm that BraTS sets for its 240x240x155 images of 1 mm. Lesion-wise F1 follows the same
rule: NaN without lesions in either mask, 0 with lesions in exactly one. The official evaluation of ISLES 2022 scores 1
for Dice and F1 where both masks are empty.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from monai.metrics import compute_dice, get_mask_edges, get_surface_distance
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from dcd_components.errors import InputError

__all__ = ["case_scores", "lesion_scores", "region_scores"]

Mask = NDArray[np.bool_]
LabelMap = NDArray[np.int64]


def case_scores(
    pred: torch.Tensor | ArrayLike,
    label: torch.Tensor | ArrayLike,
    spacing_mm: Sequence[float],
    regions: Mapping[str, Sequence[int]],
    lesion_labels: Sequence[int],
    nsd_tolerance_mm: float = 2.0,
    small_lesion_mm3: float = 500.0,
) -> dict[str, float]:
    """Score a predicted label map against the true one.

    Absent from both, a region scores NaN three times; absent from one, Dice 0, NSD 0 and HD95 = the image's diagonal.

    Args:
        pred: predicted label map.
        label: true label map.
        spacing_mm: size of a voxel along the axes of the maps, in their order.
        regions: labels that make up each region, for example ``{"TC": [1, 3]}``.
        lesion_labels: labels whose union is split into lesions, see :func:`lesion_scores`.
        nsd_tolerance_mm: distance up to which a surface voxel counts as matched in NSD.
        small_lesion_mm3: volume up to which a lesion counts as small.

    Shape:
        pred and label: ``(D, H, W)`` or ``(1, D, H, W)``.

    Returns:
        ``dice_*``, ``hd95_mm_*`` and ``nsd_*`` for each region, and what :func:`lesion_scores` returns.

    Raises:
        InputError: for maps of unequal shape, of another number of axes or with values that are not integers, and for
            a spacing that is not three positive numbers or a negative tolerance.
    """
    pred_map, label_map = _label_map(pred, "pred"), _label_map(label, "label")
    if pred_map.shape != label_map.shape:
        raise InputError(f"pred and label must have the same shape, got {pred_map.shape} and {label_map.shape}")
    if len(spacing_mm) != 3 or not all(0 < size < np.inf for size in spacing_mm):
        raise InputError(f"spacing_mm must be three positive numbers, got {spacing_mm}")
    spacing_mm = [float(size) for size in spacing_mm]
    if nsd_tolerance_mm < 0:
        raise InputError(f"nsd_tolerance_mm must not be negative, got {nsd_tolerance_mm}")
    diagonal_mm = float(np.linalg.norm(np.multiply(label_map.shape, spacing_mm)))
    used = sorted({*lesion_labels, *(value for values in regions.values() for value in values)})
    pred_map, label_map = _crop(pred_map, label_map, used)

    scores = {}
    for region, values in regions.items():
        masks = np.isin(pred_map, values), np.isin(label_map, values)
        for name, score in region_scores(*masks, spacing_mm, nsd_tolerance_mm, diagonal_mm).items():
            scores[f"{name}_{region}"] = score
    masks = np.isin(pred_map, lesion_labels), np.isin(label_map, lesion_labels)
    return scores | lesion_scores(*masks, spacing_mm, small_lesion_mm3)


def region_scores(
    pred: Mask, label: Mask, spacing_mm: Sequence[float], nsd_tolerance_mm: float, diagonal_mm: float
) -> dict[str, float]:
    """Score one region by its overlap and its surface.

    A surface voxel is a mask voxel with a face neighbour outside the mask or the image. HD95 is the larger of the two
    directed 95th percentiles of the distances between surface voxels; NSD is the share of the surface voxels of both
    masks that lie within the tolerance of the other surface.

    Absent from both, a region scores NaN three times; absent from one, Dice 0, NSD 0 and HD95 = ``diagonal_mm``.

    Args:
        pred: predicted mask.
        label: true mask.
        spacing_mm: size of a voxel along each axis.
        nsd_tolerance_mm: distance up to which a surface voxel counts as matched.
        diagonal_mm: HD95 of a region that exactly one mask contains.

    Shape:
        pred and label: ``(D, H, W)``.

    Returns:
        ``dice``, ``hd95_mm`` and ``nsd``.
    """
    if not pred.any() and not label.any():
        return dict.fromkeys(("dice", "hd95_mm", "nsd"), np.nan)
    if not pred.any() or not label.any():
        return {"dice": 0.0, "hd95_mm": diagonal_mm, "nsd": 0.0}
    dice = compute_dice(torch.from_numpy(pred)[None, None], torch.from_numpy(label)[None, None])
    # MONAI's own HD95 and NSD would each look for the edges and measure the distances anew, and warn of deprecation.
    edges = get_mask_edges(pred, label)
    distances_mm = [get_surface_distance(*pair, spacing=spacing_mm) for pair in (edges, edges[::-1])]
    return {
        "dice": dice.item(),
        "hd95_mm": max(float(np.quantile(directed, 0.95)) for directed in distances_mm),
        "nsd": float(np.mean(np.concatenate(distances_mm) <= nsd_tolerance_mm)),
    }


def lesion_scores(pred: Mask, label: Mask, spacing_mm: Sequence[float], small_lesion_mm3: float) -> dict[str, float]:
    """Count and compare lesions, the 26-connected components of a mask.

    A lesion of the label is a true positive (TP) when the prediction has at least one voxel in common with it, else a
    false negative (FN). A lesion of the prediction that has no voxel in common with the label is a false positive (FP).
    The lesion-wise F1 is ``2 TP / (2 TP + FP + FN)``.

    Without lesions all counts and differences are 0 and F1 is NaN; with lesions in exactly one mask F1 is 0.

    F1 and both differences are those of the official ISLES 2022 evaluation, 26-connected too, but for two empty masks:
    it scores 1 for F1, and for Dice, where this module gives NaN, so that its means include such cases.

    Args:
        pred: predicted mask.
        label: true mask.
        spacing_mm: size of a voxel along each axis.
        small_lesion_mm3: volume up to which a lesion counts as small.

    Shape:
        pred and label: ``(D, H, W)``.

    Returns:
        The numbers of ``lesions`` and ``small_lesions`` in the label, ``tp_lesions`` and ``tp_small_lesions`` of them
        found, and ``fp_lesions`` of the prediction; ``lesion_f1``; the absolute differences
        ``lesion_count_difference`` and ``volume_difference_ml``.
    """
    neighbours = np.ones((3, 3, 3))
    true_lesions, count = ndimage.label(label, neighbours)
    pred_lesions, pred_count = ndimage.label(pred, neighbours)
    voxel_mm3 = float(np.prod(spacing_mm))
    small = np.bincount(true_lesions.ravel(), minlength=count + 1)[1:] * voxel_mm3 <= small_lesion_mm3
    found = np.isin(np.arange(1, count + 1), true_lesions[pred])
    false = pred_count - np.unique(pred_lesions[label & pred]).size
    # 2 TP + FN + FP, as TP + FN is the number of true lesions.
    twice_mean = found.sum() + count + false
    return {
        "lesions": float(count),
        "tp_lesions": float(found.sum()),
        "small_lesions": float(small.sum()),
        "tp_small_lesions": float((small & found).sum()),
        "fp_lesions": float(false),
        "lesion_f1": float(2 * found.sum() / twice_mean) if twice_mean else np.nan,
        "lesion_count_difference": float(abs(pred_count - count)),
        "volume_difference_ml": abs(int(pred.sum()) - int(label.sum())) * voxel_mm3 / 1000,
    }


def _label_map(values: torch.Tensor | ArrayLike, name: str) -> LabelMap:
    array = values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
    if array.ndim == 4 and len(array) == 1:
        array = array[0]
    if array.ndim != 3:
        raise InputError(f"{name} must have shape (D, H, W) or (1, D, H, W), got {array.shape}")
    # MONAI's transforms hand over labels as floats, which are fine as long as they hold integers.
    if array.dtype.kind not in "biu" and not (np.isfinite(array) & (array == np.round(array))).all():
        raise InputError(f"{name} must hold integer labels, got fractions in {array.dtype}")
    return array.astype(np.int64)


def _crop(pred: LabelMap, label: LabelMap, values: Sequence[int]) -> tuple[LabelMap, LabelMap]:
    """Crop both maps to the box that holds the values.

    MONAI pads masks by a voxel of background before it looks for edges, so the tight box changes no surface.
    """
    box = ndimage.find_objects((np.isin(pred, values) | np.isin(label, values)).astype(np.int8))
    return (pred[box[0]], label[box[0]]) if box else (pred, label)
