from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from sklearn.model_selection import KFold
from trees import BRATS, ISLES, ROOT, brats_files, isles_files, save, touch

from dcd_components import cli
from dcd_components.bundle.configs import bundle_settings
from dcd_components.commands import datalist
from dcd_components.data.case_files import Case, Layout, make_layout
from dcd_components.data.datalists import (
    make_datalist,
    nnunet_folds,
    patient_folds,
    read_datalist,
    write_datalist,
)
from dcd_components.data.marks import Mark
from dcd_components.data.masks import write_mask
from dcd_components.data.patients import read_patients
from dcd_components.errors import InputError

LISTS = ROOT / "data_lists"


def listed(folder: Path, layout: object = BRATS, **options: object) -> list[Case]:
    return list(make_datalist(folder, layout, **options)[0].cases)  # type: ignore[arg-type]


@pytest.fixture
def visits(tmp_path: Path) -> Path:
    """12 patients with 1, 2 or 3 visits of empty files each, 24 cases in all, in two folders."""
    for patient in range(12):
        for visit in range(1 + patient % 3):
            part = "training_data1_v2" if patient < 8 else "training_data_additional"
            touch(tmp_path / part, brats_files(f"BraTS-GLI-{patient:05d}-{visit:03d}"))
    return tmp_path


def test_every_case_is_listed_once_with_its_files_and_its_patient(visits: Path) -> None:
    cases = listed(visits)
    assert len(cases) == 24
    fold = cases[1].pop("fold")
    assert fold in range(5)
    assert cases[1] == {
        "image": [
            f"training_data1_v2/BraTS-GLI-00001-000/BraTS-GLI-00001-000-{name}.nii.gz"
            for name in ("t1n", "t1c", "t2w", "t2f")
        ],
        "label": "training_data1_v2/BraTS-GLI-00001-000/BraTS-GLI-00001-000-seg.nii.gz",
        "case": "BraTS-GLI-00001-000",
        "patient": "BraTS-GLI-00001",
    }


@pytest.mark.parametrize("upper", [False, True], ids=["as published", "other case"])
@pytest.mark.parametrize("layout", ["challenge", "zenodo"])
def test_isles_is_found_in_both_layouts_and_spellings(layout: str, upper: bool, tmp_path: Path) -> None:
    for number in (1, 2, 250):
        files = isles_files(number, layout)
        touch(
            tmp_path, [re.sub(r"_(\w+).nii", lambda m: m[0].swapcase()[:-4] + ".nii", f) if upper else f for f in files]
        )
    cases = listed(tmp_path, ISLES, folds=3)
    assert [case["case"] for case in cases] == [f"sub-strokecase{n:04d}_ses-0001" for n in (1, 2, 250)]
    assert [case["patient"] for case in cases] == [f"sub-strokecase{n:04d}" for n in (1, 2, 250)]
    for case in cases:
        kinds = [re.findall(r"_([a-z]+)\.nii", path.lower())[0] for path in (*case["image"], case["label"])]
        assert kinds == ["flair", "dwi", "adc", "msk"]


@pytest.mark.parametrize("seed", range(4))
def test_folds_keep_patients_whole_and_are_balanced_in_cases(visits: Path, seed: int) -> None:
    folds = defaultdict(set)
    cases = listed(visits, seed=seed)
    for case in cases:
        folds[case["patient"]].add(case["fold"])
    assert len(folds) == 12
    assert all(len(of_patient) == 1 for of_patient in folds.values())
    assert sorted(Counter(case["fold"] for case in cases).values()) == [4, 5, 5, 5, 5]


