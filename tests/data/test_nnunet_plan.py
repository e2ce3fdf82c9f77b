"""nnU-Net's steps before and after the network against a plain definition of each."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor, decollate_batch, list_data_collate
from monai.transforms import Compose, ConcatItemsd
from numpy.typing import NDArray
from scipy import ndimage

from dcd_components.data.cache import DiskCache
from dcd_components.data.case_files import Layout
from dcd_components.data.cases import LoadCased, LoadLabeld
from dcd_components.data.nnunet_plan import NnunetPlan
from dcd_components.data.nnunet_transforms import CROP, NnunetImaged, NnunetLabeld, NnunetLabelMapd
from dcd_components.errors import InputError

Array = NDArray[Any]
Z, CT = "ZScoreNormalization", "CTNormalization"
STATISTICS = {"mean": 60.0, "std": 20.0, "percentile_00_5": 30.0, "percentile_99_5": 110.0}
LAYOUT = Layout({"a": "{case}_0000.nii.gz", "b": "{case}_0001.nii.gz"}, label_file="{case}.nii.gz")
SIZE = (12, 15, 10)  # x y z
orders = pytest.mark.parametrize("transpose", [(0, 1, 2), (1, 0, 2), (2, 0, 1), (1, 2, 0)], ids=str)


def plan(spacing: Sequence[float] = (1, 1, 1), *, masked: bool = False, scheme: str = Z, **others: Any) -> NnunetPlan:
    channels = others.pop("channels", 2)
    return NnunetPlan(spacing, [scheme] * channels, [masked] * channels, {"0": STATISTICS, "1": STATISTICS}, **others)


def head() -> Array:
    """Two channels, z y x, of 0 outside a box, the second smaller, and in a hole within."""
    values = np.random.default_rng(0).uniform(20, 120, (2, *SIZE[::-1])).astype(np.float32)
    inside = np.zeros((2, *SIZE[::-1]), bool)
    inside[0, 1:8, 2:13, 3:10] = inside[1, 2:7, 4:11, 4:9] = True
    inside[:, 4, 6:8, 6] = False
    return np.where(inside, values, 0).astype(np.float32)


def within(values: Array) -> Array:
    """A head without the air around it: all of its bounding box."""
    return values[:, 1:8, 2:13, 3:10].copy()


def z_scores(values: Array, mask: Array | None) -> Array:
    chosen = values if mask is None else values[mask]
    scores = (values - chosen.mean()) / chosen.std()
    return scores if mask is None else np.where(mask, scores, values)


@pytest.mark.parametrize("masked", [False, True])
def test_z_scores_are_of_the_crop_or_of_its_mask_with_holes_filled(masked: bool) -> None:
    """The mask is of all channels: the second has zeros within it, which count."""
    values = within(head())
    mask = np.ones(values.shape[1:], bool) if masked else None
    expected = np.stack([z_scores(one.astype(float), mask) for one in values])
    made = plan(masked=masked).prepared(values.copy(), (1, 1, 1))
    np.testing.assert_allclose(made, expected, rtol=1e-4, atol=1e-4)
    assert made.dtype == np.float32


def test_outside_the_mask_voxels_stay() -> None:
    values = head()
    mask = np.zeros(values.shape[1:], bool)
    mask[1:8, 2:13, 3:10] = True
    made = plan(masked=True).prepared(values.copy(), (1, 1, 1))
    np.testing.assert_allclose(made, np.stack([z_scores(one.astype(float), mask) for one in values]), atol=1e-4)
    assert not made[:, ~mask].any()


def test_each_channel_has_its_own_mask_and_scheme() -> None:
    values = head()
    mixed = NnunetPlan((1, 1, 1), [Z, "NoNormalization"], [False, True])
    made = mixed.prepared(values.copy(), (1, 1, 1))
    np.testing.assert_allclose(made[0], z_scores(values[0].astype(float), None), atol=1e-4)
    assert np.array_equal(made[1], values[1])


@pytest.mark.parametrize(
    ("scheme", "expected"),
    [
        (CT, lambda one: (np.clip(one, 30, 110) - 60) / 20),
        ("NoNormalization", lambda one: one),
        ("RescaleTo01Normalization", lambda one: (one - one.min()) / (one.max() - one.min())),
        ("RGBTo01Normalization", lambda one: one / 255),
    ],
)
@pytest.mark.parametrize("masked", [False, True])
def test_other_schemes(scheme: str, expected: Any, masked: bool) -> None:
    """The mask is for z scores alone."""
    values = head()
    made = plan(scheme=scheme, masked=masked).prepared(values.copy(), (1, 1, 1))
    np.testing.assert_allclose(made, np.stack([expected(one.astype(float)) for one in values]), atol=1e-5)


@pytest.mark.parametrize("scheme", [Z, "RescaleTo01Normalization"])
def test_a_constant_channel_is_not_divided_by_zero(scheme: str) -> None:
    assert not plan(scheme=scheme).prepared(np.full((2, 3, 4, 5), 7, np.float32), (1, 1, 1)).any()


def test_normalised_first_resampled_then() -> None:
    values = within(head())
    made = plan((2, 1.5, 1)).prepared(values.copy(), (1, 1, 1))
    scores = np.stack([z_scores(one.astype(float), None) for one in values])
    factors = [4 / 7, 7 / 11, 1]
    expected = [ndimage.zoom(one, factors, order=3, mode="nearest", grid_mode=True) for one in scores]
    clipped = [np.clip(one, low.min(), low.max()) for one, low in zip(expected, scores, strict=True)]
    np.testing.assert_allclose(made, np.stack(clipped), atol=1e-4)


def test_the_crop_is_to_what_is_not_zero_in_any_channel() -> None:
    assert plan().crop_box(head()).tolist() == [[1, 8], [2, 13], [3, 10]]
    assert plan().crop_box(np.zeros((2, 3, 4, 5))).tolist() == [[0, 3], [0, 4], [0, 5]]


@pytest.mark.parametrize("order", sorted({*permutations(["label", "label", "background", "outside"])}), ids="-".join)
def test_outside_the_head_is_a_label_of_its_own_while_labels_meet(order: tuple[str, ...]) -> None:
    """Half a voxel of a label is more than a quarter of background, with another quarter outside the head."""
    voxels = np.array(order).reshape(1, 2, 2)
    labels = (voxels == "label").astype(np.uint8)
    made = plan((1, 2, 2)).prepared_labels(labels, voxels != "outside", (1, 1, 1))
    assert made.tolist() == [[[1]]]
    assert made.dtype == np.uint8
    assert labels.max() == 1


def test_outside_the_head_and_in_its_holes_is_background_in_the_end() -> None:
    labels, mask = np.zeros((6, 6, 6), np.uint8), np.zeros((6, 6, 6), bool)
    mask[1:5, 1:5, 1:5] = True
    mask[2:4, 2:4, 2:4] = False
    labels[2:4, 2:4, 2:4], labels[0, 0, 0] = 3, 2
    assert np.array_equal(plan().prepared_labels(labels, mask, (1, 1, 1)), labels)
    assert {*np.unique(plan((0.7, 0.7, 0.7)).prepared_labels(labels, mask, (1, 1, 1)))} == {0, 2, 3}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"scheme": "Z"}, r"normalization must be of ZScoreNormalization, .*, got 'Z'$"),
        ({"transpose": (0, 1)}, r"transpose must be an order of 0, 1 and 2, got \(0, 1\)$"),
        ({"transpose": (0, 1, 1)}, r"transpose must be an order of 0, 1 and 2, got \(0, 1, 1\)$"),
        ({"spacing": (1, 1)}, r"spacing must be three positive numbers, got \(1, 1\)$"),
        ({"spacing": (1, 1, float("nan"))}, r"spacing must be three positive numbers, got "),
        ({"spacing": (1, 0, 1)}, r"spacing must be three positive numbers, got "),
    ],
)
def test_faulty_settings_are_refused(settings: dict[str, Any], expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        plan(**settings)


def test_what_does_not_fit_the_channels_is_refused() -> None:
    with pytest.raises(InputError, match=r"masked must say yes or no for 2 channels, got \[True\]$"):
        NnunetPlan((1, 1, 1), [Z, Z], [True])
    with pytest.raises(InputError, match=r"intensities of channel 1, normalised as CT, must have mean, .+, got none$"):
        NnunetPlan((1, 1, 1), [Z, CT], [False, False], {"0": STATISTICS})
    with pytest.raises(InputError, match=r"intensities of channel 0, normalised as CT, must have .+, got mean$"):
        NnunetPlan((1, 1, 1), [CT], [False], {"0": {"mean": 1}})
    with pytest.raises(InputError, match=r"normalization is of 2 channels, the image has 3$"):
        plan().prepared(np.ones((3, 4, 4, 4), np.float32), (1, 1, 1))


def test_regions_are_painted_in_order_and_over_one_half_alone() -> None:
    logits = torch.full((3, 1, 1, 4), -1.0)
    logits[0, ..., :3] = 1  # label 2, the widest
    logits[1, ..., 1:3] = 1  # label 1 over it
    logits[2, ..., 2] = 1  # label 300 over both
    logits[2, ..., 3] = 0  # a probability of one half is not in
    made = plan(painted=[2, 1, 300]).label_map(logits, (1, 1, 4), (1, 1, 1))
    assert made.ravel().tolist() == [2, 1, 300, 0]
    assert made.dtype == np.uint16


def test_logits_that_overflow_are_refused() -> None:
    logits = torch.zeros(2, 4, 4, 4)
    logits[0, 1, 1, 1] = 1e6
    with pytest.raises(InputError, match=r"logits must be finite in half precision"):
        plan().label_map(logits, (4, 4, 4), (1, 1, 1))


# -- files and back

AFFINE = np.array([[-1.2, 0.1, 0.2, 31.7], [0.1, 1.1, -0.1, -20.3], [-0.1, 0.1, 2.3, 11.9], [0, 0, 0, 1]])


def save(path: Path, values: Array) -> None:
    image = nibabel.Nifti1Image(values, AFFINE)
    nibabel.save(image, path)


@pytest.fixture
def case(tmp_path: Path) -> dict[str, Any]:
    """Files, x y z, of the head and of a label map within it."""
    for channel, values in enumerate(head()):
        save(tmp_path / f"case_{channel:04d}.nii.gz", values.transpose())
    labels = np.zeros(SIZE, np.uint8)
    labels[4:9, 3:12, 2:7], labels[4:6, 6:9, 4:6] = 1, 2
    save(tmp_path / "case.nii.gz", labels)
    return {"image": str(tmp_path / "case_0000.nii.gz"), "label": str(tmp_path / "case.nii.gz")}


def steps(one: NnunetPlan) -> list[Any]:
    image = [LoadCased(LAYOUT), ConcatItemsd(["a", "b"], "image"), NnunetImaged("image", one)]
    return [*image, LoadLabeld(LAYOUT), NnunetLabeld("label", "image", one)]


def edges(transpose: Sequence[int]) -> list[float]:
    """Of the file's voxels in mm, along the axes of the network."""
    by_axis = np.sqrt((AFFINE[:3, :3] ** 2).sum(0))[::-1]
    return [float(by_axis[axis]) for axis in transpose]


