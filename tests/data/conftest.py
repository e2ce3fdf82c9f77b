"""Tiny cases as files, for the tests that read them."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from trees import BRATS, brats_files, save

from dcd_components.data.datalists import make_datalist, write_datalist

CASES = ("BraTS-GLI-00000-000", "BraTS-GLI-00001-000")


@pytest.fixture
def two_cases(tmp_path: Path) -> Path:
    """Each image of a case has its own value in one voxel, from 1 on; the label has none."""
    for case in CASES:
        for value, file in enumerate(brats_files(case), 1):
            save(tmp_path / file, value=value % 5)
    write_datalist(make_datalist(tmp_path, BRATS, folds=2)[0], tmp_path / "datalist.json")
    return tmp_path


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """A file of four channels with one voxel of 1, 2, 3 and 4."""
    values = np.zeros((2, 3, 4, 4), np.float32)
    values[-1, 1, 1] = [1, 2, 3, 4]
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / "whole.nii.gz")
    return tmp_path / "whole.nii.gz"
