"""One file of a case names the others."""

from __future__ import annotations

import os
from itertools import chain
from pathlib import Path

import pytest
from trees import BRATS, ISLES, brats_files, isles_files, touch

from dcd_components.bundle.configs import bundle_settings
from dcd_components.data.case_files import Layout, Patterns, case_name, files_of, find_cases, make_layout, places
from dcd_components.errors import InputError

SHIFTS: Patterns = {"Flair": ["{case}/Flair.nii.gz"], "T1c": ["{case}/T1c.nii.gz"]}
FOLDERS: Patterns = {"t1": ["t1/{case}.nii.gz"], "t2": ["t2/{case}.nii.gz"]}
NNUNET: Patterns = {"t1": ["imagesTr/{case}_0000.nii.gz"], "t2": ["imagesTr/{case}_0001.nii.gz"]}
NESTED: Patterns = {"t1": ["{case}.nii.gz"], "t2": ["{case}_t2.nii.gz"]}
TREES: dict[str, tuple[Patterns, list[str]]] = {
    "brats": (BRATS.sequences, brats_files("BraTS-GLI-00001-000")[:4]),
    "isles, challenge": (ISLES.sequences, isles_files(9, "challenge")[:3]),
    "isles, zenodo": (ISLES.sequences, isles_files(9, "zenodo")[:3]),
    "name of the folder": (SHIFTS, ["pat 1/Flair.nii.gz", "pat 1/T1c.nii.gz"]),
    "folder a sequence": (FOLDERS, ["a/t1/x.1.nii.gz", "a/t2/x.1.nii.gz"]),
    "nnU-Net": (NNUNET, ["imagesTr/x_0000.nii.gz", "imagesTr/x_0001.nii.gz"]),
    "one name begins another": (NESTED, ["x.nii.gz", "x_t2.nii.gz"]),
}


@pytest.mark.parametrize("tree", TREES)
def test_any_file_of_a_case_names_all_of_them(tree: str, tmp_path: Path) -> None:
    sequences, paths = TREES[tree]
    touch(tmp_path, paths)
    expected = dict(zip(sequences, (str(tmp_path / path) for path in paths), strict=True))
    assert [files_of(path, sequences) for path in expected.values()] == [expected] * len(expected)


@pytest.mark.parametrize("tree", TREES)
def test_a_missing_file_is_expected_where_a_pattern_has_it(tree: str, tmp_path: Path) -> None:
    sequences, paths = TREES[tree]
    touch(tmp_path, paths[:1])
    found = files_of(str(tmp_path / paths[0]), sequences)
    assert list(found) == list(sequences)
    assert [os.path.exists(path) for path in found.values()] == [True] + [False] * (len(paths) - 1)


def test_the_case_is_the_same_wherever_a_pattern_names_it() -> None:
    twice = {"t1": ["{case}/{case}-t1.nii.gz"]}
    assert places("data/x/x-t1.nii.gz", twice) == [("t1", "data/", "x")]
    assert places("data/y/x-t1.nii.gz", twice) == []


def test_a_file_that_fits_no_pattern_holds_all_sequences() -> None:
    assert files_of("data/x.nii.gz", SHIFTS) == {"Flair": "data/x.nii.gz", "T1c": "data/x.nii.gz"}


@pytest.mark.parametrize(
    ("sequence", "label", "files"),
    [
        ("{case}.nii.gz", "{case}_seg.nii.gz", ["a.nii.gz", "a_seg.nii.gz"]),
        ("{case}.nii.gz", "seg/{case}.nii.gz", ["a.nii.gz", "seg/a.nii.gz"]),
        ("images/{case}.nii.gz", "{case}.nii.gz", ["images/a.nii.gz", "labels/a.nii.gz"]),
        ("{case}_0000.nii.gz", "labels/{case}.nii.gz", ["images/a_0000.nii.gz", "labels/a.nii.gz"]),
    ],
)
def test_what_is_called_as_a_label_is_no_image(sequence: str, label: str, files: list[str], tmp_path: Path) -> None:
    touch(tmp_path, files)
    layout = Layout({"t1": sequence}, label_file=label)
    expected = {"image": files[:1], "label": files[1], "case": "a", "patient": "a"}
    assert find_cases(tmp_path, layout) == ([expected], [])
    del expected["label"]
    assert find_cases(tmp_path, layout, "ignored") == ([expected], [])


