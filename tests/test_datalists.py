import json
import re
from collections import Counter, defaultdict
from pathlib import Path

import nibabel
import numpy as np
import pytest

from dcd_components.datalists import Case, load_cases, make_datalist, sibling, write_datalist

BRATS = ("t1n", "t1c", "t2w", "t2f")
SHIFTS = ("Flair_subtrMeanDivStd", "T1_subtrMeanDivStd")
PATIENT = r"(.+)-\d{3}$"


def add_case(
    root: Path, case: str, names: tuple[str, ...] = (*BRATS, "seg"), shape: tuple[int, ...] = (2, 3, 4)
) -> None:
    (root / case).mkdir(parents=True)
    for name in names:
        nibabel.save(nibabel.Nifti1Image(np.zeros(shape, np.uint8), np.eye(4)), root / case / f"{case}-{name}.nii.gz")


def listed(root: Path) -> Path:
    write_datalist(make_datalist(root, BRATS, "seg", patient=PATIENT, folds=2), root / "datalist.json", "a test")
    return root / "datalist.json"


@pytest.fixture
def visits(tmp_path: Path) -> Path:
    """12 patients with 1, 2 or 3 visits of empty files each, 24 cases in all."""
    for patient in range(12):
        for visit in range(1 + patient % 3):
            case = f"GLI-{patient:05d}-{visit:03d}"
            (tmp_path / case).mkdir()
            for name in (*BRATS, "seg"):
                (tmp_path / case / f"{case}-{name}.nii.gz").touch()
    return tmp_path


@pytest.fixture
def two_cases(tmp_path: Path) -> Path:
    for case in ("GLI-00000-000", "GLI-00001-000"):
        add_case(tmp_path, case)
    return tmp_path


@pytest.mark.parametrize(
    ("path", "sequences", "name", "expected"),
    [
        pytest.param("a-000/a-000-t1n.nii.gz", BRATS, "t2f", "a-000/a-000-t2f.nii.gz", id="suffix"),
        pytest.param("a-t1n/a-t1n.nii.gz", BRATS, "seg", "a-t1n/a-seg.nii.gz", id="name in the folder too"),
        pytest.param(
            "a/Flair_subtrMeanDivStd.nii.gz", SHIFTS, SHIFTS[1], "a/T1_subtrMeanDivStd.nii.gz", id="whole name"
        ),
        pytest.param("a/Flair_subtrMeanDivStd.nii", SHIFTS, "mask", "a/mask.nii", id="not compressed"),
        pytest.param("a/x-T1c.nii.gz", ("T1", "T1c"), "T1", "a/x-T1.nii.gz", id="one name begins another"),
        pytest.param("a/x-t1+c.nii.gz", ("t1+c", "t1"), "t1", "a/x-t1.nii.gz", id="special characters"),
    ],
)
def test_paths_of_one_case_differ_in_the_name_of_the_sequence(
    path: str, sequences: tuple[str, ...], name: str, expected: str
) -> None:
    assert sibling(path, sequences, name) == expected


def test_every_case_is_listed_once_with_its_files_and_its_patient(visits: Path) -> None:
    cases = make_datalist(visits, BRATS, "seg", patient=PATIENT)
    assert len(cases) == 24
    fold = cases[1].pop("fold")
    assert fold in range(5)
    assert cases[1] == {
        "image": "GLI-00001-000/GLI-00001-000-t1n.nii.gz",
        "label": "GLI-00001-000/GLI-00001-000-seg.nii.gz",
        "case": "GLI-00001-000",
        "patient": "GLI-00001",
    }


@pytest.mark.parametrize("seed", range(4))
def test_folds_keep_patients_whole_and_are_balanced_in_cases(visits: Path, seed: int) -> None:
    cases = make_datalist(visits, BRATS, "seg", patient=PATIENT, folds=5, seed=seed)
    folds = defaultdict(set)
    for case in cases:
        folds[case["patient"]].add(case["fold"])
    assert len(folds) == 12
    assert all(len(of_patient) == 1 for of_patient in folds.values())
    assert sorted(Counter(case["fold"] for case in cases).values()) == [4, 5, 5, 5, 5]


