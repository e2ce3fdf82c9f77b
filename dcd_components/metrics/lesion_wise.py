"""Lesion-wise scores as BraTS 2024 defines them for gliomas after treatment.

The definition is that of the challenge's program, ``metrics_GLI.py`` of https://github.com/rachitsaluja/BraTS-2024-Metrics
at commit f1131e3, which is written for images of 1 mm. Here every length is in mm. docs/metrics.md tells it in full.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from dcd_components.metrics.surfaces import ROUNDING, hd95_by_area_mm

__all__ = ["lesion_wise_scores"]

Mask = NDArray[np.bool_]
#: Number of each voxel's lesion, from 1 on; 0 is no lesion.
Numbers = NDArray[np.integer[Any]]

NEIGHBOURS_18 = ndimage.generate_binary_structure(3, 2)
NEIGHBOURS_26 = ndimage.generate_binary_structure(3, 3)
NONE = np.iinfo(np.int32).max


@dataclass(frozen=True)
class Definition:
    """How the voxels of a region make lesions.

    Args:
        reach_mm: components whose dilations by this reach touch are one lesion.
        ignored_mm3: volume up to which a lesion is left out.
        joined_by: regions that join those of this region's lesions that touch the same of theirs, one after another.
    """

    reach_mm: float = 3.0
    ignored_mm3: float = 20.0
    joined_by: tuple[str, ...] = ()


#: Definitions by the region's name; all other regions have the plain one.
DEFINITIONS = {
    "NETC": Definition(5.0, 20.0, ("ET", "RC")),
    "SNFH": Definition(3.0, 20.0, ("ET", "RC", "NETC")),
    "ET": Definition(3.0, 10.0, ("NETC", "RC")),
    "RC": Definition(5.0, 20.0, ("ET", "NETC")),
}


@dataclass(frozen=True)
class Lesions:
    """Lesions of one region: predicted ones, true ones, and what is within reach of the true ones."""

    found: Numbers
    true: Numbers
    reached: Numbers


def lesion_wise_scores(
    pred: Mapping[str, Mask], label: Mapping[str, Mask], spacing_mm: Sequence[float], missed_mm: float
) -> dict[str, float]:
    """Score every region lesion by lesion.

    A true lesion is a true positive (TP) if a predicted one is within its reach, else a false negative (FN). A
    predicted lesion within reach of no true one is a false positive (FP). A TP is compared with all predicted lesions
    within its reach together. Dice and HD95 are means over TP, FN and FP, where FN and FP have a Dice of 0 and an HD95
    of ``missed_mm``; F1 is ``2 TP / (2 TP + FP + FN)``. Without any TP, FN and FP all three are NaN, where the program
    of BraTS 2024 has a Dice of 1 and an HD95 of 0.

    Args:
        pred: predicted mask of each region.
        label: true mask of each region.
        spacing_mm: size of a voxel along each axis.
        missed_mm: HD95 of a lesion that is missed or false.

    Shape:
        the masks: ``(D, H, W)``, all alike.

    Returns:
        ``lesionwise_dice_*``, ``lesionwise_hd95_mm_*``, ``lesionwise_f1_*``, and the numbers ``lesionwise_tp_*``,
        ``lesionwise_fn_*`` and ``lesionwise_fp_*`` for each region.
    """
    found, true, reached = {}, {}, {}
    for region in label:
        definition = DEFINITIONS.get(region, Definition())
        found[region] = _large(
            np.where(pred[region], _reached(pred[region], spacing_mm, definition), 0), spacing_mm, definition
        )
        reached[region] = _reached(label[region], spacing_mm, definition)
        true[region] = np.where(label[region], reached[region], 0)
    scores = {}
    for region in label:
        definition = DEFINITIONS.get(region, Definition())
        new_found, new_true = (_joined(region, lesions, definition) for lesions in (found, true))
        lesions = Lesions(new_found[found[region]], new_true[true[region]], new_true[reached[region]])
        for name, score in _scores(lesions, spacing_mm, definition.ignored_mm3, missed_mm).items():
            scores[f"lesionwise_{name}_{region}"] = score
    return scores


def _reached(mask: Mask, spacing_mm: Sequence[float], definition: Definition) -> Numbers:
    """Number the 26-connected components of a mask's dilation: what is within reach of each lesion."""
    return _compact(ndimage.label(_dilated(mask, spacing_mm, definition.reach_mm), NEIGHBOURS_26)[0])


def _compact(numbers: Numbers) -> Numbers:
    """The same numbers in as few bytes as they need: of a whole image there are many at once."""
    return numbers.astype(np.min_scalar_type(int(numbers.max())))


