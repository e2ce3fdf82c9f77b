"""What a report compares: methods with a baseline, with the teacher, and with plain trainings of equal cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

from dcd_components.study.costs import equal_cost, plain_methods, read_costs, training_seconds
from dcd_components.study.plan import TEACHER, Study
from dcd_components.study.results import MAIN, Results, Score
from dcd_components.study.runner import Places
from dcd_components.study.statistics import Comparison, compare

#: Methods beside the baseline that are drawn as lines, where there are too many to tell them apart.
LINES = 6
DIFFERENCE, SHARE = ("difference", "low", "high"), ("share", "share_low", "share_high")


@dataclass(frozen=True)
class Report:
    """What the sections are made of.

    Args:
        study: what was run.
        results: of its runs, which say what the methods are compared with.
        out: folder for the files.
        labels: values of the masks by name.
        places: of patients and masks, for pictures of cases; None for no such pictures.
    """

    study: Study
    results: Results
    out: Path
    labels: Mapping[str, int]
    places: Places | None = None

    @property
    def baseline(self) -> str:
        """What the others are compared with, the first method if nothing else is said."""
        return self.results.baseline

    @property
    def others(self) -> list[str]:
        """All methods but the baseline."""
        return [method for method in self.results.methods if method != self.baseline]

    @cached_property
    def scores(self) -> list[Score]:
        """What is compared."""
        return list(self.results.scores())

    @cached_property
    def shown(self) -> list[Score]:
        """The same, equal ones as one; the first of them is Dice."""
        return list(self.results.different())

    @cached_property
    def main(self) -> list[Score]:
        """Of what is shown, that which is shown first."""
        main = {score.above for score in MAIN}
        return [score for score in self.shown if score.above in main]

    @cached_property
    def further(self) -> list[Score]:
        """The rest of it."""
        return [score for score in self.shown if score not in self.main]

    @cached_property
    def lines(self) -> list[str]:
        """Methods that are drawn as lines, beside the teacher."""
        return [self.baseline, *self.results.best(self.others, LINES)]

    @cached_property
    def costs(self) -> Any:
        """What iterations and patches cost."""
        return read_costs(self.study)

    @cached_property
    def plain(self) -> list[str]:
        """Trainings without a teacher that differ in their length alone."""
        return [one for one in plain_methods(self.study) if one in self.results.methods]

    @cached_property
    def spent(self) -> dict[str, list[list[float]]]:
        """Seconds of the trainings up to each epoch, by method and seed, of those that were measured."""
        plain = next(iter(plain_methods(self.study)), None)
        return {
            method: [training_seconds(method, record, self.costs, plain) for record in records]
            for method, records in self.results.records.items()
            if method in self.costs.iterations
        }

    @cached_property
    def trainings(self) -> dict[str, float]:
        """Seconds of the whole trainings, the mean over seeds; NaN for what was not measured."""
        spent = {method: fmean(of_seed[-1] for of_seed in seeds) for method, seeds in self.spent.items()}
        return {method: spent.get(method, math.nan) for method in self.results.methods}

    @cached_property
    def relative_costs(self) -> dict[str, float]:
        """Costs of the whole trainings, in trainings of the first plain method; NaN for what was not measured."""
        of_plain = self.trainings[self.plain[0]] if self.plain else math.nan
        return {method: seconds / of_plain for method, seconds in self.trainings.items()}

    @cached_property
    def dear_enough(self) -> dict[str, str | None]:
        """By method that is not a plain training, the plain one of equal cost."""
        others = [one for one in self.results.methods if one not in self.plain]
        return {one: equal_cost(one, self.plain, self.trainings) for one in others}

    @cached_property
    def equal_iterations(self) -> dict[tuple[str, str], Comparison]:
        """All others against the baseline, by method and column of the score."""
        return {
            (one, score.above): self._compare(one, self.baseline, score) for score in self.scores for one in self.others
        }

    @cached_property
    def to_teacher(self) -> dict[tuple[str, str], Comparison]:
        """All methods against the teacher."""
        several = self.results.methods
        return {(one, score.above): self._compare(one, TEACHER, score) for score in self.scores for one in several}

    @cached_property
    def equal_cost(self) -> dict[tuple[str, str], Comparison]:
        """Methods against the plain training of equal cost, as far as there is one."""
        pairs = [(one, other) for one, other in self.dear_enough.items() if other]
        return {(one, score.above): self._compare(one, other, score) for score in self.scores for one, other in pairs}

    def _compare(self, method: str, other: str, score: Score) -> Comparison:
        return compare(*(self.results.ratios(one, score) for one in (method, other, TEACHER)))


def figures(report: Report) -> list[dict[str, Any]]:
    """The tables as numbers, a row for each method and score: to the baseline, to the teacher, and at equal cost."""
    rows = []
    for score in report.scores:
        for method in report.results.rows:
            of_seed = report.results.ratios(method, score).of_seed()
            rows.append(
                {
                    "method": method,
                    "score": score.title,
                    "mean": of_seed.mean(),
                    "sd": of_seed.std(ddof=1) if len(of_seed) > 1 else math.nan,
                    "seeds": len(of_seed),
                    **_comparison("", report.equal_iterations.get((method, score.above))),
                    **_comparison("to_teacher_", report.to_teacher.get((method, score.above)), DIFFERENCE),
                    "cost": report.relative_costs.get(method, math.nan),
                    "equal_cost_against": (other := report.dear_enough.get(method) or ""),
                    "equal_cost_against_cost": report.relative_costs.get(other, math.nan),
                    **_comparison("equal_cost_", report.equal_cost.get((method, score.above))),
                }
            )
    return rows


def _comparison(
    prefix: str, found: Comparison | None, names: Sequence[str] = (*DIFFERENCE, *SHARE)
) -> dict[str, float]:
    kept = {name: getattr(found, name) if found else math.nan for name in names}
    kept["seeds_with_more"] = found.higher if found else math.nan
    return {f"{prefix}{name}": figure for name, figure in kept.items()}