def test_folds_follow_the_seed_alone(visits: Path) -> None:
    first, again, other = (listed(visits, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first != other


def table(folder: Path, text: str) -> Layout:
    (folder / "patients.csv").write_text(text)
    return make_layout({"sequences": {"t1": "{case}.nii.gz"}, "patients": folder / "patients.csv"})


def test_a_table_names_the_patients(tmp_path: Path) -> None:
    touch(tmp_path, [f"{case}.nii.gz" for case in ("001", "002", "003", "007")])
    layout = table(tmp_path, "case,age,patient\n001,7,a\n002,7,a\n003,,b\n004,x,b\n007,7,a\n")
    cases = {case["case"]: (case["patient"], case["fold"]) for case in listed(tmp_path, layout, folds=2)}
    assert {case: patient for case, (patient, _) in cases.items()} == {"001": "a", "002": "a", "003": "b", "007": "a"}
    assert dict(cases.values()) == {"a": 0, "b": 1}


def test_a_table_says_the_folds_of_a_data_set_and_of_its_parts(tmp_path: Path) -> None:
    touch(tmp_path, ["1.nii.gz", "2.nii.gz", "3.nii.gz"])
    layout = table(tmp_path, "case,patient,fold\n1,a,3\n2,a,3\n3,b,0\n4,c,1\n")
    assert [case["fold"] for case in listed(tmp_path, layout)] == [3, 3, 0]
    (tmp_path / "1.nii.gz").unlink()
    assert [case["fold"] for case in listed(tmp_path, layout)] == [3, 0]
    marked = table(tmp_path, "\ufeffcase,patient,fold\n2,a,3\n3,b,0\n")
    assert [case["fold"] for case in listed(tmp_path, marked)] == [3, 0]


@pytest.mark.parametrize("choice", [{"folds": 2}, {"seed": 1, "folds": 2}, {"nnunet": True, "folds": 2}])
def test_folds_that_are_asked_for_go_before_those_of_the_table(choice: dict[str, Any], tmp_path: Path) -> None:
    touch(tmp_path, ["1.nii.gz", "2.nii.gz", "3.nii.gz"])
    layout = table(tmp_path, "case,patient,fold\n1,a,7\n2,a,7\n3,b,7\n")
    cases = listed(tmp_path, layout, **choice)
    assert {case["fold"] for case in cases} == {0, 1}
    if "nnunet" not in choice:
        assert cases[0]["fold"] == cases[1]["fold"] != cases[2]["fold"]  # a patient is still in one
    with pytest.raises(
        InputError, match=r"patients.csv says in which fold each case is: without --folds there is no s"
    ):
        listed(tmp_path, layout, seed=0)


def test_what_is_not_taken_and_what_leaks_is_said(tmp_path: Path) -> None:
    touch(tmp_path, ["1.nii.gz", "2.nii.gz", "3.nii.gz", "1_seg.nii.gz", "2_seg.nii.gz"])
    table(tmp_path, "case,patient,fold\n1,a,0\n2,a,2\n3,b,1\n")
    naming: dict[str, Any] = {"sequences": {"t1": "{case}.nii.gz"}, "label_file": "{case}_seg.nii.gz"}
    naming |= {"patients": tmp_path / "patients.csv", "unlabelled": True}
    said = datalist(tmp_path, **naming, out=tmp_path / "a.json")
    assert said.startswith("warning: 1 patients have cases in several folds, such as a in 0, 2: scores flatter a net")
    said = datalist(tmp_path, **naming, folds=1, out=tmp_path / "b.json")
    assert said.startswith(f"the folds that {tmp_path / 'patients.csv'} says are not taken\n3 cases")


def test_a_case_without_a_label_is_in_the_fold_of_the_table(tmp_path: Path) -> None:
    touch(tmp_path, ["1.nii.gz", "2.nii.gz", "1_seg.nii.gz"])
    layout = replace(table(tmp_path, "case,patient,fold\n1,a,3\n2,b,2\n"), label_file="{case}_seg.nii.gz")
    assert [case["fold"] for case in listed(tmp_path, layout, unlabelled=True)] == [3, 2]


@pytest.mark.parametrize("folds", ["", ",fold"])
def test_cases_to_segment_need_not_be_in_the_table(folds: str, tmp_path: Path) -> None:
    """Those with a label do, of which a training must know the patient."""
    touch(tmp_path, ["1.nii.gz", "2.nii.gz", "1_seg.nii.gz", "3.nii.gz", "4.nii.gz"])
    rows = [f"case,patient{folds}", *(f"{case},{patient}{',3' * bool(folds)}" for case, patient in ("1a", "2a"))]
    layout = replace(table(tmp_path, "\n".join(rows) + "\n"), label_file="{case}_seg.nii.gz")
    options: dict[str, Any] = {"unlabelled": True, "folds": None if folds else 1}
    assigned = 3 * bool(folds)
    found = [(case["patient"], case["fold"]) for case in listed(tmp_path, layout, **options)]
    assert found == [("a", assigned), ("a", assigned), ("3", 0), ("4", 0)]
    with pytest.raises(InputError, match=r"^3 faults in .*:\n  2: no label\n  3: no label\n  4: no label$"):
        listed(tmp_path, layout)
    touch(tmp_path, ["4_seg.nii.gz"])
    with pytest.raises(InputError, match=r"^1 faults in .*:\n  4: not in .*patients.csv$"):
        listed(tmp_path, layout, **options)
    for label in ("1_seg.nii.gz", "4_seg.nii.gz"):
        (tmp_path / label).unlink()
    assert [case["patient"] for case in listed(tmp_path, layout, **options)] == ["a", "a", "3", "4"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("case,patient\n1,a\n", "1 faults in .*:\n  2: not in .*patients.csv"),
        ("case,scan\n1,a\n", "must have the columns case and patient, got case, scan"),
        ("case,patient\n1,\n", "must name case and patient, without blanks .*, got .*'patient': ''"),
        ("case,patient\n1,a \n2,a\n", "must name case and patient, without blanks .*, got .*'a '"),
        ("case,patient,fold\n1,a,x\n", "and a fold as 0, 1, 2 and so on, got .*'x'"),
        ("case,patient,Fold\n1,a,0\n", "must call its columns case, patient and fold, got 'Fold'"),
        ("case,patient\n1,a\n1,b\n", "has 1 twice"),
        ("case,patient\n", "must have a header and rows of its length, got 0 rows"),
    ],
)
def test_a_table_that_is_none_is_refused(text: str, said: str, tmp_path: Path) -> None:
    touch(tmp_path, ["1.nii.gz", "2.nii.gz"])
    with pytest.raises(InputError, match=said):
        listed(tmp_path, table(tmp_path, text), folds=1)


def test_the_command_takes_a_table_and_names_it_without_its_folder(tmp_path: Path) -> None:
    touch(tmp_path, ["1.nii.gz", "2.nii.gz", "1_seg.nii.gz", "2_seg.nii.gz"])
    table(tmp_path, "case,patient,fold\n1,a,3\n2,b,0\n")
    words = ["--sequences", "t1={case}.nii.gz", "--label_file", "{case}_seg.nii.gz"]
    cli.main(["datalist", str(tmp_path), *words, "--patients", str(tmp_path / "patients.csv")])
    found = read_datalist(tmp_path / "datalist.json")
    assert [(case["patient"], case["fold"]) for case in found.cases] == [("a", 3), ("b", 0)]
    assert found.description.endswith(" --patients patients.csv")


@pytest.mark.parametrize("folds", [0, 3])
def test_folds_without_a_patient_are_refused(folds: int) -> None:
    cases = [{"case": f"{patient}-{visit}", "patient": patient} for patient in "ab" for visit in (0, 1)]
    with pytest.raises(InputError, match=f"^folds must be from 1 to the number of patients, 2, got {folds}$"):
        patient_folds(cases, folds, 0)


@pytest.mark.parametrize("folds", [1, 5])
def test_nnunet_s_folds_without_a_case_are_refused(folds: int) -> None:
    cases = [{"case": f"case{number}"} for number in range(4)]
    with pytest.raises(InputError, match=f"^nnU-Net's folds must be from 2 to the number of cases, 4, got {folds}$"):
        nnunet_folds(cases, folds)


def test_nnunet_s_folds_are_of_all_cases_with_a_label(tmp_path: Path) -> None:
    """One that is left out would move others into other folds than those of the teacher's training."""
    names = [f"p{number:02d}" for number in range(10)]
    touch(tmp_path, [f"{folder}/{name}{kind}.nii.gz" for name in names for folder, kind in (("i", "_0"), ("l", ""))])
    touch(tmp_path, ["ts/q_0.nii.gz"])
    layout = make_layout({"sequences": {"t1": "{case}_0.nii.gz"}, "label_file": "l/{case}.nii.gz"})
    found = listed(tmp_path, layout, nnunet=True, skip_incomplete=True)
    assert [case["fold"] for case in found] == nnunet_folds([{"case": name} for name in names])
    (tmp_path / "i" / "p03_0.nii.gz").unlink()
    with pytest.raises(
        InputError, match=r"^nnU-Net's folds count every case with a label, and 1 in .* left out, as p0"
    ):
        listed(tmp_path, layout, nnunet=True, skip_incomplete=True)
    assert len(listed(tmp_path, layout, skip_incomplete=True)) == 9


def test_a_pattern_for_each_channel_and_none_for_the_label(tmp_path: Path) -> None:
    touch(
        tmp_path, ["train/pat7/Flair.nii.gz", "train/pat7/T1.nii.gz", "train/pat8/Flair.nii.gz", "train/pat8/T1.nii.gz"]
    )
    layout = make_layout({"sequences": {"Flair": "{case}/Flair.nii.gz", "T1": "{case}/T1.nii.gz"}})
    assert listed(tmp_path, layout, folds=1) == [
        {"image": [f"train/{c}/Flair.nii.gz", f"train/{c}/T1.nii.gz"], "case": c, "patient": c, "fold": 0}
        for c in ("pat7", "pat8")
    ]


def test_links_are_followed_and_hidden_files_left_out(tmp_path: Path) -> None:
    real, linked = tmp_path / "real", tmp_path / "linked [1]"
    for case in ("BraTS-GLI-00001-000", "BraTS-GLI-00002-000"):
        touch(real, brats_files(case))
        touch(real, [f"{case}/._{Path(file).name}" for file in brats_files(case)])
    linked.mkdir()
    (linked / "data").symlink_to(real)
    assert [case["image"][3] for case in listed(linked, folds=1)] == [
        f"data/{case}/{case}-t2f.nii.gz" for case in ("BraTS-GLI-00001-000", "BraTS-GLI-00002-000")
    ]


def plant_faults(root: Path) -> None:
    part = root / "training_data1_v2"
    (part / "BraTS-GLI-00001-000" / "BraTS-GLI-00001-000-t2f.nii.gz").unlink()
    (part / "BraTS-GLI-00002-001" / "BraTS-GLI-00002-001-seg.nii.gz").unlink()
    touch(root / "copy", brats_files("BraTS-GLI-00003-000")[:1])
    touch(root, ["loose/BraTS-GLI-00099-000-seg.nii.gz"])
    touch(part, brats_files("odd"))
    apart = part / "BraTS-GLI-00004-000" / "BraTS-GLI-00004-000-t1c.nii.gz"
    touch(root, [f"elsewhere/{apart.name}"])
    apart.unlink()


FAULTS = [
    "BraTS-GLI-00001-000: training_data1_v2/BraTS-GLI-00001-000/BraTS-GLI-00001-000-t2f.nii.gz: missing",
    "BraTS-GLI-00002-001: no label",
    "BraTS-GLI-00003-000: 2 files for t1n: copy/BraTS-GLI-00003-000/BraTS-GLI-00003-000-t1n.nii.gz, training_data1_v2/",
    "BraTS-GLI-00004-000: elsewhere/BraTS-GLI-00004-000-t1c.nii.gz: lies apart from t1n, expected training",
    "BraTS-GLI-00099-000: loose/BraTS-GLI-00099-000-seg.nii.gz: a label without images",
    "odd: no patient in its name by",
]


def test_all_faults_of_a_data_set_are_reported_at_once(visits: Path) -> None:
    plant_faults(visits)
    with pytest.raises(ValueError, match=r"^6 faults in ") as caught:
        listed(visits)
    assert [fault for fault in FAULTS if fault not in str(caught.value)] == []


def test_incomplete_cases_can_be_left_out(visits: Path) -> None:
    plant_faults(visits)
    datalist, faults = make_datalist(visits, BRATS, skip_incomplete=True)
    assert len(datalist.cases) == 20
    assert len(faults) == 6
    assert not {case["case"] for case in datalist.cases} & {fault.split(":")[0] for fault in faults}


NNUNET = make_layout({"sequences": {"t1": "{case}_0000.nii.gz"}, "label_file": "labelsTr/{case}.nii.gz"})


def test_test_images_of_nnunet_s_raw_layout_are_cases_without_a_label_when_asked_for(tmp_path: Path) -> None:
    trained = [f"imagesTr/{case}_0000.nii.gz" for case in "cde"]
    touch(tmp_path, [*trained, *(f"labelsTr/{case}.nii.gz" for case in "cde")])
    alone = listed(tmp_path, NNUNET, folds=3)
    touch(tmp_path, [f"imagesTs/{case}_0000.nii.gz" for case in "ab"])
    with pytest.raises(InputError, match=r"^2 faults in .*:\n  a: no label\n  b: no label$"):
        make_datalist(tmp_path, NNUNET, folds=3)
    datalist, faults = make_datalist(tmp_path, NNUNET, folds=3, unlabelled=True)
    assert faults == []
    write_datalist(datalist, tmp_path / "list.json")
    content = json.loads((tmp_path / "list.json").read_text())
    assert content["training"] == alone
    assert [case["image"] for case in content["test"]] == [[f"imagesTs/{case}_0000.nii.gz"] for case in "ab"]


def save_mask(path: Path) -> None:
    """A mask of this project."""
    save(image := path.with_name("image.nii"), (2, 2, 2))
    write_mask(np.ones((2, 2, 2)), image, path, Mark("0123456789ab", "01234567"))
    image.unlink()


def test_a_mask_for_a_label_trains_and_is_in_no_fold_of_experts(visits: Path) -> None:
    """Which are as without it. Of a patient who is in one of them, it is left out: what trains would be scored."""
    before = {case["case"]: case["fold"] for case in listed(visits, folds=3)}
    layout = replace(BRATS, label_file=[*BRATS.label_file, "{case}_seg.nii.gz"])
    added = ("BraTS-GLI-00020-000", "BraTS-GLI-00002-007")
    for case in added:
        touch(visits / "new", brats_files(case)[:4])
    assert {case["case"]: case["fold"] for case in listed(visits, layout, folds=3, unlabelled=True)} == {
        **before,
        added[0]: 0,
        added[1]: before["BraTS-GLI-00002-000"],
    }
    (visits / "masks").mkdir()
    for case in added:
        save_mask(visits / "masks" / f"{case}_seg.nii.gz")
    after = {case["case"]: case for case in listed(visits, layout, folds=3)}
    own, other = (after.pop(case) for case in added)
    assert {name: case["fold"] for name, case in after.items()} == before
    assert (own["fold"], own["label"]) == (3, f"masks/{added[0]}_seg.nii.gz")
    assert (other["fold"], "label" in other) == (before["BraTS-GLI-00002-000"], False)


def test_a_mask_that_was_corrected_is_a_label_and_so_are_masks_alone(tmp_path: Path) -> None:
    layout = Layout({"dwi": "{case}_dwi.nii.gz"}, label_file="{case}_seg.nii.gz")
    touch(tmp_path, [f"{case}_dwi.nii.gz" for case in "abc"])
    for case in "abc":
        save_mask(tmp_path / f"{case}_seg.nii.gz")
    assert sorted(case["fold"] for case in listed(tmp_path, layout, folds=3)) == [0, 1, 2]
    for case, value in (("a", 2), ("b", 0)):
        mask = nibabel.load(path := tmp_path / f"{case}_seg.nii.gz")
        voxels = np.asarray(mask.dataobj).copy()
        voxels[0] = value
        nibabel.save(nibabel.Nifti1Image(voxels, None, mask.header), path)
    found = {case["case"]: case["fold"] for case in listed(tmp_path, layout, folds=2)}
    assert {found["a"], found["b"]} == {0, 1}
    assert found["c"] == 2
    (of_c,) = (case["fold"] for case in listed(tmp_path, layout, folds=1) if case["case"] == "c")
    assert of_c == 2  # 1 chooses the checkpoint


def test_a_folder_in_the_place_of_a_file_is_named(tmp_path: Path) -> None:
    touch(tmp_path, brats_files("BraTS-GLI-00001-000"))
    (path := tmp_path / brats_files("BraTS-GLI-00001-000")[2]).unlink()
    path.mkdir()
    with pytest.raises(InputError, match=rf"{path.name}: is no file$"):
        make_datalist(tmp_path, BRATS, folds=1)


def test_a_list_never_ends_up_empty(tmp_path: Path) -> None:
    touch(tmp_path, brats_files("BraTS-GLI-00001-000")[:1])
    with pytest.raises(ValueError, match=r"^4 faults in "):
        make_datalist(tmp_path, BRATS, skip_incomplete=True)
    with pytest.raises(ValueError, match=rf"^no file below {re.escape(str(tmp_path))} fits .*_flair.nii.gz, "):
        make_datalist(tmp_path, ISLES)


def test_written_list_has_the_form_of_the_decathlon_and_is_read_back(visits: Path) -> None:
    datalist, _ = make_datalist(visits, BRATS, description="a test")
    unlabelled = {key: value for key, value in datalist.cases[-1].items() if key != "label"}
    datalist = replace(datalist, cases=[*datalist.cases[:-1], unlabelled])
    write_datalist(datalist, visits / "list.json")
    written = json.loads((visits / "list.json").read_text())
    assert written["description"] == "a test"
    assert written["modality"] == {"0": "t1n", "1": "t1c", "2": "t2w", "3": "t2f"}
    assert written["labels"] == {"0": "background", "1": "NETC", "2": "SNFH", "3": "ET", "4": "RC"}
    assert (len(written["training"]), len(written["test"])) == (23, 1)
    assert (written["reference"], written["resampled"]) == ("t1n", [])
    assert read_datalist(visits / "list.json") == replace(datalist, resampled=[])


def test_another_list_is_not_overwritten(visits: Path) -> None:
    write_datalist(make_datalist(visits, BRATS)[0], visits / "list.json")
    write_datalist(make_datalist(visits, BRATS)[0], visits / "list.json")
    with pytest.raises(InputError, match=r"list.json is another list, and so is kept: "):
        write_datalist(make_datalist(visits, BRATS, seed=1)[0], visits / "list.json")


@pytest.mark.parametrize("text", ["{", "[]", '{"training": [{"image": "a"}]}'], ids=["no JSON", "no dict", "keys"])
def test_a_list_of_another_form_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "datalist.json").write_text(text)
    with pytest.raises(ValueError, match=r"datalist.json is no data list that .* wrote: "):
        read_datalist(tmp_path / "datalist.json")


