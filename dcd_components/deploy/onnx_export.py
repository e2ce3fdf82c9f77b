"""A bundle's network as an ONNX file that is known to compute what PyTorch computes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from math import prod
from pathlib import Path

import torch
from monai.bundle import ConfigParser

from dcd_components.bundle.configs import read_configs
from dcd_components.deploy.onnx_network import OVERLAYS, WEIGHTS, OnnxNetwork, export_onnx, largest_difference, require
from dcd_components.errors import InputError
from dcd_components.files import whole_file
from dcd_components.networks.weights import load_frozen, weights_digest

logger = logging.getLogger(__name__)

#: Largest difference from PyTorch, in units of the largest output; rounding takes some 4e-5 of it, in deep networks.
TOLERANCE = 1e-3


def run(bundle: str, overlays: Sequence[str] = ()) -> str:
    """Write the network of a bundle as an ONNX file beside its weights, and check it against PyTorch.

    It takes images of any size that the network takes, or patches alone where the exporter cannot say which these are.

    Args:
        bundle: its folder, in the repository or unpacked from a release.
        overlays: names of the configs that the weights were trained with, in their order; teacher for the teacher's.

    Returns:
        What was written, and how far it is from PyTorch.

    Raises:
        InputError: when a package that this needs is missing.
        InputError: when the bundle has no such config or no weights.
        InputError: when the weights do not fit the network, or the file computes something else than PyTorch.
    """
    require("onnx", "onnxscript", "onnxruntime")
    parser = read_configs(Path(bundle), ["inference", *overlays])
    parser["device"] = "$torch.device('cpu')"
    weights = Path(parser.get_parsed_content("ckpt_path"))
    network = load_frozen(parser.get_parsed_content("network"), weights)
    shapes = _shapes(parser)
    path = weights.with_suffix(".onnx")
    notes = {OVERLAYS: " ".join(overlays), WEIGHTS: weights_digest(weights)}
    fixed = False
    with whole_file(path) as partial:
        try:
            export_onnx(network, shapes[0][1], partial, notes, size=shapes[1][2:])
        except torch.onnx.OnnxExporterError as error:  # of a network that wants multiples of some size, as MedNeXt does
            if getattr(parser.get_parsed_content("sliding_window"), "stretch", 0):
                raise InputError(f"{path} would take patches alone: leave out the overlay long_windows") from error
            logger.info("not for images of any size: %s", error)
            shapes = [[batch, *shapes[0][1:]] for batch in (1, 2)]
            fixed = True
            export_onnx(network, shapes[0][1], partial, notes, size=shapes[0][2:], fixed=fixed)
        difference = largest_difference(network, OnnxNetwork(partial), shapes)
        if not difference <= TOLERANCE:
            raise InputError(
                f"{path} was not written: ONNX Runtime differs from PyTorch by {difference:.1e} of the largest output, "
                f"at most {TOLERANCE:.0e} was expected"
            )
    sizes = ", ".join("x".join(map(str, shape)) for shape in shapes)
    alone = f"; it takes patches of {sizes.partition(',')[0].partition('x')[2]} alone" if fixed else ""
    first = "; of several teachers, the first" if parser.get("further_teachers") else ""
    return f"{path}: within {difference:.1e} of PyTorch's largest output on images of {sizes}{alone}{first}"


def _shapes(parser: ConfigParser) -> list[list[int]]:
    """Shapes of images to compare on: a patch, a long image, and a batch of two small ones."""
    channels, patch, strides = (parser.get_parsed_content(key) for key in ("sequences", "patch_size", "strides"))
    steps = [[stride] * 3 if isinstance(stride, int) else stride for stride in strides]
    least = [2 * prod(step[axis] for step in steps) for axis in range(3)]  # a norm needs two voxels at the bottleneck
    sizes = [(1, patch), (1, [least[0], 2 * least[1], 3 * least[2]]), (2, least)]
    return [[batch, len(channels), *size] for batch, size in sizes]
