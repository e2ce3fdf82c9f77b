"""The report of a study, from the files of its runs and nothing else: tables, pictures and a page."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

from dcd_components.files import whole_file
from dcd_components.study import cases, pictures
from dcd_components.study.compared import Report, figures
from dcd_components.study.detail_report import detail_parts
from dcd_components.study.page import Picture, Section, Table, markdown, page
from dcd_components.study.plan import GIVEN, TEACHER
from dcd_components.study.records import edited_overlays
from dcd_components.study.results import DICE, Score
from dcd_components.study.sizes import by_size
from dcd_components.study.statistics import Comparison
from dcd_components.tables import write_csv

#: Methods beside the baseline that cases show, where there are too many to tell them apart.
MASKS = 3
DASH = "\N{EN DASH}"
TRAINED = {TEACHER: "the teacher", GIVEN: "the teacher, given", "student": "alone", "distill": "from the teacher"}
DRAWN = ", with the teacher's masks of folds {}"
#: Scores that are compared at equal cost, but for table.csv, which has all.
AT_EQUAL_COST = ("dice_{}", "nsd_0.5mm_{}", "nsd_1mm_{}", "tp_lesions_0_100mm3")
#: Heading and format of the columns of what networks and trainings cost.
NETWORKS = {
    "network": ("Network", ""),
    "parameters": ("Parameters, M", ".3f"),
    "gmac": ("GMAC a patch", ".2f"),
    "patch_seconds": ("A patch, s", ".4f"),
    "seconds_of_teacher": ("of the teacher's", ".2f"),
    "patch_megabytes": ("Extra memory, MB", ".0f"),
    "megabytes_of_teacher": ("of the teacher's", ".2f"),
}
#: Of these, what is drawn against the score where every method has a network of its own.
BUDGET_COSTS = ("parameters", "gmac", "patch_seconds", "patch_megabytes")
TRAININGS = {
    "method": ("Training", ""),
    "start_seconds": ("Start, s", ".1f"),
    "iterations": ("Iterations", ".0f"),
    "iteration_seconds": ("An iteration, s", ".3f"),
    "relative_iteration": ("relative", ".2f"),
    "relative_training": ("All, relative", ".2f"),
    "minutes": ("Minutes passed", ".1f"),
}
COMPARED = """\
{patients} patients that no training saw, in {cases} cases, and {seeds} of first weights, data order and augmentation,
each with a teacher of its own. Bundle {bundle}. All runs have {shared}{same}; the table has what is
different.\
"""
LEFT_OUT = "Left out, since not all of their runs have ended: {left_out}."
SCORES = """\
A score is the mean over labels of the means over cases, +- its standard deviation over seeds{recall}. A case without
the label counts where the method finds it; a label that no case has is left out.{equal}\
"""
RECALL = "; a recall has all found lesions over all lesions"
EQUAL_SCORES = """ Scores that are equal for all cases and methods, as a tolerance below the voxels' spacing makes them,
are shown once, as in "{title}".\
"""
FURTHER_SCORES = """\
Lesion-wise scores are those of BraTS 2024, by label; the absolute differences are those of ISLES 2022, of all lesions.\
"""
DIFFERENCES = """\
Differences to {baseline}, which has the same data and order{weights}; in brackets their 95 % interval, for each figure
by itself, by a bootstrap over {drawn}. "Gap" is the share of the way from {baseline} to the teacher in Dice, a dash
where the teacher is not surely better. "Better in" counts the seeds with a higher Dice.\
"""
SAME_WEIGHTS = ", and but for init: teacher the same first weights{where}"
WHERE_SAME = " where the network is the same"
SEVERAL_SEEDS = "patients and seeds together"
ONE_SEED = "patients alone, which cannot tell methods apart: what another seed would give is not in it"
DIFFERENCES_PICTURE = """\
A dot is the difference to {baseline} at equal iterations, a diamond, where there is one, that to a plain training which
costs at least as much. The line is the 95 % interval: {colours}\
"""
COLOURS = "blue where it lies on the better side of 0, orange where on the worse one, grey where it holds 0."
ONE_COLOUR = """\
of the patients alone, and grey, with open markers, since one seed cannot tell methods apart, wherever it lies.\
"""
TO_TEACHER = """\
What is lost against the teacher: each method less the teacher of its seed, with the 95 % interval of the same
bootstrap. Not worse than the teacher by more than a margin is a method whose whole interval lies on the better side of
that margin: with a lower end of -0.008 in Dice, it loses less than 0.01. The margin is to be chosen before the figures
are seen.\
"""
EQUAL_COST = """\
Each method against the cheapest plain training of this study that costs at least as much, or 2 % less, named in the
column "Against" with what it costs: where that is clearly more, the costs are not equal, to the method's disadvantage.
The cost of a training is its iterations by the seconds of one, measured in turns, the start of a student from its
teacher, and the masks that its teacher draws; the teacher's training is not counted. Intervals, "Gap" (from that plain
training to the teacher) and "Better in" as above; table.csv has all scores.{missing}\
"""
NOT_DEAR = """ No plain training is as dear as {methods}: one of {times:.2f} times the iterations of {plain} would be.\
"""
NO_COSTS = "What an iteration costs was not measured: dcd study {study} --dataset_dir DIR --work WORK --costs does it."
ONLY_PLAIN = "All methods are plain trainings, which differ in their length alone."
NO_PLAIN = "The study has no method that trains without a teacher, to be compared with at equal cost."
SIZES = """\
Above, scores against size: of labels in quarters of all cases and labels by their volume in ml{recall}; the line is the
mean over seeds, the band their range. Below, the differences to {baseline} at equal iterations, from the smallest
(dark) to the largest (light) in each row; the line is the range over seeds. Where detail is kept, the dark dots lie to
the right of the light ones.\
"""
CURVES = """\
Mean Dice of the validation cases, by which the weights of a run are chosen; the line is the mean over seeds, the band
their range.{cost} A line that still rises says that more iterations would help.\
"""
CURVES_COST = " On the right, the same against what the training has cost, so that heights compare at equal cost."
CHOSEN = " Coloured are the {number} others of the highest Dice."
CASES = """\
Test cases of seed {seed} in which {others} gain most (above) and lose most (below) against {baseline} in mean Dice, the
number at the left. They are the extremes, not what is usual. The axial slice is that in which they differ most from
{baseline}.\
"""
NO_CASES = """\
Pictures of cases need the patients and the masks that the study left:
dcd report {study} --out REPORT --work WORK --dataset_dir DIR.\
"""
BUDGETS = """\
What each network costs where it runs, and what it scores: the mean over seeds, after trainings of the lengths below. A
network is worth its place where no other one lies to the left of it and higher.\
"""
EDITED = "The overlay {overlay} says something else today than when these were made: {runs}."
COSTS_CAPTION = """\
Seconds of a patch and largest extra memory (float32, PyTorch, as many patches at once as the sliding window takes), and
seconds of an iteration, were measured in turns{on}, a dash where they were not. Trainings are relative to {baseline}.
"Minutes passed" is the time of the runs as it was, beside whatever else ran.\
"""


def write_report(report: Report) -> str:
    """Write ``table.md``, ``table.csv``, ``index.html`` and the pictures that it shows.

    Returns:
        The tables in Markdown.
    """
    report.out.mkdir(parents=True, exist_ok=True)
    write_csv(figures(report), report.out / "table.csv")
    sections = [section for make in SECTIONS if (section := make(report)).parts]
    text = markdown(sections)
    with whole_file(report.out / "table.md") as partial:
        partial.write_text(f"{text}\n", encoding="utf-8")
    with whole_file(report.out / "index.html") as partial:
        partial.write_text(page(f"Study: {report.study.path.stem}", sections), encoding="utf-8")
    return text


def compared_section(report: Report) -> Section:
    """What the methods are."""
    seed = report.study.runs[0].seed
    runs = {run.method: run for run in report.study.runs if run.seed == seed and run.method in report.results.records}
    students = [run for name, run in runs.items() if name != TEACHER]
    same = {
        key: one for key, one in students[0].settings.items() if all(run.settings.get(key) == one for run in students)
    }
    shared = {key: one for key, one in same.items() if runs[TEACHER].settings.get(key) == one}
    rows = [
        {
            "method": name,
            "trained": TRAINED[run.workflow]
            + (DRAWN.format(", ".join(map(str, run.drawn_folds))) if run.drawn_folds else ""),
            "overlays": ", ".join(one for one in run.training if one not in runs[TEACHER].training) or DASH,
            "settings": _settings(run.settings, shared if name == TEACHER else same) or DASH,
        }
        for name, run in runs.items()
    ]
    columns = {
        "method": ("Method", ""),
        "trained": ("Trained", ""),
        "overlays": ("Overlay", ""),
        "settings": ("Settings", ""),
    }
    overlays = [f"the overlay {one}" for one in runs[TEACHER].overlays]
    results = report.results
    text = COMPARED.format(
        patients=len({row["patient"] for row in results.cases}),
        cases=len({row["case"] for row in results.cases}),
        seeds=f"{results.seeds} seeds" if results.seeds > 1 else "1 seed",
        bundle=report.study.bundle.name,
        shared=", ".join([*overlays, _settings(shared, {})]).strip(", ") or "the settings of the configs",
        same=f", all students {_settings(same, shared)}" if len(same) > len(shared) else "",
    )
    left_out = [LEFT_OUT.format(left_out=several)] if (several := _left_out(report)) else []
    return Section("What is compared", [*left_out, _joined(text), Table(rows, columns)])


def scores_section(report: Report) -> Section:
    """Scores, and differences at equal iterations."""
    equal = next((EQUAL_SCORES.format(title=score.title) for score in report.shown if " = " in score.title), "")
    caption = SCORES.format(equal=equal, recall=RECALL if report.results.lesions else "")
    tables = [Table(*_score_rows(report, report.main), _joined(caption))]
    several = report.results.seeds > 1
    parts: list[str | Table | Picture] = [*tables]
    if report.others:
        drawn = SEVERAL_SEEDS if several else ONE_SEED
        caption = DIFFERENCES.format(baseline=report.baseline, drawn=drawn, weights=_same_weights(report))
        parts.append(
            Table(*_difference_rows(report, report.others, report.main, report.equal_iterations), _joined(caption))
        )
        pictures.draw_differences(
            report.others,
            report.main,
            report.equal_iterations,
            report.equal_cost,
            report.baseline,
            several,
            report.out / "differences.png",
        )
        picture = DIFFERENCES_PICTURE.format(baseline=report.baseline, colours=COLOURS if several else ONE_COLOUR)
        parts.append(Picture("differences.png", _joined(picture)))
    return Section("Scores", parts)


def _same_weights(report: Report) -> str:
    """Whether the methods have the first weights of the baseline: those of its network have."""
    networks = {
        name: (records[0]["parameters"], records[0]["gmac"]) for name, records in report.results.records.items()
    }
    same = [networks[one] == networks[report.baseline] for one in report.others]
    return SAME_WEIGHTS.format(where="" if all(same) else WHERE_SAME) if any(same) else ""


def teacher_section(report: Report) -> Section:
    """What is lost against the teacher."""
    rows, columns = _difference_rows(report, report.results.methods, report.main, report.to_teacher)
    for gap in ("Gap", "Better in"):
        del columns[gap]
    return Section("To the teacher", [Table(rows, columns, _joined(TO_TEACHER))])


def further_section(report: Report) -> Section:
    """The other scores that the rows have."""
    parts: list[str | Table | Picture] = []
    if report.further:
        caption = _joined(FURTHER_SCORES) if report.results.lesions else ""
        parts.append(Table(*_score_rows(report, report.further), caption))
    if report.further and report.others:
        rows, columns = _difference_rows(report, report.others, report.further, report.equal_iterations)
        parts.append(Table(rows, columns, f"Differences to {report.baseline}, with their intervals, as above."))
    return Section("Further scores", parts)


def equal_cost_section(report: Report) -> Section:
    """Differences to a plain training that costs as much."""
    title = "At equal cost"
    if not report.plain:
        return Section(title, [NO_PLAIN])
    if not report.costs.iterations:
        return Section(title, [NO_COSTS.format(study=report.study.path)])
    scores = [score for score in report.shown if score.above in AT_EQUAL_COST]
    if not report.dear_enough:
        return Section(title, [ONLY_PLAIN])
    rows, columns = _difference_rows(report, list(report.dear_enough), scores, report.equal_cost)
    for row in rows:
        other = report.dear_enough[row["Method"]]
        row["cost"] = report.relative_costs[row["Method"]]
        row["against"] = f"{other}, {report.relative_costs[other]:.2f}" if other else DASH
    first = {
        "Method": columns.pop("Method"),
        "cost": (f"Cost, of {report.plain[0]}", ".2f"),
        "against": ("Against", ""),
    }
    missing = ""
    if dear := [one for one, other in report.dear_enough.items() if other is None and report.trainings[one] > 0]:
        times = max(report.relative_costs[one] for one in dear)
        missing = NOT_DEAR.format(methods=", ".join(dear), times=times, plain=report.plain[0])
    return Section(title, [Table(rows, {**first, **columns}, _joined(EQUAL_COST.format(missing=missing)))])


def sizes_section(report: Report) -> Section:
    """Scores against size."""
    sizes = by_size(report.results)
    pictures.draw_sizes(sizes, report.lines, report.baseline, report.out / "sizes.png")
    recall = ", of lesions in bins of mm3" if any("Recall" in one.title for one in sizes) else ""
    caption = SIZES.format(recall=recall, baseline=report.baseline)
    return Section("Sizes", [Picture("sizes.png", _joined(caption + _chosen(report)))])


def curves_section(report: Report) -> Section:
    """The course of the trainings."""
    of_first = report.trainings[report.baseline]
    costs = {
        method: [[one / of_first for one in of_seed] for of_seed in seeds] for method, seeds in report.spent.items()
    }
    records = report.results.records
    courses = {name: [one["course"] for one in several] for name, several in records.items() if several[0]["course"]}
    costs = costs if of_first > 0 else {}
    pictures.draw_curves(courses, costs, report.lines, report.baseline, report.out / "curves.png")
    caption = CURVES.format(cost=CURVES_COST if costs else "") + _chosen(report)
    return Section("Curves", [Picture("curves.png", _joined(caption))])


def detail_section(report: Report) -> Section:
    """How much of the teacher's detail the students have."""
    colours = pictures.line_colours(report.lines, report.baseline)
    return Section("Detail", detail_parts(report.results.records, colours, report.out / "detail.png"))


