from __future__ import annotations

import logging
import sys
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import ResampleToMatchd
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from dcd_components import RigidRegistrationd
from dcd_components.data import registration
from dcd_components.errors import InputError

Array = NDArray[np.float64]
RADII_MM = np.array([48.0, 58.0, 42.0])


def affine_about(turn: Rotation, shift_mm: Any = (0, 0, 0), scale: Any = (1, 1, 1)) -> Array:
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turn.as_matrix() * scale, shift_mm
    return affine


def grid(shape: tuple[int, int, int], spacing_mm: Any, turn: Rotation, flips: Any) -> Array:
    """Affine of a turned, partly mirrored grid about the head's middle, 5, -8, 12 mm from the origin."""
    affine = affine_about(turn, (5, -8, 12), np.multiply(spacing_mm, flips))
    return affine @ affine_about(Rotation.identity(), -(np.array(shape) - 1) / 2)


def world(shape: tuple[int, ...], affine: Array) -> Array:
    """Positions of all voxels in mm, RAS: ``(voxels, 4)``."""
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1).reshape(-1, 3)
    at_mm: Array = np.c_[index, np.ones(len(index))] @ affine.T
    return at_mm


def tissue(at_mm: Array, seed: int = 0) -> tuple[Array, NDArray[np.bool_]]:
    """A sum of random Gaussians, and whether a position is in the brain: known everywhere without interpolation."""
    rng = np.random.default_rng(seed)
    local = at_mm[:, :3] - (5, -8, 12)
    inside = ((local / RADII_MM) ** 2).sum(1) < 1
    centres, widths = rng.uniform(-1, 1, (120, 3)) * RADII_MM, rng.uniform(4, 9, 120)
    values = np.zeros(len(local))
    for centre, width, height in zip(centres, widths, rng.normal(size=120), strict=True):
        values[inside] += height * np.exp(-((local[inside] - centre) ** 2).sum(1) / (2 * width**2))
    return values, inside


def flair_contrast(values: Array) -> Array:
    contrast: Array = 80 - 20 * values + 15 * values**2
    return contrast


def scan(shape: tuple[int, int, int], affine: Array, moved: Array, contrast: Any, seed: int) -> MetaTensor:
    """Image of the head after it was moved; the affine does not know of the motion."""
    values, inside = tissue(world(shape, affine) @ np.linalg.inv(moved).T)
    noise = np.random.default_rng(seed).normal(0, 2, len(values))
    voxels = np.where(inside, contrast(values) + noise, 0).reshape(shape)
    return MetaTensor(torch.from_numpy(voxels).float()[None], torch.from_numpy(affine))


def motion(mm: float, degrees: float) -> Array:
    """A motion about the middle of the head."""
    turn = Rotation.from_rotvec(np.array([0.6, -0.48, 0.64]) * degrees, degrees=True)
    middle = np.array([5, -8, 12])
    return affine_about(turn, middle - turn.apply(middle) + np.array([0.48, 0.64, -0.6]) * mm)


def item(hidden: Array) -> dict[Any, Any]:
    """DWI of 2.5 mm, and a thick-sliced, oblique FLAIR of another contrast between which the head moved."""
    dwi = grid((44, 52, 40), (2.5, 2.5, 2.5), Rotation.from_euler("x", 12, degrees=True), (-1, 1, 1))
    flair = grid((90, 100, 20), (1.2, 1.2, 5.0), Rotation.from_euler("zx", (4, -7), degrees=True), (1, -1, 1))
    return {
        "dwi": scan((44, 52, 40), dwi, np.eye(4), lambda x: 100 + 30 * x, 1),
        "flair": scan((90, 100, 20), flair, hidden, flair_contrast, 2),
    }


def errors_mm(image: MetaTensor, header: Array, hidden: Array) -> Array:
    """Distance of each brain voxel from where it belongs."""
    brain = np.c_[np.argwhere(image[0].numpy() != 0), np.ones(int((image[0] != 0).sum()))].T
    found: Array = np.linalg.norm(((image.affine.numpy() - np.linalg.inv(hidden) @ header) @ brain)[:3], axis=0)
    return found


@pytest.fixture(scope="module")
def moved() -> dict[Any, Any]:
    return item(motion(3, 2))


@pytest.mark.parametrize(("mm", "degrees"), [(0, 0), (3, 2), (10, 8)])
def test_a_hidden_motion_is_found_at_every_voxel_of_the_brain(mm: float, degrees: float) -> None:
    hidden = motion(mm, degrees)
    case = item(hidden)
    header = case["flair"].affine.numpy()
    registered = RigidRegistrationd("flair", "dwi")(case)
    assert errors_mm(case["flair"], header, hidden).mean() >= mm * 0.9
    assert errors_mm(registered["flair"], header, hidden).max() < 0.2


