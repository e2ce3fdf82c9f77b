"""Simulated patients with stroke: the challenge's layout, the same bytes for the same seed, plausible images."""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import apply_affine, obliquity
from numpy.typing import NDArray
from scipy import ndimage

from dcd_components.simulation.anatomy import Grid, smooth_noise
from dcd_components.simulation.phantoms import simulate_isles22

SMALL: dict[str, Any] = {"spacing_mm": 4.0, "size": (40, 48, 36), "workers": 1}
IMAGES = ("flair", "dwi", "adc")


def contents(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*.nii.gz"))}


def load(folder: Path, name: str) -> nib.Nifti1Image:
    place = "derivatives" if name == "msk" else "rawdata"
    path = folder.parents[2] / place / folder.parent.name / folder.name
    return nib.Nifti1Image.from_filename(path / f"{folder.parent.name}_{folder.name}_{name}.nii.gz")


def voxels(folder: Path, name: str) -> NDArray[Any]:
    return np.asarray(load(folder, name).dataobj)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return simulate_isles22(tmp_path_factory.mktemp("isles"), 20, seed=0, **SMALL)


def test_same_seed_gives_the_same_bytes_in_this_and_in_another_process(folders: list[Path], tmp_path: Path) -> None:
    simulate_isles22(tmp_path, 1, seed=0, **{**SMALL, "workers": 2})
    whole = contents(folders[0].parents[2])
    first = {name: data for name, data in whole.items() if (tmp_path / name).exists()}
    assert len(first) == 4
    assert contents(tmp_path) == first


def test_another_seed_gives_another_patient(folders: list[Path], tmp_path: Path) -> None:
    (other,) = simulate_isles22(tmp_path, 1, seed=1, **SMALL)
    assert (voxels(other, "dwi") != voxels(folders[0], "dwi")).any()


def test_files_lie_and_are_named_as_in_the_challenge_and_there_are_no_others(folders: list[Path]) -> None:
    out = folders[0].parents[2]
    patients = [f"sub-strokecase{number:04d}" for number in range(1, 21)]
    assert folders == [out / "rawdata" / patient / "ses-0001" for patient in patients]
    expected = {f"rawdata/{one}/ses-0001/{one}_ses-0001_{name}.nii.gz" for one in patients for name in IMAGES}
    expected |= {f"derivatives/{one}/ses-0001/{one}_ses-0001_msk.nii.gz" for one in patients}
    assert {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()} == expected
    assert {path.name for path in out.iterdir()} == {"rawdata", "derivatives"}


def test_dwi_adc_and_mask_share_an_oblique_isotropic_grid(folders: list[Path]) -> None:
    for folder in folders[:5]:
        for name, dtype in (("dwi", np.int16), ("adc", np.float32), ("msk", np.uint8)):
            image = load(folder, name)
            assert image.get_data_dtype() == dtype
            assert image.shape == (40, 48, 36)
            np.testing.assert_allclose(image.header.get_zooms(), 4, rtol=1e-5)
            np.testing.assert_array_equal(image.affine, load(folder, "dwi").affine)
            assert nib.aff2axcodes(image.affine) == ("L", "A", "S")
            assert 0.5 < np.rad2deg(obliquity(image.affine)).max() < 20


def test_flair_has_thick_slices_on_a_grid_of_its_own_that_covers_the_brain(folders: list[Path]) -> None:
    for folder in folders[:5]:
        flair, dwi = load(folder, "flair"), load(folder, "dwi")
        assert flair.get_data_dtype() == np.int16
        across, along, thick = np.divide(flair.header.get_zooms(), 4)
        assert across == pytest.approx(along)
        assert 0.45 < across < 0.55
        assert 2.2 < thick < 2.8
        turned = np.linalg.inv(flair.affine[:3, :3] / flair.header.get_zooms()) @ dwi.affine[:3, :3] / 4
        assert 0.2 < np.rad2deg(np.arccos((np.trace(turned) - 1) / 2)) < 12
        volumes = [
            np.mean(np.asarray(one.dataobj) > 0) * np.prod(one.shape) * np.prod(one.header.get_zooms())
            for one in (flair, dwi)
        ]
        assert volumes[0] == pytest.approx(volumes[1], rel=0.1)


def test_the_head_moves_a_little_between_dwi_and_flair_but_not_much(folders: list[Path]) -> None:
    shifts_mm = []
    for folder in folders:
        centres = []
        for image in (load(folder, "dwi"), load(folder, "flair")):
            where = np.argwhere(np.asarray(image.dataobj) > 0).mean(0)
            centres.append(apply_affine(image.affine, where))
        shifts_mm.append(np.linalg.norm(centres[0] - centres[1]))
    assert 0.2 < np.median(shifts_mm) < 2
    assert max(shifts_mm) < 4


def test_intensities_are_positive_in_one_common_brain_and_zero_outside(folders: list[Path]) -> None:
    for folder in folders:
        brain = voxels(folder, "dwi") > 0
        assert 0.2 < brain.mean() < 0.6
        np.testing.assert_array_equal(voxels(folder, "adc") > 0, brain)
        assert not voxels(folder, "msk")[~brain].any()
        assert np.isfinite(voxels(folder, "adc")).all()
        assert set(np.unique(voxels(folder, "msk"))) <= {0, 1}
        assert voxels(folder, "adc").max() <= 4
        assert 0.1 < (voxels(folder, "flair") > 0).mean() < 0.6
        assert voxels(folder, "flair").min() == 0


def test_infarcts_are_brighter_on_dwi_and_darker_on_adc_than_the_same_tissue_elsewhere(folders: list[Path]) -> None:
    brighter, darker = [], []
    for folder in folders:
        dwi, adc, acute = voxels(folder, "dwi"), voxels(folder, "adc"), voxels(folder, "msk") > 0
        # no CSF
        tissue = (dwi > 0) & (adc < 1.1) & ~acute
        if acute.any():
            brighter.append(np.median(dwi[acute]) / np.median(dwi[tissue]))
            darker.append(np.median(adc[acute]) / np.median(adc[tissue]))
    assert min(brighter) > 1
    assert max(darker) < 1
    assert 1.2 < np.median(brighter) < 2
    assert 0.5 < np.median(darker) < 0.9


@pytest.mark.parametrize(("name", "sign"), [("dwi", 1), ("adc", -1)])
def test_no_single_channel_tells_the_infarct(folders: list[Path], name: str, sign: int) -> None:
    best = []
    for folder in folders:
        acute, image = voxels(folder, "msk") > 0, sign * voxels(folder, name).astype(float)
        brain = image != 0
        if acute.any():
            found = [brain & (image >= limit) for limit in np.quantile(image[brain], np.linspace(0.6, 0.999, 40))]
            best.append(max(2 * (one & acute).sum() / (one.sum() + acute.sum()) for one in found))
    assert np.median(best) < 0.6


def test_infarcts_have_the_number_and_volumes_of_real_ones(folders: list[Path]) -> None:
    masks = [voxels(folder, "msk") > 0 for folder in folders]
    volumes_ml = np.array([mask.sum() * 4.0**3 / 1000 for mask in masks])
    assert (volumes_ml > 0).mean() >= 0.9
    assert 2 < np.median(volumes_ml) < 20
    assert volumes_ml.min() < 2
    assert 20 < volumes_ml.max() < 200
    components = np.array([ndimage.label(mask, np.ones((3, 3, 3)))[1] for mask in masks])
    assert (components > 1).mean() > 0.4
    assert (components == 1).any()
    sides = [np.argwhere(mask)[:, 0].mean() for mask in masks if mask.any()]
    assert min(sides) < 18 < 22 < max(sides)


def test_a_folder_that_holds_something_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ValueError, match=r"out must be a new or an empty folder, got .* with files in it"):
        simulate_isles22(tmp_path, 1, seed=0, **SMALL)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"cases": 0}, "cases must be at least 1, got 0"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"workers": 0}, "workers must be at least 1, got 0"),
        ({"size": (40, 0, 40)}, "size must be at least 1, got 0"),
        ({"spacing_mm": float("inf")}, "spacing_mm must be above 0 and finite, got inf"),
    ],
    ids=["cases", "seed", "workers", "size", "spacing"],
)
def test_a_number_out_of_range_is_named(tmp_path: Path, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        simulate_isles22(tmp_path / "new", **{"cases": 1, "seed": 0, **SMALL, **wrong})
    assert not (tmp_path / "new").exists()


def test_a_case_that_fails_while_it_is_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(image: nib.Nifti1Image, path: Path) -> None:
        if path.name.endswith("_msk.nii.gz"):
            raise OSError("disk full")

    monkeypatch.setattr(nib, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        simulate_isles22(tmp_path, 1, seed=0, **SMALL)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("size", [(36, 40, 48), (168, 20, 4), (79, 83, 5)])
def test_noise_is_finite_whatever_the_grid(size: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(0)
    for cell_mm in (5.0, 6.0, 9.0, 20.0, 60.0):
        noise = smooth_noise(rng, Grid(size, 4.0), cell_mm)
        assert noise.shape == size
        assert np.isfinite(noise).all()
