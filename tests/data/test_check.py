from __future__ import annotations

import csv
import gzip
import multiprocessing
import os
import shutil
import struct
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from dcd_components.data import nifti
from dcd_components.data.case_files import Layout, find_cases
from dcd_components.data.check import rules, runner
from dcd_components.data.check.rules import CaseFiles, Finding
from dcd_components.data.check.runner import Report, check_datalist
from dcd_components.data.datalists import DataList, write_datalist
from dcd_components.data.grids import Grid
from dcd_components.errors import InputError

DATA = Path(os.environ.get("DCD_DATA", Path(__file__).parents[3] / "shared" / "data"))
SHAPE = (4, 5, 6)
AFFINE = np.array([[-1, 0, 0, 90], [0, 0, 2, -120], [0, 1.5, 0, 30], [0, 0, 0, 1.0]])
OWN_AFFINE = np.array([[-0.5, 0.05, 0, 90], [0.05, 0.5, 0, -121], [0, 0, 3, 29], [0, 0, 0, 1.0]])
LAYOUT = Layout(
    {name: [f"{{case}}-{name}.nii.gz"] for name in ("t1", "t2", "flair")},
    reference="t1",
    resampled=["flair"],
    label_file=["{case}-seg.nii.gz"],
    labels={"core": 1, "oedema": 2},
)
ONE_GRID = Layout({name: LAYOUT.sequences[name] for name in ("t1", "t2")}, "t1", (), LAYOUT.label_file, LAYOUT.labels)
UNDECLARED = Layout(LAYOUT.sequences, "t1", ["flair"], LAYOUT.label_file)

FILES = ("t1", "t2", "flair", "seg")
Plant = Callable[[Path], None]


def save(path: Path, values: Any, affine: Any = AFFINE) -> None:
    nibabel.save(nibabel.Nifti1Image(np.asarray(values), affine), path)


def image(seed: int, shape: tuple[int, ...] = SHAPE) -> Any:
    return np.random.default_rng(seed).integers(0, 1000, shape, np.int16)


def label() -> Any:
    values = np.zeros(SHAPE, np.float32)
    values[:2, 0, 0], values[3, 4, 3:] = 1, 2
    return values


def add_case(root: Path, case: str, seed: int = 0) -> Path:
    """Write a healthy case of 2 voxels of core and 3 of oedema, with a FLAIR image on a grid of its own."""
    (folder := root / case).mkdir(parents=True)
    save(folder / f"{case}-t1.nii.gz", image(seed))
    save(folder / f"{case}-t2.nii.gz", image(seed + 1000))
    save(folder / f"{case}-flair.nii.gz", image(seed + 2000, (9, 10, 2)), OWN_AFFINE)
    save(folder / f"{case}-seg.nii.gz", label())
    return folder


def entry(case: str, fold: int = 0, **other: Any) -> dict[str, Any]:
    files = {"image": images(case), "label": f"{case}/{case}-seg.nii.gz"}
    return {**files, "case": case, "patient": case, "fold": fold, **other}


def images(case: str) -> list[str]:
    return [f"{case}/{case}-{name}.nii.gz" for name in FILES[:3]]


def check(root: Path, cases: Sequence[dict[str, Any]], layout: Layout = LAYOUT, workers: int = 1) -> Report:
    (root / "list.json").unlink(missing_ok=True)
    listed = [{**case, "image": case["image"][: len(layout.sequences)]} for case in cases]
    header = (list(layout.sequences), layout.reference, layout.resampled, layout.labels)
    write_datalist(DataList(listed, *header, "a test"), root / "list.json")
    return check_datalist(root / "list.json", root, workers=workers)


