"""A study from its file to its results, and what happens when it is stopped or changed."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from releases import commands, page
from tiny import BRATS, BUNDLES, HIPPOCAMPUS, TINY

from dcd_components import cli
from dcd_components.data.datalists import DataList, read_datalist, write_datalist
from dcd_components.data.marks import read_mark
from dcd_components.errors import InputError
from dcd_components.study import costs, plan, records, runner
from dcd_components.study.drawn_labels import draw_labels
from dcd_components.study.runner import Places
from dcd_components.tables import read_csv

METHODS = {"plain": {"workflow": "student"}, "dcd": {"settings": {"levels": 1}}}
DRAWN: Mapping[str, Any] = {"settings": {"train_folds": "$[2 + @seed, 4]"}, "drawn_folds": [4]}


def written(folder: Path, **changes: object) -> Path:
    content = {"bundle": str(BRATS), "overlays": ["quick"], "seeds": [0], "settings": TINY, "methods": METHODS}
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump({**content, **changes}, sort_keys=False))
    return path


@pytest.mark.usefixtures("forked")
def test_the_page_on_studies_runs(
    hippocampi: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its commands, in a folder with a smaller study of the same name."""
    (tmp_path / "studies").mkdir()
    written(tmp_path, bundle=str(HIPPOCAMPUS)).rename(tmp_path / "studies" / "hippocampus.yaml")
    (tmp_path / "bundles").symlink_to(BUNDLES)
    monkeypatch.chdir(tmp_path)
    work, results = tmp_path / "work", tmp_path / "studies" / "hippocampus"
    monkeypatch.setattr(costs, "ROUNDS", 1)
    datalist, study, timing, report = (
        shlex.split(line.replace("DIR", str(hippocampi)).replace("WORK", str(work)).replace("REPORT", "report"))[1:]
        for line in commands(page("studies"))
    )
    cli.main(datalist)
    cli.main(study)
    said = capsys.readouterr().out
    assert f"3 of 3 runs in {Path('studies', 'hippocampus')}" in said
    assert f"teacher-0 begins, see {work / 'teacher-0'}" in said
    names = [f"{name}-0" for name in ("dcd", "plain", "teacher")]
    assert {path.name for path in results.iterdir()} == {
        f"{name}{kind}" for name in names for kind in (".csv", ".json")
    }
    text = ("method", "case", "patient", "weights")
    rows = {name: read_csv(results / f"{name}.csv", text) for name in names}
    assert [len(of) for of in rows.values()] == [2, 2, 2]
    assert {row["method"] for row in rows["dcd-0"]} == {"dcd"}
    assert [row["case"] for row in rows["dcd-0"]] == [row["case"] for row in rows["plain-0"]]
    assert all(row["patient"].startswith("scan_") for row in rows["dcd-0"])
    records = {name: json.loads((results / f"{name}.json").read_text()) for name in names}
    assert records["dcd-0"]["settings"]["levels"] == 1
    assert records["teacher-0"]["parameters"] > 2 * records["dcd-0"]["parameters"] > 0
    assert "distillation_loss" in records["dcd-0"]["course"][0]
    assert "distillation_loss" not in records["plain-0"]["course"][0]
    assert records["dcd-0"]["weights"] == rows["dcd-0"][0]["weights"] != records["plain-0"]["weights"]
    before = {path: path.stat().st_mtime_ns for path in [*results.iterdir(), *work.rglob("model.pt")]}
    cli.main(study)
    assert all(path.stat().st_mtime_ns == then for path, then in before.items())
    check_details(study, records, results, work, capsys)
    with pytest.raises(InputError, match=r"no teacher at .*: run the study first, --index 0 is enough"):
        cli.main([*timing[:-2], str(tmp_path / "elsewhere"), timing[-1]])
    cli.main(timing)
    measured = json.loads((results / "costs.json").read_text())["methods"]
    assert list(measured) == ["teacher", "plain", "dcd"]
    assert measured["teacher"]["iteration_seconds"] is None
    assert all(one["patch_seconds"] > 0 for one in measured.values())
    cli.main(report)
    assert f"{measured['dcd']['iteration_seconds']:.3f}" in (tmp_path / "report" / "table.md").read_text()
    assert "| at most, with as many channels" in (tmp_path / "report" / "table.md").read_text()
    found = {path.name for path in (tmp_path / "report").iterdir()}
    pictures = {f"{name}.png" for name in ("differences", "sizes", "curves", "detail", "cases")}
    assert found == {"index.html", "table.md", "table.csv", *pictures}