def cases_section(report: Report) -> Section:
    """Cases in which the students differ."""
    if report.places is None:
        return Section("Cases", [_joined(NO_CASES.format(study=report.study.path))])
    candidates = [one for one in report.others if one not in report.plain] or report.others
    if not candidates:
        return Section("Cases", ["There is one method alone."])
    others = report.results.best(candidates, MASKS)
    cases.draw_cases(report.results, report.baseline, others, report.labels, report.places, report.out / "cases.png")
    seed = report.results.records[TEACHER][0]["seed"]
    caption = CASES.format(seed=seed, others=" and ".join(others), baseline=report.baseline)
    return Section("Cases", [Picture("cases.png", _joined(caption))])


def costs_section(report: Report) -> Section:
    """What networks and trainings cost."""
    on = f" on {report.costs.machine}" if report.costs.machine else ""
    caption = COSTS_CAPTION.format(on=on, baseline=report.baseline)
    networks, trainings = _networks(report), Table(_trainings(report), TRAININGS, _joined(caption))
    if not report.others or len(networks) <= len(report.results.methods):
        return Section("Costs", [Table(networks, NETWORKS), trainings])
    dice = report.shown[0]
    for row in networks:  # here each method has one of its own
        row["dice"] = float(report.results.ratios(row["network"], dice).of_seed().mean())
    shown = {key: NETWORKS[key][0] for key in BUDGET_COSTS if all(row[key] > 0 for row in networks)}
    pictures.draw_budgets(networks, shown, dice.title, report.out / "budgets.png")
    columns = {**NETWORKS, "dice": (dice.title, ".3f")}
    return Section("Costs", [Table(networks, columns), Picture("budgets.png", _joined(BUDGETS)), trainings])


