from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread
from numpy.typing import NDArray

from dcd_components.handlers.pictures import LINE_COLOURS, CasePicture, case_figure, plot_curves

LABELS = {"NETC": 1, "SNFH": 2, "ET": 3, "RC": 4}


def picture(**changes: Any) -> CasePicture:
    """A head whose right front has a lesion on the slice of level 5."""
    image, truth = np.zeros((2, 20, 24, 12))
    image[2:18, 3:21, 1:11] = np.random.default_rng(0).normal(100, 10, (16, 18, 10))
    truth[13:16, 15:19, 5] = 3
    fields = {"title": "case", "sequences": {"T1c": image, "FLAIR": image}, "masks": {"truth": truth, "plain": truth}}
    return CasePicture(**(fields | changes))


def shown(pixels: NDArray[Any], colour: str) -> int:
    """Number of pixels that have a colour, or nearly."""
    return int((np.abs(pixels[..., :3] - to_rgb(colour)).max(-1) < 0.1).sum())


def test_each_panel_has_the_curves_that_are_known(tmp_path: Path) -> None:
    plain: list[dict[str, Any]] = [{"epoch": n, "iteration": 10 * n, "loss": 1 / n} for n in range(1, 9)]
    for row in plain[::2]:
        row["val_mean_dice"] = 0.05 * row["epoch"]
    distilled = [row | {"distillation_loss": 2 / row["epoch"], "distillation_weight": 0.5} for row in plain]
    unknown = [row | {"loss": row["loss"] + 1, "distillation_loss": None, "val_mean_dice": None} for row in plain]
    plot_curves({"plain": plain, "distilled": distilled, "unknown": unknown}, tmp_path / "curves.png")
    pixels = imread(tmp_path / "curves.png")[40:]  # without the legend
    width = pixels.shape[1] // 3
    loss, distillation, dice = (pixels[:, n * width : (n + 1) * width] for n in range(3))
    found = [[shown(panel, colour) > 20 for colour in LINE_COLOURS[:3]] for panel in (loss, distillation, dice)]
    assert found[0][1:] == [True, True]  # the plain curve lies under the distilled one
    assert found[1] == [False, True, False]
    assert found[2][1:] == [True, False]


def test_the_lesion_of_the_right_front_is_drawn_up_on_the_left(tmp_path: Path) -> None:
    case_figure([picture()], LABELS).savefig(tmp_path / "cases.png")
    pixels = imread(tmp_path / "cases.png")[..., :3]
    panel = pixels[40:-40, pixels.shape[1] // 2 : pixels.shape[1] * 3 // 4]
    yellow = np.argwhere(panel[..., 0] - panel[..., 2] > 0.3)
    assert len(yellow) > 50
    assert (yellow.mean(axis=0) < np.array(panel.shape[:2]) / 2).all()


@pytest.mark.parametrize("kind", ["no truth", "empty sequence", "integers"])
def test_odd_cases_are_drawn_too(tmp_path: Path, kind: str) -> None:
    case = picture()
    image, truth = case.sequences["T1c"], case.masks["truth"]
    odd: dict[str, dict[str, Any]] = {
        "no truth": {"masks": {"truth": 0 * truth, "plain": truth}},
        "empty sequence": {"sequences": {"T1c": image, "FLAIR": 0 * image}},
        "integers": {"sequences": {"T1c": image.astype(np.int16), "FLAIR": image.astype(np.uint8)}},
    }
    case_figure([case, picture(**odd[kind], captions={"plain": "Dice 0.81"})], LABELS).savefig(tmp_path / "cases.png")
    pixels = imread(tmp_path / "cases.png")[..., :3]
    lower_right = pixels[pixels.shape[0] // 2 : -60, pixels.shape[1] * 3 // 4 :]
    assert (lower_right[..., 0] - lower_right[..., 2] > 0.3).sum() > 50  # the lesion on its slice


@pytest.mark.parametrize("cases", [[], [picture(), picture(masks={"other": np.zeros((20, 24, 12))})]])
def test_cases_that_do_not_match_are_refused(tmp_path: Path, cases: list[CasePicture]) -> None:
    with pytest.raises(ValueError, match="cases must be at least one, all with the same sequences and masks"):
        case_figure(cases, LABELS)