@orders
def test_axes_are_z_y_x_in_the_order_of_the_plans(transpose: tuple[int, ...], case: dict[str, Any]) -> None:
    item = Compose(steps(plan(edges(transpose), transpose=transpose)))(case)
    expected = np.stack([z_scores(one.astype(float), None) for one in within(head())])
    np.testing.assert_allclose(item["image"], expected.transpose(0, *(axis + 1 for axis in transpose)), atol=1e-4)


@orders
def test_a_voxel_stays_where_it_is(transpose: tuple[int, ...], case: dict[str, Any]) -> None:
    """The affine of the network's grid: outer edges of the field are those of the crop, in mm."""
    grid = [2.0, 1.7, 1.1]
    item = Compose(steps(plan(grid, transpose=transpose)))(case)
    image, label = item["image"], item["label"]
    assert np.allclose(image.affine, label.affine)
    box = [[3, 10], [2, 13], [1, 8]]  # x y z
    for end in (0, 1):
        corner = AFFINE @ [*(pair[end] - 0.5 for pair in box), 1]
        ours = [size * end - 0.5 for size in image.shape[1:]]
        assert np.allclose(np.asarray(image.affine) @ [*ours, 1], corner)


@orders
def test_a_label_map_comes_back_on_the_grid_of_its_file(transpose: tuple[int, ...], case: dict[str, Any]) -> None:
    one = plan(edges(transpose), transpose=transpose)
    item = Compose(steps(one))(case)
    labels = np.asarray(item["label"])[0]
    item["pred"] = torch.from_numpy(np.stack([10.0 * (labels == label) for label in range(3)]))
    made = NnunetLabelMapd("pred", "image", one)(item)["pred"]
    stored = nibabel.load(case["label"])
    assert np.array_equal(np.asarray(made)[0], np.asarray(stored.dataobj))
    assert made.dtype == torch.uint8
    assert np.array_equal(made.affine, stored.affine)