def check_details(
    study: list[str],
    records: Mapping[str, Mapping[str, Any]],
    results: Path,
    work: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Students have theirs, one that lacks it gets it, and without weights the study says so."""
    assert "detail" not in records["teacher-0"]
    found = {name: records[name]["detail"] for name in ("plain-0", "dcd-0")}
    assert found["plain-0"] != found["dcd-0"]
    for of_stage in (one for stages in found.values() for one in stages.values()):
        assert set(of_stage["explained"]) == set(of_stage["energy"]["teacher"]) == {"aaa", "directional", "ddd"}
        assert all(share <= 1 for several in of_stage["explained"].values() for share in several)
    assert [*found["dcd-0"]] == ["input_block", "downsamples.0", "bottleneck"]
    older = results / "plain-0.json"
    older.write_text(json.dumps({key: value for key, value in records["plain-0"].items() if key != "detail"}))
    before = older.read_text()
    hidden = (work / "teacher-0" / "model.pt").rename(work / "hidden.pt")
    capsys.readouterr()
    cli.main(study)
    assert f"no weights in {work} to measure the detail of plain-0\n" in capsys.readouterr().out
    assert older.read_text() == before
    hidden.rename(work / "teacher-0" / "model.pt")
    cli.main(study)
    assert json.loads(older.read_text()) == records["plain-0"]


@pytest.mark.usefixtures("forked")
def test_students_train_on_what_their_teacher_has_drawn(patients: Path, tmp_path: Path) -> None:
    """Of cases that count as unlabelled, no label is read; the others keep theirs."""
    own = {"workflow": "student", **DRAWN}
    methods = {"plain": {"workflow": "student"}, "masks": own}
    folds = {"train_folds": [2]}
    study = plan.read_study(written(tmp_path, methods=methods, teacher=folds, students=folds))
    listed = json.loads((patients / "datalist.json").read_text())
    for case in listed["training"]:
        if case["fold"] == 4:
            case["label"] = "nowhere.nii.gz"
    (tmp_path / "datalist.json").write_text(json.dumps(listed))
    places = Places(patients, tmp_path / "datalist.json", tmp_path / "work")
    for index in (0, 2):
        runner.run_study(study, places, index=index)
    folder = tmp_path / "work" / "masks-0"
    content = json.loads((folder / "datalist.json").read_text())
    masks = {case["case"]: case["label"] for case in content["training"] if case["fold"] == 4}
    assert masks == {case: str(folder / "drawn" / f"{case}_seg.nii.gz") for case in masks}
    assert len(masks) == 2
    teacher = json.loads((study.results / "teacher-0.json").read_text())["weights"]
    assert all((mark := read_mark(path)) and mark.weights == teacher for path in masks.values())
    others = {case["case"]: case for case in content["training"] if case["fold"] != 4}
    assert others == {case["case"]: case for case in listed["training"] if case["fold"] != 4}
    record = json.loads((study.results / "masks-0.json").read_text())
    assert (record["settings"]["drawn_folds"], record["teacher"]) == ([4], teacher)
    assert (
        "masks that this project wrote and nobody changed are taken for labels" in (folder / "student.txt").read_text()
    )


def test_a_program_that_the_main_thread_waits_for_ends_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that draws masks, when the measurement of costs is stopped."""
    told: list[str] = []

    class Program:
        def wait(self) -> int:
            raise KeyboardInterrupt

        def terminate(self) -> None:
            told.append("end")

    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: Program())
    with runner.Programs() as programs, pytest.raises(KeyboardInterrupt):
        programs(["draw"], tmp_path / "log", None)
    assert told == ["end"]


