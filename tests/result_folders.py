"""Result folders as nnU-Net v2 writes them, with networks of random weights: its own format, without nnU-Net."""

from __future__ import annotations

import copy
import json
import os
import shutil
from importlib import import_module
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow
from torch import nn

from dcd_components.bundle.nnunet.importing import ARGUMENTS
from dcd_components.bundle.nnunet.result_folder import KNOWN
from dcd_components.commands import from_nnunet
from dcd_components.networks.nnunet import ARCHITECTURES, USUAL

#: Real ones, and the masks that nnU-Net's own commands gave for them.
REAL = Path(os.environ.get("DCD_DATA", Path(__file__).parents[2] / "shared" / "data")) / "nnunet"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason=f"no result folders of nnU-Net at {REAL}; set DCD_DATA")
LABELS = {"background": 0, "NETC": 1, "SNFH": 2, "ET": 3, "RC": 4}
REGIONS = {"background": 0, "whole tumour": [1, 2, 3], "tumour core": [1, 3], "enhancing": 3, "cavity": 4}
PAINTED = [2, 1, 3, 4]
#: Kernels and strides of thick slices.
FLAT: dict[str, Any] = {
    "kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]],
    "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]],
}
ARGUMENTS_OF_CLASSES: dict[str, dict[str, Any]] = {
    "PlainConvUNet": {"n_conv_per_stage": [2, 2, 2]},
    "ResidualEncoderUNet": {"n_blocks_per_stage": [1, 2, 2]},
}
SIZES: dict[str, Any] = {
    "n_stages": 3,
    "features_per_stage": [16, 16, 32],
    "kernel_sizes": [[3, 3, 3]] * 3,
    "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2]],
    "n_conv_per_stage_decoder": [2, 2],
}


def sizes(kind: str = "PlainConvUNet", **others: Any) -> dict[str, Any]:
    """Arguments of a small network that differ between plans."""
    return {**SIZES, **ARGUMENTS_OF_CLASSES[kind], **others}


def network(channels: int, outputs: int, kind: str = "PlainConvUNet", **others: Any) -> nn.Module:
    """A network of nnU-Net with random weights."""
    module, _, name = ARCHITECTURES[kind].rpartition(".")
    ours: dict[str, Any] = {}
    for key, value in ARGUMENTS.items():
        ours[key] = getattr(torch.nn, value.removeprefix("$torch.nn.")) if isinstance(value, str) else value
    arguments = {**sizes(kind, **others), **ours}
    made: nn.Module = getattr(import_module(module), name)(channels, num_classes=outputs, **arguments)
    return made