def _networks(report: Report) -> list[dict[str, Any]]:
    """Costs of the networks; methods of equal ones are named together."""
    costs, found = report.costs, dict[tuple[object, ...], list[str]]()
    for method, records in report.results.records.items():
        figures = records[0]["parameters"], records[0]["gmac"], costs.patches.get(method), costs.megabytes.get(method)
        found.setdefault((method == TEACHER, *figures), []).append(method)
    rows = []
    for methods in found.values():
        first = methods[0]
        others = f" and {len(methods) - 1} others" if len(methods) > 1 else ""
        seconds, megabytes = (kind.get(first, math.nan) for kind in (costs.patches, costs.megabytes))
        rows.append(
            {
                "network": "student" if methods == report.results.methods else f"{first}{others}",
                "parameters": report.results.records[first][0]["parameters"],
                "gmac": report.results.records[first][0]["gmac"],
                "patch_seconds": seconds,
                "seconds_of_teacher": seconds / costs.patches.get(TEACHER, math.nan),
                "patch_megabytes": megabytes,
                "megabytes_of_teacher": megabytes / costs.megabytes.get(TEACHER, math.nan),
            }
        )
    return rows


def _trainings(report: Report) -> list[dict[str, Any]]:
    rows, iterations = [], report.costs.iterations
    trained = {name: several for name, several in report.results.records.items() if several[0]["course"]}
    for method, records in trained.items():
        last = [record["course"][-1] for record in records]
        seconds = iterations.get(method, math.nan)
        rows.append(
            {
                "method": method,
                "start_seconds": report.costs.starts.get(method, math.nan),
                "iterations": fmean(one["iteration"] for one in last),
                "iteration_seconds": seconds,
                "relative_iteration": seconds / iterations.get(report.baseline, math.nan),
                "relative_training": report.trainings.get(method, math.nan) / report.trainings[report.baseline],
                "minutes": fmean(one["seconds"] for one in last) / 60,
            }
        )
    return rows