def test_a_case_without_a_key_is_refused(visits: Path) -> None:
    datalist, _ = make_datalist(visits, BRATS)
    del datalist.cases[3]["patient"]
    write_datalist(datalist, visits / "list.json")
    with pytest.raises(ValueError, match=r"must have image, case, patient, fold; one lacks patient$"):
        read_datalist(visits / "list.json")


def test_a_case_whose_image_is_one_path_is_refused(visits: Path) -> None:
    datalist, _ = make_datalist(visits, BRATS)
    datalist.cases[3]["image"] = datalist.cases[3]["image"][0]
    write_datalist(datalist, visits / "list.json")
    with pytest.raises(InputError, match=r"image of every case must be the paths of t1n, t1c, t2w, t2f"):
        read_datalist(visits / "list.json")


@pytest.mark.parametrize(
    ("name", "cases", "patients"),
    [
        ("brats2024_gli", 1350, 613),
        ("brats2024_gli_nnunet_leaky", 1350, 613),
        ("isles2022_challenge", 250, 250),
        ("isles2022_zenodo", 250, 250),
        ("hippocampus", 207, 133),
    ],
)
def test_the_command_of_a_shipped_list_makes_it_again(name: str, cases: int, patients: int, tmp_path: Path) -> None:
    """From empty files with the names of the data set, since its cases are not here."""
    shipped = read_datalist(LISTS / f"{name}.json")
    assert (len(shipped.cases), len({case["patient"] for case in shipped.cases})) == (cases, patients)
    for case in shipped.cases:
        touch(tmp_path, [*case["image"], case["label"]])
    bundle = {"br": "brats_gli_dcd", "is": "isles22_dcd", "hi": "hippocampus_dcd"}[name[:2]]
    layout = make_layout(bundle_settings(ROOT / "bundles" / bundle))
    again, _ = make_datalist(tmp_path, layout, nnunet="--nnunet_folds" in shipped.description)
    assert list(again.cases) == list(shipped.cases)
    assert f"dcd datalist DIR --bundle bundles/{bundle}" in shipped.description


