"""What is read is right, or refused in the same words by check, training, evaluation and inference."""

from __future__ import annotations

import gzip
import logging
import os
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from monai.transforms import LoadImage
from nibabel.affines import voxel_sizes

from dcd_components.data import nifti
from dcd_components.data.case_files import Layout
from dcd_components.data.cases import LoadCased, LoadLabeld, case_faults, labelled_cases
from dcd_components.data.check.rules import CaseFiles, Finding, check_case
from dcd_components.data.datalists import make_datalist, write_datalist
from dcd_components.data.marks import read_mark
from dcd_components.data.nifti import read_header, read_volume
from dcd_components.errors import InputError

SHAPE = (6, 7, 5)
AFFINE = np.array([[-2.0, 0, 0, 90], [0, -2, 0, 126], [0, 0, 2, -72], [0, 0, 0, 1]])
SEQUENCES = ("t1n", "t2w", "flair")
LAYOUT = Layout(
    {name: f"{{case}}-{name}.nii.gz" for name in SEQUENCES},
    resampled=["flair"],
    label_file="{case}-seg.nii.gz",
    labels={"core": 1, "oedema": 2, "ET": 4},
)


def image(seed: int = 0, shape: tuple[int, ...] = SHAPE) -> Any:
    """Skull-stripped noise."""
    values = np.random.default_rng(seed).integers(100, 1000, shape).astype(np.int16)
    values[[0, -1]] = values[:, [0, -1]] = values[:, :, [0, -1]] = 0
    return values


def label() -> Any:
    values = np.zeros(SHAPE, np.uint8)
    values[2, 2, 1:4] = [1, 2, 4]
    return values


def save(path: Path, values: Any, affine: Any = AFFINE, kind: Any = nibabel.Nifti1Image) -> None:
    nibabel.save(kind(np.asarray(values), affine), path)


@pytest.fixture
def case(tmp_path: Path) -> dict[str, str]:
    """Paths of a healthy case."""
    files = {**{name: name for name in SEQUENCES}, "label": "seg"}
    paths = {key: str(tmp_path / f"a-{name}.nii.gz") for key, name in files.items()}
    for seed, name in enumerate(SEQUENCES):
        save(Path(paths[name]), image(seed))
    save(Path(paths["label"]), label())
    return paths


def checked(case: dict[str, str]) -> Finding:
    return check_case(CaseFiles("/", case, "t1n", LAYOUT.resampled, LAYOUT.labels))


def loaded(case: dict[str, str]) -> dict[str, Any]:
    """A case as a training or an evaluation loads it."""
    item = LoadCased(LAYOUT)({"image": [case[name] for name in SEQUENCES], "label": case["label"]})
    return LoadLabeld(LAYOUT)(item)


def refusal(case: dict[str, str]) -> str:
    with pytest.raises(InputError) as caught:
        loaded(case)
    return str(caught.value)


# Faults, each of which changes one file of a healthy case.

Change = Callable[[Path], object]


def patched(offset: int, form: str, *numbers: float) -> Change:
    """Overwrite a part of the header, whose fields the NIfTI-1 standard fixes."""

    def change(path: Path) -> None:
        content, new = gzip.decompress(path.read_bytes()), struct.pack(form, *numbers)
        path.write_bytes(gzip.compress(content[:offset] + new + content[offset + len(new) :]))

    return change


def valued(values: Any) -> Change:
    return lambda path: save(path, values)


def with_voxel(value: float) -> Change:
    def change(path: Path) -> None:
        values = np.asarray(nibabel.load(path).dataobj, np.float32)
        values[3, 3, 3] = value
        save(path, values)

    return change


def written(content: bytes) -> Change:
    return lambda path: path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def into_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def zoomed(*zooms: float) -> Change:
    """Change ``pixdim`` alone, as ``set_zooms`` of nibabel does."""
    return patched(80, "<3f", *zooms)


def of_acdc(path: Path) -> None:
    """An sform of 1 mm, and the true spacing in the qform."""
    made = nibabel.Nifti1Image(image(1), np.eye(4))
    made.set_qform(np.diag([1.5, 1.5, 10, 1]), 1)
    made.set_sform(np.eye(4), 1)
    nibabel.save(made, path)