def source_section(report: Report) -> Section:
    """By which code and machines the runs were made."""
    records = [record for several in report.results.records.values() for record in several]
    commits = {commit for record in records for commit in record["commits"]}
    machines = {record["machine"] for record in records}
    files = f"{len(records)} runs in {report.study.results.name}, the folder beside {report.study.path.name}."
    said = f"{files} Commits {', '.join(sorted(commits))}; {'; '.join(sorted(machines))}."
    return Section("Where it comes from", [said, *_edited(report)])


def _edited(report: Report) -> list[str]:
    """Which runs were made with an overlay that says something else now."""
    records = {(name, one["seed"]): one for name, several in report.results.records.items() for one in several}
    runs: dict[str, list[str]] = {}
    for run in report.study.runs:
        if record := records.get((run.method, run.seed)):
            for overlay in edited_overlays(report.study, run, record):
                runs.setdefault(overlay, []).append(run.name)
    return [
        EDITED.format(overlay=overlay, runs="all runs" if len(names) == len(records) else ", ".join(names))
        for overlay, names in runs.items()
    ]


#: The sections of a report, in their order.
SECTIONS: Sequence[Callable[[Report], Section]] = (
    compared_section,
    scores_section,
    teacher_section,
    equal_cost_section,
    further_section,
    sizes_section,
    curves_section,
    detail_section,
    cases_section,
    costs_section,
    source_section,
)


