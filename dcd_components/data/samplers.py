"""What the processes of one training share: the random order of the data, and cases to score."""

from __future__ import annotations

from collections.abc import Iterator, Sized

import numpy as np
import torch.utils.data
from monai.data import DistributedSampler

from dcd_components.distributed import rank, world_size


class Draw(int):
    """Index of an item that is drawn, with the seed of what is random in it.

    Args:
        index: of the item.
        seed: for its random transforms, see :class:`dcd_components.DiskCache`.
    """

    seed: int

    def __new__(cls, index: int, seed: int) -> Draw:
        """Make an int that knows its seed."""
        draw = super().__new__(cls, index)
        draw.seed = seed
        return draw

    def __getnewargs__(self) -> tuple[int, int]:  # type: ignore[override]
        """Arguments that pickle makes it of, on its way to a process that loads data."""
        return int(self), self.seed


class DistributedReplacementSampler(torch.utils.data.DistributedSampler[Draw]):
    """This process's share of one random order, with replacement, that all processes draw alike.

    Each :class:`Draw` follows from the seed, the epoch and its place in the order alone, so that neither the number of
    processes, nor that of the ones that load data, nor what was drawn before changes it. Of ``W`` processes, the one of
    rank ``r`` takes places ``r``, ``r + W``, ... of the order, so that a step's batches are together the batch that a
    single process would take, were it ``W`` times as large. MONAI's trainers call ``set_epoch`` at the start of each.

    Args:
        data: what items are drawn from.
        num_samples: items of this process per epoch.
        seed: of the order, the same in all processes; not negative.

    Attributes:
        start: items of this process to leave out of the next pass alone, for a training that goes on in mid-epoch.
    """

    def __init__(self, data: Sized, num_samples: int, seed: int) -> None:
        super().__init__(data, num_replicas=world_size(), rank=rank(), seed=seed)  # type: ignore[arg-type]
        self.num_samples = num_samples
        self.start = 0

    def __iter__(self) -> Iterator[Draw]:
        """Draw this process's items of the epoch."""
        start, self.start = self.start, 0
        return (self._draw(one * self.num_replicas + self.rank) for one in range(start, self.num_samples))

    def _draw(self, place: int) -> Draw:
        index, seed = np.random.SeedSequence([self.seed, self.epoch, place]).generate_state(2)
        return Draw(int(index) * len(self.dataset) >> 32, int(seed))  # type: ignore[arg-type]


def case_sampler(data: Sized) -> DistributedSampler | None:
    """Sampler of this process's share of the cases to score, each case in one process.

    None for a single process; and where there are fewer cases than processes, which could not wait for each other's
    scores if one had none: each then scores all cases, and means over processes are those over cases.
    """
    if world_size() == 1 or len(data) < world_size():
        return None
    return DistributedSampler(data, num_replicas=world_size(), rank=rank(), even_divisible=False, shuffle=False)
