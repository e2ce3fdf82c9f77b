"""Files of data sets in their own layouts, without or with tiny contents, shared by the tests."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np

from dcd_components.bundle.configs import bundle_settings
from dcd_components.data.case_files import Layout, make_layout

ROOT = Path(__file__).parents[1]
BRATS = make_layout(bundle_settings(ROOT / "bundles" / "brats_gli_dcd"))
ISLES = make_layout(bundle_settings(ROOT / "bundles" / "isles22_dcd"))


def brats_files(case: str) -> list[str]:
    return [f"{case}/{case}-{name}.nii.gz" for name in ("t1n", "t1c", "t2w", "t2f", "seg")]


def isles_files(number: int, layout: str) -> list[str]:
    """Files of a case as the challenge or Zenodo lays them out."""
    patient = f"sub-strokecase{number:04d}"
    case = f"{patient}_ses-0001"
    mask = f"derivatives/{patient}/ses-0001/{case}_msk.nii.gz"
    if layout == "challenge":
        return [*(f"rawdata/{patient}/ses-0001/{case}_{name}.nii.gz" for name in ("flair", "dwi", "adc")), mask]
    files = ["anat/{}_FLAIR", "dwi/{}_dwi", "dwi/{}_adc"]
    return [*(f"{patient}/ses-0001/{file.format(case)}.nii.gz" for file in files), mask]


def touch(root: Path, files: list[str]) -> None:
    """Make empty files."""
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()


def save(path: Path, shape: tuple[int, ...] = (2, 3, 4), affine: float = 1.0, value: float = 0) -> None:
    """Write an image of 0 but for one voxel of ``value``, with voxels of ``affine`` mm."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.zeros(shape, np.float32)
    values[-1, 1, 1] = value
    nibabel.save(nibabel.Nifti1Image(values, np.diag([affine, affine, affine, 1])), path)


__all__ = ["BRATS", "ISLES", "ROOT", "Layout", "brats_files", "isles_files", "save", "touch"]
