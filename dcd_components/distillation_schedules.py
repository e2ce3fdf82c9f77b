"""Weight of the distillation loss by epoch: factories of pure functions ``epoch -> weight``.

Epochs count from 0, as in the paper. Each schedule is 0 before ``start``, and the ramps are ``maximum`` from
``start + length`` on. A config names one as its ``_target_``, such as ``dcd_components.cosine_ramp``.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from dcd_components.errors import InputError

Schedule = Callable[[int], float]


def constant(maximum: float, start: int = 0, every: int = 1) -> Schedule:
    """``maximum`` in every ``every``-th epoch from ``start`` on; the epochs between cost what plain ones do."""
    _check(maximum, start, every=every)
    return lambda epoch: maximum if epoch >= start and (epoch - start) % every == 0 else 0.0


def linear_ramp(maximum: float, start: int, length: int) -> Schedule:
    """Straight line from 0 at ``start`` to ``maximum`` at ``start + length``, to see whether the curve matters."""
    _check(maximum, start, length=length)
    return lambda epoch: maximum * _progress(epoch, start, length)


def cosine_ramp(maximum: float, start: int, length: int) -> Schedule:
    """The paper's ``w(e) = maximum * (1 - cos(pi * min((e - start) / length, 1))) / 2``."""
    _check(maximum, start, length=length)
    return lambda epoch: maximum * (1 - math.cos(math.pi * _progress(epoch, start, length))) / 2


def _progress(epoch: int, start: int, length: int) -> float:
    return min(max((epoch - start) / length, 0.0), 1.0)


def _check(maximum: float, start: int, **least_one: int) -> None:
    if maximum < 0:
        raise InputError(f"the weight's maximum must not be negative, got {maximum}")
    ((name, value),) = least_one.items()
    if start < 0 or value < 1:
        raise InputError(f"a schedule needs start >= 0 and {name} >= 1 epochs, got start {start}, {name} {value}")
