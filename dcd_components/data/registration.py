"""Rigid registration of one MRI sequence onto another, written into the affine so that nothing is resampled twice."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from nibabel.affines import voxel_sizes
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from dcd_components.errors import InputError

logger = logging.getLogger(__name__)

Array = NDArray[Any]
Volume = tuple[Array, Array]  # voxels and affine
MAX_MM, MAX_DEGREES = 20.0, 15.0
# The edge of a skull-stripped brain lies where it was cut, perhaps by the other image's mask, so it must not count.
RIM_MM = 3.0
#: Standard deviation of the smoothing in mm and number of voxels compared, from coarse to fine.
LEVELS = ((4.0, 10_000), (1.0, 40_000))
LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


class RigidRegistrationd(MapTransform):  # type: ignore[misc]
    """Move images rigidly onto another image of the same head by changing their affines, not their voxels.

    For each key, the motion with the largest Mattes mutual information inside the foreground of ``key_dst`` (its voxels
    other than 0) is searched from the position that the headers give, first on smoothed images, then on finer ones, and
    written into ``MetaTensor.affine``; a ``ResampleToMatchd`` that follows then interpolates once. ``key_dst`` is not
    changed. Equal images give equal motions: the samples have a fixed seed, and the search runs in one thread.

    The header's position is kept, with a warning, where the motion found does not increase the mutual information,
    moves the centre of the foreground by more than 20 mm or turns by more than 15 degrees, and where there is nothing
    to compare: no foreground, or no overlap. Not random, and not invertible.

    Args:
        keys: images to move, MetaTensors ``(1, D, H, W)`` with affines in mm, RAS, as MONAI loads them.
        key_dst: image to move them onto, of the same kind; the grids may differ.
        allow_missing_keys: whether an item may lack some of ``keys``.

    Raises:
        InputError: if SimpleITK, an optional dependency, is missing.
        InputError: for a ``key_dst`` among ``keys``, and for an image that is no MetaTensor ``(1, D, H, W)``.
    """

    def __init__(self, keys: KeysCollection, key_dst: Hashable, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        if key_dst in self.keys:
            raise InputError(f"key_dst must not be among keys, got {key_dst!r} and {self.keys}")
        self.key_dst = key_dst
        self.library = str(_simpleitk().Version())  # a cache must not keep what another version found

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Give the images of an item new affines."""
        item = dict(data)
        fixed = _volume(item[self.key_dst], self.key_dst)
        for key in self.key_iterator(item):
            moving = _volume(item[key], key)
            try:
                motion, found = _register(fixed, moving)
            except RuntimeError as error:  # ITK's too, of which the last line tells the cause
                reason = str(error).strip().splitlines()[-1]
                logger.warning(f"{key} stays where its header puts it relative to {self.key_dst}: {reason}")
                continue
            logger.info(f"{key} moved onto {self.key_dst}: {found}")
            item[key] = item[key].clone()
            item[key].affine = torch.from_numpy(motion @ moving[1])
        return item


def _simpleitk() -> Any:
    try:
        return importlib.import_module("SimpleITK")
    except ImportError:
        raise InputError("RigidRegistrationd needs SimpleITK: install it with `pip install SimpleITK`") from None


def _volume(image: Any, key: Hashable) -> Volume:
    if not isinstance(image, MetaTensor) or image.ndim != 4 or len(image) != 1:
        got = type(image).__name__, tuple(getattr(image, "shape", ()))
        raise InputError(f"{key} must be a MetaTensor of shape (1, D, H, W), got {got[0]} of shape {got[1]}")
    return np.nan_to_num(image[0].numpy(force=True).astype(np.float32)), image.affine.numpy(force=True).astype(float)