def _dilated(mask: Mask, spacing_mm: Sequence[float], reach_mm: float) -> Mask:
    """Add the voxels whose offset is at most the reach along each axis, and in sum over the axes at most twice that.

    With voxels of 1 mm that is a dilation by the 18 neighbours for each mm of the reach.
    """
    steps = [int(reach_mm * ROUNDING / size) for size in spacing_mm]
    *across, along = np.minimum(steps, np.subtract(mask.shape, 1)).tolist()
    rows = [mask]  # dilated along the last axis, by 0, 1, 2 ... voxels
    for step in range(1, along + 1):
        rows.append(rows[-1].copy())
        rows[-1][..., step:] |= mask[..., :-step]
        rows[-1][..., :-step] |= mask[..., step:]
    dilated = np.zeros_like(mask)
    for offset in product(*(range(-n, n + 1) for n in across)):
        used_mm = sum(abs(step) * size for step, size in zip(offset, spacing_mm[:-1], strict=True))
        row = rows[min(int((2 * reach_mm - used_mm) * ROUNDING / spacing_mm[-1]), along)]
        moved = [_shifted(step, size) for step, size in zip(offset, mask.shape[:-1], strict=True)]
        to, source = zip(*moved, strict=True)
        dilated[to] |= row[source]
    return dilated


def _shifted(step: int, size: int) -> tuple[slice, slice]:
    """Where an axis of a size goes that is moved by some steps, and what of it."""
    return slice(max(step, 0), size + min(step, 0)), slice(max(-step, 0), size - max(step, 0))


def _large(lesions: Numbers, spacing_mm: Sequence[float], definition: Definition) -> Numbers:
    """Lesions above the volume that is left out."""
    mm3 = np.bincount(lesions.ravel()) * np.prod(spacing_mm)
    return np.where(mm3 > definition.ignored_mm3 * ROUNDING, np.arange(len(mm3)), 0).astype(lesions.dtype)[lesions]


def _joined(region: str, lesions: Mapping[str, Numbers], definition: Definition) -> Numbers:
    """New number of each lesion of a region: the same for all that touch the same lesion of another region.

    One that touches several lesions of the other region goes with the first of them.
    """
    numbers = np.arange(int(lesions[region].max()) + 1, dtype=lesions[region].dtype)
    for other in definition.joined_by:
        if other in lesions:
            touched = _touched(numbers[lesions[region]], lesions[other])
            joint = np.where(touched < NONE, len(touched) + touched, np.arange(len(touched)))
            numbers = _compact(joint[numbers])
    return numbers


def _touched(lesions: Numbers, others: Numbers) -> Numbers:
    """Return the first of the other lesions that has a voxel in common with each lesion or its 18 neighbours."""
    at = np.argwhere((lesions > 0) & ndimage.binary_dilation(others > 0, NEIGHBOURS_18))
    first = np.full(int(lesions.max()) + 1, NONE)
    padded = np.pad(others, 1)
    for step in np.argwhere(NEIGHBOURS_18):
        beside = padded[tuple((at + step).T)]
        np.minimum.at(first, lesions[tuple(at.T)], np.where(beside > 0, beside, NONE))
    return first


def _scores(lesions: Lesions, spacing_mm: Sequence[float], ignored_mm3: float, missed_mm: float) -> dict[str, float]:
    """Dice, HD95, F1 and counts of one region."""
    found, true = lesions.found, lesions.true
    true_sizes, found_sizes = np.bincount(true.ravel()), np.bincount(found.ravel())
    true_boxes, found_boxes = ndimage.find_objects(true), ndimage.find_objects(found)
    shared = np.bincount(true[found > 0], minlength=len(true_sizes))
    near = (lesions.reached > 0) & (found > 0)
    pairs = np.divmod(np.unique(lesions.reached[near] * np.int64(len(found_sizes)) + found[near]), len(found_sizes))
    dices, distances_mm = [], []
    for number in np.flatnonzero(true_sizes * np.prod(spacing_mm) > ignored_mm3 * ROUNDING):
        if number and (hits := pairs[1][pairs[0] == number]).size:
            dices.append(float(2 * shared[number] / (true_sizes[number] + found_sizes[hits].sum())))
            box = _box([true_boxes[number - 1], *(found_boxes[hit - 1] for hit in hits)])
            distances_mm.append(hd95_by_area_mm(np.isin(found[box], hits), true[box] == number, spacing_mm))
    tp = len(dices)
    fn = np.count_nonzero(true_sizes[1:] * np.prod(spacing_mm) > ignored_mm3 * ROUNDING) - tp
    fp = np.count_nonzero(found_sizes[1:]) - np.unique(pairs[1]).size
    wrong = fn + fp
    return {
        "dice": sum(dices) / (tp + wrong) if tp + wrong else np.nan,
        "hd95_mm": (sum(distances_mm) + wrong * missed_mm) / (tp + wrong) if tp + wrong else np.nan,
        "f1": 2 * tp / (2 * tp + wrong) if tp + wrong else np.nan,
        **{"tp": float(tp), "fn": float(fn), "fp": float(fp)},
    }


def _box(boxes: Sequence[tuple[slice, ...]]) -> tuple[slice, ...]:
    """The smallest box around others."""
    return tuple(
        slice(min(one.start for one in axis), max(one.stop for one in axis)) for axis in zip(*boxes, strict=True)
    )
