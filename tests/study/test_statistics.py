"""The bootstrap over patients and seeds, against loops and cases with known answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from dcd_components.errors import InputError
from dcd_components.study.statistics import Comparison, Ratios, compare, ratios

LABELS = ["dice_a", "dice_b"]


def rows(method: str = "dcd", gain: float = 0.0, seeds: int = 3, patients: int = 6) -> list[dict[str, Any]]:
    """Two cases a patient; b is absent from every third case."""
    generator = np.random.default_rng(1)
    found = []
    for seed in range(seeds):
        for case in range(2 * patients):
            a, b = generator.uniform(0.5, 0.8, 2)
            one = {"method": method, "seed": float(seed), "case": f"{case}", "patient": f"p{case // 2}"}
            found.append({**one, "dice_a": a + gain, "dice_b": float("nan") if case % 3 == 0 else b + gain})
    return found


def test_the_score_is_the_mean_over_labels_of_the_means_over_cases() -> None:
    found = ratios(rows(), LABELS)
    means = [np.nanmean([row[label] for row in rows()]) for label in LABELS]
    assert found.value() == pytest.approx(np.mean(means))
    of_seed = [
        np.mean([np.nanmean([r[label] for r in rows() if r["seed"] == s]) for label in LABELS]) for s in range(3)
    ]
    assert found.of_seed() == pytest.approx(of_seed)


def test_a_recall_adds_counts() -> None:
    counts = [{"lesions": 4, "found": 1}, {"lesions": 0, "found": 0}, {"lesions": 1, "found": 1}]
    several = [{"method": "x", "seed": 0.0, "case": str(n), "patient": str(n), **one} for n, one in enumerate(counts)]
    assert ratios(several, ["found"], ["lesions"]).value() == pytest.approx(2 / 5)


def test_patients_that_are_drawn_twice_count_twice() -> None:
    found, weights = ratios(rows(), LABELS), np.array([[2.0, 0, 1, 3, 0, 0]])
    repeated = [row for row in rows() for _ in range(int(weights[0][int(row["patient"][1:])]))]
    means = [np.nanmean([row[label] for row in repeated]) for label in LABELS]
    assert found.value(patients=weights) == pytest.approx(np.mean(means))


def test_a_gain_that_all_patients_have_is_sure_and_half_the_gap_is_half() -> None:
    plain, better, teacher = (ratios(rows(gain=gain), LABELS) for gain in (0.0, 0.05, 0.1))
    found = compare(better, plain, teacher)
    assert (found.difference, found.low, found.high) == pytest.approx((0.05, 0.05, 0.05))
    assert (found.share, found.share_low, found.share_high) == pytest.approx((0.5, 0.5, 0.5))
    assert found.higher == 3


def test_the_interval_is_that_of_a_bootstrap_by_hand() -> None:
    """Half of the patients gain and half lose, by as much: the interval holds 0, and is as wide as theory says."""
    generator, size = np.random.default_rng(3), (4, 200, 1)
    base = generator.uniform(0.4, 0.6, size)
    gains = generator.normal(0.0, 0.1, (1, size[1], 1)).repeat(size[0], axis=0)
    found = compare(*(Ratios(base + add, np.ones(size)) for add in (gains, 0, 1)))
    assert found.low < 0 < found.high
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * gains.std() / np.sqrt(size[1]), rel=0.05)


def test_seeds_that_differ_widen_the_interval() -> None:
    size = (5, 50, 1)
    base, of_seed = np.full(size, 0.5), np.linspace(-0.1, 0.14, 5)[:, None, None]
    found = compare(*(Ratios(base + add, np.ones(size)) for add in (of_seed, 0, 1)))
    assert found.difference == pytest.approx(0.02)
    assert found.low < -0.03
    assert found.high > 0.07
    assert found.higher == 3


@pytest.mark.parametrize(
    ("seeds", "of_seeds", "of_patients"), [(3, 0.01, 0.01), (5, 0.01, 0.01), (5, 0.0, 0.02), (1, 0, 0.02)]
)
def test_the_interval_holds_the_truth_as_often_as_it_says(seeds: int, of_seeds: float, of_patients: float) -> None:
    """Without a true difference; the bootstrap alone would hold it in 76 and 85 % of the first two cases."""
    generator, held, size = np.random.default_rng(5), 0, (seeds, 41, 1)
    for _ in range(200):
        gains = generator.normal(0, of_seeds, (seeds, 1, 1)) + generator.normal(0, of_patients, (1, 41, 1))
        found = compare(*(Ratios(add + np.zeros(size), np.ones(size), draws=400) for add in (gains, 0, 1)))
        held += found.low <= 0 <= found.high
    assert 0.91 < held / 200 < 0.995


def shares(seeds: int, gap: float, of_seeds: float = 0.01, number: int = 200) -> list[Comparison]:
    """Comparisons of data sets in which a method has half of the gap; each method varies by seed and by patient."""
    generator, size = np.random.default_rng(6), (seeds, 41, 1)

    def drawn(mean: float) -> Ratios:
        of_seed, of_patient = generator.normal(0, of_seeds, (seeds, 1, 1)), generator.normal(0, 0.02, (1, 41, 1))
        return Ratios(mean + of_seed + of_patient + np.zeros(size), np.ones(size), draws=400)

    return [compare(drawn(gap / 2), drawn(0.0), drawn(gap)) for _ in range(number)]


@pytest.mark.parametrize(("seeds", "most"), [(2, 0.14), (3, 0.08)])
def test_a_teacher_that_is_no_better_seldom_gives_a_share(seeds: int, most: float) -> None:
    """By percentiles that are not stretched, one did in about 32 and 22 %."""
    assert sum(not np.isnan(one.share) for one in shares(seeds, 0.0)) / 200 <= most


@pytest.mark.parametrize(("seeds", "gap"), [(1, 0.05), (3, 0.05), (5, 0.05)])
def test_the_interval_of_a_share_holds_the_truth_as_often_as_it_says(seeds: int, gap: float) -> None:
    found = [one for one in shares(seeds, gap, 0.01 * (seeds > 1)) if not np.isnan(one.share)]
    assert len(found) > 150
    assert all(one.share_low <= one.share <= one.share_high for one in found)
    assert 0.91 < np.mean([one.share_low <= 0.5 <= one.share_high for one in found]) < 0.99


def test_the_interval_of_a_share_is_that_of_fieller_by_hand() -> None:
    """Independent patients, one seed: the quadratic of the means, their covariances and Student's t."""
    generator, size = np.random.default_rng(8), (1, 60, 1)
    one, other = generator.normal(0.02, 0.05, size), generator.normal(0.05, 0.05, size)
    found = compare(*(Ratios(add + np.zeros(size), np.ones(size)) for add in (one, 0, other)))
    (a, c), (_, b) = np.cov(one.ravel(), other.ravel(), bias=True) / 60
    t, x, y = stats.t.ppf(0.975, 59), one.mean(), other.mean()
    ends = np.sort(np.roots([y**2 - t**2 * b, -2 * (x * y - t**2 * c), x**2 - t**2 * a]))
    assert [found.share_low, found.share_high] == pytest.approx(ends, abs=0.03)