def gigantic(path: Path) -> None:
    """A NIfTI-2 header of 10^5 voxels a side, and a few bytes."""
    header = nibabel.Nifti2Header()
    header.set_data_dtype(np.uint8)
    header["dim"][:4], header["vox_offset"], header["sform_code"] = [3, 10**5, 10**5, 10**5], 544, 1
    header["srow_x"], header["srow_y"], header["srow_z"] = AFFINE[:3]
    header["pixdim"][1:4] = 2
    path.write_bytes(gzip.compress(header.binaryblock + bytes(1000)))


def overflowing(path: Path) -> None:
    gigantic(path)
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[24:48] = struct.pack("<3q", 2**62, 2**62, 2**62)
    path.write_bytes(gzip.compress(bytes(content)))


def copied(name: str) -> Change:
    return lambda path: path.write_bytes(path.with_name(f"a-{name}.nii.gz").read_bytes())


TURNED = AFFINE @ np.diag([-1, 1, 1, 1])
RGB = np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")])
IMAGES: dict[str, tuple[Change, str]] = {
    "missing": (Path.unlink, "missing"),
    "a folder": (into_folder, "is no file"),
    "empty": (written(b""), "is empty, 0 bytes"),
    "a web page": (written(b"<!DOCTYPE html><html>"), "is not compressed, though its name ends in .gz"),
    "a compressed web page": (written(gzip.compress(b"<html>" * 100)), "is not a NIfTI file: no such header"),
    "not compressed": (
        lambda path: path.write_bytes(gzip.decompress(path.read_bytes())),
        "is not compressed, though its name ends in .gz",
    ),
    "cut off": (cut, "truncated: its compressed data break off after "),
    "cut off below the compression": (
        lambda path: path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-40])),
        "truncated: 380 bytes of voxels, expected 420",
    ),
    "NaN voxel": (with_voxel(np.nan), "1 NaN and 0 Inf among 210 voxels"),
    "Inf voxel": (with_voxel(-np.inf), "0 NaN and 1 Inf among 210 voxels"),
    "too large for single precision": (valued(image(1) * 1e40), "0 NaN and "),
    "constant": (valued(np.full(SHAPE, 7, np.int16)), "all 210 voxels are 7, expected an image"),
    "all 0": (valued(np.zeros(SHAPE, np.int16)), "all 210 voxels are 0, expected an image"),
    "all NaN": (valued(np.full(SHAPE, np.nan, np.float32)), "210 NaN and 0 Inf among 210 voxels"),
    "complex": (
        valued(image(1).astype(np.complex64)),
        "holds complex numbers, expected one real number in each voxel",
    ),
    "colour": (valued(RGB), "holds colours, expected one real number in each voxel"),
    "slope with a NaN intercept": (
        patched(112, "<2f", 2, np.nan),
        "cannot be read: HeaderDataError: Valid slope but invalid intercept nan",
    ),
    "unknown type": (patched(70, "<h", 999), "cannot be read: HeaderDataError: data code 999 not"),
    "no voxels": (patched(44, "<h", 0), "has no voxels, shape 6x0x5"),
    "negative size": (patched(44, "<h", -7), "has no voxels, shape 6x-7x5"),
    "voxels inside the header": (patched(108, "<f", 0), "its voxels begin at byte 0, expected from 348 to 67108864"),
    "voxels far behind the end": (patched(108, "<f", 2e9), "its voxels begin at byte 2000000000, expected "),
    "2D": (valued(image(1)[:, :, 2]), "is 2D, shape 6x7, expected one 3D volume"),
    "series": (
        valued(image(1, (*SHAPE, 3))),
        "is 4D (volumes: 3), shape 6x7x5x3, expected one 3D volume",
    ),
    "gigantic": (gigantic, "has 1000000000000000 voxels, shape 100000x100000x100000, expected at most 1073741824"),
    "overflowing": (overflowing, f"has {2**186} voxels, shape "),
    "more than the file can hold": (
        patched(42, "<3h", 1000, 1000, 1000),
        "claims 2000000000 bytes of voxels, more than ",
    ),
    "pixdim of set_zooms": (
        zoomed(1, 1, 1),
        "pixdim says voxels of 1x1x1 mm, expected 2x2x2 mm as its sform",
    ),
    "metres": (patched(123, "<b", 1), "its unit of length is the metre, expected the millimetre"),
    "micrometres": (patched(123, "<b", 3 + 8), "its unit of length is the micrometre, expected the millimetre"),
    "NaN in pixdim": (zoomed(2, np.nan, 2), "pixdim says voxels of 2xnanx2 mm, expected 2x2x2 mm as its sform"),
    "sform of NaN": (patched(280, "<f", np.nan), "its affine holds 1 numbers that are NaN or Inf"),
    "sform of 1e30": (patched(280, "<f", 1e30), "its affine holds 1e+30, expected at most 1000000 mm"),
    "sform of 0": (patched(280, "<12f", *[0.0] * 12), "its affine is singular: voxels of 0x0x0 mm"),
    "shape": (valued(image(1, (6, 7, 4))), "shape 6x7x4, expected 6x7x5 as t1n"),
    "spacing": (lambda path: save(path, image(1), np.diag([1, 1, 3, 1])), "spacing 1x1x3 mm, expected 2x2x2 mm as t1n"),
    "orientation": (lambda path: save(path, image(1), TURNED), "another origin or rotation than t1n: moves a corner "),
    "doubled channel": (copied("t1n"), "has the same voxels as t1n, {t1n}"),
    "stream that goes on": (
        lambda path: path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()) + bytes(2**24))),
        "goes on behind the 420 bytes of voxels that its header claims",
    ),
}


