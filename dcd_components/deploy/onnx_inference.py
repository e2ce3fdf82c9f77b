"""Segmentation with an ONNX file, from NIfTI to NIfTI on a CPU, all else as its bundle's configs say."""

from __future__ import annotations

import logging
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser
from tqdm import tqdm

from dcd_components.bundle.configs import literal, read_configs
from dcd_components.data.case_files import Layout
from dcd_components.data.unlabelled_cases import checked_cases, inference_cases
from dcd_components.deploy.onnx_network import OVERLAYS, OnnxNetwork
from dcd_components.errors import InputError


def run(cases: Sequence[str | Path], model: str | Path, out: str | Path) -> str:
    """Segment cases with an ONNX file that the command export wrote; no mask that is there already is touched.

    Args:
        cases: each one file of a case, whichever sequence, a 4D file of all sequences, or a folder with cases of one
            file a sequence at any depth.
        model: the ONNX file, in the folder models of its bundle, whose configs say how images are prepared.
        out: folder for the masks, CASE_seg.nii.gz, each in the geometry of the case.

    Returns:
        How many masks were written.

    Raises:
        InputError: when ONNX Runtime is not installed; for no case, one whose files are missing or do not fit together,
            a model that does not fit its bundle, and a mask that exists.
    """
    if not cases:
        raise InputError("name the cases: a file of each, or a folder")
    path, folder = Path(str(model)), Path(str(out))
    network = OnnxNetwork(path)
    parser = _configs(network, path)
    parser.update({"ckpt_path": literal(str(path)), "output_dir": literal(str(folder))})
    items = _items(cases, parser.get_parsed_content("layout"))
    names = [f"{item['case']}_seg.nii.gz" for item in items]
    if there := [name for name in names if (folder / name).exists()]:
        raise InputError(
            f"masks exist already: {len(there)}, such as {folder / there[0]}; name another folder with --out"
        )
    _segment(parser, items, network, folder)
    return f"masks in {folder}: {len(items)}"


def _configs(network: OnnxNetwork, path: Path) -> ConfigParser:
    """The configs of the bundle that the file lies in, with the overlays that it was exported with."""
    models = next((parent for parent in path.absolute().parents if parent.name == "models"), None)
    if models is None:
        raise InputError(f"{path} must lie in the folder models of its bundle, beside configs")
    overlays = re.findall(r"[\w-]+", network.notes.get(OVERLAYS, ""))
    parser = read_configs(models.parent, ["inference", *overlays])
    expected = len(parser["sequences"]), 1 + max(parser.get_parsed_content("labels").values())
    if network.channels != expected:
        raise InputError(
            f"{path} has {network.channels[0]} channels in and {network.channels[1]} out, "
            f"the bundle at {models.parent} has {expected[0]} sequences and {expected[1]} classes"
        )
    return parser


def _items(cases: Sequence[str | Path], layout: Layout) -> list[dict[str, Any]]:
    """The cases that are given by files or folders."""
    images: list[str | Sequence[str]] = []
    for path in map(Path, cases):
        if path.is_dir():
            images += [case["image"] for case in inference_cases(path.absolute(), layout)]
        else:
            images.append(str(path.absolute()))
    return checked_cases(images, layout)


def _segment(parser: ConfigParser, items: Sequence[dict[str, Any]], network: OnnxNetwork, folder: Path) -> None:
    """Write the masks, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    logging.getLogger("monai.data.image_writer").setLevel(logging.WARNING)  # it would tell where it wrote at first
    with tempfile.TemporaryDirectory(prefix=".segment", dir=folder) as partial:
        parser["output_dir"] = literal(partial)
        prepare, window, finish = (
            parser.get_parsed_content(key) for key in ("preprocessing", "inferer", "postprocessing")
        )
        for item in tqdm(items, unit="case"):
            prepared = prepare(item)
            prepared["pred"] = window(prepared["image"][None], network)[0]
            finish(prepared)
            for mask in Path(partial).iterdir():
                mask.replace(folder / mask.name)
