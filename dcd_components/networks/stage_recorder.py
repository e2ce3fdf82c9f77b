"""Record what named sub-modules of a network return."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from dcd_components.errors import InputError


class AllStagesRecorded(Exception):  # noqa: N818 - not an error
    """Raised inside a forward pass to end it once nothing of it is needed any more."""


class StageRecorder:
    """Keep the outputs of named sub-modules during forward passes, inside a ``with`` block.

    The hooks live as long as the block: they are gone after it, also after an exception. Passes without gradient are
    recorded only with ``stop``, so that a validation of the student amid its training leaves nothing behind.

    Args:
        network: any network; ``DistributedDataParallel`` and ``torch.compile`` are unwrapped. For a compiled
            network torch's setting ``skip_nnmodule_hook_guards`` is turned off, so that it sees hooks come and go; make
            the recorder before its first pass.
        stages: module paths, such as ``downsamples.0``, in the order wanted.
        stop: end the forward pass as soon as all stages are recorded; see :meth:`features`.

    Raises:
        InputError: for a path that names no sub-module, or no path at all.
    """

    def __init__(self, network: nn.Module, stages: Iterable[str], *, stop: bool = False) -> None:
        self.network = network
        self.stages = tuple(stages)
        self.stop = stop
        self._modules = [_find(bare(network), stage) for stage in self.stages]
        if not self.stages:
            raise InputError("stages must name at least one sub-module, got none")
        self._maps: dict[str, Tensor] = {}
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> StageRecorder:
        """Register the hooks."""
        self.close()
        for stage, module in zip(self.stages, self._modules, strict=True):
            self._handles.append(module.register_forward_hook(self._keep(stage)))
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the hooks and forget the features."""
        self.close()

    def close(self) -> None:
        """Remove the hooks and forget the features; harmless when there are none."""
        while self._handles:
            self._handles.pop().remove()
        self._maps.clear()

    def pop(self) -> list[Tensor]:
        """Hand over the recorded maps in the order of ``stages`` and forget them.

        Raises:
            RuntimeError: when a stage was not reached.
        """
        missing = [stage for stage in self.stages if stage not in self._maps]
        if missing:
            raise RuntimeError(f"no features recorded for {', '.join(missing)}: run the network inside the recorder")
        maps = [self._maps[stage] for stage in self.stages]
        self._maps.clear()
        return maps

    @torch.no_grad()
    def features(self, forward: Callable[[nn.Module], object]) -> list[Tensor]:
        """Run ``forward(network)`` without gradient, as far as the last stage if ``stop``, and return the maps."""
        with self:
            with contextlib.suppress(AllStagesRecorded):
                forward(self.network)
            return self.pop()

    def _keep(self, stage: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            if not self.stop and not torch.is_grad_enabled():
                return
            self._maps[stage] = output
            if self.stop and len(self._maps) == len(self.stages):
                raise AllStagesRecorded

        return hook


def bare(network: nn.Module) -> nn.Module:
    """Unwrap a network; and have the compiler look for hooks before every pass, if it is compiled."""
    while True:
        if isinstance(network, nn.parallel.DistributedDataParallel):
            network = network.module
        elif isinstance(inner := getattr(network, "_orig_mod", None), nn.Module):
            network, torch._dynamo.config.skip_nnmodule_hook_guards = inner, False
        else:
            if network._compiled_call_impl is not None:  # by network.compile()
                torch._dynamo.config.skip_nnmodule_hook_guards = False
            return network


def _find(network: nn.Module, stage: str) -> nn.Module:
    modules: dict[str, nn.Module] = dict(network.named_modules(remove_duplicate=False))
    if not stage or stage not in modules:
        close = difflib.get_close_matches(stage, modules, n=3, cutoff=0.4) or list(dict(network.named_children()))
        raise InputError(f"{type(network).__name__} has no stage {stage!r}; did you mean {' or '.join(close)}?")
    return modules[stage]