def plans(channels: int = 4, kind: str = "PlainConvUNet", **others: Any) -> dict[str, Any]:
    """Content of ``plans.json``, for patches of 16 voxels of 4 mm."""
    statistics = {"mean": 90.0, "std": 25.0, "percentile_00_5": 20.0, "percentile_99_5": 130.0, "max": 500.0}
    architecture = {
        "network_class_name": ARCHITECTURES[kind],
        "arch_kwargs": {**copy.deepcopy(sizes(kind, **others)), **USUAL, "dropout_op_kwargs": None},
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }
    whole = {
        "patch_size": [16, 16, 16],
        "spacing": [4.0, 4.0, 4.0],
        "normalization_schemes": ["ZScoreNormalization"] * channels,
        "use_mask_for_norm": [False] * channels,
        **KNOWN,
        "architecture": architecture,
    }
    flat = {**whole, "patch_size": [16, 16], "spacing": [4.0, 4.0]}
    return {
        "plans_name": "nnUNetPlans",
        "image_reader_writer": "SimpleITKIO",
        "label_manager": "LabelManager",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "foreground_intensity_properties_per_channel": {str(channel): statistics for channel in range(channels)},
        "configurations": {
            "2d": flat,
            "3d_fullres": whole,
            "3d_cascade_fullres": {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"},
        },
    }


def dataset(labels: dict[str, Any] | None = None, channels: tuple[str, ...] = ("t1n", "t1c", "t2w", "t2f")) -> Any:
    """Content of ``dataset.json``."""
    regions = {"regions_class_order": PAINTED} if labels == REGIONS else {}
    named = {str(number): name for number, name in enumerate(channels)}
    return {"channel_names": named, "labels": labels or LABELS, **regions, "file_ending": ".nii.gz"}


def write(folder: Path, content: dict[str, Any], data: dict[str, Any], trained: nn.Module, **others: Any) -> Path:
    """Write a result folder with the fold 0.

    Args:
        folder: of the result.
        content: of ``plans.json``.
        data: content of ``dataset.json``.
        trained: the network.
        others: of the checkpoint, instead of what nnU-Net writes.
    """
    checkpoint = {
        "network_weights": trained.state_dict(),
        "optimizer_state": {},
        "grad_scaler_state": None,
        "logging": {"dice_per_class_or_region": [[np.float32(0.5)]], "epoch_end_timestamps": [1.0]},
        "_best_ema": np.float64(0.5),
        "current_epoch": 1,
        "init_args": {"configuration": "3d_fullres", "fold": 0, "device": torch.device("cpu")},
        "trainer_name": "nnUNetTrainerShort",
        "inference_allowed_mirroring_axes": (0, 1, 2),
        **others,
    }
    (folder / "fold_0").mkdir(parents=True)
    (folder / "plans.json").write_text(json.dumps(content))
    (folder / "dataset.json").write_text(json.dumps(data))
    torch.save(checkpoint, folder / "fold_0" / "checkpoint_final.pth")
    return folder


def small(folder: Path, kind: str = "PlainConvUNet", labels: dict[str, Any] | None = None, **others: Any) -> Path:
    """A result folder of a small network for the glioma phantoms."""
    torch.manual_seed(0)
    outputs = len(labels or LABELS) - (labels == REGIONS)
    return write(folder, plans(kind=kind, **others), dataset(labels), network(4, outputs, kind, **others))


def edited(source: Path, folder: Path, **changes: Any) -> Path:
    """A copy of a result folder.

    Args:
        source: the result folder.
        folder: its copy.
        changes: of the json files by their names without suffix: functions that change the content.
    """
    shutil.copytree(source, folder, copy_function=shutil.copyfile)
    for name, change in changes.items():
        path = folder / f"{name}.json"
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))
    return folder


def raw_data(patients: Path, folder: Path) -> Path:
    """The glioma phantoms as a raw data set of nnU-Net."""
    for kind in ("imagesTr", "labelsTr"):
        (folder / kind).mkdir(parents=True)
    for case in sorted(path for path in patients.iterdir() if path.is_dir()):
        for channel, name in enumerate(("t1n", "t1c", "t2w", "t2f")):
            shutil.copy(case / f"{case.name}-{name}.nii.gz", folder / "imagesTr" / f"{case.name}_{channel:04d}.nii.gz")
        shutil.copy(case / f"{case.name}-seg.nii.gz", folder / "labelsTr" / f"{case.name}.nii.gz")
    return folder


def voxels(path: Path) -> np.ndarray[Any, np.dtype[Any]]:
    """Voxels of a mask."""
    return np.asarray(nibabel.load(path).dataobj)


def unequal_voxels(name: str, path: Path, folder: Path, *overlays: str, device: str = "cpu", **settings: Any) -> int:
    """Voxels in which the bundle of a real result folder gives a case another label than nnU-Net did.

    Args:
        name: of the result folder.
        path: of nnU-Net's mask.
        folder: for bundle and mask.
        overlays: configs of the bundle.
        device: that computes.
        settings: of its configs.
    """
    from_nnunet(REAL / "models" / name, "mine", out=folder)
    data, case = folder / "data", path.name.removesuffix(".nii.gz")
    data.mkdir()
    for image in (REAL / "images" / ("padded" if name == "regions" else "unpadded")).glob(f"{case}_*.nii.gz"):
        shutil.copyfile(image, data / image.name)
    files = [str(folder / "mine" / "configs" / f"{one}.yaml") for one in ("inference", "teacher", *overlays)]
    places = {"bundle_root": str(folder / "mine"), "dataset_dir": str(data), "output_dir": str(folder / "out")}
    flow = ConfigWorkflow(files, workflow_type="infer", logging_file=False, device=device, **places, **settings)
    flow.initialize()
    flow.run()
    expected = voxels(path)
    assert expected.any()
    return int((voxels(folder / "out" / f"{case}_seg.nii.gz") != expected).sum())
