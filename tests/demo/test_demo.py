"""The demo from its first command to its table, at the smallest size."""

from __future__ import annotations

import subprocess
from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from forked import run_module
from tiny import BRATS, HIPPOCAMPUS

from dcd_components.benchmarks import training
from dcd_components.demo import demo
from dcd_components.demo.demo import STEPS, TRAININGS, Demo, Size
from dcd_components.demo.report import DISTILLED, PLAIN
from dcd_components.errors import InputError
from dcd_components.tables import read_csv

TINY = Size(
    cases=6,
    folds=3,
    test_folds=(0,),
    val_folds=(1,),
    teacher_epochs=1,
    student_epochs=1,
    rounds=1,
    images=("--spacing_mm=4", "--size", "40", "48", "40"),
    settings={
        "spacing": [4.0, 4.0, 4.0],
        "patch_size": [16, 16, 16],
        "teacher_widths": [16, 16, 32],
        "epoch_length": 2,
        "val_interval": 1,
        "sliding_window::overlap": 0.0,
        "sliding_window::sw_batch_size": 9,
    },
)


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The programs of the steps run forked, since to start one takes longer than what it does."""

    def said_by(arguments: Sequence[str]) -> Generator[str, None, None]:
        status, said = run_module(arguments[0], arguments[1:], Path.cwd())
        yield from said.splitlines(keepends=True)
        if status:
            raise subprocess.CalledProcessError(status, [*arguments])

    monkeypatch.setattr(demo, "said_by", said_by)


@pytest.mark.usefixtures("forked")
def test_the_demo_ends_with_its_table_pictures_and_a_mask(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Demo(tmp_path, BRATS, 0, TINY).run()
    said = capsys.readouterr().out
    assert (tmp_path / "table.md").read_text().strip() in said
    assert [row["model"] for row in read_csv(tmp_path / "table.csv", text=["model"])] == list(TRAININGS)
    assert said.count("means of 2 cases: mean Dice") == len(TRAININGS)
    (log,) = (tmp_path / "logs").glob("* train distilled.txt")
    assert "the student starts as the most important channels of its teacher" in log.read_text()
    assert f"[{len(STEPS) - 1}/{len(STEPS) - 1}] segment the new case" in said
    assert len(list((tmp_path / "new_case").glob("*_seg.nii.gz"))) == 1
    assert {path.name for path in tmp_path.glob("*.png")} == {"cases.png", "curves.png", "new_case.png"}
    assert sorted(path.stem for path in (tmp_path / "weights").glob("*.pt")) == [
        "distilled",
        "plain",
        "plain_equal_cost",
        "teacher",
    ]


@pytest.mark.usefixtures("forked")
def test_it_takes_real_patients_too(hippocampi: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(hippocampi.rglob("*"))
    size = replace(TINY, folds=5)
    Demo(tmp_path, HIPPOCAMPUS, 0, size, hippocampi).run()
    said = capsys.readouterr().out
    assert said.count("means of 2 cases: mean Dice") == len(TRAININGS)
    assert f"[{len(STEPS) - 2}/{len(STEPS) - 2}] segment the new case" in said
    assert {path.name for path in tmp_path.glob("*.png")} == {"cases.png", "curves.png", "new_case.png"}
    assert sorted(hippocampi.rglob("*")) == before


def test_an_iteration_costs_its_share_of_the_start_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "seconds", lambda *_, **__: {PLAIN: 0.2, DISTILLED: 0.3})
    monkeypatch.setattr(training, "start_seconds", lambda *_, **__: {PLAIN: 0.0, DISTILLED: 7.0})
    size = Size(student_epochs=14, settings={"epoch_length": 50})
    assert Demo(tmp_path, BRATS, 0, size)._time_iterations() == pytest.approx({PLAIN: 0.2, DISTILLED: 0.31})


def test_a_step_that_fails_is_named_with_its_last_words(tmp_path: Path) -> None:
    wrong = Size(cases=1, folds=3)
    with pytest.raises(InputError, match=r"step 'simulate patients' failed, see .*01 simulate patients.txt: error: "):
        Demo(tmp_path, BRATS, 0, wrong).run()


def test_the_lines_of_a_step_are_those_of_both_streams_and_of_its_progress_bar(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = "import sys; print('first', flush=True); sys.stderr.write('1%|\\r2%|\\n'); print(*sys.argv[1:])"
    (tmp_path / "step.py").write_text(module)
    monkeypatch.chdir(tmp_path)
    assert [*demo.said_by(["step", "last", "one"])] == ["first\n", "1%|\n", "2%|\n", "last one\n"]


def test_a_folder_that_holds_something_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(InputError, match="exists and is not an empty folder"):
        demo.run(str(tmp_path))


def test_an_unknown_task_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown task 'liver'; choose brats_gli, hippocampus, isles22"):
        demo.run(str(tmp_path / "new"), task="liver")
