"""How sure a difference between two methods is: a bootstrap over patients and seeds together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcd_components.errors import InputError

Array = NDArray[np.float64]
DRAWS = 4000


@dataclass(frozen=True)
class Ratios:
    r"""Scores of one method as sums, so that means and recalls are treated alike.

    .. math:: x = \frac{1}{L} \sum_l \frac{\sum_{s,p} a_{spl}}{\sum_{s,p} b_{spl}}

    A mean over cases has :math:`b = 1`, or 0 where a score is not defined; a recall has found lesions over lesions.
    Labels of which no patient has anything are left out.

    Args:
        numerators: a.
        denominators: b.

    Shape:
        both: ``(seeds, patients, labels)``.
    """

    numerators: Array
    denominators: Array

    def value(self, seeds: Array | None = None, patients: Array | None = None) -> Array:
        """The score where seeds and patients count as often as said.

        Args:
            seeds: ``(draws, seeds)``; each once by default.
            patients: ``(draws, patients)``; each once by default.

        Returns:
            ``(draws,)``.
        """
        shape = self.numerators.shape
        seeds = np.ones((1, shape[0])) if seeds is None else seeds
        patients = np.ones((1, shape[1])) if patients is None else patients
        sums = [np.einsum("ds,spl,dp->dl", seeds, x, patients) for x in (self.numerators, self.denominators)]
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(np.nanmean(sums[0] / sums[1], axis=1))

    def of_seed(self) -> Array:
        """The score of each seed: ``(seeds,)``."""
        return self.value(seeds=np.eye(len(self.numerators)))


def ratios(
    rows: Sequence[Mapping[str, Any]], numerators: Sequence[str], denominators: Sequence[str] | None = None
) -> Ratios:
    """Sort the rows of a method by seed and patient.

    Args:
        rows: one a case and run, with ``seed`` and ``patient``.
        numerators: a column a label, such as ``dice_ET``; NaN where it is not defined.
        denominators: columns of what they are shares of, such as ``lesions``; for a mean over cases none.

    Raises:
        InputError: when a seed has other cases than another.
    """
    seeds, patients = sorted({row["seed"] for row in rows}), sorted({str(row["patient"]) for row in rows})
    cases = {seed: sorted(str(row["case"]) for row in rows if row["seed"] == seed) for seed in seeds}
    if other := [seed for seed in seeds if cases[seed] != cases[seeds[0]]]:
        raise InputError(f"runs of seed {seeds[0]:g} and {other[0]:g} of {rows[0]['method']} are of other cases")
    sums = np.zeros((2, len(seeds), len(patients), len(numerators)))
    for row in rows:
        place = seeds.index(row["seed"]), patients.index(str(row["patient"]))
        above = np.array([np.nan if row[name] is None else row[name] for name in numerators], float)
        below = np.isfinite(above) * 1.0 if denominators is None else np.array([row[name] for name in denominators])
        sums[0][place] += np.nan_to_num(above)
        sums[1][place] += below
    return Ratios(*sums)


@dataclass(frozen=True)
class Comparison:
    """A method against another one, the baseline, on the same patients and seeds.

    Args:
        difference: of their scores.
        low: 2.5th percentile of the difference over draws of patients and seeds.
        high: 97.5th percentile.
        higher: number of seeds in which the method's score is the higher one.
        share: part of the way from the baseline to the teacher; NaN without a teacher.
        share_low: 2.5th percentile.
        share_high: 97.5th percentile.
    """

    difference: float
    low: float
    high: float
    higher: int
    share: float
    share_low: float
    share_high: float


def compare(method: Ratios, baseline: Ratios, teacher: Ratios | None = None, draws: int = DRAWS) -> Comparison:
    """Compare two methods, seeds and patients drawn together with replacement.

    A draw takes the same seeds and patients for all, since first weights, data order and patients are shared.

    Args:
        method: its scores.
        baseline: what it is compared with.
        teacher: upper end of the gap.
        draws: of the bootstrap, whose random numbers are always the same.

    Raises:
        InputError: when they are not of the same numbers of seeds and patients.
    """
    shapes = {one.numerators.shape for one in (method, baseline, teacher) if one is not None}
    if len(shapes) > 1:
        raise InputError(f"methods that are compared must have the same seeds and patients, got {sorted(shapes)}")
    seeds, patients, _ = method.numerators.shape
    generator = np.random.default_rng(0)
    drawn = [
        generator.multinomial(size, np.full(size, 1 / size), size=draws).astype(float) for size in (seeds, patients)
    ]
    found = method.value() - baseline.value()
    spread = method.value(*drawn) - baseline.value(*drawn)
    share, shares = np.full(1, np.nan), np.full(draws, np.nan)
    if teacher is not None:
        share = found / (teacher.value() - baseline.value())
        shares = spread / (teacher.value(*drawn) - baseline.value(*drawn))
    low, high = np.nanpercentile(spread, [2.5, 97.5]).tolist()
    share_low, share_high = (np.nanpercentile(shares, [2.5, 97.5]) if teacher is not None else shares[:2]).tolist()
    higher = int((method.of_seed() > baseline.of_seed()).sum())
    return Comparison(float(found[0]), low, high, higher, float(share[0]), share_low, share_high)