def _register(fixed: Volume, moving: Volume) -> tuple[Array, str]:
    """Find the motion, in RAS, that brings the moving image onto the fixed one, and say how large it is."""
    rim = 2 * np.round(RIM_MM / voxel_sizes(fixed[1])).astype(int) + 1
    inside = ndimage.minimum_filter(fixed[0] != 0, rim.tolist())
    if not inside.any() or not moving[0].any():
        raise RuntimeError("one of them has no foreground")
    centre = fixed[1] @ [*np.argwhere(inside).mean(axis=0), 1]
    transform = _simpleitk().Euler3DTransform()
    transform.SetCenter((LPS_FROM_RAS @ centre)[:3].tolist())
    before, after = _search(fixed, moving, inside, transform)
    # ITK's transform takes points of the fixed image to the moving one.
    lps = np.array([transform.TransformPoint(point) for point in np.vstack([np.zeros(3), np.eye(3)]).tolist()])
    motion = LPS_FROM_RAS @ np.linalg.inv(np.block([[(lps[1:] - lps[0]).T, lps[:1].T], [0, 0, 0, 1]])) @ LPS_FROM_RAS
    mm = np.linalg.norm(motion @ centre - centre)
    degrees = np.degrees(Rotation.from_matrix(motion[:3, :3]).magnitude())
    found = f"{mm:.1f} mm and {degrees:.1f} degrees, mutual information {before:.3f} to {after:.3f}"
    if after <= before or mm > MAX_MM or degrees > MAX_DEGREES:
        raise RuntimeError(f"no better position within {MAX_MM:.0f} mm and {MAX_DEGREES:.0f} degrees, found {found}")
    return motion, found


def _search(fixed: Volume, moving: Volume, inside: Array, transform: Any) -> tuple[float, float]:
    """Improve the transform in place; returns the mutual information before and after, of all voxels inside."""
    header, method = _simpleitk().Euler3DTransform(transform), _simpleitk().ImageRegistrationMethod()
    method.SetNumberOfThreads(1)
    method.SetInterpolator(_simpleitk().sitkLinear)
    method.SetMetricAsMattesMutualInformation(32)
    method.SetMetricFixedMask(_itk_image(inside.astype(np.uint8), fixed[1]))
    method.SetMetricSamplingStrategy(method.RANDOM)
    # Powell's search needs no gradient: with a mask, that of ITK 5.4 led 10 mm away from the optimum of an ISLES case.
    method.SetMetricUseMovingImageGradientFilter(False)
    # At most 10 rounds of 20 steps an axis, at first of 1 mm, or of the turn that moves a point 80 mm away by 1 mm.
    method.SetOptimizerAsPowell(10, 20, 1.0, 0.01, 1e-5)
    method.SetOptimizerScales([80.0, 80.0, 80.0, 1.0, 1.0, 1.0])
    for sigma_mm, samples in LEVELS:
        images = [_smooth(*volume, sigma_mm) for volume in (fixed, moving)]
        method.SetMetricSamplingPercentage(min(1.0, samples / np.count_nonzero(inside)), seed=1)
        method.SetInitialTransform(transform, inPlace=True)
        method.Execute(*images)
    after = -float(method.MetricEvaluate(*images))
    method.SetInitialTransform(header)
    return -float(method.MetricEvaluate(*images)), after


def _smooth(voxels: Array, affine: Array, sigma_mm: float) -> Any:
    # The brightest voxels, of vessels or a fresh stroke, would otherwise take most bins of the histogram.
    clipped = np.clip(voxels, *np.percentile(voxels[voxels != 0], (0.5, 99.5)))
    return _itk_image(ndimage.gaussian_filter(clipped, (sigma_mm / voxel_sizes(affine)).tolist()), affine)


def _itk_image(voxels: Array, affine: Array) -> Any:
    # ITK lists the axes of an array from last to first, and its world is LPS.
    image, world, spacing = _simpleitk().GetImageFromArray(voxels.T), LPS_FROM_RAS @ affine, voxel_sizes(affine)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(world[:3, 3].tolist())
    image.SetDirection((world[:3, :3] / spacing).ravel().tolist())
    return image
