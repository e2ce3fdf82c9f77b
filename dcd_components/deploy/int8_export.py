"""A bundle's network with int8 convolutions for OpenVINO, calibrated on training cases and judged on others."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from dcd_components.bundle.configs import literal, read_configs
from dcd_components.deploy.calibration import PATCHES, case_dice, training_patches
from dcd_components.deploy.onnx_network import INT8_ENDING, OnnxNetwork, require
from dcd_components.deploy.runtimes import OpenVinoNetwork, load_openvino, quantized, save_openvino

#: Cases of the validation that Dice is measured on, at most.
CASES = 20
#: Mean Dice that int8 may lose.
TOLERANCE = 0.005


def run(bundle: Path, dataset_dir: Path, overlays: Sequence[str] = (), datalist: Path | None = None) -> str:
    """Write ``model_int8.xml`` and ``.bin`` beside the ONNX file of a bundle, and say what int8 costs in Dice.

    Args:
        bundle: its folder, in which the command export has just written the ONNX file.
        dataset_dir: the cases that it was trained with.
        overlays: as for that file.
        datalist: their list; that in ``dataset_dir`` by default.

    Returns:
        What was written, and mean Dice in floating point and in int8 of at most 20 cases of the validation.

    Raises:
        InputError: when a package that this needs is missing, or the cases cannot be read.
    """
    require("onnxruntime", "openvino", "nncf")
    places = {"dataset_dir": literal(str(dataset_dir.absolute())), "device": "$torch.device('cpu')"}
    places |= {"datalist": literal(str(datalist.absolute()))} if datalist else {}
    training, inference = (read_configs(bundle, [name, *overlays]) for name in ("train_student", "inference"))
    training.update(places)
    inference.update(places)
    model = Path(inference.get_parsed_content("ckpt_path")).with_suffix(".onnx")
    path = model.with_name(model.stem + INT8_ENDING)
    save_openvino(quantized(model, training_patches(training, PATCHES)), path, OnnxNetwork(model).notes)
    windows = inference.get_parsed_content("sliding_window")
    networks = {"exact": load_openvino(model), "int8": OpenVinoNetwork(path)}
    ways = {name: partial(windows, network=network) for name, network in networks.items()}
    dice = case_dice(training, training["val_folds"], ways, CASES)
    exact, int8 = (one.nanmean(0).nanmean().item() for one in dice.values())
    lost = (dice["exact"].nanmean(1) - dice["int8"].nanmean(1)).nan_to_num().clamp(min=0).max().item()
    warning = ", which is much: look at its masks before it is used" if exact - int8 > TOLERANCE else ""
    return (
        f"{path}: mean Dice of {len(dice['int8'])} cases of the validation {exact:.4f} in floating point, "
        f"{int8:.4f} in int8; one case loses {lost:.4f}{warning}"
    )
