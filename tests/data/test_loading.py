from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from trees import BRATS, ISLES, brats_files, isles_files, save

from dcd_components.data.datalists import make_datalist, write_datalist
from dcd_components.data.loading import load_cases

CASES = ("BraTS-GLI-00000-000", "BraTS-GLI-00001-000")


@pytest.fixture
def two_cases(tmp_path: Path) -> Path:
    for case in CASES:
        for file in brats_files(case):
            save(tmp_path / file)
    write_datalist(make_datalist(tmp_path, BRATS, folds=2)[0], tmp_path / "datalist.json")
    return tmp_path


def load(folder: Path, *folds: int) -> list[dict[str, object]]:
    return load_cases(folder / "datalist.json", folder, BRATS.files, list(folds))


def test_cases_of_the_wanted_folds_are_loaded_with_full_paths(two_cases: Path) -> None:
    both = load(two_cases, 0, 1)
    assert len(both) == 2
    for fold in (0, 1):
        (case,) = load(two_cases, fold)
        assert case in both
        assert Path(str(case["image"])).is_file()
        assert case["label"] == str(two_cases / f"{case['case']}" / f"{case['case']}-seg.nii.gz")


def test_the_stamp_of_a_case_follows_any_of_its_files(two_cases: Path) -> None:
    before = {case["case"]: case["stamp"] for case in load(two_cases, 0, 1)}
    os.utime(two_cases / brats_files(CASES[1])[3], ns=(1, 1))
    after = {case["case"]: case["stamp"] for case in load(two_cases, 0, 1)}
    assert before[CASES[0]] == after[CASES[0]]
    assert before[CASES[1]] != after[CASES[1]]


def test_the_stamp_of_a_case_follows_the_names_of_its_files(two_cases: Path) -> None:
    (plain,) = load(two_cases, 0)
    swapped = {**BRATS.files, "t1c": BRATS.files["t2f"]}
    (other,) = load_cases(two_cases / "datalist.json", two_cases, swapped, [0])
    assert plain["stamp"] != other["stamp"]


def test_all_folds_train_that_are_not_held_out(two_cases: Path) -> None:
    listed = two_cases / "datalist.json"
    others = load_cases(listed, two_cases, BRATS.files, None, held_out=[0, 7])
    assert others == load_cases(listed, two_cases, BRATS.files, [1])
    with pytest.raises(ValueError, match=r"no labelled case outside the held out folds \[0, 1\]"):
        load_cases(listed, two_cases, BRATS.files, None, held_out=[0, 1])


def test_a_fold_that_is_held_out_and_trained_on_is_logged(two_cases: Path, caplog: pytest.LogCaptureFixture) -> None:
    load_cases(two_cases / "datalist.json", two_cases, BRATS.files, [0], held_out=[1])
    assert caplog.text == ""
    load_cases(two_cases / "datalist.json", two_cases, BRATS.files, [0, 1], held_out=[1])
    assert "fold [1] is trained on and held out" in caplog.text


def test_a_label_of_four_axes_is_named(two_cases: Path) -> None:
    save(two_cases / brats_files(CASES[0])[4], shape=(2, 3, 4, 2))
    with pytest.raises(ValueError, match=r"seg.nii.gz has shape \(2, 3, 4, 2\), expected three axes$"):
        load(two_cases, 0, 1)


def test_a_missing_list_is_named_with_the_command_that_writes_it(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"no data list at .*datalist.json: .*python -m dcd_components datalist"
    ):
        load(tmp_path, 0)


@pytest.mark.parametrize(
    ("folds", "message"),
    [
        pytest.param([0, 7, 5], r"has no case in fold 5, 7$", id="absent"),
        pytest.param([], r"has no case in fold list \[\]$", id="none asked for"),
    ],
)
def test_a_fold_without_cases_is_named(two_cases: Path, folds: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(two_cases, *folds)


def test_folds_that_are_no_list_are_refused(two_cases: Path) -> None:
    with pytest.raises(ValueError, match=r"^folds must be a list, such as \[0\], got 0$"):
        load_cases(two_cases / "datalist.json", two_cases, BRATS.files, 0)  # type: ignore[arg-type]


def test_missing_files_of_all_cases_are_named_at_once(two_cases: Path) -> None:
    (two_cases / brats_files(CASES[0])[2]).unlink()
    (two_cases / brats_files(CASES[1])[4]).unlink()
    with pytest.raises(ValueError, match=r"00000-000-t2w.nii.gz is missing; .*00001-000-seg.nii.gz is missing$"):
        load(two_cases, 0, 1)


def test_a_file_of_another_shape_is_named_with_both_shapes(two_cases: Path) -> None:
    save(two_cases / brats_files(CASES[1])[3], shape=(2, 3, 5))
    with pytest.raises(ValueError, match=r"t2f.nii.gz: shape 2x3x5, expected 2x3x4 as its label$"):
        load(two_cases, 0, 1)


def test_another_affine_is_named(two_cases: Path) -> None:
    save(two_cases / brats_files(CASES[1])[1], affine=2.0)
    with pytest.raises(ValueError, match=r"t1c.nii.gz: spacing 2x2x2 mm, expected 1x1x1 mm as its label$"):
        load(two_cases, 0, 1)


def test_an_unreadable_file_is_named(two_cases: Path) -> None:
    (two_cases / brats_files(CASES[0])[0]).write_text("no image")
    with pytest.raises(ValueError, match=rf"^{CASES[0]} cannot be read: .*t1n.nii.gz"):
        load(two_cases, 0, 1)


def test_only_the_first_eight_of_many_faults_are_listed(two_cases: Path) -> None:
    for case in CASES:
        for file in brats_files(case):
            (two_cases / file).unlink()
    with pytest.raises(ValueError, match=r"t1n.nii.gz is missing; (.* is missing; ){7}and 2 more$"):
        load(two_cases, 0, 1)


@pytest.mark.parametrize("layout", ["challenge", "zenodo"])
def test_a_sequence_on_a_grid_of_its_own_may_differ(layout: str, tmp_path: Path) -> None:
    files = isles_files(1, layout)
    for file in files:
        save(tmp_path / file, (9, 9, 2) if re.search("flair", file, re.IGNORECASE) else (2, 3, 4))
    write_datalist(make_datalist(tmp_path, ISLES, folds=1)[0], tmp_path / "datalist.json")
    (case,) = load_cases(tmp_path / "datalist.json", tmp_path, ISLES.files, [0], ISLES.own_grid)
    assert case["image"] == str(tmp_path / files[1])
    with pytest.raises(ValueError, match=r"(?i)flair.nii.gz: shape 9x9x2, expected 2x3x4 as its label$"):
        load_cases(tmp_path / "datalist.json", tmp_path, ISLES.files, [0])