def test_folds_follow_the_seed_alone(visits: Path) -> None:
    first, again, other = (make_datalist(visits, BRATS, "seg", patient=PATIENT, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_without_a_pattern_each_case_is_a_patient(visits: Path) -> None:
    assert all(case["patient"] == case["case"] for case in make_datalist(visits, BRATS, "seg"))


def test_files_named_by_the_sequence_alone_are_found_at_any_depth(tmp_path: Path) -> None:
    folder = tmp_path / "train" / "patient7"
    folder.mkdir(parents=True)
    for name in (*SHIFTS, "mask"):
        (folder / f"{name}.nii.gz").touch()
    (case,) = make_datalist(tmp_path, SHIFTS, "mask", folds=1)
    assert case["image"] == "train/patient7/Flair_subtrMeanDivStd.nii.gz"
    assert case["label"] == "train/patient7/mask.nii.gz"
    assert (case["case"], case["fold"]) == ("patient7", 0)


def test_all_faults_of_a_data_set_are_reported_at_once(visits: Path) -> None:
    (visits / "GLI-00001-000" / "GLI-00001-000-t2f.nii.gz").unlink()
    (visits / "GLI-00002-001" / "GLI-00002-001-seg.nii.gz").unlink()
    (visits / "GLI-00003-000").rename(visits / "odd")
    message = (
        r"^3 faults in .*: .*00001-000-t2f.nii.gz is missing; .*00002-001-seg.nii.gz is missing; odd does not match"
    )
    with pytest.raises(ValueError, match=message):
        make_datalist(visits, BRATS, "seg", patient=PATIENT)


def test_a_folder_without_cases_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=rf"no file named \*t1n.nii.gz in the sub-folders of {re.escape(str(tmp_path))}"
    ):
        make_datalist(tmp_path, BRATS, "seg")


def test_written_list_has_the_form_of_the_decathlon(two_cases: Path) -> None:
    written = json.loads(listed(two_cases).read_text())
    assert written == {
        "description": "a test",
        "training": make_datalist(two_cases, BRATS, "seg", patient=PATIENT, folds=2),
    }


def test_cases_of_the_wanted_folds_are_loaded_with_full_paths(two_cases: Path) -> None:
    both = load_cases(listed(two_cases), two_cases, BRATS, [0, 1])
    assert len(both) == 2
    for fold in (0, 1):
        (case,) = load_cases(two_cases / "datalist.json", two_cases, BRATS, [fold])
        assert case in both
        assert case["fold"] == fold
        assert Path(str(case["image"])).is_file()
        assert case["label"] == str(two_cases / f"{case['case']}" / f"{case['case']}-seg.nii.gz")


def test_a_missing_list_is_named_with_the_command_that_writes_it(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"no data list at .*datalist\.json: .*python -m dcd_components datalist"
    ):
        load_cases(tmp_path / "datalist.json", tmp_path, BRATS, [0])


@pytest.mark.parametrize(
    ("folds", "message"),
    [
        pytest.param([0, 7, 5], r"has no case in fold 5, 7$", id="absent"),
        pytest.param([], r"has no case in fold list \[\]$", id="none asked for"),
    ],
)
def test_a_fold_without_cases_is_named(two_cases: Path, folds: list[int], message: str) -> None:
    path = listed(two_cases)
    with pytest.raises(ValueError, match=message):
        load_cases(path, two_cases, BRATS, folds)


def test_missing_files_of_all_cases_are_named_at_once(two_cases: Path) -> None:
    path = listed(two_cases)
    for name in ("GLI-00000-000/GLI-00000-000-t2w", "GLI-00001-000/GLI-00001-000-seg"):
        (two_cases / f"{name}.nii.gz").unlink()
    with pytest.raises(ValueError, match=r"00000-000-t2w.nii.gz is missing; .*00001-000-seg.nii.gz is missing$"):
        load_cases(path, two_cases, BRATS, [0, 1])


@pytest.mark.parametrize("name", ["t2f", "seg"])
def test_a_file_of_another_shape_is_named_with_both_shapes(two_cases: Path, name: str) -> None:
    path = listed(two_cases)
    file = two_cases / "GLI-00001-000" / f"GLI-00001-000-{name}.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.zeros((2, 3, 5), np.uint8), np.eye(4)), file)
    message = rf"{name}.nii.gz has shape \(2, 3, 5\), expected \(2, 3, 4\) as GLI-00001-000-t1n.nii.gz has$"
    with pytest.raises(ValueError, match=message):
        load_cases(path, two_cases, BRATS, [0, 1])


def test_only_the_first_eight_of_many_faults_are_listed(tmp_path: Path) -> None:
    cases: list[Case] = [
        {"image": f"{i}-t1n.nii.gz", "label": f"{i}-seg.nii.gz", "case": str(i), "patient": str(i), "fold": 0}
        for i in range(2)
    ]
    write_datalist(cases, tmp_path / "datalist.json", "")
    with pytest.raises(ValueError, match=r"0-t1n.nii.gz is missing; (.* is missing; ){7}and 2 more$"):
        load_cases(tmp_path / "datalist.json", tmp_path, BRATS, [0])


def test_another_affine_is_named(two_cases: Path) -> None:
    path = listed(two_cases)
    file = two_cases / "GLI-00001-000" / "GLI-00001-000-t1c.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.asarray(nibabel.load(file).dataobj), np.diag([2.0, 1, 1, 1])), file)
    with pytest.raises(ValueError, match=r"t1c.nii.gz has another affine than GLI-00001-000-t1n.nii.gz$"):
        load_cases(path, two_cases, BRATS, [0, 1])


@pytest.mark.parametrize("text", ["{", "[]", '{"training": [{"image": "a"}]}'], ids=["no JSON", "no dict", "keys"])
def test_a_list_of_another_form_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "datalist.json").write_text(text)
    with pytest.raises(ValueError, match=r"datalist.json must (be JSON|have image)"):
        load_cases(tmp_path / "datalist.json", tmp_path, BRATS, [0])
