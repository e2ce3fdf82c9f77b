"""The report of a study, from the files of its runs and nothing else: tables, pictures and a page."""

from __future__ import annotations

import html
import math
import textwrap
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dcd_components.errors import InputError
from dcd_components.files import whole_file
from dcd_components.handlers.pictures import LINE_COLOURS
from dcd_components.study.costs import read_costs
from dcd_components.study.plan import TEACHER, Study
from dcd_components.study.records import read_record
from dcd_components.study.statistics import Comparison, Ratios, compare, ratios
from dcd_components.tables import html_table, markdown_table, read_csv, write_csv

TEXT = ("method", "case", "patient", "weights")
#: What is compared: title, columns of each label or counts of all, of what they are shares, whether more is better.
SCORES = (
    ("Dice", "dice_{}", None, True),
    ("NSD 0.5 mm", "nsd_0.5mm_{}", None, True),
    ("NSD 1 mm", "nsd_1mm_{}", None, True),
    ("Boundary Dice", "boundary_dice_{}", None, True),
    ("HD95, mm", "hd95_mm_{}", None, False),
    ("Recall, lesions below 100 mm3", "tp_lesions_0_100mm3", "lesions_0_100mm3", True),
    ("Recall, all lesions", "tp_lesions", "lesions", True),
    ("Lesion F1", "lesion_f1", None, True),
    ("False lesions a case", "fp_lesions", None, False),
)
#: Heading and format of the columns of what each method costs.
COSTS = {
    "method": ("Method", ""),
    "parameters": ("Parameters, M", ".3f"),
    "gmac": ("GMAC per patch", ".2f"),
    "iterations": ("Iterations", ".0f"),
    "iteration_seconds": ("An iteration, in turns, s", ".3f"),
    "minutes": ("Training, min", ".1f"),
}
PAGE = """\
<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem; color: #222 }}
table {{ border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums }}
td, th {{ padding: .25rem .7rem; border-bottom: 1px solid #ddd; text-align: right; white-space: nowrap }}
td:first-child, th:first-child {{ text-align: left }}
img {{ max-width: 100% }}
</style></head><body>
<h1>{title}</h1>
{body}
</body></html>
"""
CAPTION = """\
{patients} patients that no training saw and {seeds} seeds, each with a teacher of its own{left_out}. A score is the
mean over labels of the means over cases, +- its standard deviation over seeds; a case without the label counts where
the method finds it. Differences are to {baseline}, which has the same first weights, data and order; in brackets their
95 % interval, by a bootstrap over {drawn}, for each figure by itself. "Gap" is the share of the way from {baseline} to
the teacher in Dice, a dash where the teacher is not surely better. "Better in" counts the seeds with a higher Dice.\
"""


@dataclass(frozen=True)
class Results:
    """What the runs of a study left.

    Args:
        rows: of the cases, by method, the teacher first.
        records: of the runs, by method.
        labels: that are scored.
    """

    rows: Mapping[str, Sequence[Mapping[str, Any]]]
    records: Mapping[str, Sequence[Mapping[str, Any]]]
    labels: Sequence[str]

    def ratios(self, method: str, above: str, below: str | None) -> Ratios:
        """Scores of a method as sums."""
        columns = [above.format(label) for label in self.drawn] if "{}" in above else [above]
        return ratios(self.rows[method], columns, None if below is None else [below])

    @property
    def drawn(self) -> list[str]:
        """Labels that some case has: where none has, a single false voxel would count as much as a label."""
        rows = next(iter(self.rows.values()))
        return [label for label in self.labels if any(row[f"volume_ml_{label}"] for row in rows)]

    def scores(self) -> Iterator[tuple[str, str, str | None, bool]]:
        """Those of ``SCORES`` that the cases have, and that are somewhere defined."""
        row = next(iter(self.rows.values()))[0]
        for title, above, below, more in SCORES:
            name = above.format(self.labels[0])
            if name in row and not (below and not sum(one[below] for one in next(iter(self.rows.values())))):
                yield title, above, below, more