def table(root: Path) -> list[dict[str, str]]:
    with (root / "list_check.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def three(tmp_path: Path) -> list[dict[str, Any]]:
    """Entries of three healthy cases below ``tmp_path``."""
    for number in range(3):
        add_case(tmp_path, f"case{number}", number)
    return [entry(f"case{number}", number) for number in range(3)]


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the cases that are read, as it happens."""
    names: list[str] = []

    def counted(files: CaseFiles) -> Finding:
        names.append(Path(files.paths["t1"]).parent.name)
        return rules.check_case(files)

    monkeypatch.setattr(runner, "check_case", counted)
    return names


# The defects. Each function changes one file of a healthy case.


def rewrite(change: Callable[[bytes], bytes], path: Path) -> None:
    """Change the bytes below the compression."""
    path.write_bytes(gzip.compress(change(gzip.decompress(path.read_bytes()))))


def patch(offset: int, form: str, *numbers: float) -> Plant:
    """Overwrite part of the header, whose fields and offsets the NIfTI-1 standard fixes."""
    new = struct.pack(form, *numbers)
    return partial(rewrite, lambda content: content[:offset] + new + content[offset + len(new) :])


def with_affine(affine: Any) -> Plant:
    return patch(280, "<12f", *np.asarray(affine)[:3].ravel())


def moved(x: float) -> Any:
    return AFFINE + np.outer([1, 0, 0, 0], [0, 0, 0, x])


def with_values(*values: float) -> Plant:
    """Set the first voxels of the last column of an image or label, as single precision."""

    def plant(path: Path) -> None:
        changed = np.asarray(nibabel.load(path).dataobj, np.float32)
        changed[-1, -1, : len(values)] = values
        save(path, changed)

    return plant


def saved(values: Any, affine: Any = AFFINE) -> Plant:
    return lambda path: save(path, values, affine)


def copied(name: str) -> Plant:
    def plant(path: Path) -> None:
        path.write_bytes((path.parent / f"{path.parent.name}-{name}.nii.gz").read_bytes())

    return plant


def copy_as_float(path: Path) -> None:
    """The voxels of T2 in another file: as doubles, with the affine of FLAIR."""
    values = nibabel.load(str(path).replace("flair.nii", "t2.nii")).dataobj
    save(path, np.asarray(values, np.float64), OWN_AFFINE)


def overwrite(content: bytes, path: Path) -> None:
    path.write_bytes(content)


def into_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


def flip_checksum(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-8] + bytes([content[-8] ^ 1]) + content[-7:])


RGB = np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")])
TURNED = AFFINE @ np.diag([-1, 1, 1, 1])

DEFECTS: dict[str, tuple[str, Plant, str]] = {
    "missing image": ("t2", Path.unlink, "missing"),
    "missing reference": ("t1", Path.unlink, "missing"),
    "missing label": ("seg", Path.unlink, "missing"),
    "a folder": ("t2", into_folder, "is no file"),
    "empty file": ("flair", partial(overwrite, b""), "is empty, 0 bytes"),
    "text": ("t2", partial(overwrite, b"version https://git-lfs"), "is not compressed, though its name ends in .gz"),
    "compressed text": ("t2", partial(rewrite, lambda _: b"text"), "is not a NIfTI file: no such header at its start"),
    "unknown data type": ("t1", patch(70, "<h", 999), "cannot be read: HeaderDataError: data code 999 not"),
    "truncated compression": ("t2", cut, "truncated: its compressed data break off after "),
    "damaged": ("t2", flip_checksum, "damaged: CRC check failed"),
    "truncated voxels": (
        "t2",
        partial(rewrite, lambda content: content[:-40]),
        "truncated: 200 bytes of voxels, expected 240",
    ),
    "truncated header": (
        "t2",
        partial(rewrite, lambda content: content[:350]),
        "truncated: 0 bytes of voxels, expected 240",
    ),
    "series": ("t2", saved(image(1, (*SHAPE, 7))), "is 4D (volumes: 7), shape 4x5x6x7, expected one 3D volume"),
    "slice": ("t2", saved(image(1, (4, 5))), "is 2D, shape 4x5, expected one 3D volume"),
    "colours": ("t2", saved(RGB), "holds colours, expected one real number in each voxel"),
    "complex": (
        "t2",
        saved(image(1).astype(np.complex64)),
        "holds complex numbers, expected one real number in each voxel",
    ),
    "no voxels": ("t2", patch(44, "<h", 0), "has no voxels, shape 4x0x6"),
    "shape": ("t2", saved(image(1, (4, 5, 7))), "shape 4x5x7, expected 4x5x6 as t1"),
    "spacing": (
        "t2",
        saved(image(1), AFFINE @ np.diag([1, 1, 1.01, 1])),
        "spacing 1x1.5x2.02 mm, expected 1x1.5x2 mm as t1",
    ),
    "origin": (
        "t2",
        with_affine(moved(0.2)),
        "another origin or rotation than t1: moves a corner by 0.2 mm, expected at most 0.1 mm",
    ),
    "handedness": (
        "t2",
        with_affine(TURNED),
        "another origin or rotation than t1: moves a corner by 7 mm, expected at most 0.1 mm",
    ),
    "singular affine": (
        "t2",
        with_affine(AFFINE @ np.diag([1, 1, 0, 1])),
        "its affine is singular: voxels of 1x1.5x0 mm have a volume of 0 mm3",
    ),
    "flat affine": (
        "t1",
        with_affine(np.ones((4, 4))),
        "its affine is singular: voxels of 1.73205x1.73205x1.73205 mm have a volume of 0 mm3",
    ),
    "affine of NaN": ("t1", with_affine(AFFINE * np.nan), "its affine holds 12 numbers that are NaN or Inf"),
    "NaN and Inf": ("t2", with_values(np.nan, -np.inf, np.nan), "2 NaN and 1 Inf among 120 voxels"),
    "too large": ("t2", saved((image(1) + 1) * 1e40), "0 NaN and 120 Inf among 120 voxels"),
    "NaN in the label": ("seg", with_values(np.nan), "1 NaN and 0 Inf among 120 voxels"),
    "empty image": ("t2", saved(np.full(SHAPE, 7, np.int16)), "all 120 voxels are 7, expected an image"),
    "field of view": (
        "flair",
        with_affine(OWN_AFFINE + np.outer([1, 0, 0, 0], [0, 0, 0, 100])),
        "does not overlap t1 in space: the fields of view are 95.2 mm apart",
    ),
    "fractions": ("seg", with_values(0.5, 1.5, 0.5), "0.5, 1.5 in 3 of 120 voxels, expected whole numbers"),
    "negative": ("seg", with_values(-1), "-1 in 1 of 120 voxels, expected no value below 0"),
    "undeclared": ("seg", with_values(4, 4, 3), "3, 4 in 3 of 120 voxels, expected 0 or one of 1, 2"),
    "image as label": (
        "seg",
        with_values(3, 4, 5, 6, 7, 8),
        "3, 4, 5, 6, 7 and 1 more in 6 of 120 voxels, expected 0 or one of 1, 2",
    ),
    "label's shape": ("seg", saved(label()[:3]), "shape 3x5x6, expected 4x5x6 as t1"),
    "label's origin": (
        "seg",
        saved(label(), moved(-5)),
        "another origin or rotation than t1: moves a corner by 5 mm, expected at most 0.1 mm",
    ),
    "same file twice": ("t2", copied("t1"), "has the same voxels as t1, {case}/{case}-t1.nii.gz"),
    "same voxels": ("flair", copy_as_float, "has the same voxels as t2, {case}/{case}-t2.nii.gz"),
}


def plant(root: Path, case: str, name: str) -> str:
    """Give a healthy case a defect; the fault that must be found."""
    file, change, reason = DEFECTS[name]
    change(add_case(root, case) / f"{case}-{file}.nii.gz")
    return f"{case}/{case}-{file}.nii.gz: {reason.format(case=case)}"


@pytest.mark.parametrize("name", DEFECTS)
def test_a_defect_is_found_with_its_file_and_its_reason_and_nothing_else(name: str, tmp_path: Path) -> None:
    expected = plant(tmp_path, "a", name)
    report = check(tmp_path, [entry("a")])
    (row,) = report.rows
    assert row["faults"].startswith(expected)
    assert (report.faults, row["faults"].count("; "), row["warnings"]) == (1, 0, "")


def test_all_defects_of_a_data_set_are_found_in_one_run(tmp_path: Path) -> None:
    expected = {f"case{number:02}": plant(tmp_path, f"case{number:02}", name) for number, name in enumerate(DEFECTS)}
    report = check(tmp_path, [entry(case) for case in expected])
    assert report.faults == len(DEFECTS) > 30
    wrong = [row for row in table(tmp_path) if not row["faults"].startswith(expected[row["case"]])]
    assert not wrong


def test_all_faults_of_a_case_and_of_a_file_are_found_at_once(tmp_path: Path) -> None:
    folder = add_case(tmp_path, "a")
    save(folder / "a-t2.nii.gz", np.full((4, 5, 7), 3, np.int16), moved(9) @ np.diag([1, 1, 2, 1]))
    (folder / "a-flair.nii.gz").unlink()
    with_values(-1, 0.5, 7, np.inf)(folder / "a-seg.nii.gz")
    (row,) = check(tmp_path, [entry("a")]).rows
    faults = row["faults"].split("; ")
    for found, expected in zip(
        faults,
        (
            "a/a-t2.nii.gz: shape 4x5x7, expected 4x5x6 as t1",
            "a/a-t2.nii.gz: spacing 1x1.5x4 mm, expected 1x1.5x2 mm as t1",
            "a/a-t2.nii.gz: another origin or rotation than t1: moves a corner by 9 mm",
            "a/a-t2.nii.gz: all 140 voxels are 3",
            "a/a-flair.nii.gz: missing",
            "a/a-seg.nii.gz: 0 NaN and 1 Inf among 120 voxels",
            "a/a-seg.nii.gz: 0.5 in 1 of 120 voxels, expected whole numbers",
            "a/a-seg.nii.gz: -1 in 1 of 120 voxels, expected no value below 0",
            "a/a-seg.nii.gz: 7 in 1 of 120 voxels, expected 0 or one of 1, 2",
        ),
        strict=True,
    ):
        assert found.startswith(expected)


def test_whatever_a_file_raises_is_its_fault_and_the_run_goes_on(
    tmp_path: Path, three: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def exploding(path: Path) -> nifti.Volume:
        if path.name == "case1-t2.nii.gz":
            raise MemoryError("no; room\nleft")
        return nifti.read_volume(path)

    monkeypatch.setattr(rules, "read_volume", exploding)
    report = check(tmp_path, three)
    assert [row["faults"] for row in report.rows] == [
        "",
        "case1/case1-t2.nii.gz: cannot be read: MemoryError: no, room left",
        "",
    ]


@pytest.mark.parametrize("layout", [LAYOUT, ONE_GRID, UNDECLARED], ids=["resampled", "one grid", "labels not declared"])
def test_a_healthy_case_passes(layout: Layout, tmp_path: Path) -> None:
    add_case(tmp_path, "00007")
    report = check(tmp_path, [entry("00007", 3)], layout)
    names = ("voxels_core", "voxels_oedema") if layout.labels else ("voxels_1", "voxels_2")
    (row,) = report.rows
    assert row.pop("digest")
    assert len(row.pop("contents").split()) == len(layout.sequences)
    assert row == {
        **{"case": "00007", "patient": "00007", "fold": "3", "shape": "4x5x6", "spacing_mm": "1x1.5x2"},
        **{names[0]: "2", names[1]: "3", "leaks": "", "copies": "", "warnings": "", "faults": ""},
    }


@pytest.mark.parametrize("form", [np.uint8, np.int32, np.float32, np.float64])
def test_labels_may_be_stored_in_any_form_of_whole_numbers(form: Any, tmp_path: Path) -> None:
    save(add_case(tmp_path, "a") / "a-seg.nii.gz", label().astype(form))
    (row,) = check(tmp_path, [entry("a")]).rows
    assert (row["faults"], row["voxels_core"], row["voxels_oedema"]) == ("", "2", "3")


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_files_may_be_scaled_big_endian_uncompressed_or_nifti_2(kind: Any, tmp_path: Path) -> None:
    folder = add_case(tmp_path, "a")
    scaled = kind(image(5), AFFINE, kind.header_class(endianness=">"))
    scaled.header.set_slope_inter(0.1, 5)
    (folder / "a-t2.nii.gz").unlink()
    nibabel.save(scaled, folder / "a-t2.nii")
    paths = [path.removesuffix(".gz") if "t2" in path else path for path in images("a")]
    assert check(tmp_path, [entry("a", image=paths)]).faults == 0


def test_an_image_without_a_label_is_checked_like_the_others(tmp_path: Path) -> None:
    add_case(tmp_path, "a")
    add_case(tmp_path, "b", 1)
    unlabelled = {key: value for key, value in entry("b").items() if key != "label"}
    report = check(tmp_path, [entry("a"), unlabelled])
    assert report.summary.startswith("cases: 2, labelled: 1, with faults: 0; details in ")
    assert [row["voxels_core"] for row in report.rows] == ["2", ""]


@pytest.mark.parametrize("shift", [0.09, 0.0], ids=["small", "none"])
def test_affines_may_differ_by_less_than_the_tolerance(shift: float, tmp_path: Path) -> None:
    with_affine(moved(shift))(add_case(tmp_path, "a") / "a-t2.nii.gz")
    assert check(tmp_path, [entry("a")]).faults == 0


@pytest.mark.parametrize("turn_deg", [0, 30, 45])
def test_the_gap_between_fields_of_view_is_the_distance_that_they_were_drawn_apart(turn_deg: float) -> None:
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(a := np.radians(turn_deg)), -np.sin(a)], [np.sin(a), np.cos(a)]]
    shift = np.eye(4)
    for distance in (-3, 7):
        # Both are 10 mm long along x, from -0.5 to 9.5 mm.
        shift[0, 3] = 10 + distance
        one, two = Grid((10, 10, 10), turn), Grid((5, 10, 10), turn @ shift @ np.diag([2, 1, 1, 1]))
        assert one.gap_mm(two) == pytest.approx(two.gap_mm(one)) == pytest.approx(distance - 0.5)


def test_a_label_map_without_a_lesion_and_transforms_that_disagree_are_warnings(tmp_path: Path) -> None:
    folder = add_case(tmp_path, "a")
    save(folder / "a-seg.nii.gz", np.zeros(SHAPE, np.uint8))
    patch(252, "<hh", 1, 1)(folder / "a-t2.nii.gz")
    patch(268, "<f", 87.0)(folder / "a-t2.nii.gz")
    report = check(tmp_path, [entry("a")])
    assert report.faults == 0
    assert table(tmp_path)[0]["warnings"] == (
        "sform and qform disagree: a/a-t2.nii.gz, by 3 mm at a corner; no labelled voxel: a/a-seg.nii.gz"
    )
    assert "\nwarnings: sform and qform disagree (1), no labelled voxel (1)\n" in report.summary


def test_an_image_in_the_place_of_an_undeclared_label_adds_no_columns(tmp_path: Path) -> None:
    values = np.random.default_rng(0).permutation(300).reshape(5, 6, 10)
    save(add_case(tmp_path, "a") / "a-seg.nii.gz", values.astype(np.int16))
    (row,) = check(tmp_path, [entry("a")], UNDECLARED).rows
    assert row["faults"].endswith("; a/a-seg.nii.gz: 299 different values, expected at most 256 of a label")
    assert not [column for column in row if column.startswith("voxels")]


def test_fractions_in_an_undeclared_label_add_no_columns(tmp_path: Path) -> None:
    with_values(0.5)(add_case(tmp_path, "a") / "a-seg.nii.gz")
    (row,) = check(tmp_path, [entry("a")], UNDECLARED).rows
    assert [column for column in row if column.startswith("voxels")] == ["voxels_1", "voxels_2"]


def test_transforms_are_not_compared_when_one_is_a_fault_anyway(tmp_path: Path) -> None:
    folder = add_case(tmp_path, "a")
    patch(252, "<hh", 1, 1)(folder / "a-t2.nii.gz")
    with_affine(AFFINE * np.nan)(folder / "a-t2.nii.gz")
    (row,) = check(tmp_path, [entry("a")]).rows
    assert (row["faults"].count("; "), row["warnings"]) == (0, "")


# The list


@pytest.mark.parametrize(
    ("changed", "faults"),
    [
        pytest.param(
            entry("case0", 7),
            [
                "case0: case0/case0-t1.nii.gz: case0 is in the list 2 times, expected once",
                "case0: case0/case0-t1.nii.gz: case0 is in the list 2 times, expected once",
            ],
            id="case",
        ),
        pytest.param(
            entry("case1", image=["./case0/case0-t1.nii.gz", *images("case1")[1:]]),
            [
                "case0: case0/case0-t1.nii.gz: is the image of case1 too",
                "case1: ./case0/case0-t1.nii.gz: is the image of case0 too",
            ],
            id="image",
        ),
        pytest.param(
            entry("case1", label="case0/case0-seg.nii.gz"),
            [
                "case0: case0/case0-seg.nii.gz: is the label of case1 too",
                "case1: case0/case0-seg.nii.gz: is the label of case0 too",
            ],
            id="label",
        ),
    ],
)
def test_a_fault_of_the_list_is_found_with_the_entries_that_have_it(
    changed: dict[str, Any], faults: list[str], tmp_path: Path, three: list[dict[str, Any]]
) -> None:
    summary = check(tmp_path, [three[0], changed, three[2]]).summary
    assert [line.strip() for line in summary.splitlines() if line.startswith("  ")] == faults


def test_a_patient_in_several_folds_is_a_warning_until_the_list_is_mended(
    tmp_path: Path, three: list[dict[str, Any]]
) -> None:
    visits = [{**case, "patient": "P"} for case in three]
    leaking = check(tmp_path, visits)
    assert leaking.faults == 0
    assert {row["warnings"] for row in leaking.rows} == {"leak: patient P is in folds 0, 1, 2"}
    assert "\nwarnings: leak (3)\n" in leaking.summary
    assert check(tmp_path, visits[1:]).rows[0]["warnings"] == "leak: patient P is in folds 1, 2"
    assert not check(tmp_path, visits[1:2]).rows[0]["warnings"]


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("folds", "faults", "cell"), [((0, 1), 4, "leaks"), ((2, 2), 0, "copies")], ids=["other fold", "same fold"]
)
def test_a_scan_under_two_names_is_found(
    folds: tuple[int, int], faults: int, cell: str, workers: int, tmp_path: Path, three: list[dict[str, Any]]
) -> None:
    """The FLAIR is another; the T1 of one is the T2 of the other."""
    for name, other in (("t1", "t2"), ("t2", "t1")):
        content = (tmp_path / "case0" / f"case0-{name}.nii.gz").read_bytes()
        (tmp_path / "case1" / f"case1-{other}.nii.gz").write_bytes(content)
    cases = [{**three[0], "fold": folds[0]}, {**three[1], "fold": folds[1]}, three[2]]
    report = check(tmp_path, cases, workers=workers)
    expected = [
        f"case0/case0-{name}.nii.gz: has the same voxels as case1/case1-{other}.nii.gz of fold {folds[1]}"
        for name, other in (("t1", "t2"), ("t2", "t1"))
    ]
    assert (report.faults, report.rows[0][cell]) == (faults, "; ".join(expected))
    assert [bool(row[cell]) for row in report.rows] == [True, True, False]
    assert f"  case0: {expected[0]}" in report.summary.splitlines() or not faults
    assert "same image as another case of its fold (2)" in report.summary or faults
    assert check(tmp_path, cases, workers=workers) == report
    mended = check(tmp_path, [cases[0], cases[2]])
    assert (mended.faults, mended.rows[0][cell]) == (0, "")


def test_of_several_copies_the_one_in_another_fold_is_told(tmp_path: Path, three: list[dict[str, Any]]) -> None:
    for case in ("case1", "case2"):
        shutil.copy(tmp_path / "case0" / "case0-t1.nii.gz", tmp_path / case / f"{case}-t1.nii.gz")
    report = check(tmp_path, [{**case, "fold": fold} for case, fold in zip(three, (0, 0, 1), strict=True)])
    expected = "case0/case0-t1.nii.gz: has the same voxels as case2/case2-t1.nii.gz of fold 1"
    assert (report.faults, report.rows[0]["leaks"], report.rows[0]["copies"]) == (3, expected, "")


def test_a_label_that_no_case_has_is_a_warning(tmp_path: Path, three: list[dict[str, Any]]) -> None:
    """As ET in the labels of BraTS before 2023, whose value 4 is now another's."""
    header = ["t1", "t2", "flair"], "t1", ["flair"], {"core": 1, "oedema": 2, "ET": 3, "cavity": 4}
    write_datalist(DataList(three, *header), tmp_path / "list.json")
    summary = check_datalist(tmp_path / "list.json", tmp_path, workers=1).summary
    assert "\nwarning: no case has label ET (3), cavity (4)\n" in summary
    for case in three:
        del case["label"]
    write_datalist(DataList(three, *header), tmp_path / "unlabelled.json")
    assert "no case has" not in check_datalist(tmp_path / "unlabelled.json", tmp_path, workers=1).summary


def test_a_table_of_older_rules_is_gone_on_with(tmp_path: Path, three: list[dict[str, Any]]) -> None:
    columns = "case,patient,fold,shape,spacing_mm,voxels_core,voxels_oedema,warnings,faults,digest"
    (tmp_path / "list_check.csv").write_text(f"{columns}\ncase0,case0,0,4x5x6,1x1.5x2,2,3,,,0123\n")
    assert check(tmp_path, three).faults == 0
    assert [row["case"] for row in table(tmp_path)] == ["case0", "case1", "case2"]


@pytest.mark.parametrize("name", ["a;b", 'a"b', "=1+1", "a,b"], ids=ascii)
def test_the_table_is_a_table_whatever_a_case_is_called(name: str, tmp_path: Path) -> None:
    add_case(tmp_path, name)
    report = check(tmp_path, [entry(name)])
    assert [row["case"] for row in table(tmp_path)] == [name]
    assert report.faults == 0
    assert check(tmp_path, [entry(name)]) == report


def test_a_path_with_a_line_break_is_a_fault_on_one_line(tmp_path: Path) -> None:
    add_case(tmp_path, "a\nb")
    report = check(tmp_path, [{**entry("a\nb"), "case": "a"}])
    fault = "has a line break or another control character in its path, expected none"
    assert [line for line in report.summary.splitlines() if line.startswith("  ")] == [
        f"  a: {f'a{chr(10)}b/a{chr(10)}b-{name}.nii.gz'!r}: {fault}" for name in FILES
    ]


# The run


def test_cases_are_read_again_only_when_something_has_changed(
    tmp_path: Path, three: list[dict[str, Any]], read: list[str]
) -> None:
    first = check(tmp_path, three)
    assert read == ["case0", "case1", "case2"]
    text = (tmp_path / "list_check.csv").read_bytes()
    assert check(tmp_path, three) == first
    assert (len(read), text) == (3, (tmp_path / "list_check.csv").read_bytes())
    read.clear()
    os.utime(tmp_path / "case1" / "case1-flair.nii.gz", ns=(1, 1))
    check(tmp_path, three)
    assert read == ["case1"]
    read.clear()
    (tmp_path / "case2" / "case2-seg.nii.gz").unlink()
    assert check(tmp_path, three).faults == 1
    assert read == ["case2"]
    read.clear()
    check(tmp_path, [three[0], {**three[1], "fold": 5}])
    assert read == ["case1"]
    assert [row["case"] for row in table(tmp_path)] == ["case0", "case1"]
    for layout in (Layout(LAYOUT.sequences, "t1", ["flair"], LAYOUT.label_file, {"core": 1}), UNDECLARED, ONE_GRID):
        read.clear()
        check(tmp_path, three, layout)
        assert read == ["case0", "case1", "case2"]


def test_cases_are_read_again_when_the_checks_have_changed(
    tmp_path: Path, three: list[dict[str, Any]], read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    check(tmp_path, three)
    monkeypatch.setattr(runner, "RULES", 0)
    check(tmp_path, three)
    assert len(read) == 6


@pytest.mark.parametrize("torn", [0, 1, 5, 30], ids=lambda cut: f"{cut} bytes lost")
def test_an_interrupted_run_leaves_its_cases_and_the_next_goes_on(
    torn: int, tmp_path: Path, three: list[dict[str, Any]], read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(files: CaseFiles) -> Finding:
        if len(table(tmp_path) if read else []) == 2:
            raise KeyboardInterrupt
        read.append(files.paths["t1"])
        return rules.check_case(files)

    with monkeypatch.context() as patched:
        patched.setattr(runner, "check_case", interrupted)
        with pytest.raises(KeyboardInterrupt):
            check(tmp_path, three)
    assert [row["case"] for row in table(tmp_path)] == ["case0", "case1"]
    partial_table = tmp_path / "list_check.csv"
    partial_table.write_bytes(partial_table.read_bytes()[: -torn or None])
    read.clear()
    check(tmp_path, three)
    # The end of a line is no part of its row.
    assert read == (["case2"] if torn < 3 else ["case1", "case2"])
    assert [row["case"] for row in table(tmp_path)] == ["case0", "case1", "case2"]
    assert not list(tmp_path.glob(".*"))


def test_a_label_first_seen_in_a_later_case_gets_its_column_between_the_others(
    tmp_path: Path, three: list[dict[str, Any]]
) -> None:
    with_values(10)(tmp_path / "case1" / "case1-seg.nii.gz")
    with_values(9)(tmp_path / "case2" / "case2-seg.nii.gz")
    check(tmp_path, three[::-1], UNDECLARED)
    rows = table(tmp_path)
    assert [column for column in rows[0] if column.startswith("voxels")] == [f"voxels_{n}" for n in (1, 2, 9, 10)]
    assert [(row["case"], row["voxels_10"]) for row in rows] == [("case0", ""), ("case1", "1"), ("case2", "")]


@pytest.mark.parametrize(
    "content",
    [b"", b"case,dice\na,0.5\n", b"\x1f\x8b\x00\xff", None],
    ids=["empty", "other columns", "binary", "short row in the middle"],
)
def test_a_file_that_is_no_such_table_is_refused_and_kept(
    content: bytes | None, tmp_path: Path, three: list[dict[str, Any]]
) -> None:
    path = tmp_path / "list_check.csv"
    if content is None:
        check(tmp_path, three)
        lines = path.read_bytes().splitlines(keepends=True)
        content = b"".join([*lines[:2], b"a,b\n", *lines[2:]])
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"list_check\.csv is no table of checked cases, or a damaged one: remove it"):
        check(tmp_path, three)
    assert path.read_bytes() == content


def test_two_workers_find_what_one_finds(tmp_path: Path) -> None:
    names = ["missing image", "undeclared", "damaged"]
    for case, name in enumerate(names):
        plant(tmp_path, f"case{case}", name)
    cases = [entry(f"case{case}") for case in range(len(names))]
    one = check(tmp_path, cases)
    text = (tmp_path / "list_check.csv").read_bytes()
    (tmp_path / "list_check.csv").unlink()
    assert check(tmp_path, cases, workers=2) == one
    assert not multiprocessing.active_children()
    assert (tmp_path / "list_check.csv").read_bytes() == text


def test_the_summary_names_the_first_faults_and_the_volumes_of_the_labels(tmp_path: Path) -> None:
    cases = [entry("a"), *(entry(f"lost{number:02}") for number in range(6))]
    add_case(tmp_path, "a")
    report = check(tmp_path, cases)
    path = tmp_path / "list_check.csv"
    missing = [f"  lost{n:02}: lost{n:02}/lost{n:02}-{f}.nii.gz: missing" for n in range(6) for f in FILES]
    assert report.summary.splitlines() == [
        f"cases: 7, labelled: 7, with faults: 6; details in {path}",
        "faults: 24",
        *missing[:20],
        f"  and 4 more, see {path}",
        "label   cases  median ml",
        "core        1      0.006",
        "oedema      1      0.009",
    ]


def test_what_cannot_be_run_is_said_in_one_sentence(tmp_path: Path, three: list[dict[str, Any]]) -> None:
    with pytest.raises(ValueError, match=r"^workers must be at least 1, got 0$"):
        check(tmp_path, three, workers=0)
    with pytest.raises(ValueError, match=r"list\.json lists no case$"):
        check(tmp_path, [])
    check(tmp_path, three)
    with pytest.raises(InputError, match=r"^no folder .*nowhere that holds the cases$"):
        check_datalist(tmp_path / "list.json", tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"^no folder .*nowhere for the table$"):
        check_datalist(tmp_path / "list.json", tmp_path, tmp_path / "nowhere" / "table.csv")
    with pytest.raises(InputError, match=r"^no data list at "):
        check_datalist(tmp_path / "other.json", tmp_path)


BRATS_2013 = Layout(
    {"Flair": ["{case}/Flair_subtrMeanDivStd.nii.gz"], "T1c": ["{case}/T1c_subtrMeanDivStd.nii.gz"]},
    "Flair",
    label_file=["{case}/OTMultiClass.nii.gz"],
    labels={"necrosis": 1, "oedema": 2, "non_enhancing": 3, "enhancing": 4},
)
BRATS_GLI = Layout({name: [f"{{case}}-{name}.nii.gz"] for name in ("t1n", "t1c", "t2w", "t2f")}, "t1n")
ISLES = Layout(
    {name: [f"{{case}}_{name}.nii.gz"] for name in ("dwi", "adc", "flair")},
    "dwi",
    ["flair"],
    ["{case}_msk.nii.gz"],
    {"lesion": 1},
)


@pytest.mark.parametrize(
    ("folder", "layout", "spacing", "millilitres"),
    [
        pytest.param("brats2013", BRATS_2013, "1x1x1", 700, id="float labels"),
        pytest.param("brats_gli", BRATS_GLI, "1x1x1", 0, id="no label"),
        pytest.param("isles2022", ISLES, "2x2x2", 20, id="FLAIR on its own grid"),
    ],
)
def test_real_patients_pass(folder: str, layout: Layout, spacing: str, millilitres: float, tmp_path: Path) -> None:
    if not (DATA / folder).is_dir():
        pytest.skip(f"no real patients at {DATA / folder}; set DCD_DATA")
    cases, faults = find_cases(DATA / folder, layout)
    assert not faults
    header = (list(layout.sequences), layout.reference, layout.resampled, layout.labels)
    write_datalist(DataList([{**case, "fold": 0} for case in cases], *header), tmp_path / "list.json")
    report = check_datalist(tmp_path / "list.json", DATA / folder, workers=1)
    assert report.faults == 0
    assert {row["spacing_mm"] for row in report.rows} == {spacing}
    kinds = {warning.partition(": ")[0] for row in report.rows for warning in row["warnings"].split("; ")}
    assert kinds == {"background is not 0" if folder == "brats2013" else ""}
    voxels = sum(int(row[column]) for row in report.rows for column in row if column.startswith("voxels"))
    assert bool(voxels) == bool(layout.label_file)
    assert 0 <= voxels / 1000 <= millilitres
