"""The cases to segment are found, and what is wrong with one is said of it alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from torch.utils.data import DataLoader
from trees import BRATS, brats_files, save

from dcd_components.data.case_files import FAULT, Layout
from dcd_components.data.cases import LoadCased, sequence_files
from dcd_components.data.nifti import read_volume
from dcd_components.data.unlabelled_cases import SoundCases, checked_cases, inference_cases
from dcd_components.errors import InputError, input_error

CASES = ("BraTS-GLI-00000-000", "BraTS-GLI-00001-000")
ONE = Layout({"t1": "{case}.nii.gz"})


def test_all_cases_below_a_folder_are_found_whether_they_have_a_label_or_not(two_cases: Path) -> None:
    (two_cases / brats_files(CASES[1])[4]).unlink()
    items = inference_cases(two_cases, BRATS)
    expected = [[str(two_cases / file) for file in brats_files(case)[:4]] for case in CASES]
    assert items == [{"image": paths, "case": case} for paths, case in zip(expected, CASES, strict=True)]


def test_an_incomplete_case_comes_with_its_fault_and_the_others_without(two_cases: Path) -> None:
    (two_cases / brats_files(CASES[0])[1]).unlink()
    sound, faulty = inference_cases(two_cases, BRATS)
    assert faulty == {"case": CASES[0], FAULT: f"{CASES[0]}: {CASES[0]}/{CASES[0]}-t1c.nii.gz: missing"}
    assert sound["case"] == CASES[1]


def test_a_folder_without_a_case_is_named_with_the_patterns(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"^no file below {tmp_path} fits \{{case\}}-t1n.nii.gz, "):
        inference_cases(tmp_path, BRATS)
    with pytest.raises(InputError, match=rf"^no folder {tmp_path}/nowhere$"):
        inference_cases(tmp_path / "nowhere", BRATS)


@pytest.mark.parametrize("one", ["all paths", "one path", "4D"])
def test_cases_under_test_of_a_list_are_segmented(one: str, two_cases: Path, whole: Path) -> None:
    paths = brats_files(CASES[1])[:4]
    image = {"all paths": paths, "one path": paths[2], "4D": whole.name}[one]
    (two_cases / "list.json").write_text(json.dumps({"test": [{"image": image}]}))
    (item,) = inference_cases(two_cases, BRATS, two_cases / "list.json")
    if one == "4D":
        assert item == {"image": str(whole), "case": "whole"}
    else:
        assert item == {"image": [str(two_cases / path) for path in paths], "case": CASES[1]}


def test_paths_of_a_list_are_found_by_the_list_s_own_names(two_cases: Path) -> None:
    paths = brats_files(CASES[1])[:4]
    content = {
        "modality": dict(enumerate(["seg2", "t2f", "t2w", "t1c", "t1n"])),
        "test": [{"image": ["x", *paths[::-1]]}],
    }
    (two_cases / "list.json").write_text(json.dumps(content))
    (item,) = inference_cases(two_cases, BRATS, two_cases / "list.json")
    assert item["image"] == [str(two_cases / path) for path in paths]
    (two_cases / "list.json").write_text(json.dumps({**content, "modality": {"0": "t1n", "1": "t1c"}}))
    with pytest.raises(InputError, match=r"list.json lists the sequences t1n, t1c, not t2w, t2f$"):
        inference_cases(two_cases, BRATS, two_cases / "list.json")


def test_an_axis_of_one_behind_the_third_is_none(two_cases: Path) -> None:
    for value, file in enumerate(brats_files(CASES[1]), 1):
        save(two_cases / file, (2, 3, 4, 1), value=value)
    case = next(case for case in inference_cases(two_cases, BRATS) if case["case"] == CASES[1])
    assert LoadCased(BRATS)(case)["t1n"].shape == (1, 2, 3, 4)
    assert read_volume(two_cases / brats_files(CASES[1])[0]).faults == []


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"test": []}', '{"test": [{"label": "a"}]}'])
def test_a_list_without_images_under_test_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text(text)
    with pytest.raises(InputError, match=r"list.json must be a data list with at least one image under test: "):
        inference_cases(tmp_path, BRATS, tmp_path / "list.json")


def test_a_case_given_by_several_of_its_files_comes_once(two_cases: Path) -> None:
    files = [str(two_cases / file) for file in brats_files(CASES[0])[:4]]
    assert checked_cases(files, BRATS) == [{"image": files, "case": CASES[0]}]


def test_two_cases_of_one_name_are_refused(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        save(tmp_path / folder / "x.nii.gz")
    cases = checked_cases([str(tmp_path / folder / "x.nii.gz") for folder in ("a", "b")], ONE)
    assert cases == [{"case": "x", FAULT: "2 cases are called x"}] * 2


def test_a_case_of_one_sequence_has_one_path_in_its_list(tmp_path: Path) -> None:
    save(tmp_path / "x.nii.gz")
    assert checked_cases([str(tmp_path / "x.nii.gz")], ONE) == [{"image": [str(tmp_path / "x.nii.gz")], "case": "x"}]


def test_as_many_paths_are_wanted_as_there_are_sequences() -> None:
    with pytest.raises(InputError, match=r"^image must have a path for each of t1n, t1c, t2w, t2f, got a, b$"):
        sequence_files(["a", "b"], BRATS.sequences)


def test_processes_that_load_data_are_refused(tmp_path: Path) -> None:
    """Each would do all cases."""
    loader = DataLoader(SoundCases([{"case": "a"}], dict, tmp_path), batch_size=None, num_workers=1)
    with pytest.raises(ValueError, match="must be 0") as caught:
        list(loader)
    assert str(input_error(caught.value)).startswith("dataloader::num_workers must be 0 in inference, where each")
