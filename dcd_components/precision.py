"""In which precision sums are computed."""

from __future__ import annotations

import torch
from torch import Tensor


def sum_dtype(*tensors: Tensor) -> torch.dtype:
    """``float64`` where any tensor has it, else ``float32``: half precision would lose what is added to a large sum."""
    return torch.float64 if any(x.dtype == torch.float64 for x in tensors) else torch.float32
