from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from dcd_components.commands import phantom

LABELS = {"background": 0, "netc": 1, "snfh": 2, "et": 3, "rc": 4}
REGIONS = {"background": 0, "whole": [1, 2, 3, 4], "core": [1, 3], "et": [3], "rc": [4]}
SEQUENCES = ("t1n", "t1c", "t2w", "t2f")
#: Few, on two grids, so that some images are resampled: cases to train on, then one to segment.
CASES = {5.0: (32, 40, 32), 4.4: (36, 44, 36)}


@pytest.fixture(scope="session")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Simulated patients as nnU-Net's raw data: folder ``nnUNet_raw`` with a data set of labels and one of regions."""
    folder = tmp_path_factory.mktemp("raw")
    first, second = folder / "Dataset701_Labels", folder / "Dataset702_Regions"
    for seed, (spacing, size) in enumerate(CASES.items()):
        patients = tmp_path_factory.mktemp("patients") / "brats"
        phantom("brats_gli", patients, cases=4, seed=seed, spacing_mm=spacing, size=size, folds=1, workers=1)
        for number, case in enumerate(sorted(path for path in patients.iterdir() if path.is_dir())):
            _add_case(first, case, f"gli_{seed}{number}", "Tr" if number < 3 else "Ts")
    shutil.copytree(first, second)
    for dataset, labels in ((first, LABELS), (second, REGIONS)):
        regions = {"regions_class_order": [2, 1, 3, 4]} if labels is REGIONS else {}
        _write(dataset / "dataset.json", {"labels": labels, **regions})
    return folder


def _add_case(dataset: Path, case: Path, name: str, part: str) -> None:
    names = {sequence: f"images{part}/{name}_{channel:04d}.nii.gz" for channel, sequence in enumerate(SEQUENCES)}
    for kind, file in {**names, "seg": f"labels{part}/{name}.nii.gz"}.items():
        (dataset / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(case / f"{case.name}-{kind}.nii.gz", dataset / file)


def _write(path: Path, content: Mapping[str, Any]) -> None:
    channels = {str(channel): name for channel, name in enumerate(SEQUENCES)}
    path.write_text(json.dumps({"channel_names": channels, "numTraining": 6, "file_ending": ".nii.gz", **content}))
