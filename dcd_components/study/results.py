"""What the runs of a study left, read and checked."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np

from dcd_components.errors import InputError
from dcd_components.study.plan import TEACHER, Study
from dcd_components.study.records import read_record
from dcd_components.study.statistics import Ratios, ratios
from dcd_components.tables import read_csv

TEXT = ("method", "case", "patient", "weights")


class Score(NamedTuple):
    """What is compared: columns of each label or counts of all, of what they are shares, whether more is better."""

    title: str
    above: str
    below: str | None = None
    more: bool = True

    @property
    def of_lesions(self) -> bool:
        """Whether it says something of lesions alone, that are the labels' connected components."""
        return "lesion" in self.above or self.above == "volume_difference_ml"


DICE = Score("Dice", "dice_{}")
MAIN = (
    DICE,
    Score("NSD 0.5 mm", "nsd_0.5mm_{}"),
    Score("NSD 1 mm", "nsd_1mm_{}"),
    Score("Boundary Dice", "boundary_dice_{}"),
    Score("HD95, mm", "hd95_mm_{}", more=False),
    Score("Recall, lesions up to 100 mm3", "tp_lesions_0_100mm3", "lesions_0_100mm3"),
    Score("Recall, all lesions", "tp_lesions", "lesions"),
    Score("Lesion F1", "lesion_f1"),
    Score("False lesions a case", "fp_lesions", more=False),
)
FURTHER = (
    Score("NSD 2 mm", "nsd_2mm_{}"),
    Score("Lesion-wise Dice", "lesionwise_dice_{}"),
    Score("Lesion-wise HD95, mm", "lesionwise_hd95_mm_{}", more=False),
    Score("Lesion-wise F1", "lesionwise_f1_{}"),
    Score("Missed lesions of a label", "lesionwise_fn_{}", more=False),
    Score("False lesions of a label", "lesionwise_fp_{}", more=False),
    Score("Recall, lesions of 100 to 500 mm3", "tp_lesions_100_500mm3", "lesions_100_500mm3"),
    Score("Recall, lesions of 500 to 2000 mm3", "tp_lesions_500_2000mm3", "lesions_500_2000mm3"),
    Score("Recall, lesions of 2000 to 10000 mm3", "tp_lesions_2000_10000mm3", "lesions_2000_10000mm3"),
    Score("Recall, lesions over 10000 mm3", "tp_lesions_over_10000mm3", "lesions_over_10000mm3"),
    Score("Recall, lesions up to 500 mm3", "tp_small_lesions", "small_lesions"),
    Score("Lesion count, absolute difference", "lesion_count_difference", more=False),
    Score("Lesion volume, absolute difference in ml", "volume_difference_ml", more=False),
)
#: Of regions of several labels, such as the whole tumour, which are in no mean over labels.
OF_REGIONS = (
    DICE,
    Score("HD95, mm", "hd95_mm_{}", more=False),
    Score("Lesion-wise Dice", "lesionwise_dice_{}"),
    Score("Lesion-wise HD95, mm", "lesionwise_hd95_mm_{}", more=False),
)
#: Scores of no more than this difference are the same: some are computed in single precision.
ROUNDING = 1e-6


@dataclass(frozen=True)
class Results:
    """What the runs of a study left.

    Args:
        rows: of the cases, by method, the teacher first.
        records: of the runs, by method.
        labels: that are scored.
        against: the method that the others are compared with; the first one by default.
        lesions: whether there are any, or a label is an organ.
        regions: of several labels, whose scores are told by themselves.
    """

    rows: Mapping[str, Sequence[Mapping[str, Any]]]
    records: Mapping[str, Sequence[Mapping[str, Any]]]
    labels: Sequence[str]
    against: str | None = None
    lesions: bool = True
    regions: Sequence[str] = ()
    _ratios: dict[tuple[str, str], Ratios] = field(default_factory=dict, init=False, repr=False)

    @property
    def cases(self) -> Sequence[Mapping[str, Any]]:
        """Rows of one method, for what is the same in all."""
        return self.rows[TEACHER]

    @property
    def methods(self) -> list[str]:
        """Names of the methods, without the teacher, in the order of the study."""
        return [method for method in self.records if method != TEACHER]

    @property
    def baseline(self) -> str:
        """What the other methods are compared with."""
        return self.against or self.methods[0]

    @property
    def seeds(self) -> int:
        """Number of seeds."""
        return len(self.records[TEACHER])

    @property
    def drawn(self) -> list[str]:
        """Labels that some case has: where none has, a single false voxel would count as much as a label."""
        return [label for label in self.labels if any(row[f"volume_ml_{label}"] for row in self.cases)]

    def ratios(self, method: str, score: Score) -> Ratios:
        """Scores of a method as sums, which are kept with their draws."""
        key = method, score.above
        if key not in self._ratios:
            columns = [score.above.format(label) for label in self.drawn] if "{}" in score.above else [score.above]
            self._ratios[key] = ratios(self.rows[method], columns, None if score.below is None else [score.below])
        return self._ratios[key]

    def scores(self) -> Iterator[Score]:
        """Those of ``MAIN``, ``FURTHER`` and the regions that the cases have and that are somewhere defined."""
        of_regions = (
            Score(f"{one.title}, {region}", one.above.format(region), more=one.more)
            for region in self.regions
            for one in OF_REGIONS
        )
        for score in (*MAIN, *FURTHER, *of_regions):
            there = score.above.format(self.labels[0]) in self.cases[0] and (self.lesions or not score.of_lesions)
            if there and (score.below is None or sum(row[score.below] for row in self.cases)):
                yield score

    def different(self) -> Iterator[Score]:
        """The same, those that are equal for all cases of all methods as one, which is named after all of them."""
        groups: list[list[Score]] = []
        for score in self.scores():
            group = next((one for one in groups if self._equal(one[0], score)), None)
            if group is None:
                groups.append(group := [])
            group.append(score)
        for group in groups:
            yield group[0]._replace(title=" = ".join(score.title for score in group))

    def _equal(self, one: Score, other: Score) -> bool:
        pairs = ((self.ratios(method, one), self.ratios(method, other)) for method in self.rows)
        return one.more == other.more and all(
            a.numerators.shape == b.numerators.shape
            and np.allclose(a.numerators, b.numerators, rtol=0, atol=ROUNDING)
            and np.array_equal(a.denominators, b.denominators)
            for a, b in pairs
        )

    def best(self, methods: Sequence[str], number: int) -> list[str]:
        """As many of some methods as are wanted, those of the highest Dice, in the order that they are given in."""
        dice = {method: fmean(self.ratios(method, DICE).of_seed()) for method in methods}
        chosen = sorted(dice, key=dice.__getitem__, reverse=True)[:number]
        return [method for method in methods if method in chosen]