def test_only_the_affine_of_the_moved_image_changes_and_each_time_equally(moved: dict[Any, Any]) -> None:
    before = {key: (image.clone(), image.affine.clone()) for key, image in moved.items()}
    first, second = (RigidRegistrationd(["flair"], "dwi")(moved) for _ in range(2))
    for key, (voxels, affine) in before.items():
        assert torch.equal(first[key].as_tensor(), voxels.as_tensor())
        assert torch.equal(moved[key].affine, affine)
    assert first["dwi"] is moved["dwi"]
    assert not torch.allclose(first["flair"].affine, before["flair"][1], atol=0.1)
    assert torch.equal(first["flair"].affine, second["flair"].affine)


def test_a_registered_image_is_resampled_as_well_as_one_whose_head_never_moved(moved: dict[Any, Any]) -> None:
    values, inside = tissue(world(tuple(moved["dwi"].shape[1:]), moved["dwi"].affine.numpy()))
    cases = {"still": item(np.eye(4)), "moved": moved, "registered": RigidRegistrationd("flair", "dwi")(moved)}
    match = ResampleToMatchd("flair", key_dst="dwi")
    images = {name: match(case)["flair"].numpy().ravel()[inside] for name, case in cases.items()}
    error = {name: np.abs(image - flair_contrast(values[inside])).mean() for name, image in images.items()}
    assert error["registered"] < 1.1 * error["still"] < 0.8 * error["moved"]


@pytest.mark.parametrize("limit", ["MAX_MM", "MAX_DEGREES"])
def test_an_implausible_motion_keeps_the_header(
    moved: dict[Any, Any], limit: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(registration, limit, 1.0)
    kept = RigidRegistrationd("flair", "dwi")(moved)
    assert torch.equal(kept["flair"].affine, moved["flair"].affine)
    assert "flair stays where its header puts it relative to dwi: no better position within" in caplog.text


def test_a_motion_that_is_no_better_keeps_the_header(
    moved: dict[Any, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def search(*volumes: Any) -> tuple[float, float]:
        volumes[-1].SetTranslation((1.0, 0.0, 0.0))
        return 0.5, 0.5

    monkeypatch.setattr(registration, "_search", search)
    kept = RigidRegistrationd("flair", "dwi")(moved)
    assert torch.equal(kept["flair"].affine, moved["flair"].affine)
    assert "found 1.0 mm and 0.0 degrees, mutual information 0.500 to 0.500" in caplog.text


@pytest.mark.parametrize(("key", "kind"), [("flair", "empty"), ("dwi", "empty"), ("flair", "far"), ("flair", "flat")])
def test_images_with_nothing_to_compare_keep_the_header(
    moved: dict[Any, Any], key: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    voxels = moved[key].as_tensor() if kind == "far" else torch.full(moved[key].shape, float(kind == "flat"))
    away = torch.from_numpy(affine_about(Rotation.identity(), (900 * (kind == "far"), 0, 0)))
    case = moved | {key: MetaTensor(voxels, away @ moved[key].affine)}
    kept = RigidRegistrationd("flair", "dwi")(case)
    assert torch.equal(kept["flair"].affine, case["flair"].affine)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_a_missing_key_is_skipped_only_when_allowed(moved: dict[Any, Any]) -> None:
    alone: dict[Any, Any] = {"dwi": moved["dwi"]}
    assert RigidRegistrationd("flair", "dwi", allow_missing_keys=True)(alone) == alone
    with pytest.raises(KeyError, match="flair"):
        RigidRegistrationd("flair", "dwi")(alone)


def test_a_missing_library_is_named_when_the_transform_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    with pytest.raises(InputError, match="needs SimpleITK: install it with `pip install SimpleITK`"):
        RigidRegistrationd("flair", "dwi")


def test_the_target_cannot_be_moved_onto_itself() -> None:
    with pytest.raises(ValueError, match="key_dst must not be among keys, got 'dwi'"):
        RigidRegistrationd(["flair", "dwi"], "dwi")


@pytest.mark.parametrize(
    ("image", "got"),
    [
        (torch.zeros(1, 4, 4, 4), r"Tensor of shape \(1, 4, 4, 4\)"),
        (MetaTensor(torch.zeros(2, 4, 4, 4)), r"MetaTensor of shape \(2, 4, 4, 4\)"),
        (MetaTensor(torch.zeros(4, 4, 4)), r"MetaTensor of shape \(4, 4, 4\)"),
        ("flair.nii.gz", r"str of shape \(\)"),
    ],
)
@pytest.mark.parametrize("key", ["flair", "dwi"])
def test_what_is_no_image_with_one_channel_is_refused(key: str, image: Any, got: str) -> None:
    case: dict[Any, Any] = {name: MetaTensor(torch.zeros(1, 4, 4, 4)) for name in ("flair", "dwi")} | {key: image}
    with pytest.raises(ValueError, match=rf"{key} must be a MetaTensor of shape \(1, D, H, W\), got {got}"):
        RigidRegistrationd("flair", "dwi")(case)
