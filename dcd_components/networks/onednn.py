"""Convolutions of small 3D images on a CPU, where PyTorch or oneDNN do not serve them well."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

CONVOLUTIONS = nn.Conv3d, nn.ConvTranspose3d


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
    """Whether oneDNN might not write all gradients of a network's 3D convolutions in bfloat16 on a CPU.

    With PyTorch 2.13 it does not where some kernels are longer than the map that they are moved over (of a transposed
    convolution, the map that it makes): a part of their gradient is then what the memory held before, and at times
    memory beyond it is written to. Not all such kernels are concerned; all are taken for it. In float32 all is written.

    Args:
        network: whose convolutions are looked at, those that are modules.
        forward: runs it once, here without gradient and in evaluation mode, so that nothing of it changes.
    """
    longer = False

    def look(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal longer
        assert isinstance(module, CONVOLUTIONS)
        moved_over = output if isinstance(module, nn.ConvTranspose3d) else inputs[0]
        sizes = zip(module.kernel_size, moved_over.shape[-3:], strict=True)
        longer = longer or any(kernel > size for kernel, size in sizes)

    modes = {module: module.training for module in network.modules()}
    with ExitStack() as afterwards, torch.no_grad():
        for module, mode in modes.items():
            afterwards.callback(setattr, module, "training", mode)
            if isinstance(module, CONVOLUTIONS):
                afterwards.callback(module.register_forward_hook(look).remove)
        network.eval()
        forward()
    return longer
