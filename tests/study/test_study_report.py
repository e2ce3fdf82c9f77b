"""The report of a study, from files as its runs leave them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from matplotlib.image import imread
from study_files import LABELS, METHODS, write_costs, write_study
from tiny import HIPPOCAMPUS

from dcd_components import cli
from dcd_components.bundle.configs import read_configs
from dcd_components.errors import InputError
from dcd_components.study import pictures
from dcd_components.study.plan import read_study
from dcd_components.study.results import labels_of, read_results, whole
from dcd_components.tables import read_csv, write_csv

VOLUME = "Lesion volume, absolute difference in ml"
SECTIONS = (
    "What is compared",
    "Scores",
    "To the teacher",
    "At equal cost",
    "Further scores",
    "Sizes",
    "Curves",
    "Detail",
    "Cases",
    "Costs",
    "Where it comes from",
)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Three seeds of four methods, and a fourth that is not complete."""
    return write_study(tmp_path)


def reported(study: Path, *options: str) -> str:
    cli.main(["report", str(study), "--out", str(study.parent / "out"), *options])
    return (study.parent / "out" / "table.md").read_text()


def lines(text: str, section: str, number: int = 0) -> dict[str, dict[str, str]]:
    """Cells of a table of a section, by its first column and by heading."""
    part = text.partition(f"## {section}\n")[2].partition("\n## ")[0]
    table = [block for block in part.split("\n\n") if block.strip().startswith("|")][number]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.strip().splitlines()]
    return {row[0]: dict(zip(cells[0], row, strict=True)) for row in cells[2:]}


