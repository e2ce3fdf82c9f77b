"""The memory of an inference is known before it, and what is too large is refused by name."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from result_folders import dataset, network, plans, write
from tiny import BRATS, SEQUENCES
from trees import save

from dcd_components import commands
from dcd_components.bundle.configs import read_configs
from dcd_components.data.case_files import Layout
from dcd_components.data.memory import BASE, MemoryLimit, NnunetMemoryLimit
from dcd_components.data.nifti import read_header
from dcd_components.data.unlabelled_cases import SoundCases
from dcd_components.errors import InputError

ONE = Layout({"t1": "{case}.nii.gz"})
SETTINGS: dict[str, Any] = {"spacing": [1.0, 1.0, 1.0], "patch_size": [8, 8, 8], "width": 8, "classes": 5}


def claiming(path: Path, shape: tuple[int, int, int], affine: Any = None) -> dict[str, Any]:
    """A file that has a header alone: nothing is read but that."""
    header = nib.Nifti1Image(np.zeros((1, 1, 1), np.uint8), np.eye(4) if affine is None else affine).header
    header.set_data_shape(shape)
    path.write_bytes(header.binaryblock + bytes(4))
    return {"image": [str(path)], "case": path.name.split(".")[0]}


@pytest.mark.parametrize(
    ("codes", "expected"), [("RAS", [11, 41, 91]), ("SAR", [31, 41, 31]), ("PIL", [31, 21, 61])], ids=str
)
def test_the_network_s_grid_is_known_from_the_header(codes: str, expected: list[int], tmp_path: Path) -> None:
    affine = nib.orientations.inv_ornt_aff(
        nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(codes)),
        (10, 20, 30),
    )
    path = tmp_path / "a.nii"
    claiming(path, (10, 20, 30), affine)
    grid = read_header(path).grid
    assert grid
    limit = MemoryLimit(1, ONE, **{**SETTINGS, "spacing": [1.0, 0.5, 1 / 3]})
    assert limit._network_shape(grid) == expected


def test_what_is_too_large_is_refused_with_what_it_needs(tmp_path: Path) -> None:
    small, large = (claiming(tmp_path / f"{name}.nii", (size,) * 3) for name, size in (("small", 64), ("large", 700)))
    limit = MemoryLimit(4, ONE, **SETTINGS)
    limit(small)
    need = limit.estimate(large) / 1e9
    with pytest.raises(InputError, match=rf"^large needs about {need:.1f} GB of memory, and max_memory allows 4$"):
        limit.check([small, large, {"case": "x", "fault": "x: missing"}])
    cases = SoundCases([{**small, "mark": ""}, large], lambda case: case, tmp_path, limit)
    assert [case["case"] for case in cases] == ["small"]
    assert [*cases.faults] == ["large"]
    MemoryLimit(None, ONE, **SETTINGS)(large)


def test_a_file_that_cannot_be_read_is_left_to_the_loader(tmp_path: Path) -> None:
    (tmp_path / "a.nii.gz").write_bytes(b"x")
    assert MemoryLimit(1, ONE, **SETTINGS).estimate({"image": str(tmp_path / "a.nii.gz"), "case": "a"}) == 0


@pytest.mark.parametrize("gigabytes", [0, -1, "many", float("nan")])
def test_a_limit_that_is_none_is_refused(gigabytes: Any) -> None:
    with pytest.raises(InputError, match="max_memory must be gigabytes above 0, or null"):
        MemoryLimit(gigabytes, ONE, **SETTINGS)


#: Not getrusage, whose peak includes that of the process which started this one.
CHILD = r"""
import json, re, sys
from pathlib import Path
import torch
from dcd_components.bundle.configs import literal, read_configs
from dcd_components import set_up_process
set_up_process()  # as every inference does: it takes more memory
torch.set_num_threads(1)
bundle, folder = Path(sys.argv[1]), sys.argv[2]
parser = read_configs(bundle, ["inference"])
parser.update({**json.loads(sys.argv[3]), "dataset_dir": literal(folder), "output_dir": literal(folder)})
limit, cases = parser.get_parsed_content("memory"), parser.get_parsed_content("data")
prepare, window, finish = (parser.get_parsed_content(key) for key in ("preprocessing", "inferer", "postprocessing"))
item = prepare(cases[0])
with torch.no_grad():  # a single convolution is not the network, whose part is small here
    item["pred"] = window(item["image"][None], torch.nn.Conv3d(len(item["image"]), limit.classes, 1))[0]
