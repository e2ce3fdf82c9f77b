"""Inferers: mixed precision off the GPU, means over mirrored images and networks, windows over what is there to see."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import copy
from functools import lru_cache
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from monai.inferers import Inferer, SlidingWindowInferer
from monai.transforms.utils import generate_spatial_bounding_box
from monai.utils import ensure_tuple_rep
from torch import Tensor, nn

from dcd_components.errors import InputError
from dcd_components.networks.onednn import by_onednn, gradients_need_float32
from dcd_components.networks.stage_recorder import unwrap

logger = logging.getLogger(__name__)


def cpu_has_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 natively (AVX-512 BF16, AMX or Arm BF16)."""
    units = {"avx512_bf16", "amx_bf16", "sve_bf16", "bf16"}
    if hasattr(torch.cpu, "get_capabilities"):
        return any(there for name, there in torch.cpu.get_capabilities().items() if name in units)
    flags = Path("/proc/cpuinfo")  # an older torch does not tell
    return flags.is_file() and not units.isdisjoint(flags.read_text().split())


class AutocastInferer(Inferer):  # type: ignore[misc]
    """Run another inferer under bfloat16 autocast where the network sits on a CPU that multiplies bfloat16.

    MONAI's ``amp`` flag serves CUDA only; this is its counterpart. On other devices it changes nothing. Predictions
    come back in float32, so that losses and metrics are computed in float32.

    Passes with gradient are in float32 where images have so few voxels that gradients might be wrong in bfloat16, see
    ``docs/method.md``, "Limits of precision"; to find out, a network runs once more on the first batch of each size.

    Args:
        inferer: the inferer that does the work.
    """

    def __init__(self, inferer: Inferer) -> None:
        super().__init__()
        self.inferer = inferer
        self.enabled = cpu_has_bfloat16()
        self._float32: WeakKeyDictionary[nn.Module, dict[torch.Size, bool]] = WeakKeyDictionary()

    def __call__(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Return what the wrapped inferer returns, in float32 if it is a tensor."""
        if inputs.device.type != "cpu":
            return self.inferer(inputs, network, *args, **kwargs)
        enabled = self.enabled
        if enabled and torch.is_grad_enabled() and isinstance(network, nn.Module):
            enabled = not self._needs_float32(inputs, unwrap(network), *args, **kwargs)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            outputs = self.inferer(inputs, network, *args, **kwargs)
        return outputs.float() if isinstance(outputs, Tensor) else outputs

    def __getstate__(self) -> dict[str, Any]:
        """Settings alone, by whose pickle masks are known again."""
        return {name: value for name, value in vars(self).items() if name != "_float32"}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        """As new, with these settings."""
        self.__dict__.update(state, _float32=WeakKeyDictionary())

    def _needs_float32(self, inputs: Tensor, network: nn.Module, *args: Any, **kwargs: Any) -> bool:
        known, size = self._float32.setdefault(network, {}), inputs.shape[2:]
        if size not in known:
            known[size] = gradients_need_float32(network, lambda: self.inferer(inputs, network, *args, **kwargs))
            if known[size]:
                logger.info("training on %s voxels is in float32, since kernels are longer than maps", [*size])
        return known[size]


class MirrorInferer(Inferer):  # type: ignore[misc]
    """Average the predictions of another inferer over mirrored inputs, as nnU-Net does.

    Args:
        inferer: the inferer that does the work.
        axes: spatial axes to mirror, 0 for D to 2 for W; all their combinations are averaged, so three axes cost
            eight times the work.
    """

    def __init__(self, inferer: Inferer, axes: Sequence[int] = (0, 1, 2)) -> None:
        super().__init__()
        self.inferer = inferer
        self.flips = _flips(axes)

    def __call__(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Tensor:
        """Return the mean prediction of shape ``(B, C, D, H, W)``."""
        total = torch.zeros(())
        for flip in self.flips:
            total = total + self.inferer(inputs.flip(flip), network, *args, **kwargs).flip(flip)
        return total / len(self.flips)


class EnsembleInferer(Inferer):  # type: ignore[misc]
    """Average the predictions of several networks, such as those of the folds of a cross-validation, as nnU-Net does.

    Each runs over the whole image before the next, so that there are maps of one at a time. Sums are of the precision
    in which the other inferer returns its predictions.

    Args:
        inferer: the inferer that does the work.
        further: networks beside the one that it is called with, on the device of the inputs.
    """

    def __init__(self, inferer: Inferer, further: Iterable[Callable[..., Any]]) -> None:
        super().__init__()
        self.inferer = inferer
        self.further = tuple(further)

    def __call__(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Tensor:
        """Return the mean prediction of shape ``(B, C, D, H, W)``."""
        total: Tensor = self.inferer(inputs, network, *args, **kwargs)
        for one in self.further:
            total = total + self.inferer(inputs, one, *args, **kwargs)
        return total / (1 + len(self.further))


class ForegroundInferer(SlidingWindowInferer):  # type: ignore[misc]
    """MONAI's sliding windows, over the box alone that holds all voxels other than 0, such as those of a brain.

    Beyond the box is background: in a trained network's patches too, which are drawn from that box. A scan of
    240 x 240 x 155 voxels takes 8 windows of 128 voxels instead of 18; stretched by up to a quarter, 2 of
    160 x 128 x 160. An image without zeros is its own box.

    The network must return one tensor of the size of its input, whose first channel is the background, so not one of
    regions that may overlap.

    Args:
        args: of ``monai.inferers.SlidingWindowInferer``.
        stretch: share by which a window may at most be longer than ``roi_size`` along an axis where it then covers the
            box, which otherwise takes two that overlap nearly everywhere. Infinite, the box goes in one pass.
        k_divisible: voxels of which such a window is a multiple, along all axes or each of them.
        kwargs: further ones.
    """

    #: Logits beyond the box, of the background and of all else: probabilities of 1 and nearly 0.
    BACKGROUND, ELSE = 0.0, -20.0

    def __init__(self, *args: Any, stretch: float = 0.0, k_divisible: int | Sequence[int] = 1, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.stretch, self.k_divisible = stretch, ensure_tuple_rep(k_divisible, 3)

    def __call__(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Tensor:
        """Return logits ``(B, K, D, H, W)``.

        Raises:
            InputError: for a network that returns anything but one tensor of the size of its input.
        """
        image = torch.as_tensor(inputs.detach()).as_subclass(Tensor)
        box = _foreground(image)
        inside = image[box]
        windows, window = copy(self), self._window(inside.shape[2:])
        if window != ensure_tuple_rep(self.roi_size, 3):
            windows.roi_size, windows.roi_weight_map = window, None  # the map is of windows that are not stretched
        with by_onednn(inside):
            logits: Any = super(ForegroundInferer, windows).__call__(inside, network, *args, **kwargs)
        if not isinstance(logits, Tensor) or logits.shape[2:] != inside.shape[2:]:
            got = tuple(logits.shape) if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
            raise InputError(f"the network must return one tensor of the size of its input, got {got}")
        if logits.shape[2:] == image.shape[2:]:
            return logits.to(image.dtype)
        whole = image.new_full((*logits.shape[:2], *image.shape[2:]), self.ELSE)
        whole[:, 0] = self.BACKGROUND
        whole[box] = logits.to(image.dtype)
        return whole

    def _window(self, sizes: Sequence[int]) -> tuple[int, ...]:
        """Voxels of a window for a box of these, along each axis."""
        window = []
        for size, length, factor in zip(sizes, ensure_tuple_rep(self.roi_size, 3), self.k_divisible, strict=True):
            longer = math.ceil(size / factor) * factor
            stretched = length and length < size and longer <= length * (1 + self.stretch)  # 0 is a whole axis
            window.append(longer if stretched else length)
        return tuple(window)


class NnunetInferer(Inferer):  # type: ignore[misc]
    """Predict in the windows of nnU-Net v2, with its weights and to its rounding.

    MONAI's ``SlidingWindowInferer`` lets the last window of an axis overlap its neighbour as far as it must; nnU-Net
    spaces all of them evenly, see its ``compute_steps_for_sliding_window``. Weights are a Gaussian of an eighth of the
    patch; logits and weights are summed up in half precision. Windows go through the network one by one, as there: two
    at a time take other convolutions on a CPU, whose rounding changes the label of single voxels.

    Args:
        patch_size: of a window in voxels.
        axes: spatial axes over which each window is mirrored, 0 for D to 2 for W, in all their combinations.
        overlap: share of a window that at least overlaps the next one.
        fast: let oneDNN compute small convolutions on a CPU, several times as fast, see :func:`.by_onednn`; the last
            bits then differ from nnU-Net's.

    Raises:
        InputError: for a patch, axis or overlap that cannot be.
    """

    def __init__(
        self, patch_size: Sequence[int], axes: Sequence[int] = (), overlap: float = 0.5, fast: bool = False
    ) -> None:
        super().__init__()
        if len(patch_size) != 3 or not all(isinstance(size, int) and size > 0 for size in patch_size):
            raise InputError(f"patch_size must be three positive whole numbers, got {patch_size!r}")
        if not 0 <= overlap < 1:
            raise InputError(f"overlap must be at least 0 and less than 1, got {overlap!r}")
        self.patch_size = tuple(patch_size)
        self.flips = _flips(axes)
        self.overlap, self.fast = overlap, fast

    def __call__(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Tensor:
        """Return logits ``(B, K, D, H, W)`` in half precision.

        Args:
            inputs: images ``(B, C, D, H, W)`` of any size; smaller ones are padded with 0.
            network: returns logits of the size of its input.
            args: further ones of the network.
            kwargs: further ones of the network.
        """
        image, shape = torch.as_tensor(inputs.detach()).as_subclass(Tensor), inputs.shape[2:]
        lacking = [max(patch - size, 0) for patch, size in zip(self.patch_size, shape, strict=True)]
        pads = [(lack // 2, lack - lack // 2) for lack in lacking]
        image = torch.nn.functional.pad(image, [one for pair in reversed(pads) for one in pair])
        gaussian = _gaussian(self.patch_size).to(image.device)
        weights, sums = image.new_zeros(image.shape[2:], dtype=torch.half), image.new_zeros(0)
        for window in _windows(image.shape[2:], self.patch_size, 1 - self.overlap):
            within: Any = (..., *window)
            patch, logits = image[within], torch.zeros(())
            with as_in_windows(self, patch):
                for flip in self.flips:
                    logits = logits + network(patch.flip(flip), *args, **kwargs).flip(flip)
            if not len(sums):
                sums = image.new_zeros((*logits.shape[:2], *image.shape[2:]), dtype=torch.half)
            sums[within] += logits / len(self.flips) * gaussian
            weights[window] += gaussian
        sums /= weights
        inner: Any = (..., *(slice(low, low + size) for (low, _), size in zip(pads, shape, strict=True)))
        return sums[inner]


def as_in_windows(windows: Inferer, image: Tensor) -> AbstractContextManager[object]:
    """Within it a network computes an image as in the windows of an inferer: by oneDNN, or as PyTorch chooses."""
    fast = getattr(windows, "fast", isinstance(windows, ForegroundInferer))
    return by_onednn(image) if fast else nullcontext()


def _foreground(image: Tensor) -> Any:
    """Index of the box that holds all voxels other than 0, or of the whole where there are none."""
    lows, highs = generate_spatial_bounding_box(image.flatten(0, 1), lambda voxels: voxels != 0)
    return (..., *(slice(low, high) if high > low else slice(None) for low, high in zip(lows, highs, strict=True)))


def _flips(axes: Sequence[int]) -> list[list[int]]:
    """Axes of a batch to flip, none of them first, in all combinations."""
    if not set(axes) <= {0, 1, 2} or len(set(axes)) != len(axes):
        raise InputError(f"axes must be among 0, 1 and 2, each at most once, got {list(axes)}")
    return [[axis + 2 for axis in one] for n in range(len(axes) + 1) for one in itertools.combinations(axes, n)]


def _windows(shape: Sequence[int], patch_size: Sequence[int], step: float) -> list[tuple[slice, ...]]:
    """Windows that cover an image, evenly spread along each axis."""
    starts = []
    for size, patch in zip(shape, patch_size, strict=True):
        number = math.ceil((size - patch) / (patch * step)) + 1
        apart = (size - patch) / max(number - 1, 1)
        starts.append([round(apart * one) for one in range(number)])
    several = itertools.product(*starts)
    return [tuple(slice(at, at + n) for at, n in zip(corner, patch_size, strict=True)) for corner in several]


@lru_cache(maxsize=4)
def _gaussian(patch_size: Sequence[int]) -> Tensor:
    """Weights of a window, at most 10 and above 0, in half precision."""
    from scipy import ndimage  # which an inference of other bundles need not have

    impulse = np.zeros(patch_size)
    impulse[tuple(size // 2 for size in patch_size)] = 1
    spread = torch.from_numpy(ndimage.gaussian_filter(impulse, [size / 8 for size in patch_size], mode="constant"))
    weights = (spread / (spread.max() / 10)).half()
    weights[weights == 0] = weights[weights > 0].min()
    return weights