@pytest.mark.parametrize("name", IMAGES)
def test_a_faulty_image_is_refused_in_one_sentence_which_is_that_of_check(name: str, case: dict[str, str]) -> None:
    change, reason = IMAGES[name]
    change(Path(case["t2w"]))
    said = refusal(case)
    assert said.split("; ") == checked(case).faults
    assert said.startswith(f"{case['t2w']}: {reason.format(**case)}")
    assert "\n" not in said


def test_of_acdc_the_sform_of_1_mm_is_refused_where_pixdim_has_the_true_spacing(case: dict[str, str]) -> None:
    of_acdc(Path(case["t1n"]))
    assert refusal(case).startswith(f"{case['t1n']}: pixdim says voxels of 1.5x1.5x10 mm, expected 1x1x1 mm as its sfo")


LABELS: dict[str, tuple[Change, str]] = {
    "259": (
        with_voxel(259),
        "259 in 1 of 210 voxels, expected 0 or one of 1, 2, 4",
    ),
    "-1": (with_voxel(-1), "-1 in 1 of 210 voxels, expected no value below 0"),
    "3, not declared": (with_voxel(3), "3 in 1 of 210 voxels, expected 0 or one of 1, 2, 4"),
    "fraction": (with_voxel(1.5), "1.5 in 1 of 210 voxels, expected whole numbers"),
    "slope of .1": (valued(label() * np.float32(0.1)), "0.1, 0.2, 0.4 in 3 of 210 voxels, expected whole numbers"),
    "NaN": (with_voxel(np.nan), "1 NaN and 0 Inf among 210 voxels"),
    "cut off": (cut, "truncated: its compressed data break off after "),
    "missing": (Path.unlink, "missing"),
    "a folder": (into_folder, "is no file"),
    "pixdim of set_zooms": (zoomed(1, 1, 1), "pixdim says voxels of 1x1x1 mm, expected 2x2x2 mm as its sform"),
}


@pytest.mark.parametrize("name", LABELS)
def test_a_faulty_label_is_refused_in_one_sentence_which_is_that_of_check(name: str, case: dict[str, str]) -> None:
    change, reason = LABELS[name]
    change(Path(case["label"]))
    said = refusal(case)
    assert said.split("; ") == checked(case).faults
    assert said.startswith(f"{case['label']}: {reason}")


