"""Our steps before and after the network against nnU-Net's, on one random case of the size of BraTS, one thread each.

make .venv-nnunet/ready
OMP_NUM_THREADS=1 PYTHONPATH=.:tests .venv-nnunet/bin/python tests/nnunet/timing.py
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from nnunet.test_against_nnunet import LABELS, Grid, Z, nnunet_s, ours
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from scipy import ndimage

SHAPE, SPACING, CHANNELS, ROUNDS = (155, 240, 240), (1.0, 1.0, 1.0), 4, 3


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """CPU time of a call in seconds, and what it returns."""
    start = time.process_time()
    result = call()
    return time.process_time() - start, result


def main() -> None:
    """Print the median times, and how far the results differ."""
    torch.set_num_threads(1)
    generator = np.random.default_rng(0)
    noise = generator.normal(size=(CHANNELS, *SHAPE))
    images = (ndimage.gaussian_filter(noise, (0, 1, 1, 1)) * 300 + 400).astype(np.float32)
    grid = Grid(SPACING, (1.2, 1.2, 1.2), schemes=(Z,) * CHANNELS, masked=(False,) * CHANNELS)
    manager, plan, dataset = nnunet_s(grid), ours(grid), {"labels": LABELS}
    manager.plans["foreground_intensity_properties_per_channel"] = {str(one): {} for one in range(CHANNELS)}
    configuration, labels = manager.get_configuration("3d_fullres"), manager.get_label_manager(dataset)
    preprocessor, properties = DefaultPreprocessor(verbose=False), {"spacing": SPACING}
    found: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        found.setdefault(name, []).append(value)

    for _ in range(ROUNDS):
        taken, (expected, *_others) = timed(
            partial(preprocessor.run_case_npy, images, None, properties, manager, configuration, dataset)
        )
        note("s of nnU-Net before the network", taken)
        taken, made = timed(partial(plan.prepared, images.copy(), SPACING))
        note("s of ours", taken)
        note("largest difference", float(np.abs(made - expected).max()))
        logits = torch.from_numpy(generator.normal(size=(len(LABELS), *made.shape[1:]))).half()
        back = partial(convert_predicted_logits_to_segmentation_with_correct_shape, logits, manager, configuration)
        taken, mask = timed(partial(back, labels, properties, num_threads_torch=1))
        note("s of nnU-Net after it", taken)
        taken, other = timed(partial(plan.label_map, logits, SHAPE, SPACING))
        note("s of ours after it", taken)
        note("unequal voxels", float((mask != other).sum()))
    sys.stdout.write("".join(f"{np.median(values):.3g} {name}\n" for name, values in found.items()))


if __name__ == "__main__":
    main()
