"""Sums and means over the processes of one training, by ``torch.distributed``.

Without a process group, a process is all there is.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if _grouped() else 1


def rank() -> int:
    """Return the number of this process, from 0."""
    return dist.get_rank() if _grouped() else 0


def all_reduce_sum(x: Tensor) -> Tensor:
    """Sum of a tensor over all processes, the same in each.

    Its gradient is multiplied by the number of processes, because ``DistributedDataParallel`` divides by it. Nothing is
    sent during the backward pass.
    """
    processes = world_size()
    if processes == 1:
        return x
    everywhere = _summed(x.detach())
    return everywhere + processes * (x - x.detach()) if x.requires_grad else everywhere


def all_reduce_mean(x: Tensor) -> Tensor:
    """Mean of a tensor over all processes, the same in each; see :func:`all_reduce_sum`."""
    processes = world_size()
    return all_reduce_sum(x) / processes if processes > 1 else x


def broadcast(x: Tensor) -> None:
    """Give a tensor the values that it has in the first process, in place."""
    if world_size() > 1:
        dist.broadcast(x, src=0)


class CpuGroup:
    """All processes of a training, for what they say to each other without a GPU; made in all of them at once."""

    def __init__(self) -> None:
        self.group = dist.new_group(backend="gloo") if world_size() > 1 else None

    def largest(self, number: int) -> int:
        """Largest number of all processes."""
        if self.group is None:
            return number
        shared = torch.tensor(number)
        dist.all_reduce(shared, dist.ReduceOp.MAX, group=self.group)
        return int(shared)

    def gather(self, value: Any) -> list[Any]:
        """Value of each process, in all of them."""
        values = [value]
        if self.group is not None:
            values *= world_size()
            dist.all_gather_object(values, value, group=self.group)
        return values

    def first(self, value: Any) -> Any:
        """Value of the first process."""
        values = [value]
        if self.group is not None:
            dist.broadcast_object_list(values, src=0, group=self.group)
        return values[0]


def _grouped() -> bool:
    return dist.is_available() and dist.is_initialized()


def _summed(x: Tensor) -> Tensor:
    sent = x.to("cuda" if dist.get_backend() == "nccl" else x.device, copy=True)  # NCCL sends what is on a GPU alone
    dist.all_reduce(sent)
    return sent.to(x.device)
