"""The same image gives the same mask: again, on more threads, in larger batches; and hundreds of them leak nothing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow
from numpy.typing import NDArray
from tiny import Workflow

#: Share of voxels that may differ where sums are added up in another order. Random weights, as here, have logits closer
#: to each other than trained ones.
TOLERANCE = 1e-4


@pytest.fixture
def data(patients: Path, tmp_path: Path) -> Path:
    first = sorted(path for path in patients.iterdir() if path.is_dir())[0]
    return Path(shutil.copytree(first, tmp_path / "data" / first.name)).parent


@pytest.fixture
def flow(workflow: Workflow, tmp_path: Path) -> Iterator[ConfigWorkflow]:
    torch.manual_seed(0)
    built = workflow("inference")
    network = workflow("inference").parser.get_parsed_content("network_def")
    torch.save(network.state_dict(), tmp_path / "model.pt")
    threads = torch.get_num_threads()
    yield built
    torch.set_num_threads(threads)


def mask(workflow: Workflow, out: Path, **settings: Any) -> NDArray[Any]:
    flow = workflow("inference", spacing=[3.0, 3.0, 3.0], output_dir=str(out), **settings)
    flow.initialize()
    flow.run()
    (path,) = out.glob("*_seg.nii.gz")
    labels = np.asarray(nib.load(path).dataobj)
    assert len(np.unique(labels)) > 2
    return labels


@pytest.mark.usefixtures("flow")
def test_the_same_mask_to_the_last_bit_in_every_run(workflow: Workflow, tmp_path: Path) -> None:
    masks = [mask(workflow, tmp_path / str(run)) for run in range(3)]
    assert all(np.array_equal(one, masks[0]) for one in masks)


@pytest.mark.usefixtures("flow")
def test_the_same_mask_on_one_thread_and_on_two(workflow: Workflow, tmp_path: Path) -> None:
    masks = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        masks.append(mask(workflow, tmp_path / str(threads)))
    assert (masks[0] != masks[1]).mean() <= TOLERANCE


@pytest.mark.usefixtures("flow")
def test_the_same_mask_by_windows_in_batches_of_any_size(workflow: Workflow, tmp_path: Path) -> None:
    masks = [mask(workflow, tmp_path / str(n), **{"sliding_window::sw_batch_size": n}) for n in (1, 3, 8)]
    assert max((one != masks[0]).mean() for one in masks) <= TOLERANCE


@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="Linux tells of memory in /proc")
def test_thirty_cases_take_no_more_memory_and_open_no_more_files_than_ten(flow: ConfigWorkflow, data: Path) -> None:
    flow.parser.update({"spacing": [6.0, 6.0, 6.0]})
    get = flow.parser.get_parsed_content
    prepare, window, finish, network = (get(one) for one in ("preprocessing", "inferer", "postprocessing", "network"))
    (case,) = get("data")
    held, opened = [], []
    for _ in range(40):
        item = prepare(case)
        with torch.no_grad():
            item["pred"] = window(item["image"][None], network.eval())[0]
        finish(item)
        held.append(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20)
        opened.append(len(os.listdir("/proc/self/fd")))
    voxels = item["image"].numel() * 4 / 2**20
    assert max(held[30:]) - max(held[5:15]) < max(8, voxels)  # MiB; one image that is kept of each case would be 30
    assert opened[-1] <= opened[5]