def test_no_share_of_a_gap_that_is_not_sure() -> None:
    generator, size = np.random.default_rng(3), (3, 40, 1)
    base, noise = generator.uniform(0.4, 0.6, size), generator.normal(0, 0.05, size)
    found = compare(*(Ratios(base + add, np.ones(size)) for add in (0.01, 0, noise)))
    assert found.difference == pytest.approx(0.01)
    assert np.isnan([found.share, found.share_low, found.share_high]).all()
    less = compare(*(Ratios(base + add, np.ones(size)) for add in (-0.05, 0, -0.1)))  # as for distances
    assert less.share == pytest.approx(0.5)


def test_a_label_that_is_drawn_nowhere_is_left_out_of_the_draw() -> None:
    found = Ratios(np.array([[[0.5, 0.9], [0.7, 0.0]]]), np.array([[[1.0, 1.0], [1.0, 0.0]]]))
    assert found.value(patients=np.array([[0.0, 2.0], [0.0, 0.0]])) == pytest.approx([0.7, np.nan], nan_ok=True)


def test_what_cannot_be_compared_is_refused() -> None:
    plain, others = ratios(rows(), LABELS), [{**row, "patient": f"q{row['patient']}"} for row in rows()]
    for other in (ratios(rows(seeds=2), LABELS), ratios(others, LABELS)):
        with pytest.raises(InputError, match="must have the same seeds and the same cases"):
            compare(other, plain, plain)
    with pytest.raises(InputError, match="runs of seed 0 and 2 of dcd are of other cases"):
        ratios(rows()[:-1], LABELS)