@pytest.mark.parametrize(
    ("key", "change"),
    [
        *((key, zoomed(1, 1, 1)) for key in ("t1n", "label")),
        ("t2w", gigantic),
        ("label", lambda path: save(path, label(), TURNED)),
        ("label", lambda path: save(path, label()[:5])),
        ("t2w", patched(112, "<2f", 2, np.nan)),
    ],
    ids=["reference", "label", "gigantic", "orientation", "shape", "intercept"],
)
def test_what_a_header_shows_stops_a_training_before_it_begins(
    key: str, change: Change, case: dict[str, str], tmp_path: Path
) -> None:
    write_datalist(make_datalist(tmp_path, LAYOUT, folds=1)[0], tmp_path / "list.json")
    labelled_cases(tmp_path / "list.json", tmp_path, LAYOUT, [0])
    change(Path(case[key]))
    faults = checked(case).faults
    with pytest.raises(InputError) as caught:
        labelled_cases(tmp_path / "list.json", tmp_path, LAYOUT, [0])
    assert str(caught.value).split("; ") == faults == case_faults(case, "t1n", ["flair"])


@pytest.mark.parametrize("name", ["259", "-1", "slope of .1", "cut off"])
def test_a_faulty_label_stops_a_training_before_it_begins(name: str, case: dict[str, str], tmp_path: Path) -> None:
    write_datalist(make_datalist(tmp_path, LAYOUT, folds=1)[0], tmp_path / "list.json")
    LABELS[name][0](Path(case["label"]))
    with pytest.raises(InputError) as caught:
        labelled_cases(tmp_path / "list.json", tmp_path, LAYOUT, [0])
    assert str(caught.value).startswith(f"{case['label']}: {LABELS[name][1]}")


# What is not a fault


def scaled(path: Path) -> None:
    made = nibabel.Nifti1Image(image(1), AFFINE)
    made.header.set_slope_inter(0.5, -3)
    nibabel.save(made, path)


def big_endian(path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(image(1), AFFINE, nibabel.Nifti1Header(endianness=">")), path)


def with_codes(sform: int, qform: int) -> Change:
    def change(path: Path) -> None:
        made = nibabel.Nifti1Image(image(1), AFFINE)
        made.set_qform(AFFINE, qform)
        made.set_sform(AFFINE, sform)
        nibabel.save(made, path)

    return change


SOUND: dict[str, Change] = {
    **{str(np.dtype(kind)): valued(image(1).astype(kind)) for kind in (np.uint16, np.float32, np.float64)},
    "int64": lambda path: nibabel.save(nibabel.Nifti1Image(image(1).astype(np.int64), AFFINE, dtype=np.int64), path),
    "big-endian": big_endian,
    "NIfTI-2": lambda path: save(path, image(1), kind=nibabel.Nifti2Image),
    "scaled": scaled,
    "NaN slope": patched(112, "<2f", np.nan, np.nan),
    "Inf slope": patched(112, "<2f", np.inf, 0),
    "slope of 0": patched(112, "<2f", 0, 5),
    "qform only": with_codes(0, 1),
    "sform only": with_codes(2, 0),
    "trailing axis of one": valued(image(1)[..., None]),
    "two trailing axes of one": valued(image(1)[..., None, None]),
    "rounded pixdim": zoomed(2.0001, 1.9999, 2),
    "pixdim of 0": zoomed(0, 0, 0),
    "millimetres and seconds": patched(123, "<b", 2 + 8),
    "no unit": patched(123, "<b", 0),
    "negative pixdim": zoomed(-2, 2, 2),
    "rest behind the voxels": lambda path: path.write_bytes(
        gzip.compress(gzip.decompress(path.read_bytes()) + bytes(1000))
    ),
    "small difference of affines": lambda path: save(path, image(1), AFFINE + np.outer([1, 0, 0, 0], [0, 0, 0, 0.01])),
}


