"""What nnU-Net does with images before the network and with logits after it, in its order and to its rounding.

MONAI has transforms for each of the steps, of which none gives the same: with all of them nnU-Net's own networks find
another segmentation. References are to nnU-Net v2, Isensee et al., Nature Methods 18 (2021), as of nnunetv2 2.8.1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from dcd_components.data.resampling import Order, new_shape, resampled, resampled_labels
from dcd_components.errors import InputError

Array = NDArray[Any]

#: Splines of the images; logits are interpolated linearly.
IMAGES: Order = 3
LOGITS: Order = 1
#: What nnU-Net calls the ways to normalise a channel.
SCHEMES = (
    *("ZScoreNormalization", "CTNormalization", "NoNormalization", "RescaleTo01Normalization", "RGBTo01Normalization"),
)
#: What a channel that is normalised as CT is normalised by.
STATISTICS = ("mean", "std", "percentile_00_5", "percentile_99_5")
#: Label of what is outside the head while labels are resampled.
OUTSIDE = -1
#: Least standard deviation, and least range, that is divided by.
LEAST = 1e-8


@dataclass(frozen=True)
class NnunetPlan:
    """The part of an nnU-Net's plans that says how its images are prepared and its logits become labels.

    Axes are those of the network: of the file in reverse, z y x, and then in the order of ``transpose``.

    Args:
        spacing: of the network's grid in mm.
        normalization: how each channel is normalised, one of :data:`SCHEMES`.
        masked: whether the statistics of each channel are those of its voxels other than 0, with holes filled, and the
            others are left as they are.
        intensities: of each channel that is normalised as CT, by its number: :data:`STATISTICS` of the foreground of
            the training cases.
        transpose: order of the axes z y x.
        painted: label that each output of the network paints, in the order of the outputs, later ones over earlier
            ones; none where the outputs are one label each, of which the most probable one is taken.

    Raises:
        InputError: for a spacing, scheme, order or statistic that cannot be, and too many or too few of them.
    """

    spacing: Sequence[float]
    normalization: Sequence[str]
    masked: Sequence[bool]
    intensities: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    transpose: Sequence[int] = (0, 1, 2)
    painted: Sequence[int] | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        if len(self.spacing) != 3 or not all(0 < one < math.inf for one in self.spacing):
            raise InputError(f"spacing must be three positive numbers, got {self.spacing!r}")
        if unknown := [scheme for scheme in self.normalization if scheme not in SCHEMES]:
            raise InputError(f"normalization must be of {', '.join(SCHEMES)}, got {unknown[0]!r}")
        if len(self.masked) != len(self.normalization):
            raise InputError(f"masked must say yes or no for {len(self.normalization)} channels, got {self.masked!r}")
        if sorted(self.transpose) != [0, 1, 2]:
            raise InputError(f"transpose must be an order of 0, 1 and 2, got {self.transpose!r}")
        for channel, scheme in enumerate(self.normalization):
            found = self.intensities.get(str(channel), {})
            if scheme == "CTNormalization" and not {*STATISTICS} <= {*found}:
                said = f"channel {channel}, normalised as CT, must have {', '.join(STATISTICS)}"
                raise InputError(f"intensities of {said}, got {', '.join(found) or 'none'}")

    @property
    def axes(self) -> tuple[int, ...]:
        """Axis of the file for each axis of the network."""
        return tuple(2 - axis for axis in self.transpose)

    def crop_box(self, images: Array) -> Array:
        """Bounds of the voxels other than 0 in any channel, ``(3, 2)``; of all where there are none.

        Args:
            images: ``(C, D, H, W)``.
        """
        mask = (images != 0).any(0)
        bounds = [np.flatnonzero(mask.any(tuple({0, 1, 2} - {axis}))) for axis in range(3)]
        if not all(map(len, bounds)):
            return np.array([(0, length) for length in mask.shape])
        return np.array([(found[0], found[-1] + 1) for found in bounds])

    def prepared(self, images: Array, spacing: Sequence[float]) -> Array:
        """Normalise cropped images and resample them onto the network's grid.

        Args:
            images: ``(C, D, H, W)`` in float32; they are changed.
            spacing: of their voxels in mm.

        Raises:
            InputError: for another number of channels than the plan has, and images of less than half a voxel.
        """
        if len(images) != len(self.normalization):
            raise InputError(f"normalization is of {len(self.normalization)} channels, the image has {len(images)}")
        shape = new_shape(images.shape[1:], spacing, self.spacing)
        if not all(shape):
            sizes = " x ".join(f"{n * mm:g}" for n, mm in zip(images.shape[1:], spacing, strict=True))
            raise InputError(f"what is not 0 in the image is {sizes} mm, less than half a voxel of the plans' grid")
        mask = filled((images != 0).any(0)) if any(self.masked) else None
        for channel, (image, masked) in enumerate(zip(images, self.masked, strict=True)):
            self._normalize(channel, image, mask if masked else None)
        return resampled(images, shape, spacing, self.spacing, IMAGES)

    def _normalize(self, channel: int, image: Array, mask: Array | None) -> None:
        scheme = self.normalization[channel]
        if scheme == "ZScoreNormalization":
            inside = ... if mask is None else mask
            values = image[inside]
            if values.size:  # an image of zeros has no mask
                image[inside] = (values - values.mean()) / max(values.std(), LEAST)
        elif scheme == "CTNormalization":
            known = self.intensities[str(channel)]
            np.clip(image, known["percentile_00_5"], known["percentile_99_5"], out=image)
            image -= known["mean"]
            image /= max(known["std"], LEAST)
        elif scheme == "RescaleTo01Normalization":
            image -= image.min()
            image /= max(image.max(), LEAST)
        elif scheme == "RGBTo01Normalization":
            image /= 255.0

    def prepared_labels(self, labels: Array, mask: Array, spacing: Sequence[float]) -> Array:
        """Resample a cropped label map onto the network's grid.

        What is 0 outside the head is a label of its own meanwhile, and takes part where labels meet; it ends as 0.

        Args:
            labels: ``(D, H, W)``.
            mask: ``(D, H, W)``, which voxels of the cropped images are not 0 in any channel.
            spacing: of its voxels in mm.
        """
        shape = new_shape(labels.shape, spacing, self.spacing)
        wider = labels.astype(np.int32)
        wider[(labels == 0) & ~filled(mask)] = OUTSIDE
        return resampled_labels(wider, shape, spacing, self.spacing).clip(min=0).astype(labels.dtype)

    def label_map(self, logits: Tensor, shape: Sequence[int], spacing: Sequence[float]) -> Array:
        """Labels of the cropped image, from logits on the network's grid.

        Args:
            logits: ``(C, D, H, W)``.
            shape: of the cropped image.
            spacing: of its voxels in mm.

        Raises:
            InputError: for logits that half precision cannot hold.
        """
        half = logits.half().numpy(force=True)  # in which nnU-Net holds logits
        if not np.isfinite(half).all():
            raise InputError("logits must be finite in half precision, as nnU-Net holds them: is this network trained?")
        whole = resampled(half, shape, self.spacing, spacing, LOGITS)
        kind = np.uint8 if max([len(whole), *(self.painted or [])]) < 256 else np.uint16
        if self.painted is None:
            labels: Array = whole.argmax(0).astype(kind)
            return labels
        made = np.zeros(whole.shape[1:], kind)
        for label, output in zip(self.painted, whole, strict=True):
            made[torch.from_numpy(output).float().sigmoid().numpy() > 0.5] = label
        return made


def filled(mask: Array) -> Array:
    """A mask with its holes filled."""
    whole: Array = ndimage.binary_fill_holes(mask)
    return whole
