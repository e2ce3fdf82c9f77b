"""Lesions of a case, the 26-connected components of a mask: which are found, by their size, and the scores of ISLES."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from dcd_components.metrics.surfaces import ROUNDING

__all__ = ["SIZES_MM3", "SMALL_LESION_MM3", "lesion_scores", "size_bins"]

Mask = NDArray[np.bool_]

#: Limits of the bins that lesions are counted in by their volume.
SIZES_MM3 = (0, 100, 500, 2000, 10000)
#: Volume up to which a lesion counts as small.
SMALL_LESION_MM3 = 500.0


def size_bins() -> dict[str, tuple[float, float]]:
    """Names of the bins, such as ``100_500mm3``, with the volume that is below a bin and its largest."""
    bins = {f"{low}_{high}mm3": (low, high) for low, high in pairwise(SIZES_MM3)}
    return {**bins, f"over_{SIZES_MM3[-1]}mm3": (SIZES_MM3[-1], np.inf)}


def lesion_scores(pred: Mask, label: Mask, spacing_mm: Sequence[float]) -> dict[str, float]:
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

    Shape:
        pred and label: ``(D, H, W)``.

    Returns:
        The numbers of ``lesions`` in the label, ``tp_lesions`` of them found, both also of the small ones and of each
        of :func:`size_bins`, and ``fp_lesions`` of the prediction; ``lesion_f1``; the absolute differences
        ``lesion_count_difference`` and ``volume_difference_ml``.
    """
    neighbours = np.ones((3, 3, 3))
    true_lesions, count = ndimage.label(label, neighbours)
    pred_lesions, pred_count = ndimage.label(pred, neighbours)
    voxel_mm3 = float(np.prod(spacing_mm))
    mm3 = np.bincount(true_lesions.ravel(), minlength=count + 1)[1:] * voxel_mm3
    found = np.isin(np.arange(1, count + 1), true_lesions[pred])
    false = pred_count - np.unique(pred_lesions[label & pred]).size
    # 2 TP + FN + FP, as TP + FN is the number of true lesions.
    twice_mean = found.sum() + count + false
    small = mm3 <= SMALL_LESION_MM3 * ROUNDING
    scores = {
        "lesions": float(count),
        "tp_lesions": float(found.sum()),
        "small_lesions": float(small.sum()),
        "tp_small_lesions": float((small & found).sum()),
        "fp_lesions": float(false),
        "lesion_f1": float(2 * found.sum() / twice_mean) if twice_mean else np.nan,
        "lesion_count_difference": float(abs(pred_count - count)),
        "volume_difference_ml": abs(int(pred.sum()) - int(label.sum())) * voxel_mm3 / 1000,
    }
    for name, (low, high) in size_bins().items():
        inside = (low * ROUNDING < mm3) & (mm3 <= high * ROUNDING)
        scores |= {f"lesions_{name}": float(inside.sum()), f"tp_lesions_{name}": float((inside & found).sum())}
    return scores