@pytest.mark.parametrize("name", SOUND)
def test_a_sound_file_is_read_as_nibabel_reads_it(name: str, case: dict[str, str]) -> None:
    SOUND[name](path := Path(case["t2w"]))
    assert checked(case).faults == []
    item, expected = loaded(case), nibabel.load(path)
    assert np.array_equal(item["t2w"].numpy()[0], np.asarray(expected.dataobj, np.float32).reshape(SHAPE))
    assert item["t2w"].dtype == torch.float32
    assert np.array_equal(item["t2w"].affine, expected.affine)
    assert np.array_equal(item["t2w"].meta["original_affine"], expected.affine)


@pytest.mark.parametrize("orientation", [AFFINE, TURNED, np.diag([2.0, 2, 2, 1])], ids=["LPS", "RPS", "RAS"])
def test_any_orientation_is_read_as_it_stands(orientation: Any, case: dict[str, str]) -> None:
    for seed, name in enumerate(SEQUENCES):
        save(Path(case[name]), image(seed), orientation)
    save(Path(case["label"]), label(), orientation)
    assert checked(case).faults == []
    item = loaded(case)
    assert np.array_equal(item["t1n"].affine, orientation)
    assert np.array_equal(item["label"].affine, orientation)
    assert np.array_equal(item["label"].numpy()[0], label())


def test_codes_of_0_take_the_affine_of_nibabel(case: dict[str, str]) -> None:
    for name in case:
        with_codes(0, 0)(Path(case[name]))
    affine = nibabel.load(case["t1n"]).affine
    assert np.array_equal(read_header(case["t1n"]).affine, affine)
    assert np.array_equal(voxel_sizes(affine), [2, 2, 2])


def test_one_slice_is_a_volume(case: dict[str, str]) -> None:
    for seed, name in enumerate(SEQUENCES):
        save(Path(case[name]), image(seed)[:, :, 1:2])
    save(Path(case["label"]), label()[:, :, 1:2])
    assert checked(case).faults == []
    assert loaded(case)["t1n"].shape == (1, 6, 7, 1)


def test_what_later_transforms_read_of_an_image_is_what_monai_gives_them(case: dict[str, str]) -> None:
    found, expected = loaded(case)["t2w"].meta, LoadImage(image_only=True, ensure_channel_first=True)(case["t2w"]).meta
    assert set(found) - {"case"} == set(expected)
    different = [key for key in expected if str(found[key]) != str(expected[key])]
    assert different == []


def test_a_rounded_pixdim_never_moves_an_image(case: dict[str, str]) -> None:
    """MONAI's own reader would take the qform, even one of code 0."""
    made = nibabel.Nifti1Image(image(1), AFFINE)
    made.set_qform(np.eye(4), 0)
    made.set_sform(AFFINE, 1)
    nibabel.save(made, case["t2w"])
    zoomed(2.0001, 2.0001, 2.0001)(Path(case["t2w"]))
    assert not np.allclose(LoadImage(image_only=True)(case["t2w"]).affine, AFFINE)
    assert np.array_equal(loaded(case)["t2w"].affine, AFFINE)


# Labels


def test_labels_beside_whole_numbers_are_rounded(case: dict[str, str]) -> None:
    save(Path(case["label"]), label() * np.float32(0.9999))
    item, found = loaded(case), checked(case)
    assert np.array_equal(item["label"].numpy()[0], label())
    assert (found.faults, found.voxels) == ([], {"core": 1, "oedema": 1, "ET": 1})


def test_where_no_label_is_declared_any_whole_number_is_one(case: dict[str, str]) -> None:
    save(Path(case["label"]), label().astype(np.int16) * 100)
    item = LoadCased(LAYOUT)({"image": case["t1n"], "label": case["label"]})
    found = LoadLabeld(Layout(LAYOUT.sequences))(item)["label"]
    assert found.unique().tolist() == [0, 100, 200, 400]


