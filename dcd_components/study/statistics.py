"""How sure a difference between two methods is: a bootstrap over patients and seeds together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

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
        what: seeds and cases that they are of.
        draws: of the bootstrap, whose random numbers are always the same.

    Shape:
        both: ``(seeds, patients, labels)``.
    """

    numerators: Array
    denominators: Array
    what: object = None
    draws: int = DRAWS

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
        known = sums[1] > 0
        shares = np.divide(sums[0], sums[1], out=np.zeros_like(sums[0]), where=known)
        labels = known.sum(axis=1)
        return np.asarray(np.divide(shares.sum(axis=1), labels, out=np.full(len(labels), np.nan), where=labels > 0))

    def of_seed(self) -> Array:
        """The score of each seed: ``(seeds,)``."""
        return self.value(seeds=np.eye(len(self.numerators)))

    @cached_property
    def drawn(self) -> Drawn:
        """The score in the draws of the bootstrap."""
        size = self.numerators.shape[0], self.numerators.shape[1]
        seeds, patients = _weights(size, self.draws)
        several = self.value(seeds, patients), self.value(seeds=seeds), self.value(patients=patients)
        return Drawn(float(self.value()[0]), *several, size)


@cache
def _weights(size: tuple[int, int], draws: int) -> tuple[Array, Array]:
    """How often each seed and each patient is drawn, with replacement."""
    generator = np.random.default_rng(0)
    seeds, patients = (generator.multinomial(n, np.full(n, 1 / n), size=draws).astype(float) for n in size)
    return seeds, patients


@dataclass(frozen=True)
class Drawn:
    """A score, or the difference of two, and what becomes of it in the draws of a bootstrap.

    Args:
        found: the score.
        both: where seeds and patients are drawn.
        of_seeds: where seeds alone are drawn.
        of_patients: where patients alone are drawn.
        size: numbers of seeds and of patients.

    Shape:
        both, of_seeds and of_patients: ``(draws,)``.
    """

    found: float
    both: Array
    of_seeds: Array
    of_patients: Array
    size: tuple[int, int]

    def __sub__(self, other: Drawn) -> Drawn:
        """The difference in each draw."""
        of_seeds, of_patients = self.of_seeds - other.of_seeds, self.of_patients - other.of_patients
        return Drawn(self.found - other.found, self.both - other.both, of_seeds, of_patients, self.size)

    def covariance(self, other: Drawn) -> float:
        """Of two scores or differences, each a mean of as many seeds, which vary too little when drawn again."""
        seeds = self.size[0]
        of_seeds = _covariance(self.of_seeds, other.of_seeds) / (seeds - 1) if seeds > 1 else 0.0
        return _covariance(self.both, other.both) + of_seeds

    @property
    def quantile(self) -> float:
        """That of the t distribution whose degrees of freedom follow by Satterthwaite's formula."""
        seeds, patients = self.size
        of_seeds = _covariance(self.of_seeds, self.of_seeds) * seeds / (seeds - 1) if seeds > 1 else 0.0
        terms = [(of_seeds, seeds - 1), (_covariance(self.of_patients, self.of_patients), patients - 1)]
        freedom = sum(one for one, _ in terms) ** 2 / (sum(one**2 / n for one, n in terms if n and one) or 1.0)
        return float(stats.t.ppf(0.975, max(freedom, 1.0)))

    def interval(self) -> tuple[float, float]:
        """The percentiles of the draws, stretched about what was found to that variance and that quantile."""
        variance, wider = _covariance(self.both, self.both), 1.0
        if variance:
            wider = self.quantile / stats.norm.ppf(0.975) * math.sqrt(self.covariance(self) / variance)
        low, high = self.found + wider * (np.nanpercentile(self.both, [2.5, 97.5]) - self.found)
        return float(low), float(high)


def _covariance(one: Array, other: Array) -> float:
    """Over the draws in which both are defined."""
    return float(np.nanmean((one - np.nanmean(one)) * (other - np.nanmean(other))))


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
    return Ratios(sums[0], sums[1], (seeds, sorted({(str(row["patient"]), str(row["case"])) for row in rows})))


@dataclass(frozen=True)
class Comparison:
    """A method against another one, the baseline, on the same patients and seeds.

    Args:
        difference: of their scores.
        low: lower end of its 95 % interval.
        high: upper end.
        higher: number of seeds in which the method's score is the higher one.
        share: part of the way from the baseline to the teacher; NaN where the teacher is not surely better or worse.
        share_low: lower end of its 95 % interval.
        share_high: upper end.
    """

    difference: float
    low: float
    high: float
    higher: int
    share: float
    share_low: float
    share_high: float


def compare(method: Ratios, baseline: Ratios, teacher: Ratios) -> Comparison:
    """Compare two methods, seeds and patients drawn together with replacement.

    A draw takes the same seeds and patients for all, since first weights, data order and patients are shared. The
    interval is the percentiles of the draws, stretched about the difference, since so few seeds vary too little when
    they are drawn with replacement: to the variance of a mean of as many seeds, and to the quantile of the t
    distribution whose degrees of freedom follow from both variances by Satterthwaite's formula. With one seed it is of
    the patients alone.

    Args:
        method: its scores.
        baseline: what it is compared with.
        teacher: upper end of the gap.

    Raises:
        InputError: when they are not of the same seeds and cases.
    """
    if not method.what == baseline.what == teacher.what or method.numerators.shape != baseline.numerators.shape:
        raise InputError("methods that are compared must have the same seeds and the same cases")
    difference, gap = method.drawn - baseline.drawn, teacher.drawn - baseline.drawn
    higher = int((method.of_seed() > baseline.of_seed()).sum())
    return Comparison(difference.found, *difference.interval(), higher, *_share(difference, gap))


def _share(difference: Drawn, gap: Drawn) -> tuple[float, float, float]:
    """A difference over the gap, with the ends of its interval by Fieller; NaN where the gap may be none.

    The interval holds the shares r for which difference - r gap lies within its own interval around 0, by the variances
    and the quantile that the interval of the gap has. Where that interval excludes 0, it has two ends.
    """
    low, high = gap.interval()
    square = gap.quantile**2
    below = gap.found**2 - square * gap.covariance(gap)
    if low <= 0 <= high or below <= 0:
        return math.nan, math.nan, math.nan
    middle = difference.found * gap.found - square * difference.covariance(gap)
    above = difference.found**2 - square * difference.covariance(difference)
    width = math.sqrt(max(middle**2 - below * above, 0.0))  # below 0 by rounding alone
    return difference.found / gap.found, (middle - width) / below, (middle + width) / below