def test_the_tables_have_scores_differences_and_the_share_of_the_gap(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = reported(study)
    assert capsys.readouterr().out.strip() == text.strip()
    scores, differences = lines(text, "Scores"), lines(text, "Scores", 1)
    assert [*scores] == ["teacher", *METHODS]
    assert [*differences] == ["plain_longer", "dcd", "cwd"]
    assert re.fullmatch(r"0\.\d{3} \+- 0\.0\d\d", scores["dcd"]["Dice"])
    found = {name: differences["dcd"][name] for name in ("Dice", "Gap", "Better in")}
    assert found == {"Dice": "+0.100 [+0.100, +0.100]", "Gap": "+0.50 [+0.50, +0.50]", "Better in": "3 of 3"}
    assert differences["cwd"]["Better in"] == "0 of 3"
    said = " ".join(text.split())
    assert "12 patients that no training saw, in 12 cases, and 3 seeds" in said
    assert "Left out, since not all of their runs have ended: seed 3." in said
    assert "Commits abc; two cores." in said
    assert "up to 100 mm3" not in said  # of which there are none
    assert lines(text, "What is compared")["cwd"]["Settings"] == "levels 1"
    rows = read_csv(tmp_path / "out" / "table.csv", ("method", "score", "equal_cost_against"))
    (recall,) = [row for row in rows if (row["method"], row["score"]) == ("dcd", "Recall, all lesions")]
    assert (recall["mean"], recall["difference"], recall["seeds"]) == pytest.approx((1.0, 1 / 3, 3))


def test_another_method_than_the_first_can_be_what_others_are_compared_with(study: Path, tmp_path: Path) -> None:
    write_costs(study, {"plain": 0.1, "plain_longer": 0.1, "dcd": 0.2, "cwd": 0.1})
    text = reported(study, "--against", "dcd")
    differences = lines(text, "Scores", 1)
    assert {name: row["Dice"] for name, row in differences.items()} == {
        "plain": "-0.100 [-0.100, -0.100]",
        "plain_longer": "-0.060 [-0.060, -0.060]",
        "cwd": "-0.120 [-0.120, -0.120]",
    }
    assert differences["plain"]["Gap"].startswith("-1.00 [")
    assert lines(text, "Costs", 1)["plain"]["All, relative"] == "0.50"
    page = (tmp_path / "out" / "index.html").read_text()
    for said in (
        "Differences to dcd,",
        "from dcd to the teacher",
        "difference to dcd at",
        "Trainings are relative to dcd.",
    ):
        assert said in page
    assert "ifferences to plain" not in page
    assert [*lines(text, "Scores")] == ["teacher", *METHODS]  # in the order of the file
    with pytest.raises(InputError, match=r"against must be a method of .*small.yaml, plain, .*, cwd, got teacher$"):
        reported(study, "--against", "teacher")


def test_methods_that_are_asked_for_are_reported_over_the_seeds_that_have_them(study: Path) -> None:
    text = reported(study, "--methods", "dcd", "plain")
    assert [*lines(text, "Scores")] == ["teacher", "plain", "dcd"]  # in the order of the file
    assert lines(text, "Scores", 1)["dcd"]["Better in"] == "4 of 4"
    assert "Left out" not in text
    text = reported(study, "--methods", "plain", "cwd")
    assert lines(text, "Scores", 1)["cwd"]["Better in"] == "0 of 3"
    assert "Left out, since not all of their runs have ended: seed 3." in " ".join(text.split())
    text = reported(study, "--methods", "dcd", "--against", "plain")
    assert [*lines(text, "Scores", 1)] == ["dcd"]
    with pytest.raises(InputError, match=r"methods must be among plain, .*, cwd of .*small.yaml, got teacher$"):
        reported(study, "--methods", "plain", "teacher")
    for path in study.with_suffix("").glob("cwd-*.json"):
        path.unlink()
    with pytest.raises(InputError, match=r"no seed of .* has the runs of its teacher and of plain, cwd in .*small: "):
        reported(study, "--methods", "plain", "cwd")


def test_differences_are_in_colour_where_several_seeds_can_tell(study: Path, tmp_path: Path) -> None:
    colours = []
    for path in (study, write_study(tmp_path / "one", METHODS, [0], missing=())):
        reported(path)
        picture = (imread(path.parent / "out" / "differences.png")[..., :3] * 255).round().astype(int)
        colours.append({f"#{r:02x}{g:02x}{b:02x}" for r, g, b in picture.reshape(-1, 3)})
    assert {pictures.BETTER, pictures.WORSE} < colours[0]
    assert not {pictures.BETTER, pictures.WORSE} & colours[1]
    pages = [" ".join((path / "out" / "index.html").read_text().split()) for path in (tmp_path, tmp_path / "one")]
    assert ["orange where on the worse one" in page for page in pages] == [True, False]
    assert ["one seed cannot tell methods apart" in page for page in pages] == [False, True]
    assert "and order, and but for init: teacher the same first weights; in brackets" in pages[0]


def rewrite(study: Path, **columns: Callable[[dict[str, Any]], float]) -> None:
    """Add columns to the rows of all runs."""
    for path in study.with_suffix("").glob("*.csv"):
        rows = read_csv(path, ("method", "case", "patient", "weights"))
        write_csv([{**row, **{name: value(row) for name, value in columns.items()}} for row in rows], path)


def test_scores_that_are_equal_throughout_are_shown_once_and_written_each(study: Path, tmp_path: Path) -> None:
    same = {f"nsd_0.5mm_{label}": lambda row, name=f"nsd_1mm_{label}": row[name] + 1e-8 for label in LABELS}
    rewrite(study, **same)
    write_costs(study, {"plain": 0.1, "plain_longer": 0.1, "dcd": 0.14, "cwd": 0.1})
    text = reported(study)
    heading = "NSD 0.5 mm = NSD 1 mm"
    for number in (0, 1):
        assert heading in "".join([*lines(text, "Scores", number)["dcd"], *lines(text, "Scores", 2)["dcd"]])
    assert f'are shown once, as in "{heading}".' in " ".join(text.split())
    rows = read_csv(tmp_path / "out" / "table.csv", ("method", "score", "equal_cost_against"))
    found = {row["score"]: row["difference"] for row in rows if row["method"] == "dcd"}
    assert found["NSD 0.5 mm"] == found["NSD 1 mm"] == pytest.approx(0.2)
    rewrite(study, **{"nsd_0.5mm_ET": lambda row: row["nsd_1mm_ET"] + (row["seed"] == 1) * 1e-4})
    assert heading not in reported(study)


def test_all_scores_of_the_rows_are_told_those_of_lesions_where_there_are_some(study: Path, tmp_path: Path) -> None:
    columns = {f"lesionwise_f1_{label}": lambda row: row["dice_ET"] / 2 for label in LABELS}
    rewrite(study, volume_difference_ml=lambda row: 3.0 - row["dice_ET"], **columns)
    further = lines(reported(study), "Further scores")
    assert [*further["dcd"]][1:] == ["Lesion-wise F1", "Recall, lesions of 100 to 500 mm3", VOLUME]
    assert further["dcd"][VOLUME].startswith("2.3")
    rows = read_csv(tmp_path / "out" / "table.csv", ("method", "score", "equal_cost_against"))
    found = {row["score"]: row["difference"] for row in rows if row["method"] == "dcd"}
    assert (found["Lesion-wise F1"], found[VOLUME]) == pytest.approx((0.05, -0.1))
    organ = read_results(read_study(study), LABELS, lesions=False)
    assert [score.title for score in organ.scores()] == ["Dice", "NSD 1 mm", "HD95, mm"]


def test_regions_of_several_labels_are_told_by_themselves(study: Path, tmp_path: Path) -> None:
    before = reported(study)
    rewrite(study, dice_WT=lambda row: row["dice_ET"] + 0.1, hd95_mm_WT=lambda row: 5.0 - row["dice_ET"])
    text = reported(study)
    assert lines(text, "Scores") == lines(before, "Scores")  # in no mean over labels
    further = lines(text, "Further scores")
    assert {"Dice, WT", "HD95, mm, WT"} < {*further["dcd"]}
    rows = read_csv(tmp_path / "out" / "table.csv", ("method", "score", "equal_cost_against"))
    found = {row["score"]: row["difference"] for row in rows if row["method"] == "dcd"}
    assert (found["Dice, WT"], found["HD95, mm, WT"]) == pytest.approx((0.1, -0.1))


def test_labels_are_single_ones_or_what_the_network_tells() -> None:
    regions = {"ET": [3], "WT": [1, 2, 3], "RC": [4]}
    assert labels_of(regions) == ({"ET": 3, "RC": 4}, ["WT"])
    assert labels_of(regions, [2, 1, 4]) == ({"ET": 2, "WT": 1, "RC": 4}, [])


def test_the_bundle_of_an_organ_has_no_lesions() -> None:
    assert read_configs(HIPPOCAMPUS, ["inference", "evaluate"])["lesion_labels"] == []


def test_what_is_lost_against_the_teacher_is_told_of_all_methods(study: Path, tmp_path: Path) -> None:
    text = reported(study)
    table = lines(text, "To the teacher")
    assert {name: row["Dice"] for name, row in table.items()} == {
        "plain": "-0.200 [-0.200, -0.200]",
        "plain_longer": "-0.160 [-0.160, -0.160]",
        "dcd": "-0.100 [-0.100, -0.100]",
        "cwd": "-0.220 [-0.220, -0.220]",
    }
    assert "Gap" not in table["dcd"]
    assert table["dcd"]["NSD 1 mm"] == "-0.200 [-0.200, -0.200]"
    rows = read_csv(tmp_path / "out" / "table.csv", ("method", "score", "equal_cost_against"))
    (dice,) = [row for row in rows if (row["method"], row["score"]) == ("dcd", "Dice")]
    figures = [dice[f"to_teacher_{name}"] for name in ("difference", "low", "high", "seeds_with_more")]
    assert figures == pytest.approx([-0.1, -0.1, -0.1, 0])


def test_each_method_is_compared_at_equal_cost_with_a_plain_training_that_is_dear_enough(
    study: Path, tmp_path: Path
) -> None:
    """An iteration of dcd costs 1.4 times a plain one, the longer plain training 1.5 times."""
    write_costs(study, {"plain": 0.1, "plain_longer": 0.1, "dcd": 0.14, "cwd": 0.1})
    text = reported(study)
    table = lines(text, "At equal cost")
    assert [*table] == ["dcd", "cwd"]
    assert {"Cost, of plain": "1.40", "Against": "plain_longer, 1.50"}.items() <= table["dcd"].items()
    assert table["dcd"]["Dice"] == "+0.060 [+0.060, +0.060]"
    assert table["dcd"]["Gap"].startswith("+0.37 [") or table["dcd"]["Gap"].startswith("+0.38 [")  # .06 of .16
    assert {"Cost, of plain": "1.00", "Against": "plain, 1.00", "Better in": "0 of 3"}.items() <= table["cwd"].items()
    assert lines(text, "At equal cost", 1)["dcd"]["NSD 1 mm"] == "+0.120 [+0.120, +0.120]"
    rows = read_csv(tmp_path / "out" / "table.csv", ("method", "score", "equal_cost_against"))
    (dice,) = [row for row in rows if (row["method"], row["score"]) == ("dcd", "Dice")]
    assert dice["equal_cost_against"] == "plain_longer"
    assert [dice["cost"], dice["equal_cost_against_cost"]] == pytest.approx([1.4, 1.5])
    figures = [dice[f"equal_cost_{name}"] for name in ("difference", "share", "seeds_with_more")]
    assert figures == pytest.approx([0.06, 0.375, 3])
    assert dice["difference"] == pytest.approx(0.1)  # at equal iterations, as before
    trainings = lines(text, "Costs", 1)
    assert [trainings["plain_longer"][name] for name in ("Iterations", "relative", "All, relative")] == [
        "75000",
        "1.00",
        "1.50",
    ]
    assert trainings["dcd"]["An iteration, s"] == "0.140"


def test_where_no_plain_training_is_as_dear_there_is_a_dash_and_what_is_wanted(study: Path) -> None:
    write_costs(study, {"plain": 0.1, "plain_longer": 0.1, "dcd": 0.16, "cwd": 0.1})
    text = reported(study)
    found = lines(text, "At equal cost")["dcd"]
    assert (found["Against"], found["Dice"], found["Gap"]) == ("\N{EN DASH}",) * 3
    said = "No plain training is as dear as dcd: one of 1.60 times the iterations of plain would be."
    assert said in " ".join(text.split())


def test_without_measured_costs_the_report_says_how_to_measure_them(study: Path, tmp_path: Path) -> None:
    text = " ".join(reported(study).split())
    assert f"was not measured: dcd study {study} --dataset_dir DIR --work WORK --costs does it." in text
    assert lines((tmp_path / "out" / "table.md").read_text(), "Costs", 1)["dcd"]["An iteration, s"] == "\N{EN DASH}"


def test_networks_have_latency_and_memory(study: Path) -> None:
    write_costs(study, {"plain": 0.1})
    rows = lines(reported(study), "Costs")
    assert [*rows] == ["teacher", "student"]
    assert (rows["student"]["A patch, s"], rows["teacher"]["Extra memory, MB"]) == ("0.0200", "50")
    assert rows["student"]["Extra memory, MB"] == "\N{EN DASH}"


def test_students_of_several_networks_are_drawn_against_what_they_cost(tmp_path: Path) -> None:
    methods = {"quarter": None, "half": {"settings": {"width_divisor": 2}}, "shallow": {"network": "shallow_student"}}
    study = write_study(tmp_path, methods, seeds=[0], missing=())
    path = tmp_path / "small" / "shallow-0.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "parameters": 0.05}))
    text = reported(study)
    networks = lines(text, "Costs")
    assert [*networks] == ["teacher", "quarter", "half", "shallow"]
    assert networks["half"]["Parameters, M"] == "0.200"
    assert {name: row["Dice"] for name, row in networks.items()} == {
        name: row["Dice"] for name, row in lines(text, "Scores").items()
    }
    assert lines(text, "What is compared")["shallow"]["Overlay"] == "shallow_student"
    assert "which has the same data and order; in brackets" in " ".join(text.split())
    assert imread(tmp_path / "out" / "budgets.png").std() > 0.01
    assert "budgets.png" in (tmp_path / "out" / "index.html").read_text()


def test_plain_trainings_of_several_lengths_are_reported_without_a_comparison_at_equal_cost(tmp_path: Path) -> None:
    methods = {"plain": {"workflow": "student"}, "longer": {"workflow": "student", "settings": {"max_epochs": 1500}}}
    study = write_study(tmp_path, methods, seeds=[0], missing=())
    write_costs(study, {"plain": 0.1, "longer": 0.1})
    assert "All methods are plain trainings, which differ in their length alone." in reported(study)


def test_costs_of_other_settings_are_refused(study: Path) -> None:
    write_costs(study, {"plain": 0.1, "cwd": 0.1})
    content = json.loads((study.with_suffix("") / "costs.json").read_text())
    content["methods"]["cwd"]["settings"]["levels"] = 2
    (study.with_suffix("") / "costs.json").write_text(json.dumps(content))
    with pytest.raises(
        InputError, match=r"costs.json: cwd was measured with another levels, 2, than is said now, 1: me"
    ):
        reported(study)


def test_pictures_and_a_page_in_sections(study: Path, tmp_path: Path) -> None:
    write_costs(study, {"plain": 0.1, "plain_longer": 0.1, "dcd": 0.14, "cwd": 0.1})
    reported(study)
    page = (tmp_path / "out" / "index.html").read_text()
    assert tuple(re.findall("<h2 id=.*?>(.*?)</h2>", page)) == SECTIONS
    names = re.findall(r'<img src="(.*?)"', page)
    assert names == ["differences.png", "sizes.png", "curves.png"]
    for name in names:
        assert imread(tmp_path / "out" / name).std() > 0.01
    assert "+0.100 [+0.100, +0.100]" in page
    assert f"dcd report {study} --out REPORT --work WORK --dataset_dir DIR." in page


@pytest.mark.parametrize("number", [0, 26])
def test_one_seed_of_one_method_or_of_many(number: int, tmp_path: Path) -> None:
    """Tables as wide as a page, pictures that show all methods, and no word of seeds that vary."""
    others = {f"method_{one}": {"settings": {"levels": 1}} for one in range(number)}
    study = write_study(tmp_path, {"plain": {"workflow": "student"}, **others}, seeds=[0], missing=())
    text = reported(study)
    assert "+-" not in lines(text, "Scores")["teacher"]["Dice"]
    assert all(len(line) <= 160 for line in text.splitlines())
    if number:
        assert "over patients alone, which cannot tell methods apart" in " ".join(text.split())
        assert len(lines(text, "Scores", 1)) == number
        assert imread(tmp_path / "out" / "differences.png").shape[0] > 20 * number
        assert "Coloured are the 6 others of the highest Dice." in (tmp_path / "out" / "index.html").read_text()
    else:
        assert not (tmp_path / "out" / "differences.png").exists()


def test_of_a_study_in_progress_what_has_ended_is_reported(tmp_path: Path) -> None:
    """Two methods in both seeds are more than three in one, beside the first method."""
    methods = {"plain": None, "dcd": None, "cwd": None, "fitnet": None}
    study = write_study(tmp_path, methods, [0, 1, 2], missing=("fitnet-0", "fitnet-1", "teacher-2", "plain-2"))
    text = reported(study)
    assert [*lines(text, "Scores")] == ["teacher", "plain", "dcd", "cwd"]
    assert [*lines(text, "What is compared")] == [*lines(text, "Scores")]
    said = "## What is compared Left out, since not all of their runs have ended: seed 2; method fitnet. 12 patients"
    assert said in " ".join(text.split())


@pytest.mark.parametrize(
    ("ended", "seeds", "methods"),
    [
        ({0: "tfab", 1: "tf"}, [0], "tfab"),  # not both seeds, with nothing to compare
        ({0: "tfabc", 1: "tfab"}, [0, 1], "tfab"),
        ({0: "tfabc", 1: "tfa", 2: "ta", 3: "fabc"}, [0], "tfabc"),
        ({0: "tfab", 1: "tfbc", 2: "tfb"}, [0, 1, 2], "tfb"),  # which no seed has alone
        ({0: "tfab", 1: "tfa"}, [0, 1], "tfa"),  # as many runs, more seeds
        ({0: "tf"}, [0], "tf"),
        ({0: "t", 1: "fab"}, [], ""),
    ],
)
def test_what_is_whole_is_as_much_as_can_be(ended: dict[int, str], seeds: list[int], methods: str) -> None:
    assert whole(ended, "tf") == (seeds, frozenset(methods))


def test_without_a_teacher_and_a_first_method_there_is_no_report(study: Path, tmp_path: Path) -> None:
    for path in (tmp_path / "small").glob("teacher-*.json"):
        path.unlink()
    with pytest.raises(
        InputError, match=r"no seed of .*small.yaml has the runs of its teacher and of plain in .*small: run the study"
    ):
        reported(study)


def test_runs_whose_overlays_were_edited_since_are_named(tmp_path: Path) -> None:
    methods = {"plain": {"workflow": "student"}, "cwd": {"overlays": ["cwd"]}, "fitnet": {"overlays": ["fitnet"]}}
    study = write_study(tmp_path, methods, [0, 1], missing=())
    assert "says something else" not in reported(study)
    for seed in (0, 1):
        path = tmp_path / "small" / f"cwd-{seed}.json"
        path.write_text(path.read_text().replace(json.loads(path.read_text())["settings"]["overlays"]["cwd"], "before"))
    said = "The overlay cwd says something else today than when these were made: cwd-0, cwd-1."
    assert reported(study).strip().endswith(said)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"settings": {}},
            "dcd-1.json was run with another bundle, None, than is said now, brats_gli_dcd: take it and",
        ),
        ({"cases": "y"}, "are not all of the same data list"),
        ({"teacher": "t9"}, "dcd-1 in .* is of another teacher than that of its seed"),
        ({"course": None}, "dcd-1.json is no record of a run, it lacks course"),
        ("{", "dcd-1.json cannot be read: "),
        ("[]", "dcd-1.json must hold an object, got list"),
    ],
)
def test_runs_that_do_not_belong_together_are_refused(change: Any, said: str, study: Path, tmp_path: Path) -> None:
    path = tmp_path / "small" / "dcd-1.json"
    if isinstance(change, dict):
        record = {**json.loads(path.read_text()), **change}
        change = json.dumps({key: value for key, value in record.items() if value is not None})
    path.write_text(change)
    with pytest.raises(InputError, match=said):
        reported(study)