def labels_of(
    regions: Mapping[str, Sequence[int]], painted: Sequence[int] | None = None
) -> tuple[dict[str, int], list[str]]:
    """What the mean score of a bundle is over, and what is told by itself.

    Args:
        regions: labels of what is scored, by name.
        painted: where the network's outputs are regions, the value that each has in a mask.

    Returns:
        Values in masks by name: of single labels, or of the outputs; and the names of the other regions.
    """
    if painted:
        return dict(zip(regions, painted, strict=True)), []
    labels = {name: values[0] for name, values in regions.items() if len(values) == 1}
    return labels, [name for name in regions if name not in labels]


def read_results(
    study: Study,
    labels: Sequence[str],
    cases: str | None = None,
    against: str | None = None,
    needed: Collection[str] = (),
    *,
    lesions: bool = True,
    regions: Sequence[str] = (),
) -> Results:
    """Read the files of the runs that have ended; of a study that has not, what is whole, see :func:`whole`.

    Args:
        study: whose runs they are.
        labels: that are scored.
        cases: digest of the data list that they must be of; any by default.
        against: the method that the others are compared with; the first one by default.
        needed: methods that are reported in any case, and so the seeds alone that have their runs.
        lesions: whether there are any, or a label is an organ.
        regions: of several labels, whose scores are told by themselves.

    Raises:
        InputError: when the study has no such method, when no seed has the runs of its teacher and of these methods,
            and for runs that do not belong together.
    """
    against = against or study.methods[0]
    if against not in study.methods:
        raise InputError(f"against must be a method of {study.path}, {', '.join(study.methods)}, got {against}")
    found = [(run, record) for run in study.runs if (record := read_record(study, run, cases))]
    ended: dict[int, set[str]] = defaultdict(set)
    for run, _ in found:
        ended[run.seed].add(run.method)
    of_all = list(dict.fromkeys([against, *needed]))
    seeds, methods = whole(ended, {TEACHER, *of_all})
    if not seeds:
        lacking = f"no seed of {study.path} has the runs of its teacher and of {', '.join(of_all)}"
        raise InputError(f"{lacking} in {study.results}: run the study first")
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    records: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for run, record in found:
        if run.seed in seeds and run.method in methods:
            rows[run.method] += read_csv(study.results / f"{run.name}.csv", TEXT)
            records[run.method].append(record)
    _check_records(study, records)
    return Results(dict(rows), dict(records), labels, against, lesions, regions)


def whole(ended: Mapping[int, Collection[str]], needed: Collection[str]) -> tuple[list[int], frozenset[str]]:
    """The seeds and methods that are reported: each of these seeds has ended runs of each of these methods.

    Of all such choices, that with most runs besides those that are needed; of several, that with most seeds.

    Args:
        ended: methods whose runs have ended, by seed.
        needed: methods without which there is nothing to report.

    Returns:
        Seeds and methods; none where no seed has all that is needed.
    """
    several: set[frozenset[str]] = set()
    for methods in (frozenset(one) for one in ended.values() if set(one) >= set(needed)):
        several |= {methods, *(methods & one for one in several)}
    choices = [([seed for seed in ended if one <= set(ended[seed])], one) for one in several]
    return max(
        choices, key=lambda one: (len(one[0]) * len(one[1] - set(needed)), len(one[0])), default=([], frozenset())
    )


def _check_records(study: Study, records: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """All of the same cases, and each student of the teacher that is reported."""
    if len({record["cases"] for several in records.values() for record in several}) > 1:
        raise InputError(
            f"the runs in {study.results} are not all of the same data list: run those of other lists anew"
        )
    teachers = {record["seed"]: record["weights"] for record in records[TEACHER]}
    for method, several in records.items():
        for record in several:
            if record.get("teacher", teachers[record["seed"]]) != teachers[record["seed"]]:
                other = f"{method}-{record['seed']}"
                raise InputError(f"{other} in {study.results} is of another teacher than that of its seed: run it anew")
