"""Simulated patients: the same bytes for the same seed, a sound folder, plausible lesions."""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray

from dcd_components.simulation.phantoms import simulate_brats_gli

SEQUENCES = ("t1n", "t1c", "t2w", "t2f")
SMALL: dict[str, Any] = {"spacing_mm": 4.0, "size": (40, 48, 40), "workers": 1}


def contents(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*.nii.gz"))}


def load(folder: Path, name: str) -> nib.Nifti1Image:
    return nib.Nifti1Image.from_filename(folder / f"{folder.name}-{name}.nii.gz")


def voxels(folder: Path, name: str) -> NDArray[Any]:
    return np.asarray(load(folder, name).dataobj)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return simulate_brats_gli(tmp_path_factory.mktemp("phantoms"), 20, seed=0, **SMALL)


def test_same_seed_gives_the_same_bytes_on_one_and_on_two_workers(folders: list[Path], tmp_path: Path) -> None:
    simulate_brats_gli(tmp_path, 4, seed=0, **{**SMALL, "workers": 2})
    whole = contents(folders[0].parent)
    first = {name: data for name, data in whole.items() if (tmp_path / name).exists()}
    assert len(first) == 4 * 5
    assert contents(tmp_path) == first


def test_another_seed_gives_other_images(folders: list[Path], tmp_path: Path) -> None:
    (other,) = simulate_brats_gli(tmp_path, 1, seed=1, **SMALL)
    assert other.name == folders[0].name
    assert (voxels(other, "t1n") != voxels(folders[0], "t1n")).any()


def test_each_case_is_a_folder_of_five_files_named_after_it_and_nothing_else(folders: list[Path]) -> None:
    assert sorted(folders[0].parent.iterdir()) == folders
    for folder in folders:
        names = {f"{folder.name}-{name}.nii.gz" for name in (*SEQUENCES, "seg")}
        assert {path.name for path in folder.iterdir()} == names


def test_some_patients_come_back_with_the_same_brain_and_another_lesion(folders: list[Path]) -> None:
    patients = [folder.name.rsplit("-", 1) for folder in folders]
    assert len({patient for patient, _ in patients}) < len(folders)
    assert {visit for _, visit in patients} <= {"100", "101", "102"}
    later = next(folder for folder in folders if folder.name.endswith("-101"))
    first = later.with_name(later.name.replace("-101", "-100"))
    np.testing.assert_array_equal(voxels(first, "t1n") > 0, voxels(later, "t1n") > 0)
    assert (voxels(first, "seg") != voxels(later, "seg")).any()


def test_the_five_files_share_one_grid_and_have_the_stated_types(folders: list[Path]) -> None:
    for name, dtype in (*((sequence, np.int16) for sequence in SEQUENCES), ("seg", np.uint8)):
        image = load(folders[0], name)
        assert image.get_data_dtype() == dtype
        assert image.shape == (40, 48, 40)
        assert image.header.get_zooms() == (4.0, 4.0, 4.0)
        assert nib.aff2axcodes(image.affine) == ("R", "A", "S")
        np.testing.assert_allclose(image.affine @ [19.5, 23.5, 19.5, 1], [0, -17, 5, 1])


def test_intensities_are_positive_in_one_common_brain_and_zero_outside(folders: list[Path]) -> None:
    for folder in folders[:5]:
        brain = voxels(folder, "t1n") > 0
        assert 0.15 < brain.mean() < 0.5
        assert not voxels(folder, "seg")[~brain].any()
        for name in SEQUENCES:
            np.testing.assert_array_equal(voxels(folder, name) > 0, brain)


def test_every_label_occurs_in_most_cases_and_all_four_in_half_of_them(folders: list[Path]) -> None:
    counts = np.array([np.bincount(voxels(folder, "seg").ravel(), minlength=5) for folder in folders])
    assert counts.shape[1] == 5
    present = counts[:, 1:] > 0
    assert (present.mean(0) >= 0.7).all()
    assert present.all(1).mean() >= 0.5


def test_lesions_have_the_volumes_of_real_ones(folders: list[Path]) -> None:
    counts = np.array([np.bincount(voxels(folder, "seg").ravel(), minlength=5)[1:] for folder in folders])
    medians_ml = [np.median(column[column > 0]) * 4.0**3 / 1000 for column in counts.T]
    for volume_ml, (least, most) in zip(medians_ml, ((1, 15), (15, 90), (2, 20), (3, 30)), strict=True):
        assert least < volume_ml < most


@pytest.mark.parametrize(
    ("name", "brighter", "darker"),
    [("t1c", 3, 1), ("t2f", 2, 4), ("t2w", 4, 0), ("t1n", 0, 4)],
    ids=["enhancing over necrosis", "oedema over cavity", "cavity over healthy", "healthy over cavity"],
)
def test_labels_differ_as_on_real_scans(folders: list[Path], name: str, brighter: int, darker: int) -> None:
    for folder in folders:
        image, labels = voxels(folder, name), voxels(folder, "seg")
        if {brighter, darker} <= set(labels.ravel()):
            healthy_or_lesion = image > 0
            means = [image[healthy_or_lesion & (labels == label)].mean() for label in (brighter, darker)]
            assert means[0] > means[1]


def test_a_folder_that_holds_something_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ValueError, match=r"out must be a new or an empty folder, got .* with files in it"):
        simulate_brats_gli(tmp_path, 1, seed=0, **SMALL)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"cases": 0}, "cases must be at least 1, got 0"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"workers": 0}, "workers must be at least 1, got 0"),
        ({"size": (40, 0, 40)}, "size must be at least 1, got 0"),
        ({"spacing_mm": 0.0}, "spacing_mm must be above 0 and finite, got 0.0"),
        ({"spacing_mm": float("nan")}, "spacing_mm must be above 0 and finite, got nan"),
    ],
    ids=["cases", "seed", "workers", "size", "spacing", "spacing nan"],
)
def test_a_number_out_of_range_is_named(tmp_path: Path, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        simulate_brats_gli(tmp_path / "new", **{"cases": 1, "seed": 0, **SMALL, **wrong})
    assert not (tmp_path / "new").exists()
