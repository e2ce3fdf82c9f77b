"""Cases are found, checked by their headers and loaded by one rule, with one wording for each fault."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel
import numpy as np
import pytest
from trees import BRATS, ISLES, brats_files, isles_files, save

from dcd_components.data.case_files import Layout
from dcd_components.data.cases import (
    LoadCased,
    case_faults,
    labelled_cases,
)
from dcd_components.data.datalists import make_datalist, write_datalist
from dcd_components.data.marks import Mark
from dcd_components.data.masks import write_mask
from dcd_components.errors import InputError

CASES = ("BraTS-GLI-00000-000", "BraTS-GLI-00001-000")


def load(folder: Path, *folds: int) -> list[dict[str, Any]]:
    return labelled_cases(folder / "datalist.json", folder, BRATS, list(folds))


# Labelled cases


def test_cases_of_the_wanted_folds_come_with_full_paths(two_cases: Path) -> None:
    both = load(two_cases, 0, 1)
    assert len(both) == 2
    for fold in (0, 1):
        (case,) = load(two_cases, fold)
        assert case in both
        paths = [str(two_cases / file) for file in brats_files(case["case"])]
        assert case == {"image": paths[:4], "label": paths[4], "case": case["case"]}


def test_the_layout_chooses_and_orders_the_sequences_of_a_list(two_cases: Path) -> None:
    layout = Layout({name: BRATS.sequences[name] for name in ("t2f", "t1n")})
    (case,) = labelled_cases(two_cases / "datalist.json", two_cases, layout, [0])
    assert [path[-10:-7] for path in case["image"]] == ["t2f", "t1n"]


def test_a_list_without_a_sequence_is_refused(two_cases: Path) -> None:
    layout = Layout({**BRATS.sequences, "dwi": "{case}-dwi.nii.gz"})
    with pytest.raises(InputError, match=r"datalist.json lists the sequences t1n, t1c, t2w, t2f, not dwi$"):
        labelled_cases(two_cases / "datalist.json", two_cases, layout, [0])


def test_all_folds_train_that_are_not_held_out(two_cases: Path) -> None:
    listed = two_cases / "datalist.json"
    others = labelled_cases(listed, two_cases, BRATS, None, held_out=[0, 7])
    assert others == labelled_cases(listed, two_cases, BRATS, [1])
    with pytest.raises(InputError, match=r"no labelled case outside the held out folds \[0, 1\]"):
        labelled_cases(listed, two_cases, BRATS, None, held_out=[0, 1])


def test_a_fold_that_is_held_out_and_trained_on_is_logged(two_cases: Path, caplog: pytest.LogCaptureFixture) -> None:
    labelled_cases(two_cases / "datalist.json", two_cases, BRATS, [0], held_out=[1])
    assert caplog.text == ""
    labelled_cases(two_cases / "datalist.json", two_cases, BRATS, [0, 1], held_out=[1])
    assert "fold [1] is used in training and held out" in caplog.text


def test_masks_of_this_project_as_labels_are_warned_of(two_cases: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Unless somebody has corrected them."""
    files = brats_files(CASES[0])
    write_mask(np.zeros((2, 3, 4)), two_cases / files[0], two_cases / files[4], Mark("0123456789ab", "01234567"))
    load(two_cases, 0, 1)
    expected = "masks that this project wrote and nobody changed are taken for labels, 1 of 2, such as "
    assert caplog.messages == [f"{expected}{two_cases / files[4]}"]
    header = nibabel.load(two_cases / files[4]).header
    nibabel.save(nibabel.Nifti1Image(np.ones((2, 3, 4), np.uint8), None, header), two_cases / files[4])
    caplog.clear()
    load(two_cases, 0, 1)
    assert not caplog.messages


def test_a_missing_list_is_named_with_the_command_that_writes_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^no data list at .*datalist.json: write one with `dcd datalist`$"):
        load(tmp_path, 0)


