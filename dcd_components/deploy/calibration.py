"""What a data list tells of a runtime: patches of the training cases to calibrate it, Dice over the held-out ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import torch
from monai.bundle import ConfigParser
from monai.transforms import Compose, CropForeground, RandSpatialCrop, SpatialPad
from torch import Tensor
from tqdm import tqdm

from dcd_components.data.cases import labelled_cases

Way = TypeVar("Way")
#: Patches that int8 is calibrated on.
PATCHES = 24


def training_patches(parser: ConfigParser, count: int) -> list[Tensor]:
    """Draw patches from the brains of the training cases, each of another case as long as there are any.

    Args:
        parser: a bundle's config ``train_student`` with ``dataset_dir``.
        count: of the patches.

    Returns:
        Images of shape ``(1, C, D, H, W)``, as the network sees them, the same ones each time.
    """
    size = parser.get_parsed_content("patch_size")
    cases = parser.get_parsed_content("train::dataset::data")
    prepare = Compose(parser.get_parsed_content("deterministic_transforms"))
    crop = Compose([CropForeground(allow_smaller=True), SpatialPad(size), RandSpatialCrop(size, random_size=False)])
    crop.set_random_state(0)
    chosen = [cases[number * len(cases) // count] for number in range(count)]
    return [crop(prepare(case)["image"]).as_tensor()[None].float() for case in tqdm(chosen, unit="patch", leave=False)]


def case_dice(
    parser: ConfigParser,
    folds: Sequence[int],
    ways: Mapping[Way, Callable[[Tensor], Tensor]],
    most: int | None = None,
) -> dict[Way, Tensor]:
    """Dice of the labels, or regions, of held-out cases, on the network's grid, for each way to predict them.

    As in :func:`.case_scores`, a label absent from truth and prediction is left out, and one absent from
    either scores 0.

    Args:
        parser: a bundle's config ``train_student`` with ``dataset_dir``.
        folds: of the cases.
        ways: from images ``(1, C, D, H, W)`` to logits, by name.
        most: cases, the first ones; all by default.

    Returns:
        ``(cases, labels)``, or ``(cases, regions)``, by name, NaN for what is left out.
    """
    datalist, folder, layout = (parser.get_parsed_content(key) for key in ("datalist", "dataset_dir", "layout"))
    prepare = Compose(parser.get_parsed_content("deterministic_transforms"))
    regions = list(parser.get_parsed_content("region_labels").values()) if parser.get("painted") else []
    labels = list(parser.get_parsed_content("labels").values())
    scores: dict[Way, list[Tensor]] = {name: [] for name in ways}
    for case in tqdm(labelled_cases(datalist, folder, layout, folds)[:most], unit="case", leave=False):
        prepared = prepare(case)
        image, truth = prepared["image"].as_tensor()[None].float(), prepared["label"].as_tensor()[0]
        for name, predict in ways.items():
            logits = predict(image)[0]
            found = logits > 0 if regions else torch.stack([logits.argmax(0) == label for label in labels])
            true = torch.stack([torch.isin(truth, torch.tensor(one)) for one in regions or labels])
            scores[name].append(_dice(found, true))
    return {name: torch.stack(cases) for name, cases in scores.items()}


def _dice(found: Tensor, true: Tensor) -> Tensor:
    """Dice of masks ``(masks, D, H, W)``; NaN where both are empty."""
    return 2 * (found & true).sum((1, 2, 3)) / (found.sum((1, 2, 3)) + true.sum((1, 2, 3)))
