"""What the processes of one training share: sums, the random order of the data, and cases to score.

Alone, without ``torch.distributed``, a process is all there is.
"""

from __future__ import annotations

import ignite.distributed as idist
from torch import Tensor


def total(x: Tensor) -> Tensor:
    """Sum of a tensor over all processes, the same in each.

    Its gradient is multiplied by the number of processes, because ``DistributedDataParallel`` divides by it. Nothing is
    sent during the backward pass.
    """
    processes: int = idist.get_world_size()
    if processes == 1:
        return x
    everywhere: Tensor = idist.all_reduce(x.detach().clone())
    return everywhere + processes * (x - x.detach()) if x.requires_grad else everywhere


def mean(x: Tensor) -> Tensor:
    """Mean of a tensor over all processes, the same in each; see :func:`total`."""
    processes: int = idist.get_world_size()
    return total(x) / processes
