"""Steps before and after the network against nnU-Net's own functions, on random images; they decide voxels' labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from monai.transforms import Compose, ConcatItemsd
from nnunetv2.inference.export_prediction import export_prediction_from_logits
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.inference.sliding_window_prediction import compute_gaussian, compute_steps_for_sliding_window
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from scipy import ndimage
from torch import Tensor, nn

from dcd_components.bundle.nnunet.result_folder import KNOWN
from dcd_components.data.case_files import Layout
from dcd_components.data.cases import LoadCased, LoadLabeld
from dcd_components.data.masks import SaveMaskd
from dcd_components.data.nnunet_plan import NnunetPlan
from dcd_components.data.nnunet_transforms import NnunetImaged, NnunetLabeld, NnunetLabelMapd
from dcd_components.data.resampling import resampled, resampled_labels
from dcd_components.inferers import NnunetInferer, _gaussian, _windows

Z = "ZScoreNormalization"
INTENSITIES = {"mean": 90.0, "std": 25.0, "percentile_00_5": 20.0, "percentile_99_5": 130.0}
LABELS = {"background": 0, "core": 1, "rim": 2, "cyst": 3}
REGIONS = {"background": 0, "whole": [1, 2, 3], "core": [1, 3], "cyst": [3]}
PAINTED = [2, 1, 3]


@dataclass(frozen=True)
class Grid:
    """Grid of the files, and what plans make of it."""

    edges: Sequence[float]  # of the file's voxels in mm, along x, y and z
    spacing: Sequence[float]  # of the plans in mm
    transpose: Sequence[int] = (0, 1, 2)
    oblique: bool = False
    schemes: Sequence[str] = (Z, Z)
    masked: Sequence[bool] = (False, False)


GRIDS = {
    "isotropic": Grid((1.1, 1.3, 0.9), (1.0, 1.0, 1.0)),
    "masked": Grid((1.3, 1.2, 1.1), (1.5, 1.4, 1.6), masked=(True, True), oblique=True),
    "thick": Grid((1.6, 1.6, 6.0), (1.5, 1.5, 1.5), oblique=True, masked=(True, False)),
    "made thick": Grid((1.0, 1.1, 1.2), (5.0, 1.0, 1.0)),
    "transposed": Grid((6.6, 1.8, 2.3), (5.5, 2.0, 2.0), transpose=(2, 0, 1)),
    "as it is": Grid((1.0, 1.0, 1.0), (1.0, 1.0, 1.0), transpose=(1, 0, 2)),
    "CT": Grid((0.9, 1.0, 1.2), (1.1, 1.0, 1.0), schemes=("CTNormalization", "RescaleTo01Normalization")),
    "kept": Grid((0.9, 1.0, 1.2), (1.1, 1.0, 1.0), schemes=("NoNormalization", "RGBTo01Normalization")),
}
every_grid = pytest.mark.parametrize("grid", GRIDS.values(), ids=[*GRIDS])


def nnunet_s(grid: Grid, patch: Sequence[int] = (8, 8, 8)) -> PlansManager:
    """The plans, as nnU-Net reads them."""
    order = [*grid.transpose]
    configuration = {"spacing": [*grid.spacing], "patch_size": [*patch], **KNOWN, "architecture": {}}
    configuration |= {"normalization_schemes": [*grid.schemes], "use_mask_for_norm": [*grid.masked]}
    return PlansManager(
        {
            "image_reader_writer": "SimpleITKIO",
            "label_manager": "LabelManager",
            "transpose_forward": order,
            "transpose_backward": [order.index(axis) for axis in range(3)],
            "foreground_intensity_properties_per_channel": {"0": INTENSITIES, "1": INTENSITIES},
            "configurations": {"3d_fullres": configuration},
        }
    )


def ours(grid: Grid, painted: Sequence[int] | None = None) -> NnunetPlan:
    return NnunetPlan(grid.spacing, grid.schemes, grid.masked, {"0": INTENSITIES}, grid.transpose, painted)


def write_case(folder: Path, grid: Grid) -> list[Path]:
    """Two channels and a label with air around them and a hole within, in files on an anisotropic grid."""
    generator = np.random.default_rng(0)
    noise = np.stack([ndimage.gaussian_filter(generator.normal(size=(26, 31, 22)), 1.5) for _ in range(3)])
    images, label = noise[:2] * 600 + 80, np.digitize(noise[2], [-0.05, 0.02, 0.1]).astype(np.uint8)
    x, y, z = np.ogrid[:26, :31, :22]
    head = ((x - 12) / 11) ** 2 + ((y - 16) / 12) ** 2 + ((z - 10) / 9) ** 2 < 1
    head[11:14, 15:18, 9:12] = False
    images = np.clip(images, 1, 250)
    images[:, ~head] = 0
    label[~ndimage.binary_fill_holes(head)] = 0  # up to the edge, around which nnU-Net has a label more meanwhile
    affine = np.diag([-grid.edges[0], grid.edges[1], -grid.edges[2], 1])
    if grid.oblique:
        angle = np.deg2rad(13)
        turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
        affine[:3, :3] = turn @ affine[:3, :3]
    affine[:3, 3] = 31.7, -20.3, 11.9
    kinds = [(images[0], np.float32), (images[1], np.int16), (label, np.uint8)]
    paths = [folder / f"case_{name}.nii.gz" for name in ("0000", "0001", "label")]
    for path, (values, kind) in zip(paths, kinds, strict=True):
        nibabel.save(nibabel.Nifti1Image(values.astype(kind), affine), path)
    return paths


LAYOUT = Layout({"a": "{case}_0000.nii.gz", "b": "{case}_0001.nii.gz"}, label_file="{case}_label.nii.gz")


def prepared(paths: Sequence[Path], plan: NnunetPlan) -> dict[str, Any]:
    """Our image and label of the case."""
    *images, label = map(str, paths)
    steps = [
        LoadCased(LAYOUT),
        ConcatItemsd(["a", "b"], "image"),
        NnunetImaged("image", plan),
        LoadLabeld(LAYOUT),
        NnunetLabeld("label", "image", plan),
    ]
    item: dict[str, Any] = Compose(steps)({"case": "case", "image": images, "label": label})
    return item


@every_grid
def test_images_and_labels_are_those_of_nnunet_s_preprocessor(grid: Grid, tmp_path: Path) -> None:
    paths, manager = write_case(tmp_path, grid), nnunet_s(grid)
    preprocessor, configuration = DefaultPreprocessor(verbose=False), manager.get_configuration("3d_fullres")
    *images, label = map(str, paths)
    expected, segmentation, _ = preprocessor.run_case(images, label, manager, configuration, {"labels": LABELS})
    item = prepared(paths, ours(grid))
    made = item["image"].numpy()
    assert made.dtype == expected.dtype == np.float32
    assert made.shape == expected.shape
    assert np.abs(made - expected).max() <= 4e-6 * np.abs(expected).max()
    assert np.array_equal(item["label"].numpy(), np.maximum(segmentation, 0))  # as its training reads labels
    assert len(np.unique(item["label"])) == 4


@every_grid
@pytest.mark.parametrize("labels", [LABELS, REGIONS], ids=["labels", "regions"])
def test_logits_become_the_file_that_nnunet_writes(grid: Grid, labels: dict[str, Any], tmp_path: Path) -> None:
    paths, manager = write_case(tmp_path, grid), nnunet_s(grid)
    preprocessor, configuration = DefaultPreprocessor(verbose=False), manager.get_configuration("3d_fullres")
    dataset = {"labels": labels, "file_ending": ".nii.gz"} | (
        {"regions_class_order": PAINTED} if labels is REGIONS else {}
    )
    image, _, properties = preprocessor.run_case([*map(str, paths[:2])], None, manager, configuration, dataset)
    count = 3 if labels is REGIONS else 4
    noise = np.random.default_rng(1).normal(size=(count, *image.shape[1:]))
    logits = torch.from_numpy(ndimage.gaussian_filter(noise, (0, 1, 1, 1)) * 9).half()
    truncated = str(tmp_path / "expected")
    export_prediction_from_logits(logits, properties, configuration, manager, dataset, truncated, num_threads_torch=1)

    plan = ours(grid, PAINTED if labels is REGIONS else None)
    item = {**prepared(paths, plan), "pred": logits}
    SaveMaskd("pred", tmp_path)(NnunetLabelMapd("pred", "image", plan)(item))
    made, expected = (nibabel.load(tmp_path / name) for name in ("case_seg.nii.gz", "expected.nii.gz"))
    unequal = np.asarray(made.dataobj) != np.asarray(expected.dataobj)
    assert unequal.sum() <= 1
    assert len(np.unique(expected.dataobj)) == 4
    assert np.allclose(made.affine, expected.affine, atol=1e-4)


@pytest.mark.parametrize("order", [1, 3])
@pytest.mark.parametrize(
    ("old", "new"), [((1, 1, 1), (1.2, 0.7, 1)), ((5, 1, 1), (1, 1.3, 0.8)), ((1, 4, 1), (2, 3, 1))]
)
def test_resampling_is_nnunet_s(order: Any, old: tuple[float, ...], new: tuple[float, ...]) -> None:
    generator = np.random.default_rng(2)
    volumes = generator.normal(size=(2, 13, 16, 11))
    labels = generator.integers(0, 4, (13, 16, 11)).astype(np.int8)
    shape = [round(n * a / b) for n, a, b in zip((13, 16, 11), old, new, strict=True)]
    given = {"force_separate_z": None, "order_z": 0}
    expected = resample_data_or_seg_to_shape(volumes, shape, old, new, is_seg=False, order=order, **given)
    assert np.abs(resampled(volumes, shape, old, new, order) - expected).max() < 1e-12
    segmentation = resample_data_or_seg_to_shape(labels[None], shape, old, new, is_seg=True, order=1, **given)[0]
    assert np.array_equal(resampled_labels(labels, shape, old, new), segmentation)


@pytest.mark.parametrize("patch", [(16, 20, 12), (9, 7, 21)])
@pytest.mark.parametrize("step", [0.5, 0.75])
def test_windows_and_their_weights_are_nnunet_s(patch: tuple[int, ...], step: float) -> None:
    expected = compute_gaussian(patch, value_scaling_factor=10, device=torch.device("cpu"))
    assert torch.equal(_gaussian(patch), expected)
    for more in range(40):
        shape = tuple(size + more for size in patch)
        starts = compute_steps_for_sliding_window(shape, patch, step)
        windows = _windows(shape, patch, step)
        assert [sorted({window[axis].start for window in windows}) for axis in range(3)] == starts
        assert len(windows) == np.prod([*map(len, starts)])


class Network(nn.Module):
    """Tells apart where in a window, and which way round, a voxel lies."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv3d(2, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.convolution(x) * torch.linspace(1, 2, x.shape[-1])
        return made


@pytest.mark.parametrize("axes", [(), (0, 1, 2), (1,)])
@pytest.mark.parametrize("shape", [(23, 18, 31), (9, 30, 11)], ids=["larger", "smaller than the patch"])
@torch.no_grad()
def test_logits_of_all_windows_are_nnunet_s(axes: tuple[int, ...], shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    image, network, patch = torch.randn(2, *shape), Network().eval(), (12, 16, 14)
    predictor = nnUNetPredictor(use_mirroring=bool(axes), device=torch.device("cpu"), allow_tqdm=False)
    manager, dataset = nnunet_s(GRIDS["isotropic"], patch), {"labels": {"background": 0, "a": 1, "b": 2}}
    configuration = manager.get_configuration("3d_fullres")
    predictor.manual_initialization(network, manager, configuration, None, dataset, "nnUNetTrainer", axes or None)
    expected = predictor.predict_sliding_window_return_logits(image)
    made = NnunetInferer(patch, axes)(image[None], network)[0]
    assert made.dtype == expected.dtype == torch.half
    assert torch.equal(made, expected)