def test_a_case_may_be_called_as_a_channel_is(tmp_path: Path) -> None:
    """As in data sets of nnU-Net whose cases have numbers of four digits."""
    names = [f"a_{case:04d}" for case in range(3)]
    images = [[f"imagesTr/{name}_{channel:04d}.nii.gz" for channel in range(2)] for name in names]
    touch(tmp_path, [*chain.from_iterable(images), *(f"labelsTr/{name}.nii.gz" for name in names)])
    layout = Layout({"t1": "{case}_0000.nii.gz", "t2": "{case}_0001.nii.gz"}, label_file="labelsTr/{case}.nii.gz")
    for labels in ("needed", "ignored"):
        cases, faults = find_cases(tmp_path, layout, labels)
        assert ([case["case"] for case in cases], [case["image"] for case in cases], faults) == (names, images, [])


def test_labels_may_be_needed_optional_or_ignored(tmp_path: Path) -> None:
    """A mask in the folder of the data is called as a label; ``c`` is a label without images."""
    touch(tmp_path, ["a.nii.gz", "a_seg.nii.gz", "masks/a_seg.nii.gz", "b.nii.gz", "c_seg.nii.gz"])
    layout = Layout({"t1": "{case}.nii.gz"}, label_file="{case}_seg.nii.gz")
    doubled = "a: 2 files for label: a_seg.nii.gz, masks/a_seg.nii.gz"
    alone = "c: c_seg.nii.gz: a label without images"
    assert find_cases(tmp_path, layout) == ([], [doubled, "b: no label", alone])
    cases, faults = find_cases(tmp_path, layout, "optional")
    assert ([case["case"] for case in cases], faults) == (["b"], [doubled, alone])
    cases, faults = find_cases(tmp_path, layout, "ignored")
    assert ([(case["case"], case["image"]) for case in cases], faults) == (
        [("a", ["a.nii.gz"]), ("b", ["b.nii.gz"])],
        [],
    )


@pytest.mark.parametrize(
    ("path", "name"),
    [("data/pat 1/T1c.nii.gz", "pat 1"), ("data/x.1.nii.gz", "x.1"), ("x.nii", "x")],
    ids=["by its pattern", "by the file", "without compression"],
)
def test_a_case_is_called_as_its_pattern_says_or_as_its_file(path: str, name: str) -> None:
    assert case_name(path, SHIFTS) == name


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sequences": {}}, "sequences must give at least one sequence its pattern"),
        ({"sequences": ["{case}-t1n.nii.gz"]}, "at least one sequence its pattern, t1n={case}-t1n.nii.gz, got"),
        ({"sequences": {"t1": "t1.nii.gz"}}, r"the pattern 't1.nii.gz' must hold \{case\}"),
        ({"sequences": {"t1": "{case}.nii.gz"}, "label_file": "seg.nii.gz"}, r"'seg.nii.gz' must hold \{case\}"),
        ({"sequences": {"t1": "{case}.nii.gz"}, "reference": "t2"}, "t2 is not among the sequences t1"),
        ({"sequences": {"t1": "{case}.nii.gz"}, "resampled": ["t2"]}, "t2 is not among the sequences t1"),
        ({"sequences": {"label": "{case}.nii.gz"}}, "no sequence may be called label"),
        ({"sequences": {"mark": "{case}.nii.gz"}}, "no sequence may be called mark"),
        ({"sequences": {"fault": "{case}.nii.gz"}}, "no sequence may be called fault"),
        (
            {"sequences": {"t1": "{case}.nii.gz", "t2": ["{case}.nii.gz", "{case}_t2.nii.gz"]}},
            r"^t1 and t2 must have patterns of their own, both have \{case\}.nii.gz$",
        ),
        (
            {"sequences": {"t1": "{case}_1.nii.gz", "t2": "{case}.nii.gz"}, "label_file": "{case}.nii.gz"},
            r"^t2 and label_file must have patterns of their own, both have \{case\}.nii.gz$",
        ),
    ],
)
def test_a_layout_that_cannot_be_is_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_layout(settings)


def test_sequences_of_one_4d_file_have_one_pattern(tmp_path: Path) -> None:
    layout = make_layout({"sequences": {"t1": "{case}.nii.gz", "t2": "{case}.nii.gz"}})
    touch(tmp_path, ["a.nii.gz"])
    assert [case["image"] for case in find_cases(tmp_path, layout)[0]] == [["a.nii.gz", "a.nii.gz"]]


def test_one_pattern_may_be_a_plain_string_and_the_first_sequence_is_the_reference() -> None:
    layout = make_layout({"sequences": {"t1": "{case}.nii.gz"}, "label_file": "{case}_seg.nii.gz"})
    assert layout == Layout({"t1": ["{case}.nii.gz"]}, "t1", (), ["{case}_seg.nii.gz"])


def test_a_folder_that_is_no_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no config train_student: there is no folder configs with any"):
        bundle_settings(tmp_path)