@orders
def test_on_another_grid_nearly_all_voxels_come_back(transpose: tuple[int, ...], case: dict[str, Any]) -> None:
    grid = [edge * factor for edge, factor in zip(edges(transpose), (0.55, 0.8, 0.6), strict=True)]
    one = plan(grid, transpose=transpose)
    item = Compose(steps(one))(case)
    labels = np.asarray(item["label"])[0]
    assert len(np.unique(labels)) == 3
    item["pred"] = torch.from_numpy(np.stack([10.0 * (labels == label) for label in range(3)]))
    made = np.asarray(NnunetLabelMapd("pred", "image", one)(item)["pred"])[0]
    assert made.shape == SIZE
    assert (made != np.asarray(nibabel.load(case["label"]).dataobj)).mean() < 0.02


def test_spacing_is_that_of_the_header(tmp_path: Path) -> None:
    """And not that of the affine, whose numbers are rounded each by itself where axes are oblique."""
    turns = np.deg2rad(np.arange(1, 60))
    turned = [np.array([[np.cos(one), -np.sin(one)], [np.sin(one), np.cos(one)]]) for one in turns]
    stored = [(0.7 * one).astype(np.float32).astype(float) for one in turned]
    affine = np.eye(4)
    affine[:2, :2] = next(one for one in stored if np.sqrt((one**2).sum(0)).min() > 0.7)
    values = np.arange(1, 126, dtype=np.float32).reshape(5, 5, 5)
    image = nibabel.Nifti1Image(values, affine)
    image.header.set_zooms((0.7, 0.7, 1.0))
    nibabel.save(image, path := tmp_path / "case_0000.nii.gz")
    assert float(nibabel.load(path).header.get_zooms()[0]) < 0.7
    one, layout = plan(channels=1), Layout({"a": "{case}_0000.nii.gz"})
    item = Compose([LoadCased(layout), ConcatItemsd(["a"], "image"), NnunetImaged("image", one)])({"image": str(path)})
    assert item["image"].shape == (1, 5, 3, 3)  # 3.49999994 voxels; by the affine 4