def read_results(study: Study, labels: Sequence[str]) -> Results:
    """Read the files of the runs that have ended; of seeds that all methods have.

    Raises:
        InputError: when no seed is complete.
    """
    found = [(run, record) for run in study.runs if (record := read_record(study, run))]
    of_seed = defaultdict(list)
    for run, _ in found:
        of_seed[run.seed].append(run.method)
    complete = [seed for seed, methods in of_seed.items() if set(methods) >= {TEACHER, *study.methods}]
    if not complete:
        raise InputError(f"no seed of {study.path} has all of its runs in {study.results}: run the study first")
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    records: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for run, record in found:
        if run.seed in complete:
            rows[run.method] += read_csv(study.results / f"{run.name}.csv", TEXT)
            records[run.method].append(record)
    _check_records(study, records)
    return Results(dict(rows), dict(records), labels)


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


def write_report(study: Study, results: Results, out: Path) -> str:
    """Write ``table.md``, ``table.csv``, ``curves.png``, ``differences.png`` and ``index.html``.

    Args:
        study: what was run; its first method is what the others are compared with.
        results: of its runs.
        out: folder for the files.

    Returns:
        The tables in Markdown, with their caption.
    """
    baseline = study.methods[0]
    compared = {
        (method, title): _compared(results, method, baseline, above, below)
        for title, above, below, _ in results.scores()
        for method in study.methods[1:]
    }
    rows = [_row(results, method, compared) for method in results.rows]
    out.mkdir(parents=True, exist_ok=True)
    write_csv(_figures(results, compared), out / "table.csv")
    scores = rows, {key: (key, "" if key == "Method" else "s") for key in rows[0]}
    costs = _costs(results, read_costs(study)), COSTS
    caption = CAPTION.format(
        patients=len({row["patient"] for row in results.rows[baseline]}),
        seeds=len(results.records[baseline]),
        baseline=baseline,
        left_out=_left_out(study, results),
        drawn="patients and seeds together" if len(results.records[baseline]) > 1 else "patients alone: one seed",
    )
    provenance = _provenance(results)
    text = "\n\n".join([markdown_table(*scores), textwrap.fill(caption, 120), markdown_table(*costs), provenance])
    with whole_file(out / "table.md") as partial:
        partial.write_text(f"{text}\n", encoding="utf-8")
    _draw_curves(results, out / "curves.png")
    _draw_differences(study.methods[1:], compared, list(results.scores()), baseline, out / "differences.png")
    with whole_file(out / "index.html") as partial:
        tables = html_table(*scores), html_table(*costs)
        partial.write_text(_page(study, tables, [caption, provenance]), encoding="utf-8")
    return text


def _left_out(study: Study, results: Results) -> str:
    number = len({run.seed for run in study.runs}) - len(results.records[TEACHER])
    return f"; {number} more are left out, since not all of their runs are there" if number else ""


def _compared(results: Results, method: str, baseline: str, above: str, below: str | None) -> Comparison:
    ours, theirs, teacher = (results.ratios(one, above, below) for one in (method, baseline, TEACHER))
    return compare(ours, theirs, teacher)


def _row(results: Results, method: str, compared: Mapping[tuple[str, str], Comparison]) -> dict[str, str]:
    """Cells of a method: each score and its difference; of the first also the share of the gap and the seeds won."""
    row = {"Method": method}
    for number, (title, above, below, _) in enumerate(results.scores()):
        of_seed = results.ratios(method, above, below).of_seed()
        digits = 2 if "mm" in title and "HD95" in title else 3
        spread = f" +- {of_seed.std(ddof=1):.{digits}f}" if len(of_seed) > 1 else ""
        row[title] = f"{of_seed.mean():.{digits}f}{spread}"
        found = compared.get((method, title))
        row[f"{title}, difference"] = _interval(found.difference, found.low, found.high, digits) if found else ""
        if number == 0:
            row["Gap"] = _interval(found.share, found.share_low, found.share_high, 2) if found else ""
            row["Better in"] = f"{found.higher} of {len(of_seed)}" if found else ""
    return row


def _interval(value: float, low: float, high: float, digits: int) -> str:
    if math.isnan(value):
        return "\N{EN DASH}"
    return f"{value:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"


