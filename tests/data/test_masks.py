"""Masks are written whole, in the geometry of their case, and never over what is not a mask of the same weights."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from trees import save

from dcd_components.data import masks
from dcd_components.data.case_files import MARK, Case
from dcd_components.data.marks import Mark, is_own_mask, read_mark, voxels_digest
from dcd_components.data.masks import (
    SaveMaskd,
    check_output,
    check_overwrite,
    is_done,
    mask_path,
    planned_cases,
    weights_mark,
    write_mask,
)
from dcd_components.data.unlabelled_cases import SoundCases
from dcd_components.errors import InputError
from dcd_components.networks.weights import save_weights, weights_digest
from dcd_components.tables import write_csv

MADE = Mark("0123456789ab", "01234567")
LABELS = np.arange(24, dtype=np.float32).reshape(2, 3, 4) % 5
WRITTEN = replace(MADE, voxels=voxels_digest(LABELS))


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    save_weights({"weight": torch.ones(2)}, tmp_path / "model.pt")
    return tmp_path / "model.pt"


@pytest.fixture
def cases(tmp_path: Path) -> list[Case]:
    found = []
    for name in ("a", "b"):
        save(tmp_path / "data" / f"{name}.nii.gz", value=1)
        found.append({"image": [str(tmp_path / "data" / f"{name}.nii.gz")], "case": name})
    return found


def written(cases: list[Case], folder: Path, weights: Path, settings: Sequence[object] = ()) -> list[Case]:
    """Write the masks of the cases that are left to do."""
    todo = planned_cases(cases, folder, weights_mark(weights), settings)
    for case in todo:
        mark = Mark.parse(case[MARK])
        assert mark
        write_mask(LABELS, case["image"][0], mask_path(folder, case["case"]), mark)
    return todo


# The file


def header(change: Callable[[Any], None], kind: Any = nib.Nifti1Image) -> Any:
    image = kind(np.ones((2, 3, 4), np.float32), None)
    image.header.set_sform(SHEARED, 2)
    image.header.set_qform(np.diag([-1.0, 1, 2, 1]), 1, strip_shears=False)
    image.header.set_xyzt_units("mm", "sec")
    change(image.header)
    return kind(np.ones((2, 3, 4), np.float32), None, image.header)


SHEARED = np.array([[2.0, 0.3, 0.1, -20], [0, 1.5, 0.2, 5], [0.1, 0, 1.1, 7.25], [0, 0, 0, 1]])


def codes(sform: int, qform: int) -> Callable[[Any], None]:
    """Set the codes alone, as no function of nibabel does."""

    def change(header: Any) -> None:
        header["sform_code"], header["qform_code"] = sform, qform

    return change


HEADERS: dict[str, Callable[[Any], None]] = {
    "sform and qform": codes(2, 1),
    "sform only": codes(4, 0),
    "qform only": codes(0, 3),
    "no codes": codes(0, 0),
    "microns": lambda header: header.set_xyzt_units("micron"),
}


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image], ids=["NIfTI-1", "NIfTI-2"])
@pytest.mark.parametrize("name", HEADERS)
def test_a_mask_lies_where_its_image_lies_by_every_field_of_the_header(name: str, kind: Any, tmp_path: Path) -> None:
    nib.save(header(HEADERS[name], kind), tmp_path / "image.nii.gz")
    write_mask(LABELS, tmp_path / "image.nii.gz", tmp_path / "mask.nii.gz", MADE)
    image, mask = nib.load(tmp_path / "image.nii.gz"), nib.load(tmp_path / "mask.nii.gz")
    for field in masks.GEOMETRY:
        assert np.array_equal(mask.header[field], image.header[field]), field
    assert np.array_equal(mask.header["pixdim"][:4], image.header["pixdim"][:4])
    assert np.array_equal(mask.affine, image.affine)
    assert type(mask) is kind
    assert (mask.header["sform_code"] > 0) == ("sform" in name or name == "microns")
    assert mask.get_data_dtype() == np.uint8
    assert np.array_equal(np.asarray(mask.dataobj), LABELS)
    assert mask.header["scl_slope"] != mask.header["scl_slope"]  # NaN: nothing is scaled


def test_a_label_above_255_takes_16_bits(tmp_path: Path) -> None:
    save(tmp_path / "image.nii.gz")
    write_mask(LABELS + 255, tmp_path / "image.nii.gz", tmp_path / "mask.nii.gz", MADE)
    mask = nib.load(tmp_path / "mask.nii.gz")
    assert mask.get_data_dtype() == np.uint16
    assert np.asarray(mask.dataobj).max() == 259


def test_a_mask_bears_its_mark_and_another_image_none(tmp_path: Path) -> None:
    save(tmp_path / "image.nii.gz")
    write_mask(LABELS, tmp_path / "image.nii.gz", tmp_path / "mask.nii.gz", MADE)
    (tmp_path / "empty.nii.gz").touch()
    assert read_mark(tmp_path / "mask.nii.gz") == WRITTEN
    assert len(str(WRITTEN)) <= 80
    assert is_own_mask(tmp_path / "mask.nii.gz")
    assert [read_mark(tmp_path / f"{name}.nii.gz") for name in ("image", "empty", "nothing")] == [None] * 3


def test_the_transform_writes_an_item_s_mask_and_is_one_that_monai_label_leaves_out(tmp_path: Path) -> None:
    from monai.transforms import SaveImaged

    save(tmp_path / "image.nii.gz")
    meta = {"case": "a", "filename_or_obj": str(tmp_path / "image.nii.gz")}
    item = {"pred": MetaTensor(torch.from_numpy(LABELS)[None], meta=meta), MARK: str(MADE)}
    transform = SaveMaskd("pred", tmp_path / "new")
    assert isinstance(transform, SaveImaged)
    assert transform(item).keys() == item.keys()
    assert read_mark(tmp_path / "new" / "a_seg.nii.gz") == WRITTEN
    assert os.listdir(tmp_path / "new") == ["a_seg.nii.gz"]


def test_a_full_disk_ends_in_a_sentence_and_leaves_the_mask_before(tmp_path: Path) -> None:
    """A limit on the size of a file stands for the disk."""
    save(tmp_path / "image.nii.gz", (40, 40, 40))
    path = tmp_path / "out" / "a_seg.nii.gz"
    write_mask(np.zeros((40, 40, 40)), tmp_path / "image.nii.gz", path, MADE)
    before = path.read_bytes()
    noise = np.random.default_rng(0).integers(0, 5, (40, 40, 40))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(InputError, match=f"^{path} cannot be written: File too large$"):
            write_mask(noise, tmp_path / "image.nii.gz", path, MADE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("name", ["a/b", "../a", "a\0b"])
def test_a_name_does_not_lead_out_of_the_folder(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="may not be called"):
        mask_path(tmp_path, name)


# The rule


def test_masks_of_the_same_weights_files_and_settings_are_kept(
    cases: list[Case], weights: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "out"
    assert [case["case"] for case in written(cases, out, weights)] == ["a", "b"]
    check_overwrite(cases, out, weights_mark(weights))
    mask_path(out, "a").unlink()
    with caplog.at_level("INFO"):
        (left,) = planned_cases(cases, out, weights_mark(weights))
    assert left["case"] == "a"
    assert caplog.messages == [f"masks of 1 of 2 cases stand in {out} already and are kept"]
    assert len(planned_cases(cases, out, weights_mark(weights), scored=True)) == 2


def test_masks_of_other_files_or_settings_are_made_anew(cases: list[Case], weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    written(cases, out, weights, [1.0, "gaussian"])
    assert written(cases, out, weights, [1.0, "gaussian"]) == []
    os.utime(cases[1]["image"][0], ns=(0, 1))
    assert [case["case"] for case in planned_cases(cases, out, weights_mark(weights), [1.0, "gaussian"])] == ["b"]
    other = planned_cases(cases, out, weights_mark(weights), [2.0, "gaussian"])
    assert [case["case"] for case in other] == ["a", "b"]
    check_overwrite(cases, out, weights_mark(weights))
    written(cases, out, weights, [2.0, "gaussian"])
    assert all(is_done(out, case) for case in other)


@pytest.mark.parametrize("number", [1, 2])
def test_masks_of_other_weights_are_not_replaced(number: int, cases: list[Case], weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    written(cases[-number:], out, weights)
    old = weights_digest(weights)
    save_weights({"weight": torch.zeros(2)}, weights)
    now = weights_digest(weights)
    expected = (
        rf"^{number} masks? (is|are) by other weights in {out} \({old}, now {now}\), such as {out}/.+_seg.nii.gz: "
        "move them away, or name another output folder; nothing was done$"
    )
    with pytest.raises(InputError, match=expected):
        check_overwrite(cases, out, weights_mark(weights))


@pytest.mark.parametrize("what", ["an expert's", "text", "empty", "a folder", "a link that leads nowhere"])
def test_no_file_of_others_is_replaced(what: str, cases: list[Case], weights: Path, tmp_path: Path) -> None:
    path = tmp_path / "data" / "b_seg.nii.gz"
    make: dict[str, Callable[[], object]] = {
        "an expert's": lambda: save(path, value=1),
        "text": lambda: path.write_text("corrected by hand"),
        "empty": path.touch,
        "a folder": path.mkdir,
        "a link that leads nowhere": lambda: path.symlink_to(tmp_path / "nowhere"),
    }
    make[what]()
    with pytest.raises(InputError, match=rf"^{path}: .+, and is not replaced: .+; nothing was done"):
        check_overwrite(cases, tmp_path / "data", weights_mark(weights))


def edited(path: Path) -> None:
    """Change one voxel, and save as an editor of images does, which keeps the description of the header."""
    image = nib.load(path)
    values = np.asarray(image.dataobj).copy()
    values[0, 0, 0] += 1
    path.unlink()
    nib.save(nib.Nifti1Image(values, image.affine, image.header), path)


def test_a_corrected_mask_is_not_replaced(cases: list[Case], weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    written(cases, out, weights, [1.0])
    before = read_mark(path := mask_path(out, "a"))
    edited(path)
    assert read_mark(path) == before
    for other in ([], ["b"]):  # also of other weights
        save_weights({"weight": torch.zeros(2)}, weights) if other else None
        with pytest.raises(
            InputError, match=rf"^{path}: was changed after it was written, and is not replaced: name another"
        ):
            check_overwrite(cases, out, weights_mark(weights))


def test_a_corrected_mask_is_not_taken_for_one_that_is_done(cases: list[Case], weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    written(cases, out, weights)
    edited(mask_path(out, "a"))
    assert [case["case"] for case in planned_cases(cases, out, weights_mark(weights))] == ["a"]


def test_a_mask_that_would_be_the_same_is_not_written_again(
    cases: list[Case], weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a second evaluation; not even one that was corrected after it was looked at."""
    out = tmp_path / "out"
    todo = written(cases, out, weights)
    edited(mask_path(out, "b"))
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.iterdir()}
    for case in todo:
        meta = {"case": case["case"], "filename_or_obj": case["image"][0]}
        SaveMaskd("pred", out)({**case, "pred": MetaTensor(torch.from_numpy(LABELS)[None], meta=meta)})
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.iterdir()} == before


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.float32, np.float64])
def test_a_mask_saved_in_another_type_is_the_same(kind: type, tmp_path: Path) -> None:
    save(tmp_path / "image.nii.gz")
    write_mask(LABELS, tmp_path / "image.nii.gz", path := tmp_path / "mask.nii.gz", MADE)
    header = nib.load(path).header
    header.set_data_dtype(kind)
    nib.save(nib.Nifti1Image(LABELS.astype(kind), None, header), path)
    assert is_own_mask(path)


