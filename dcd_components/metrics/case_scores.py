"""Scores of one segmented case: of each region, as a whole and lesion by lesion, and of its lesions by their size.

Empty masks: a region absent from prediction and label scores NaN, so that means leave it out, as nnU-Net's evaluation
does; a region absent from exactly one of them scores 0, and as HD95 the diagonal of the image in mm, which generalises
the 374 mm that BraTS sets for its 240x240x155 images of 1 mm. Lesion-wise scores follow the same rule. The official
evaluations of BraTS 2024 and ISLES 2022 have the best score in place of NaN, see :func:`.fill_absent`.

docs/metrics.md has every score's definition, unit, rule for empty masks and source.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from monai.metrics import compute_dice
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from dcd_components.errors import InputError
from dcd_components.metrics.lesion_wise import lesion_wise_scores
from dcd_components.metrics.lesions import lesion_scores
from dcd_components.metrics.surfaces import ROUNDING, boundary, surface_distances_mm

__all__ = ["case_scores", "check_tolerances", "nsd_name", "region_scores"]

Mask = NDArray[np.bool_]
LabelMap = NDArray[np.int64]


def case_scores(
    pred: torch.Tensor | ArrayLike,
    label: torch.Tensor | ArrayLike,
    spacing_mm: Sequence[float],
    regions: Mapping[str, Sequence[int]],
    lesion_labels: Sequence[int],
    nsd_tolerances_mm: Sequence[float] = (1.0, 0.5, 2.0),
) -> dict[str, float]:
    """Score a predicted label map against the true one.

    Args:
        pred: predicted label map.
        label: true label map.
        spacing_mm: size of a voxel along the axes of the maps, in their order.
        regions: labels that make up each region, for example ``{"TC": [1, 3]}``.
        lesion_labels: labels whose union is split into lesions, see :func:`.lesion_scores`.
        nsd_tolerances_mm: distances up to which a surface voxel counts as matched, one NSD for each.

    Shape:
        pred and label: ``(D, H, W)`` or ``(1, D, H, W)``.

    Returns:
        For each region ``volume_ml_*``, that of the label, and what :func:`region_scores` and
        :func:`.lesion_wise_scores` return; and what :func:`.lesion_scores` returns.

    Raises:
        InputError: for maps of unequal shape, of another number of axes or with values that are not integers, for a
            spacing that is not three positive numbers, and for tolerances as in :func:`check_tolerances`.
    """
    pred_map, label_map = _label_map(pred, "pred"), _label_map(label, "label")
    if pred_map.shape != label_map.shape:
        raise InputError(f"pred and label must have the same shape, got {pred_map.shape} and {label_map.shape}")
    if len(spacing_mm) != 3 or not all(0 < size < np.inf for size in spacing_mm):
        raise InputError(f"spacing_mm must be three positive numbers, got {spacing_mm}")
    spacing_mm = [float(size) for size in spacing_mm]
    check_tolerances(nsd_tolerances_mm)
    diagonal_mm = float(np.linalg.norm(np.multiply(label_map.shape, spacing_mm)))
    used = sorted({*lesion_labels, *(value for values in regions.values() for value in values)})
    pred_map, label_map = _crop(pred_map, label_map, used)

    preds, labels = ({name: np.isin(one, values) for name, values in regions.items()} for one in (pred_map, label_map))
    scores = {}
    for region in regions:
        scores[f"volume_ml_{region}"] = int(labels[region].sum()) * float(np.prod(spacing_mm)) / 1000
        of_region = region_scores(preds[region], labels[region], spacing_mm, nsd_tolerances_mm, diagonal_mm)
        scores |= {f"{name}_{region}": score for name, score in of_region.items()}
    # Whole mm, as in BraTS 2024: 337 for its 182x218x182 images of 1 mm.
    scores |= lesion_wise_scores(preds, labels, spacing_mm, missed_mm=math.floor(diagonal_mm))
    masks = np.isin(pred_map, lesion_labels), np.isin(label_map, lesion_labels)
    return scores | lesion_scores(*masks, spacing_mm)


def check_tolerances(nsd_tolerances_mm: Sequence[float]) -> None:
    """Check that there are tolerances, all of them different and not negative.

    Raises:
        InputError: else.
    """
    fine = isinstance(nsd_tolerances_mm, Sequence) and not isinstance(nsd_tolerances_mm, str)
    fine = fine and all(isinstance(one, int | float) and 0 <= one < np.inf for one in nsd_tolerances_mm)
    if not fine or not nsd_tolerances_mm or len({*map(nsd_name, nsd_tolerances_mm)}) < len(nsd_tolerances_mm):
        raise InputError(
            f"nsd_tolerances_mm must be a list of different distances, none of them negative, got {nsd_tolerances_mm}"
        )


def nsd_name(tolerance_mm: float) -> str:
    """Name of the NSD at a tolerance, such as ``nsd_0.5mm``."""
    return f"nsd_{tolerance_mm:g}mm"


def region_scores(
    pred: Mask, label: Mask, spacing_mm: Sequence[float], nsd_tolerances_mm: Sequence[float], diagonal_mm: float
) -> dict[str, float]:
    """Score one region by its overlap, its surface and its boundary.

    HD95 is the larger of the two directed 95th percentiles of the distances between surface voxels, see
    :func:`.surface_distances_mm`; NSD is the share of the surface voxels of both masks that lie within the tolerance of
    the other surface; the boundary Dice is the Dice of the masks' boundaries, see :func:`.boundary`.

    Absent from both, a region scores NaN throughout; absent from one, 0, and HD95 = ``diagonal_mm``.

    Args:
        pred: predicted mask.
        label: true mask.
        spacing_mm: size of a voxel along each axis.
        nsd_tolerances_mm: distances up to which a surface voxel counts as matched.
        diagonal_mm: HD95 of a region that exactly one mask contains.

    Shape:
        pred and label: ``(D, H, W)``.

    Returns:
        ``dice``, ``hd95_mm``, ``nsd_<tolerance>mm`` for each tolerance, and ``boundary_dice``.
    """
    tolerances = {nsd_name(tolerance): tolerance for tolerance in nsd_tolerances_mm}
    if not pred.any() or not label.any():
        present = pred.any() or label.any()
        absent = dict.fromkeys(("dice", "hd95_mm", *tolerances, "boundary_dice"), 0.0 if present else np.nan)
        return absent | ({"hd95_mm": diagonal_mm} if present else {})
    (box,) = ndimage.find_objects((pred | label).astype(np.int8))
    pred, label = pred[box], label[box]
    # MONAI's own HD95 and NSD would each look for the edges and measure the distances anew, and warn of deprecation.
    distances_mm = surface_distances_mm(pred, label, spacing_mm)
    both_mm = np.concatenate(distances_mm)
    return {
        "dice": _dice(pred, label),
        "hd95_mm": max(float(np.quantile(directed, 0.95)) for directed in distances_mm),
        **{name: float(np.mean(both_mm <= tolerance * ROUNDING)) for name, tolerance in tolerances.items()},
        "boundary_dice": _dice(boundary(pred, spacing_mm), boundary(label, spacing_mm)),
    }


def _dice(pred: Mask, label: Mask) -> float:
    return float(compute_dice(torch.from_numpy(pred)[None, None], torch.from_numpy(label)[None, None]).item())


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
