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


class _StopForward(Exception):  # noqa: N818 - not an error
    """Ends a forward pass of which nothing is needed any more."""


class StageRecorder:
    """Keep the outputs of named sub-modules during forward passes, from :meth:`open` to :meth:`close`.

    In a ``with`` block the hooks live as long as the block: they are gone after it, also after an exception. Passes
    without gradient are recorded only with ``stop``, so that a validation of the student amid its training leaves
    nothing behind.

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
        if not self.stages:
            raise InputError("stages must name at least one sub-module, got none")
        self._modules = [_find(unwrap(network), stage) for stage in self.stages]
        if any(_is_compiled(layer) for layer in _layers(network)):
            torch._dynamo.config.skip_nnmodule_hook_guards = False
        self._maps: dict[str, Tensor] = {}
        self._handles: list[RemovableHandle] = []

    def open(self) -> None:
        """Register the hooks; harmless when they are."""
        if not self._handles:
            pairs = zip(self.stages, self._modules, strict=True)
            self._handles = [module.register_forward_hook(self._keep(stage)) for stage, module in pairs]

    def close(self) -> None:
        """Remove the hooks and forget the maps; harmless when there are none."""
        while self._handles:
            self._handles.pop().remove()
        self.forget()

    def forget(self) -> None:
        """Let go of the maps."""
        self._maps.clear()

    def __enter__(self) -> StageRecorder:
        """Register the hooks."""
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the hooks and forget the maps."""
        self.close()

    def pop(self) -> list[Tensor]:
        """Hand over the recorded maps in the order of ``stages`` and forget them.

        Raises:
            RuntimeError: when a stage was not reached.
        """
        missing = [stage for stage in self.stages if stage not in self._maps]
        if missing:
            raise RuntimeError(
                f"no features recorded for {', '.join(missing)}: "
                "run the network, with gradient, after the recorder is opened"
            )
        maps = [self._maps[stage] for stage in self.stages]
        self.forget()
        return maps

    @torch.no_grad()
    def features(self, forward: Callable[[nn.Module], object]) -> list[Tensor]:
        """Run ``forward(network)`` without gradient, as far as the last stage if ``stop``, and return the maps."""
        with self:
            with contextlib.suppress(_StopForward):
                forward(self.network)
            return self.pop()

    def _keep(self, stage: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            if not self.stop and not torch.is_grad_enabled():
                return
            self._maps[stage] = output
            if self.stop and len(self._maps) == len(self.stages):
                raise _StopForward

        return hook


def unwrap(network: nn.Module) -> nn.Module:
    """Return the network itself, without ``DistributedDataParallel`` and ``torch.compile``."""
    return _layers(network)[-1]


def _layers(network: nn.Module) -> list[nn.Module]:
    """Wrappers of a network, outermost first, and the network."""
    wrapped = network.module if isinstance(network, nn.parallel.DistributedDataParallel) else _original(network)
    return [network, *_layers(wrapped)] if wrapped is not None else [network]


def _original(network: nn.Module) -> nn.Module | None:
    """Return what ``torch.compile`` was given, or None."""
    inner = getattr(network, "_orig_mod", None)
    return inner if isinstance(inner, nn.Module) else None


def _is_compiled(network: nn.Module) -> bool:
    """Whether by ``torch.compile(network)`` or by ``network.compile()``."""
    return _original(network) is not None or network._compiled_call_impl is not None


def _find(network: nn.Module, stage: str) -> nn.Module:
    modules: dict[str, nn.Module] = dict(network.named_modules(remove_duplicate=False))
    if not stage or stage not in modules:
        close = difflib.get_close_matches(stage, modules, n=3, cutoff=0.4) or list(dict(network.named_children()))
        raise InputError(f"{type(network).__name__} has no stage {stage!r}; did you mean {' or '.join(close)}?")
    return modules[stage]