def _left_out(report: Report) -> str:
    """Seeds and methods of the study that are not reported."""
    reported = {record["seed"] for record in report.results.records[TEACHER]}
    seeds = [str(seed) for seed in dict.fromkeys(run.seed for run in report.study.runs) if seed not in reported]
    methods = [method for method in report.study.methods if method not in report.results.methods]
    kinds = {"seed": seeds, "method": methods}
    return "; ".join(f"{kind}{'s' * (len(few) > 1)} {', '.join(few)}" for kind, few in kinds.items() if few)


def _chosen(report: Report) -> str:
    return CHOSEN.format(number=len(report.lines) - 1) if len(report.lines) <= len(report.others) else ""


def _settings(settings: Mapping[str, Any], known: Mapping[str, Any]) -> str:
    """Settings but for those that were said before."""
    return ", ".join(f"{key} {value}" for key, value in settings.items() if key not in known)


def _joined(text: str) -> str:
    return " ".join(text.split())


Columns = dict[str, tuple[str, str]]


def _score_rows(report: Report, scores: Sequence[Score]) -> tuple[list[dict[str, Any]], Columns]:
    rows = []
    for method in report.results.rows:
        row = {"Method": method}
        for score in scores:
            of_seed = report.results.ratios(method, score).of_seed()
            spread = f" +- {of_seed.std(ddof=1):.{_digits(score)}f}" if len(of_seed) > 1 else ""
            row[score.title] = f"{of_seed.mean():.{_digits(score)}f}{spread}"
        rows.append(row)
    return rows, _columns(rows)


def _difference_rows(
    report: Report,
    methods: Sequence[str],
    scores: Sequence[Score],
    compared: Mapping[tuple[str, str], Comparison],
) -> tuple[list[dict[str, Any]], Columns]:
    """Differences of each score; of Dice also the share of the gap and the seeds won; a dash for none."""
    rows = []
    for method in methods:
        row = {"Method": method}
        for score in scores:
            found = compared.get((method, score.above))
            row[score.title] = _interval(found.difference, found.low, found.high, _digits(score)) if found else DASH
            if score.above == DICE.above:
                row["Gap"] = _interval(found.share, found.share_low, found.share_high, 2) if found else DASH
                row["Better in"] = f"{found.higher} of {report.results.seeds}" if found else DASH
        rows.append(row)
    return rows, _columns(rows)


def _columns(rows: Sequence[Mapping[str, Any]]) -> Columns:
    return {key: (key, "" if key == "Method" else "s") for key in rows[0]}


def _digits(score: Score) -> int:
    return 3 if score.more else 2


def _interval(value: float, low: float, high: float, digits: int) -> str:
    if math.isnan(value):
        return DASH
    return f"{value:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"
