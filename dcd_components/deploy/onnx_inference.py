"""Segmentation with a file that the command export wrote, from NIfTI to NIfTI on a CPU, all else as configs say."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser
from tqdm import tqdm

from dcd_components.bundle.configs import literal, read_configs
from dcd_components.data.case_files import FAULT, IMAGE, Case, Layout
from dcd_components.data.masks import check_overwrite, planned_cases
from dcd_components.data.unlabelled_cases import SoundCases, checked_cases, inference_cases
from dcd_components.deploy.onnx_network import INT8_ENDING, OVERLAYS, WEIGHTS, OnnxNetwork
from dcd_components.deploy.runtimes import INT8, OpenVinoNetwork, Runtime, load_openvino
from dcd_components.errors import InputError
from dcd_components.networks.weights import weights_digest

#: What runs the file, and what is said of it to tell its masks from others.
RUNTIMES = {"onnxruntime": "ONNX", "openvino": "OpenVINO"}
#: Of a file of OpenVINO.
XML = ".xml"
Network = OnnxNetwork | OpenVinoNetwork


def run(
    cases: Sequence[str | Path],
    model: str | Path,
    out: str | Path,
    max_memory: float | None = None,
    runtime: str | None = None,
) -> str:
    """Segment cases with an ONNX file that the command export wrote, or with one in int8.

    Masks that are there already are kept where they are of the same weights, files and settings, so that a run that was
    killed goes on; no other file is replaced, see :func:`.check_overwrite`.

    Args:
        cases: each one file of a case, whichever sequence, a 4D file of all sequences, or a folder with cases of one
            file a sequence at any depth.
        model: the ONNX file, or ``model_int8.xml``, in the folder models of its bundle, whose configs say how images
            are prepared.
        out: folder for the masks, CASE_seg.nii.gz, each in the geometry of the case.
        max_memory: gigabytes that the process may take; a case that needs more has no mask.
        runtime: ``onnxruntime``, by default for an ONNX file, or ``openvino``, which is faster, computes in bfloat16
            where the processor has it, and runs files in int8.

    Returns:
        How many masks are there.

    Raises:
        InputError: when ONNX Runtime, or OpenVINO where it is asked for, is not installed; for no case, an unknown
            runtime, a model that does not fit its bundle or is of other weights than those beside it, and a file in a
            mask's place; at the end, for cases that have no mask, since their files are missing, damaged or do not fit
            together.
    """
    if not cases:
        raise InputError("name the cases: a file of each, or a folder")
    path, folder = Path(str(model)), Path(str(out))
    network, predict, kind = _read(path, runtime)
    weights = _weights(network, path)
    parser = _configs(network, path)
    parser.update({"ckpt_path": literal(str(path)), "output_dir": literal(str(folder)), "max_memory": max_memory})
    items = _items(cases, parser.get_parsed_content("layout"))
    check_overwrite(items, folder, weights)
    prepare, window, finish = (parser.get_parsed_content(key) for key in ("preprocessing", "inferer", "postprocessing"))
    todo = planned_cases(items, folder, weights, [prepare, window, kind])
    sound = SoundCases(todo, prepare, folder, parser.get_parsed_content("memory"))
    prepared: dict[str, Any]
    for prepared in tqdm(sound, total=len(todo), unit="case"):
        prepared["pred"] = window(prepared[IMAGE][None], predict)[0]
        finish(prepared)
    sound.report()
    return f"masks in {folder}: {len(items)}"


def _read(path: Path, runtime: str | None) -> tuple[Network, Runtime, str]:
    """A file, what runs it, and what is said of both to tell their masks from others."""
    chosen = runtime or ("openvino" if path.suffix == XML else "onnxruntime")
    if chosen not in RUNTIMES:
        raise InputError(f"runtime must be one of {', '.join(RUNTIMES)}, got {runtime}")
    if path.suffix == XML:
        if chosen != "openvino":
            raise InputError(f"{path} is run by openvino alone, got the runtime {chosen}")
        int8 = OpenVinoNetwork(path)
        return int8, int8, INT8
    network = OnnxNetwork(path)
    return network, load_openvino(path) if chosen == "openvino" else network, RUNTIMES[chosen]


def _weights(network: Network, path: Path) -> str:
    """Digest of the weights in the file, which must be those of the checkpoint that it lies beside, if there is one."""
    digest, beside = network.notes.get(WEIGHTS, ""), path.with_suffix(".pt")
    if path.name.endswith(INT8_ENDING):
        beside = path.with_name(f"{path.name.removesuffix(INT8_ENDING)}.pt")
    if not digest or (beside.is_file() and weights_digest(beside) != digest):
        of = "does not say of which weights it is" if not digest else f"is of other weights than {beside}"
        raise InputError(f"{path} {of}: write it anew with dcd export")
    return digest


def _configs(network: Network, path: Path) -> ConfigParser:
    """The configs of the bundle that the file lies in, with the overlays that it was exported with."""
    models = next((parent for parent in path.absolute().parents if parent.name == "models"), None)
    if models is None:
        raise InputError(f"{path} must lie in the folder models of its bundle, beside configs")
    overlays = re.findall(r"[\w-]+", network.notes.get(OVERLAYS, ""))
    parser = read_configs(models.parent, ["inference", *overlays])
    expected = len(parser["sequences"]), parser.get_parsed_content("architecture").keywords["out_channels"]
    if network.channels != expected:
        raise InputError(
            f"{path} has {network.channels[0]} channels in and {network.channels[1]} out, "
            f"the bundle at {models.parent} has {expected[0]} sequences and {expected[1]} outputs"
        )
    return parser


def _items(cases: Sequence[str | Path], layout: Layout) -> list[Case]:
    """The cases that are given by files or folders."""
    images: list[str | Sequence[str]] = []
    faulty: list[Case] = []
    for path in map(Path, cases):
        if path.is_dir():
            found = inference_cases(path.absolute(), layout)
            images += [case[IMAGE] for case in found if FAULT not in case]
            faulty += [case for case in found if FAULT in case]
        else:
            images.append(str(path.absolute()))
    return checked_cases(images, layout) + faulty
