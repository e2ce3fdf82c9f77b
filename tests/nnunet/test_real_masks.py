"""Masks of real result folders as nnU-Net's own commands gave them.

Of mirrored ones, which take minutes each, one of each network; all with ``DCD_ALL_MASKS=1``.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from result_folders import REAL, needs_real, unequal_voxels

FOLDERS = {
    "plain_no_mirroring": ("plain", []),
    "old_2.2.1_numpy1_no_mirroring": ("old_2.2.1_numpy1", []),
    "student_by_hand_no_mirroring": ("student_by_hand", []),
    "plain": ("plain", ["mirror"]),
    "residual": ("residual", ["mirror"]),
    "regions": ("regions", ["mirror"]),
}
ALL = os.environ.get("DCD_ALL_MASKS") == "1"
THICK, SAGITTAL = "gli00001100thick.nii.gz", "gli00001100sag.nii.gz"
SOME = {("plain", THICK), ("residual", THICK), ("regions", SAGITTAL)}
CASES = [
    (folder, path)
    for folder, (_, overlays) in FOLDERS.items()
    for path in sorted((REAL / "masks" / folder).glob("*.nii.gz"))
    if ALL or not overlays or (folder, path.name) in SOME
]


def test_there_are_some_of_each_network() -> None:
    assert not REAL.is_dir() or {(folder, path.name) for folder, path in CASES} >= SOME


@needs_real
@pytest.mark.parametrize(("folder", "path"), CASES, ids=[f"{folder} {path.name}" for folder, path in CASES])
def test_masks_are_those_of_nnunet(folder: str, path: Path, tmp_path: Path) -> None:
    name, overlays = FOLDERS[folder]
    assert unequal_voxels(name, path, tmp_path, *overlays) <= 1


@needs_real
@pytest.mark.parametrize(
    "path", sorted((REAL / "masks" / "plain_no_mirroring").glob("*.nii.gz")), ids=lambda path: path.name
)
def test_so_are_they_by_onednn(path: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"sliding_window::fast": True}
    assert unequal_voxels("plain", path, tmp_path, **settings) <= 1