def test_students_that_train_on_masks_need_their_teacher(
    called: list[str], places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those that are not distilled from it."""
    drawn: list[str] = []

    def draw(study: plan.Study, run: plan.Run, *_: Any) -> Path:
        drawn.append(run.name)
        return tmp_path / "drawn.json"

    monkeypatch.setattr(runner, "draw_labels", draw)
    study = plan.read_study(written(tmp_path, methods={"masks": {"workflow": "student", **DRAWN}}))
    with pytest.raises(InputError, match="masks-0 needs teacher-0, which is not there"):
        runner.run_study(study, places, index=1)
    runner.run_study(study, places, processes=2)
    assert called == ["teacher-0 teacher", "teacher-0 evaluate", "masks-0 student", "masks-0 evaluate"]
    assert drawn == ["masks-0"]
    (places.work / "teacher-0" / "model.pt").unlink()
    (study.results / "masks-0.json").unlink()
    called.clear()
    runner.run_study(study, places, processes=2)
    assert called == ["teacher-0 teacher", "masks-0 student", "masks-0 evaluate"]


@pytest.fixture
def listed(tmp_path: Path) -> Places:
    """Two cases of folds 3 and 4."""
    cases = [{"image": ["a.nii.gz"], "case": f"c{fold}", "patient": f"p{fold}", "fold": fold} for fold in (3, 4)]
    path = tmp_path / "datalist.json"
    write_datalist(DataList([{**case, "label": "seg.nii.gz"} for case in cases], ["t1"], "t1"), path)
    return Places(tmp_path, path, tmp_path / "work")


def test_a_teacher_draws_with_its_own_settings(listed: Places, tmp_path: Path) -> None:
    said: list[Any] = []
    other = {**DRAWN["settings"], "widths": [8, 8, 16]}
    methods = {"masks": {"network": "shallow_student", **DRAWN, "settings": other}}
    teacher = {"train_folds": [2], "teacher_widths": [16, 32, 64]}
    study = plan.read_study(written(tmp_path, methods=methods, teacher=teacher, seeds=[0, 1]))
    for _ in range(2):  # as in a run that is resumed
        path = draw_labels(study, study.runs[3], listed, tmp_path, tmp_path / "t.pt", lambda *words: said.append(words))
    workflow, overlays, settings = said[0]
    assert (workflow, overlays, said[1]) == ("segment", ["teacher", "quick"], said[0])
    assert (settings["teacher_widths"], settings["ckpt_path"]) == ([16, 32, 64], tmp_path / "t.pt")
    assert not {"widths", "train_folds"} & {*settings}
    cases = {case["case"]: case["label"] for case in read_datalist(path).cases}
    assert cases == {"c3": "seg.nii.gz", "c4": str(tmp_path / "drawn" / "c4_seg.nii.gz")}
    assert [case["case"] for case in json.loads(settings["datalist"].read_text())["test"]] == ["c4"]


@pytest.mark.parametrize(
    ("folds", "drawn", "teacher", "said"),
    [
        ([2], [4], {}, r"the drawn_folds of masks must be among its train_folds, \[2\]: 4 is not"),
        ([0, 1, 2], [0, 1], {}, "the drawn_folds of masks must not be among its val_folds and test_folds: 0, 1 is"),
        ([2, 4], [4], {"train_folds": [3, 4]}, "the drawn_folds of masks must be unknown to its teacher, .* have 4"),
        ([2, 4], [4], {}, "the drawn_folds of masks must be unknown to its teacher, whose train_folds have 4"),
        (None, [7], {"train_folds": [2]}, "datalist.json has no case in fold 7, of which masks are to be drawn"),
    ],
    ids=["not trained on", "held out", "known", "all known", "empty"],
)
def test_masks_of_other_folds_are_refused(
    listed: Places, tmp_path: Path, folds: list[int] | None, drawn: list[int], teacher: dict[str, Any], said: str
) -> None:
    methods = {"masks": {"workflow": "student", "settings": {"train_folds": folds}, "drawn_folds": drawn}}
    study = plan.read_study(written(tmp_path, methods=methods, teacher=teacher))
    with pytest.raises(InputError, match=said):
        draw_labels(study, study.runs[1], listed, tmp_path, tmp_path / "t.pt", lambda *_: pytest.fail("called"))


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of what is run, which takes no time; the evaluation scores one case."""
    calls: list[str] = []

    def call(
        study: Any,
        programs: Any,
        folder: Path,
        threads: Any,
        workflow: str,
        overlays: Any,
        settings: Mapping[str, Any],
        *_: str,
    ) -> None:
        calls.append(f"{folder.name} {workflow}")
        if workflow == "evaluate":
            Path(settings["output_dir"]).mkdir()
            (Path(settings["output_dir"]) / "scores.csv").write_text("case,dice_ET,weights\na,0.5,x\n")
        else:
            (folder / "model.pt").touch()
            (folder / "model_training.csv").write_text("epoch,loss\n1,0.5\n")

    monkeypatch.setattr(runner, "run_workflow", call)
    monkeypatch.setattr(runner, "weights_digest", lambda path: "x")
    monkeypatch.setattr(runner, "add_details", lambda *_: [])  # of weights that are none
    return calls


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Places:
    cases = type("List", (), {"cases": [{"case": "a", "patient": "p", "fold": 0}]})
    for module in (runner, records):
        monkeypatch.setattr(module, "read_datalist", lambda path: cases)
    return Places(tmp_path, tmp_path / "datalist.json", tmp_path / "work")


def test_what_is_there_is_not_run_again_and_what_is_half_there_is(
    called: list[str], places: Places, tmp_path: Path
) -> None:
    study = plan.read_study(written(tmp_path, seeds=[0, 1]))
    runner.run_study(study, places)
    assert called == [
        f"{method}-{seed} {workflow}"
        for seed in (0, 1)
        for method, own in (("teacher", "teacher"), ("plain", "student"), ("dcd", "distill"))
        for workflow in (own, "evaluate")
    ]
    called.clear()
    (study.results / "dcd-1.json").unlink()  # killed between its two files
    assert runner.run_study(study, places) == f"6 of 6 runs in {study.results}"
    assert called == ["dcd-1 distill", "dcd-1 evaluate"]


def test_a_teacher_whose_weights_are_gone_is_trained_anew_where_it_is_needed(
    called: list[str], places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = plan.read_study(written(tmp_path))
    runner.run_study(study, places, processes=2)
    (places.work / "teacher-0" / "model.pt").unlink()
    called.clear()
    runner.run_study(study, places)  # nobody needs it
    assert not called
    before = {name: (study.results / name).read_text() for name in ("teacher-0.json", "teacher-0.csv")}
    (study.results / "dcd-0.json").unlink()
    assert runner.run_study(study, places, processes=2) == f"3 of 3 runs in {study.results}"
    assert called == ["teacher-0 teacher", "dcd-0 distill", "dcd-0 evaluate"]
    (places.work / "teacher-0" / "model.pt").unlink()
    (study.results / "dcd-0.json").unlink()
    monkeypatch.setattr(runner, "weights_digest", lambda path: "y")
    with pytest.raises(InputError, match=r"model.pt, trained anew, is not the teacher of .*teacher-0.json: take that "):
        runner.run_study(study, places)
    assert {name: (study.results / name).read_text() for name in before} == before


def test_one_run_of_a_number_and_its_teacher_first(called: list[str], places: Places, tmp_path: Path) -> None:
    study = plan.read_study(written(tmp_path))
    with pytest.raises(InputError, match="dcd-0 needs teacher-0, which is not there"):
        runner.run_study(study, places, index=2)
    assert runner.run_study(study, places, index=0) == f"1 of 3 runs in {study.results}"
    runner.run_study(study, places, index=2)
    assert called == ["teacher-0 teacher", "teacher-0 evaluate", "dcd-0 distill", "dcd-0 evaluate"]
    with pytest.raises(InputError, match=r"index must be from 0 to 2, the last run of .*, got 3"):
        runner.run_study(study, places, index=3)


@pytest.mark.usefixtures("called")
def test_detail_is_measured_with_as_many_threads_as_processes(
    places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, before = list[int](), torch.get_num_threads()

    def add(*_: object) -> list[str]:
        seen.append(torch.get_num_threads())
        return ["dcd-0"]

    monkeypatch.setattr(runner, "add_details", add)
    study = plan.read_study(written(tmp_path))
    said = [runner.run_study(study, places, processes) for processes in (1, before + 1)]
    assert seen == [before, before + 1]
    assert torch.get_num_threads() == before
    assert said[0] == f"3 of 3 runs in {study.results}; no weights in {places.work} to measure the detail of dcd-0"


@pytest.mark.usefixtures("called")
def test_results_of_other_settings_are_neither_taken_nor_replaced(places: Places, tmp_path: Path) -> None:
    runner.run_study(plan.read_study(written(tmp_path)), places)
    other = plan.read_study(written(tmp_path, methods={**METHODS, "dcd": {"settings": {"levels": 2}}}))
    before = (other.results / "dcd-0.json").read_text()
    with pytest.raises(InputError, match=r"dcd-0.json was run with another levels, 1, than is said now, 2: take it"):
        runner.run_study(other, places)
    assert (other.results / "dcd-0.json").read_text() == before
    for kind in (".json", ".csv"):
        (other.results / f"dcd-0{kind}").unlink()
    with pytest.raises(InputError, match=r"dcd-0 was begun with another levels, 1, than is said now, 2: delete the"):
        runner.run_study(other, places)


@pytest.mark.usefixtures("called")
def test_runs_of_other_cases_or_of_another_teacher_are_not_taken(
    places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = plan.read_study(written(tmp_path))
    runner.run_study(study, places, index=0)
    monkeypatch.setattr(runner, "weights_digest", lambda path: "y")
    with pytest.raises(InputError, match=r"model.pt is not there, or not the teacher of .*teacher-0.json: take that"):
        runner.run_study(study, places, index=2)
    monkeypatch.setattr(runner, "cases_digest", lambda path: "others")
    with pytest.raises(InputError, match=r"teacher-0.json was run with another cases, \w+, than is said now, others"):
        runner.run_study(study, places)


def test_a_folder_in_which_another_study_works_is_left_alone(called: list[str], places: Places, tmp_path: Path) -> None:
    words = "import sys, time; from pathlib import Path; from dcd_components.handlers.training_lock import TrainingLock"
    words += "; TrainingLock(Path(sys.argv[1])).take(); print('taken', flush=True); time.sleep(99)"
    other = subprocess.Popen([sys.executable, "-W", "ignore", "-c", words, str(places.work / "teacher-0")], stdout=-1)
    assert other.stdout
    try:
        other.stdout.readline()
        with pytest.raises(InputError, match=r"another study is at work in .*teacher-0: wait for its end"):
            runner.run_study(plan.read_study(written(tmp_path)), places, index=0)
    finally:
        other.kill()
        other.communicate()
    assert not called


def test_no_process_is_none(places: Places, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="processes must be at least 1, got 0"):
        runner.run_study(plan.read_study(written(tmp_path)), places, processes=0)


def test_a_run_that_fails_is_named_at_the_end_and_the_others_are_done(
    called: list[str], places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = runner.run_workflow

    def call(study: Any, programs: Any, folder: Path, *words: Any) -> None:
        if folder.name in ("teacher-0", "plain-1"):
            raise InputError(f"{folder.name} fails")
        whole(study, programs, folder, *words)

    monkeypatch.setattr(runner, "run_workflow", call)
    study = plan.read_study(written(tmp_path, seeds=[0, 1]))
    said = "3 runs are missing:\n  teacher-0 fails\n  plain-1 fails\n  dcd-0 needs teacher-0, which is not there"
    with pytest.raises(InputError, match=f"^{said}$"):
        runner.run_study(study, places)
    assert {name.split()[0] for name in called} == {"plain-0", "teacher-1", "dcd-1"}


def test_a_program_that_fails_is_told_with_its_last_words(patients: Path, tmp_path: Path) -> None:
    study = plan.read_study(written(tmp_path))
    places = Places(tmp_path / "nowhere", patients / "datalist.json", tmp_path / "work")
    with pytest.raises(InputError, match=r"teacher of teacher-0 failed, see .*teacher.txt: error: "):
        runner.run_study(study, places, index=0)
    assert not study.results.exists()


STUDY = """
import sys
from pathlib import Path
from dcd_components.study import plan, runner
runner.cases_digest = lambda path: "x"
runner.run_workflow = lambda study, programs, folder, *_: programs([sys.executable, "-c", LOOP], folder / "log", None)
LOOP = "import signal, time; signal.signal(15, lambda *_: exit(print('ended'))); print('begun', flush=True); "
LOOP += "time.sleep(99)"
runner.run_study(plan.read_study(Path(sys.argv[1])), runner.Places(Path(), Path(), Path(sys.argv[2])), 2)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_study_that_is_stopped_stops_its_programs(number: int, tmp_path: Path) -> None:
    words = [sys.executable, "-W", "ignore", "-c", STUDY, str(written(tmp_path)), str(tmp_path / "work")]
    study = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    logs = [tmp_path / "work" / name / "log" for name in ("teacher-0", "plain-0")]
    while study.poll() is None and not all(log.is_file() and log.read_text() for log in logs):
        time.sleep(0.05)
    study.send_signal(number)
    try:
        assert study.wait(30) != 0
    finally:
        study.kill()
    assert [log.read_text() for log in logs] == ["begun\nended\n"] * 2