@pytest.mark.parametrize(
    ("folds", "message"),
    [
        pytest.param([0, 7, 5], r"has no case in fold 5, 7$", id="absent"),
        pytest.param([], r"has no case in fold list \[\]$", id="none asked for"),
    ],
)
def test_a_fold_without_cases_is_named(two_cases: Path, folds: list[int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load(two_cases, *folds)


def test_folds_that_are_no_list_are_refused(two_cases: Path) -> None:
    with pytest.raises(InputError, match=r"^folds must be a list, such as \[0\], got 0$"):
        labelled_cases(two_cases / "datalist.json", two_cases, BRATS, 0)  # type: ignore[arg-type]


def test_faults_of_all_cases_are_named_at_once(two_cases: Path) -> None:
    (two_cases / brats_files(CASES[0])[2]).unlink()
    (two_cases / brats_files(CASES[1])[4]).unlink()
    with pytest.raises(InputError, match=r"00000-000-t2w.nii.gz: missing; .*00001-000-seg.nii.gz: missing$"):
        load(two_cases, 0, 1)


def test_only_the_first_eight_of_many_faults_are_listed(two_cases: Path) -> None:
    for case in CASES:
        for file in brats_files(case):
            (two_cases / file).unlink()
    with pytest.raises(InputError, match=r"t1n.nii.gz: missing; (.*: missing; ){7}and 2 more$"):
        load(two_cases, 0, 1)


@pytest.mark.parametrize("layout", ["challenge", "zenodo"])
def test_a_resampled_sequence_may_lie_on_another_grid(layout: str, tmp_path: Path) -> None:
    for file in isles_files(1, layout):
        save(tmp_path / file, (9, 9, 2) if re.search("flair", file, re.IGNORECASE) else (2, 3, 4))
    listed = tmp_path / "datalist.json"
    write_datalist(make_datalist(tmp_path, ISLES, folds=1)[0], listed)
    (case,) = labelled_cases(listed, tmp_path, ISLES, [0])
    assert case["image"] == [str(tmp_path / file) for file in isles_files(1, layout)[:3]]
    with pytest.raises(InputError, match=r"(?i)flair.nii.gz: shape 9x9x2, expected 2x3x4 as dwi$"):
        labelled_cases(listed, tmp_path, Layout(ISLES.sequences, "dwi"), [0])


# Faults of a case


@pytest.mark.parametrize(
    ("file", "change", "fault"),
    [
        pytest.param("t2f", lambda path: save(path, (2, 3, 5)), "shape 2x3x5, expected 2x3x4 as t1n", id="shape"),
        pytest.param("seg", lambda path: save(path, (2, 3, 5)), "shape 2x3x5, expected 2x3x4 as t1n", id="label"),
        pytest.param(
            "t1c", lambda path: save(path, affine=2.0), "spacing 2x2x2 mm, expected 1x1x1 mm as t1n", id="spacing"
        ),
        pytest.param(
            "seg",
            lambda path: save(path, (2, 3, 4, 2)),
            "is 4D (volumes: 2), shape 2x3x4x2, expected one 3D volume",
            id="series",
        ),
        pytest.param("t2w", lambda path: path.write_bytes(b""), "is empty, 0 bytes", id="empty"),
        pytest.param("t1n", lambda path: path.write_bytes(b"text"), "is not compressed, though ", id="no image"),
        pytest.param("t1n", Path.unlink, "missing", id="missing"),
        pytest.param("t2f", lambda path: (path.unlink(), path.mkdir()), "is no file", id="folder"),
    ],
)
def test_a_fault_is_named_with_its_file_and_what_is_expected(
    file: str, change: Any, fault: str, two_cases: Path
) -> None:
    path = two_cases / CASES[0] / f"{CASES[0]}-{file}.nii.gz"
    change(path)
    files = dict(zip([*BRATS.sequences, "label"], (str(two_cases / one) for one in brats_files(CASES[0])), strict=True))
    (found,) = case_faults(files, BRATS.reference)
    assert found.startswith(f"{path}: {fault}")


def test_a_file_of_another_number_of_channels_is_named_with_the_sequences(whole: Path) -> None:
    files = dict.fromkeys(("t1n", "t1c", "t2w"), str(whole))
    assert case_faults(files, "t1n") == [
        f"{whole}: is 4D, shape 2x3x4x4, expected the name of a sequence, or 4D with t1n, t1c, t2w"
    ]


def test_a_label_must_fit_a_4d_file_too(whole: Path, tmp_path: Path) -> None:
    save(tmp_path / "seg.nii.gz", (2, 3, 5))
    files = {**dict.fromkeys(BRATS.sequences, str(whole)), "label": str(tmp_path / "seg.nii.gz")}
    assert case_faults(files, "t1n") == [f"{tmp_path / 'seg.nii.gz'}: shape 2x3x5, expected 2x3x4 as t1n"]
    assert case_faults(files, "t1n", ["label"]) == []


# Loading


@pytest.mark.parametrize("given", range(5))
def test_any_file_of_a_case_or_all_paths_load_its_sequences(given: int, two_cases: Path) -> None:
    paths = [str(two_cases / file) for file in brats_files(CASES[0])[:4]]
    item = LoadCased(BRATS)({"image": [*paths, paths][given], "other": 1})
    assert (item["case"], item["other"]) == (CASES[0], 1)
    for value, name in enumerate(BRATS.sequences, 1):
        assert item[name].shape == (1, 2, 3, 4)
        assert item[name].unique().tolist() == [0, value]
        assert item[name].meta["case"] == CASES[0]
        assert item[name].meta["filename_or_obj"] == paths[value - 1]


def test_the_channels_of_a_4d_file_are_the_sequences_in_their_order(whole: Path) -> None:
    item = LoadCased(BRATS)({"image": str(whole)})
    assert [item[name].unique().tolist() for name in BRATS.sequences] == [[0, 1], [0, 2], [0, 3], [0, 4]]
    assert (item["t2w"].shape, item["case"]) == ((1, 2, 3, 4), "whole")


def test_a_case_keeps_the_name_of_its_list(two_cases: Path) -> None:
    item = LoadCased(BRATS)({"image": str(two_cases / brats_files(CASES[0])[0]), "case": "mine"})
    assert item["case"] == item["t2f"].meta["case"] == "mine"


def test_swapped_channels_are_named(two_cases: Path) -> None:
    paths = [str(two_cases / file) for file in brats_files(CASES[0])[:4]]
    swapped = [paths[1], paths[0], *paths[2:]]
    with pytest.raises(InputError, match=rf"^{paths[1]}: is called as t1c, expected t1n$"):
        LoadCased(BRATS)({"image": swapped})
    listed = json.loads((two_cases / "datalist.json").read_text())
    listed["training"][0]["image"][:2] = listed["training"][0]["image"][1::-1]
    (two_cases / "datalist.json").write_text(json.dumps(listed))
    with pytest.raises(InputError, match=r"-t1c.nii.gz: is called as t1c, expected t1n$"):
        load(two_cases, listed["training"][0]["fold"])


def test_doubled_channels_of_a_4d_file_are_named(whole: Path) -> None:
    values = np.asarray(nibabel.load(whole).dataobj)
    nibabel.save(nibabel.Nifti1Image(values[..., [0, 1, 1, 3]], np.eye(4)), whole)
    with pytest.raises(InputError) as caught:
        LoadCased(BRATS)({"image": str(whole)})
    assert str(caught.value) == f"{whole}: t2w: has the same voxels as t1c, {whole}: t1c"


def test_what_does_not_fit_is_not_loaded(two_cases: Path) -> None:
    path = two_cases / brats_files(CASES[0])[3]
    save(path, (9, 9, 9))
    with pytest.raises(InputError, match=rf"^{path}: shape 9x9x9, expected 2x3x4 as t1n$"):
        LoadCased(BRATS)({"image": str(two_cases / brats_files(CASES[0])[0])})


def test_clients_of_a_server_are_told_why(two_cases: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MONAI Label answers with the text of a HTTPException; of other errors it says that there was one."""

    class RefusalError(Exception):
        pass

    monkeypatch.setitem(sys.modules, "uvicorn", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "fastapi", SimpleNamespace(HTTPException=RefusalError))
    with pytest.raises(RefusalError) as caught:
        LoadCased(BRATS)({"image": str(two_cases / "x-t1n.nii.gz")})
    assert caught.value.args[0] == 400
    assert caught.value.args[1].startswith(f"{two_cases}/x-t1n.nii.gz: missing; ")