def test_no_scan_of_the_hippocampi_is_in_two_folds_whichever_cases_are_there() -> None:
    table = read_patients(ROOT / "bundles" / "hippocampus_dcd" / "docs" / "patients.csv")
    assert [*table] == [f"hippocampus_{number:03d}" for number in range(1, 395)]
    for first, second in zip(list(table)[::2], list(table)[1::2], strict=True):
        assert table[first] == table[second]
    assert sorted(Counter(patient.fold for patient in table.values()).values()) == [78, 78, 78, 80, 80]


def test_our_folds_do_not_leak_and_are_even() -> None:
    cases = read_datalist(LISTS / "brats2024_gli.json").cases
    folds = {
        case["patient"]: {other["fold"] for other in cases if other["patient"] == case["patient"]} for case in cases
    }
    assert all(len(of_patient) == 1 for of_patient in folds.values())
    sizes = Counter(case["fold"] for case in cases)
    assert set(sizes) == {0, 1, 2, 3, 4}
    assert max(abs(size - 270) for size in sizes.values()) <= 0.02 * 270


@pytest.mark.parametrize("name", ["brats2024_gli_nnunet_leaky", "isles2022_challenge", "isles2022_zenodo"])
def test_nnunet_s_folds_follow_its_rule(name: str) -> None:
    cases = read_datalist(LISTS / f"{name}.json").cases
    names = sorted(case["case"] for case in cases)
    for fold, (_, tested) in enumerate(KFold(5, shuffle=True, random_state=12345).split(names)):
        assert {names[index] for index in tested} == {case["case"] for case in cases if case["fold"] == fold}


def test_nnunet_s_fold_3_of_brats_leaks_221_of_270_cases() -> None:
    """The figure of the audit of the paper's released code, whose reported fold this is."""
    cases = read_datalist(LISTS / "brats2024_gli_nnunet_leaky.json").cases
    trained = {case["patient"] for case in cases if case["fold"] != 3}
    tested = [case for case in cases if case["fold"] == 3]
    assert (sum(case["patient"] in trained for case in tested), len(tested)) == (221, 270)