finish(item)
peak = 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])
print(limit.estimate(cases[0]), peak)
"""


linux = pytest.mark.skipif(
    not Path("/proc/self/status").is_file(), reason="the system does not tell a process's peak memory"
)


def estimate_and_peak(bundle: Path, folder: Path, **settings: Any) -> tuple[float, float]:
    """Bytes that the inference of the case in a folder is said to take, and those that it took."""
    given = {"patch_size": [32, 32, 32], "teacher_widths": [32, 32, 32], "sliding_window::overlap": 0.0, **settings}
    words = [sys.executable, "-W", "ignore", "-c", CHILD, str(bundle), str(folder), json.dumps(given)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    estimate, peak = map(float, done.stdout.split()[-2:])
    return estimate, peak


def made_up(folder: Path, shape: tuple[int, int, int], names: Sequence[str], margin: int) -> None:
    """Images of a case with a margin of 0, in voxels, at either end of the third axis."""
    voxels = np.zeros(shape, np.int16)
    voxels[..., margin : shape[2] - margin] = np.arange(shape[2] - 2 * margin) + 1
    for number, name in enumerate(names):
        voxels[9, 9, number] = 7
        nib.save(nib.Nifti1Image(voxels, np.diag([-1.0, -1, 1, 1])), folder / name)


@linux
@pytest.mark.parametrize("spacing", [1.0, 1.3], ids=["same grid", "resampled"])
def test_a_process_stays_below_the_estimate_and_not_far(spacing: float, tmp_path: Path) -> None:
    made_up(tmp_path, (144, 144, 144), [f"a-{name}.nii.gz" for name in SEQUENCES], margin=8)
    labels = {str(label): label for label in range(1, 6)}
    estimate, peak = estimate_and_peak(BRATS, tmp_path, spacing=[spacing] * 3, labels=labels)
    assert peak < estimate
    assert estimate - BASE < 2 * (peak - 0.5 * BASE)


@linux
@pytest.mark.parametrize(
    ("channels", "labels", "shape", "spacing"),
    [(4, 4, (160, 160, 100), 0.8), (1, 7, (256, 256, 256), 1.75)],
    ids=["four channels, finer", "one channel, coarser"],
)
def test_steps_of_nnunet_stay_below_the_estimate(
    channels: int, labels: int, shape: tuple[int, int, int], spacing: float, tmp_path: Path
) -> None:
    named = {"background": 0, **{f"label_{label}": label for label in range(1, labels + 1)}}
    data = dataset(named, tuple("abcd"[:channels]))
    result = write(tmp_path / "result", plans(channels), data, network(channels, labels + 1))
    commands.from_nnunet(result, "b", out=tmp_path)
    (folder := tmp_path / "images").mkdir()
    made_up(folder, shape, [f"a_{number:04d}.nii.gz" for number in range(channels)], margin=0)
    estimate, peak = estimate_and_peak(tmp_path / "b", folder, spacing=[spacing] * 3)
    assert peak < estimate
    assert estimate - BASE < 2 * (peak - 0.5 * BASE)


def test_grids_of_nnunet_are_along_the_axes_of_the_file(tmp_path: Path) -> None:
    """Rounded as it rounds, and never turned to the patient's."""
    affine = nib.orientations.inv_ornt_aff(nib.orientations.axcodes2ornt("PIL"), (10, 20, 30))
    claiming(tmp_path / "a.nii", (10, 20, 30), affine)
    grid = read_header(tmp_path / "a.nii").grid
    assert grid
    limit = NnunetMemoryLimit(1, ONE, **{**SETTINGS, "spacing": [1.0, 0.5, 4.0]})
    assert limit._network_shape(grid) == [10, 40, 8]


def test_the_bundle_s_settings_are_those_of_its_network(tmp_path: Path) -> None:
    parser = read_configs(BRATS, ["inference", "teacher"])
    parser["max_memory"] = 3
    limit = parser.get_parsed_content("memory")
    assert (limit.gigabytes, limit.width, limit.classes, limit.patch_size) == (3, 32, 5, [128, 128, 128])
    for name in SEQUENCES:
        save(tmp_path / f"a-{name}.nii.gz", value=1)
    assert BASE < limit.estimate({"image": str(tmp_path / "a-t1n.nii.gz"), "case": "a"}) < 5e9


def test_long_windows_are_counted_at_their_longest() -> None:
    parser = read_configs(BRATS, ["inference", "long_windows"])
    assert parser.get_parsed_content("memory").patch_size == [160, 160, 160]
    assert parser.get_parsed_content("sliding_window")._window((139, 190, 137)) == (160, 128, 160)
