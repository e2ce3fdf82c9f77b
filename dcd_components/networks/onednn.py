"""Convolutions of small 3D images on a CPU, where PyTorch or oneDNN do not serve them well."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

import torch
from monai.networks.utils import eval_mode
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode


class _OneDnn(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Passes convolutions in float32 to oneDNN."""

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.aten.conv3d.default:  # as in inference mode, where it has not been taken apart
            with self:
                return func.decompose(*args, **(kwargs or {}))
        if func is torch.ops.aten.convolution.default:
            image, weight, bias, stride, padding, dilation, transposed, _, groups = args
            if not transposed and weight.ndim == 5 and max(weight.shape[2:]) > 1 and image.dtype == torch.float32:
                return torch.ops.aten.mkldnn_convolution(image, weight, bias, padding, stride, dilation, groups)
        return func(*args, **(kwargs or {}))


def by_onednn(image: Tensor) -> AbstractContextManager[object]:
    """Let oneDNN compute the convolutions of a network on an image on a CPU, in float32, whatever its size.

    PyTorch (2.13) leaves those of a single image to oneDNN only where the channels, times the sizes of the first two
    axes, exceed 20480, and else unfolds the map. That takes several times as long for the few channels of a student.

    Args:
        image: that the network sees; nothing is changed for one on another device, or under autocast.
    """
    there = image.device.type == "cpu" and torch._C._has_mkldnn
    return _OneDnn() if there and not torch.is_autocast_enabled("cpu") else nullcontext()  # type: ignore[no-untyped-call]


def gradients_need_float32(network: nn.Module, forward: Callable[[], object]) -> bool:
    """Whether oneDNN would leave gradients of a network's 3D convolutions unwritten in bfloat16 on a CPU.

    With PyTorch 2.13 it does so for kernels that are longer than the map they are moved over: parts of their gradient
    are what the memory held before, and at times memory beyond it is written to. In float32 all is written.

    Args:
        network: whose convolutions are looked at, those that are modules.
        forward: runs it once, here without gradient and in evaluation mode, so that nothing of it changes.
    """
    longer = False

    def look(convolution: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        nonlocal longer
        _, _, *kernel = convolution.get_parameter("weight").shape
        longer = longer or any(along > size for along, size in zip(kernel, inputs[0].shape[-3:], strict=True))

    with ExitStack() as hooks:
        for module in network.modules():
            if isinstance(module, nn.Conv3d):
                hooks.callback(module.register_forward_pre_hook(look).remove)
        with eval_mode(network):
            forward()
    return longer