def _figures(results: Results, compared: Mapping[tuple[str, str], Comparison]) -> list[dict[str, Any]]:
    """The table as numbers, a row for each method and score."""
    rows = []
    for title, above, below, _ in results.scores():
        for method in results.rows:
            of_seed = results.ratios(method, above, below).of_seed()
            found = compared.get((method, title))
            compares = ("difference", "low", "high", "share", "share_low", "share_high")
            rows.append(
                {
                    "method": method,
                    "score": title,
                    "mean": of_seed.mean(),
                    "sd": of_seed.std(ddof=1) if len(of_seed) > 1 else math.nan,
                    "seeds": len(of_seed),
                    **{name: getattr(found, name) if found else math.nan for name in compares},
                    "seeds_with_more": found.higher if found else math.nan,
                }
            )
    return rows


def _costs(results: Results, seconds: Mapping[str, float]) -> list[dict[str, Any]]:
    """What each network and training costs; the seconds of an iteration where they were measured in turns."""
    rows = []
    for method, records in results.records.items():
        last = [record["course"][-1] for record in records]
        rows.append(
            {
                "method": method,
                "parameters": records[0]["parameters"],
                "gmac": records[0]["gmac"],
                "iterations": fmean(one["iteration"] for one in last),
                "iteration_seconds": seconds.get(method, math.nan),
                "minutes": fmean(one["seconds"] for one in last) / 60,
            }
        )
    return rows


def _provenance(results: Results) -> str:
    records = [record for several in results.records.values() for record in several]
    commits = {commit for record in records for commit in record["commits"]}
    machines = {record["machine"] for record in records}
    return f"Commits {', '.join(sorted(commits))}; {'; '.join(sorted(machines))}."


def _draw_curves(results: Results, path: Path) -> None:
    """Mean Dice of the validation against iterations: the mean over seeds, and between which values they lie."""
    figure = Figure(figsize=(9, 4.5), dpi=110, layout="constrained")
    axes = figure.subplots()
    for (method, records), colour in zip(results.records.items(), _colours(len(results.records)), strict=True):
        found: dict[float, list[float]] = defaultdict(list)
        for record in records:
            for row in record["course"]:
                if "val_mean_dice" in row:
                    found[row["iteration"]].append(row["val_mean_dice"])
        x = sorted(found)
        axes.plot(x, [fmean(found[one]) for one in x], "-o", color=colour, markersize=3, label=method)
        axes.fill_between(x, [min(found[one]) for one in x], [max(found[one]) for one in x], color=colour, alpha=0.12)
    axes.set(title="Validation: mean Dice, range over seeds", xlabel="iteration")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, loc="lower right")
    with whole_file(path) as partial:
        figure.savefig(partial)


def _draw_differences(
    methods: Sequence[str],
    compared: Mapping[tuple[str, str], Comparison],
    scores: Sequence[tuple[str, str, str | None, bool]],
    baseline: str,
    path: Path,
) -> None:
    """Differences to the baseline with their intervals, a panel a score."""
    figure = Figure(figsize=(2.6 * len(scores) + 1.5, 0.4 * len(methods) + 1.6), dpi=110, layout="constrained")
    panels: Sequence[Axes] = np.atleast_1d(figure.subplots(1, len(scores), sharey=True)).tolist()
    for axes, (title, _, _, more) in zip(panels, scores, strict=True):
        for place, (method, colour) in enumerate(zip(methods, _colours(len(methods)), strict=True)):
            found = compared[method, title]
            axes.plot([found.low, found.high], [place, place], color=colour, linewidth=2)
            axes.plot(found.difference, place, "o", color=colour)
        axes.axvline(0, color="#888", linewidth=1)
        axes.set_title(f"{title}\n({'more' if more else 'less'} is better)", fontsize=9)
        axes.set_yticks(range(len(methods)), methods)
        axes.tick_params(labelsize=8)
    panels[0].invert_yaxis()
    figure.suptitle(f"Difference to {baseline}, with 95 % interval over patients and seeds", fontsize=10)
    with whole_file(path) as partial:
        figure.savefig(partial)


def _colours(number: int) -> list[str]:
    return [LINE_COLOURS[one % len(LINE_COLOURS)] for one in range(number)]


def _page(study: Study, tables: Sequence[str], texts: Sequence[str]) -> str:
    parts = [tables[0], f"<p>{html.escape(texts[0])}</p>"]
    parts += [f'<p><img src="{name}" alt="{name}"></p>' for name in ("differences.png", "curves.png")]
    parts += [tables[1], f"<p>{html.escape(texts[1])}</p>"]
    return PAGE.format(title=html.escape(f"Study: {study.path.stem}"), body="\n".join(parts))