@pytest.mark.parametrize("value", [-1.0, 0.5, np.nan, np.inf, 65536.0])
def test_values_that_no_mask_has_have_no_digest(value: float) -> None:
    changed = LABELS.copy()
    changed[-1, -1, -1] = value
    assert voxels_digest(changed) == ""


def test_a_corrected_mask_is_a_label_to_score_against(cases: list[Case], weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    written(cases, out, weights)
    edited(mask_path(out, "a"))
    label = {**cases[0], "label": str(mask_path(out, "a"))}
    check_overwrite([label], tmp_path / "other", weights_mark(weights))


def test_no_input_is_replaced_even_if_it_is_a_mask(cases: list[Case], weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    written(cases, out, weights)
    (tmp_path / "link").symlink_to(out)
    label = {**cases[0], "label": str(tmp_path / "link" / "a_seg.nii.gz")}
    with pytest.raises(InputError, match="is a mask that this project wrote, expected a label to score against"):
        check_overwrite([label], tmp_path / "other", weights_mark(weights))
    image = {**cases[0], "image": str(tmp_path / "link" / "a_seg.nii.gz")}
    with pytest.raises(InputError, match=r"a_seg.nii.gz is among the files that are read"):
        check_overwrite([image], out, weights_mark(weights))


def test_a_case_with_a_fault_is_handed_on(weights: Path, tmp_path: Path) -> None:
    cases = [{"case": "a", "fault": "a: missing"}]
    check_overwrite(cases, tmp_path, weights_mark(weights))
    assert planned_cases(cases, tmp_path, weights_mark(weights)) == cases


def test_what_a_killed_run_left_is_removed_once_it_is_old(cases: list[Case], weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    old, new, other = (out / name for name in (f".{'0' * 32}-a_seg.nii.gz", f".{'1' * 32}-a_seg.nii.gz", ".hidden"))
    for path in (old, new, other):
        path.touch()
    for path in (old, other):
        os.utime(path, (0, time.time() - 2 * masks.OLD))
    check_overwrite(cases, out, weights_mark(weights))
    assert sorted(os.listdir(out)) == sorted([new.name, other.name])


def test_no_case_falls_between_two_processes(
    cases: list[Case], weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first has written a mask when the second looks at what is done."""
    out, shares = tmp_path / "out", []
    for name, value in {"is_initialized": True, "get_world_size": 2}.items():
        monkeypatch.setattr(torch.distributed, name, lambda value=value: value)
    for rank in range(2):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        sound = SoundCases(planned_cases(cases, out, weights_mark(weights)), dict, out)
        shares.append([case["case"] for case in sound])
        written(cases, out, weights)
    assert shares == [["a"], ["b"]]
    assert len(planned_cases(cases, out, weights_mark(weights), scored=True)) == 2


def test_without_weights_in_a_file_masks_are_marked_so(cases: list[Case], tmp_path: Path) -> None:
    (case, _) = planned_cases(cases, tmp_path, weights_mark(tmp_path / "nowhere.pt"))
    assert "weights=unknown " in case[MARK]


# Output


def test_weights_and_a_place_for_masks_are_wanted_before_the_work(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"^{tmp_path}/no.pt: missing, expected the weights of the network$"):
        check_output(tmp_path / "no.pt", tmp_path / "a" / "b")
    check_output(weights, tmp_path / "a" / "b")
    assert not (tmp_path / "a").exists()
    with pytest.raises(InputError, match=rf"^cannot write into {weights}$"):
        check_output(weights, weights / "b")


def test_scores_of_other_weights_are_not_replaced(weights: Path, tmp_path: Path) -> None:
    scores = tmp_path / "scores.csv"
    check_output(weights, tmp_path, scores)
    write_csv([{"case": "a", "dice": 1.0, "weights": weights_digest(weights)}], scores)
    check_output(weights, tmp_path, scores)
    for row, other in (({"case": "a", "weights": "0" * 12}, "0" * 12), ({"case": "a", "dice": 1.0}, "unknown")):
        write_csv([row], scores)
        with pytest.raises(
            InputError, match=rf"^{scores} holds scores of other weights \({other}, now .+: name another"
        ):
            check_output(weights, tmp_path, scores)