def test_a_label_may_be_drawn_on_a_grid_of_its_own_but_not_elsewhere(case: dict[str, str]) -> None:
    item = LoadCased(LAYOUT)({"image": case["t1n"], "label": case["label"]})
    save(Path(case["label"]), label()[:4])
    assert LoadLabeld(LAYOUT)(item)["label"].shape == (1, 4, 7, 5)
    save(Path(case["label"]), label()[:4], AFFINE + np.outer([1, 0, 0, 0], [0, 0, 0, 50]))
    with pytest.raises(InputError, match="does not overlap t1n in space: the fields of view are "):
        LoadLabeld(LAYOUT)(item)


# Warnings


def test_a_background_other_than_0_is_a_warning(case: dict[str, str], caplog: pytest.LogCaptureFixture) -> None:
    for seed, name in enumerate(SEQUENCES[:2]):
        save(Path(case[name]), image(seed) - 2)
    with caplog.at_level(logging.WARNING):
        loaded(case)
    (record,) = caplog.records
    assert record.getMessage() == "; ".join(f"{case[name]}: background is -2, expected 0" for name in SEQUENCES[:2])
    found = checked(case)
    assert found.faults == []
    assert found.warnings == [
        f"background is not 0: {case[name]}, background is -2, expected 0" for name in SEQUENCES[:2]
    ]


# Hostile files


def peak_bytes(work: Callable[[], object]) -> int:
    tracemalloc.start()
    work()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_no_memory_is_taken_for_what_a_file_cannot_hold(case: dict[str, str], tmp_path: Path) -> None:
    plain = tmp_path / "plain.nii"
    save(plain, image(1))
    content = plain.read_bytes()
    plain.write_bytes(content[:42] + struct.pack("<3h", 30000, 300, 100) + content[48:])
    gigantic(Path(case["t2w"]))
    patched(42, "<3h", 1000, 1000, 1000)(Path(case["t1n"]))
    for path in (plain, case["t2w"], case["t1n"]):
        assert peak_bytes(lambda path=path: read_volume(path)) < 2**20  # type: ignore[misc]
    assert read_volume(plain).faults == ["truncated: 420 bytes of voxels, expected 1800000000"]


