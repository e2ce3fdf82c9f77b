"""What the processes of one training share: the random order of the data, and cases to score."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sized

import torch
from monai.data import DistributedSampler
from torch.utils.data import RandomSampler, Sampler

from dcd_components.distributed import rank, world_size


class DistributedReplacementSampler(Sampler[int]):
    """This process's share of one random order, with replacement, that all processes draw alike.

    Of ``W`` processes, the one of rank ``r`` takes items ``r``, ``r + W``, ... of the order, so that a step's batches
    are together the batch that a single process would take, were it ``W`` times as large.

    Args:
        data: what items are drawn from.
        num_samples: items of this process per epoch.
        seed: of the order, the same in all processes.
    """

    def __init__(self, data: Sized, num_samples: int, seed: int) -> None:
        order = num_samples * world_size()
        generator = torch.Generator().manual_seed(seed)  # its own, so the order hangs on nothing else that is drawn
        self.order = RandomSampler(data, replacement=True, num_samples=order, generator=generator)

    def __iter__(self) -> Iterator[int]:
        """Go on with the order where the epoch before ended."""
        return itertools.islice(self.order, rank(), None, world_size())

    def __len__(self) -> int:
        """Items of this process per epoch."""
        return len(self.order) // world_size()


def case_sampler(data: Sized) -> DistributedSampler | None:
    """Sampler of this process's share of the cases to score, each case in one process.

    None for a single process; and where there are fewer cases than processes, which could not wait for each other's
    scores if one had none: each then scores all cases, and means over processes are those over cases.
    """
    if world_size() == 1 or len(data) < world_size():
        return None
    return DistributedSampler(data, num_replicas=world_size(), rank=rank(), even_divisible=False, shuffle=False)
