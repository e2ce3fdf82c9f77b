"""How sure a difference between two methods is: a bootstrap over patients and seeds together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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

    Shape:
        both: ``(seeds, patients, labels)``.
    """

    numerators: Array
    denominators: Array
    what: object = None

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


def compare(method: Ratios, baseline: Ratios, teacher: Ratios, *, draws: int = DRAWS) -> Comparison:
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
        draws: of the bootstrap, whose random numbers are always the same.

    Raises:
        InputError: when they are not of the same seeds and cases.
    """
    if not method.what == baseline.what == teacher.what or method.numerators.shape != baseline.numerators.shape:
        raise InputError("methods that are compared must have the same seeds and the same cases")
    seeds, patients, _ = method.numerators.shape
    generator = np.random.default_rng(0)
    drawn = [
        generator.multinomial(size, np.full(size, 1 / size), size=draws).astype(float) for size in (seeds, patients)
    ]

    def difference(one: Ratios, other: Ratios, *weights: Array | None) -> Array:
        return np.asarray(one.value(*weights) - other.value(*weights))

    found, spread = difference(method, baseline)[0], difference(method, baseline, *drawn)
    alone = [np.nanvar(difference(method, baseline, *one)) for one in ((drawn[0], None), (None, drawn[1]))]
    wider = _stretch(float(np.nanvar(spread)), float(alone[0]), float(alone[1]), seeds, patients)
    low, high = found + wider * (np.nanpercentile(spread, [2.5, 97.5]) - found)
    gap, gaps = difference(teacher, baseline)[0], difference(teacher, baseline, *drawn)
    share, share_low, share_high = math.nan, math.nan, math.nan
    if np.nanpercentile(gaps, 2.5) > 0 or np.nanpercentile(gaps, 97.5) < 0:
        share = found / gap
        share_low, share_high = share + wider * (np.nanpercentile(spread / gaps, [2.5, 97.5]) - share)
    higher = int((method.of_seed() > baseline.of_seed()).sum())
    return Comparison(float(found), float(low), float(high), higher, float(share), float(share_low), float(share_high))


def _stretch(both: float, of_seeds: float, of_patients: float, seeds: int, patients: int) -> float:
    """By how much the interval of a bootstrap is too narrow."""
    if both == 0:
        return 1.0
    of_seeds = of_seeds * seeds / (seeds - 1) if seeds > 1 else 0.0
    terms = [(of_seeds, seeds - 1), (of_patients, patients - 1)]
    freedom = sum(one for one, _ in terms) ** 2 / (sum(one**2 / n for one, n in terms if n and one) or 1.0)
    variance = both + (of_seeds / seeds if seeds > 1 else 0.0)
    return float(stats.t.ppf(0.975, max(freedom, 1.0)) / stats.norm.ppf(0.975) * math.sqrt(variance / both))