def test_a_decompression_bomb_is_not_read_beyond_what_its_header_claims(
    case: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bomb = gzip.compress(gzip.decompress(Path(case["t2w"]).read_bytes()) + bytes(2**26))
    Path(case["t2w"]).write_bytes(bomb)
    assert peak_bytes(lambda: read_volume(case["t2w"])) < 2**23
    read, opened = [], gzip.GzipFile.read

    def counted(self: Any, size: int = -1) -> bytes:
        read.append(size)
        return opened(self, size)

    monkeypatch.setattr(gzip.GzipFile, "read", counted)
    assert read_volume(case["t2w"]).faults == ["goes on behind the 420 bytes of voxels that its header claims"]
    assert 0 < sum(read) < 2**22
    assert min(read) >= 0


def test_an_extension_of_a_header_is_not_read(case: dict[str, str]) -> None:
    """Nor by what looks for the mark of a mask, before anything else is known of a file."""
    content = gzip.decompress(Path(case["t2w"]).read_bytes())
    extension = struct.pack("<4B2i", 1, 0, 0, 0, 2**25, 0) + bytes(2**25 - 8)
    start = struct.pack("<f", 348 + len(extension))
    Path(case["t2w"]).write_bytes(gzip.compress(content[:108] + start + content[112:348] + extension + content[352:]))
    assert peak_bytes(lambda: (read_mark(case["t2w"]), read_volume(case["t2w"]))) < 2**22
    assert checked(case).faults == []
    assert np.array_equal(loaded(case)["t2w"].numpy()[0], image(1))


def test_a_volume_that_a_file_can_hold_may_still_be_too_large(
    case: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nifti, "MAX_VOXELS", 209)
    assert refusal(case).startswith(f"{case['t1n']}: has 210 voxels, shape 6x7x5, expected at most 209; ")


def test_an_unreadable_file_is_named(case: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that vanishes, or whose disk fails, between two reads."""

    def failing(path: Path) -> Any:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(nifti, "_open", failing)
    assert refusal(case).startswith(f"{case['t1n']}: cannot be read: OSError: [Errno 5] Input/output error; ")


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("ending", ["nii", "nii.gz"])
def test_damaged_headers_end_in_the_faults_of_check(kind: Any, ending: str, tmp_path: Path) -> None:
    """Some hundred files, each with a few bytes of its header changed; nothing else is raised, or warned of."""
    rng, layout = np.random.default_rng(0), Layout({"t1n": f"{{case}}.{ending}"})
    image_bytes, size, path = kind(image(), AFFINE).to_bytes(), kind.header_class.sizeof_hdr, tmp_path / f"a.{ending}"
    refused = 0
    for _ in range(150):
        content = bytearray(image_bytes)
        for place in rng.integers(0, size - 8, 3):
            content[place : place + 4] = rng.choice([rng.bytes(4), b"\xff" * 4, bytes(4), b"\x7f" * 4])
        path.write_bytes(gzip.compress(content, 1) if ending.endswith("gz") else content)
        found = check_case(CaseFiles("/", {"t1n": str(path)}, "t1n", (), {})).faults
        assert peak_bytes(lambda: read_volume(path)) < 2**22
        if found:
            refused += 1
            with pytest.raises(InputError) as caught:
                LoadCased(layout)({"image": str(path)})
            assert set(str(caught.value).split("; ")) <= set(found)
        else:
            assert LoadCased(layout)({"image": str(path)})["t1n"].ndim == 4
    assert 0 < refused < 150


NAMES = [
    "$(touch hacked)",
    "a;touch hacked",
    "`touch hacked`",
    "@x",
    "%x",
    "$x",
    "-x",
    "#1",
    "=1+1",
    "é 腫瘍",
    "it's",
    'a"b',
]


@pytest.mark.parametrize("name", NAMES)
def test_names_that_a_shell_or_a_config_would_read_are_names(
    name: str, case: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "data" / name
    folder.mkdir(parents=True)
    for path in map(Path, case.values()):
        path.rename(folder / path.name.replace("a-", f"{name}-"))
    listed, _ = make_datalist(tmp_path / "data", LAYOUT, folds=1)
    write_datalist(listed, tmp_path / "list.json")
    (item,) = labelled_cases(tmp_path / "list.json", tmp_path / "data", LAYOUT, [0])
    assert item["case"] == name
    assert LoadLabeld(LAYOUT)(LoadCased(LAYOUT)(item))["case"] == name
    assert sorted(os.listdir(tmp_path)) == ["data", "list.json"]


@pytest.mark.parametrize("name", ["a\nerror: all is well", "a\rb", "a\x1b[2Jb", "a\u2028b", "a\udcffb"], ids=ascii)
def test_names_with_control_characters_are_refused_on_one_line(name: str, tmp_path: Path) -> None:
    layout = Layout({"t1n": "{case}-t1n.nii.gz"})
    save(path := tmp_path / f"{name}-t1n.nii.gz", image())
    with pytest.raises(InputError) as caught:
        make_datalist(tmp_path, layout, folds=1)
    fault = "has a line break or another control character in its path, expected none"
    shown = repr(path.name)
    assert str(caught.value) == f"1 faults in {tmp_path}:\n  {name!r}: {shown}: {fault}"
    with pytest.raises(InputError) as caught:
        LoadCased(layout)({"image": str(path)})
    assert str(caught.value) == f"{str(path)!r}: {fault}"
    assert check_case(CaseFiles("/", {"t1n": str(path)}, "t1n", (), {})).faults == [f"{str(path)!r}: {fault}"]


def test_a_folder_with_a_line_break_in_its_name_is_not_passed_over(tmp_path: Path) -> None:
    (tmp_path / "a\nb").mkdir()
    for folder in (tmp_path, tmp_path / "a\nb"):
        save(folder / f"{folder.name[:1]}-t1n.nii.gz", image())
    with pytest.raises(InputError, match=r"^1 faults in .*\n  a: 'a\\nb/a-t1n.nii.gz': has a line break "):
        make_datalist(tmp_path, Layout({"t1n": "{case}-t1n.nii.gz"}), folds=1)