@pytest.mark.parametrize("masked", [False, True])
def test_an_image_of_zeros_is_not_cropped(masked: bool) -> None:
    """Files of it are refused; from elsewhere, as in a server of another program, it is an image."""
    meta = {"pixdim": np.ones(8), "spatial_shape": np.array(SIZE), "original_affine": np.eye(4)}
    one = plan(channels=1, masked=masked)
    item = NnunetImaged("image", one)({"image": MetaTensor(torch.zeros(1, *SIZE), torch.eye(4), meta)})
    assert item["image"].shape[1:] == SIZE[::-1]
    assert not item["image"].any()
    item["pred"] = torch.zeros(3, *item["image"].shape[1:])
    assert NnunetLabelMapd("pred", "image", one)(item)["pred"].shape == (1, *SIZE)


def test_the_crop_goes_through_a_loader(case: dict[str, Any]) -> None:
    """Batches are collated and taken apart: the meta data must still be the case's own."""
    one = plan(edges((0, 1, 2)))
    data = Dataset([case, case], Compose(steps(one)))
    (batch,) = DataLoader(data, batch_size=2, num_workers=0, collate_fn=list_data_collate)
    labels = np.asarray(batch["label"])[:, 0]
    batch["pred"] = torch.from_numpy(np.stack([10.0 * (labels == label) for label in range(3)], 1))
    for item in decollate_batch(batch):
        assert np.asarray(item["image"].meta[CROP]).tolist() == [[1, 8], [2, 13], [3, 10]]
        made = NnunetLabelMapd("pred", "image", one)(item)["pred"]
        assert np.array_equal(np.asarray(made)[0], np.asarray(nibabel.load(case["label"]).dataobj))


def test_the_cache_holds_what_the_steps_make_and_knows_the_plan(case: dict[str, Any], tmp_path: Path) -> None:
    made = {}
    for mm in (1.0, 1.5):
        transform = Compose(steps(plan((mm, mm, mm)))).flatten()
        cached = DiskCache([case], transform, tmp_path / "cache")[0]
        expected = transform(case)
        for key in ("image", "label"):
            assert type(cached[key]) is torch.Tensor
            assert torch.equal(cached[key], MetaTensor(expected[key]).as_tensor())
        made[mm] = cached["image"].shape
    assert made[1.0] != made[1.5]
    assert len([*(tmp_path / "cache").glob("*.pt")]) == 2
