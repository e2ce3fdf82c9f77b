"""Weights as a release holds them: the same bytes for the same tensors, and nothing of the machine that wrote them."""

from __future__ import annotations

import io
import multiprocessing
import re
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.data import save_net_with_metadata
from torch import nn

from dcd_components.errors import InputError
from dcd_components.networks.torchscript import compile_or_trace
from dcd_components.networks.weights import read_record, read_weights

#: How the process starts that compiles: the names of compiled classes depend on what a process compiled before.
CONTEXT = multiprocessing.get_context("spawn")
#: Records that torch writes into any archive.
WRITERS_OWN = ("version", "byteorder", ".data/serialization_id")


def flat_weights(network: nn.Module, path: Path) -> bytes:
    """Read the weights at ``path``, check that they fit the network, and write them flat, with their record.

    Raises:
        InputError: when there is no such file, it is no state dict, or one of another network.
    """
    if not path.is_file():
        raise InputError(f"no weights at {path}: a release needs them, train them first")
    network.load_state_dict(read_weights(network, path))
    weights = OrderedDict(network.state_dict())
    if record := read_record(path):
        weights.__dict__["record"] = {key: value for key, value in record.items() if key != "training"}
    torch.save(weights, file := io.BytesIO())  # DynUNet names most tensors twice; they are kept once
    return file.getvalue()


def scripted(config: Mapping[str, Any], weights: bytes, metadata: Mapping[str, Any]) -> bytes:
    """Compile ``network_def`` of a config to TorchScript, in a process of its own.

    Args:
        config: flattened inference config.
        weights: what :func:`flat_weights` made.
        metadata: what ``monai.bundle.load`` gives back along with the network.
    """
    with ProcessPoolExecutor(1, mp_context=CONTEXT) as pool:
        return canonical(pool.submit(_script, dict(config), weights, dict(metadata)).result())


def _script(config: dict[str, Any], weights: bytes, metadata: dict[str, Any]) -> bytes:
    warnings.simplefilter("ignore")  # torch.jit is deprecated, but the model zoo and MONAI Label read its files
    torch.manual_seed(0)  # DynUNet draws a number that nothing reads
    parser = ConfigParser(config)
    network: nn.Module = parser.get_parsed_content("network_def").eval().requires_grad_(False)
    network.load_state_dict(torch.load(io.BytesIO(weights), weights_only=True))
    shape = [len(parser.get_parsed_content("sequences")), *parser.get_parsed_content("patch_size")]
    compiled = compile_or_trace(network, shape)
    save_net_with_metadata(compiled, file := io.BytesIO(), include_config_vals=False, meta_values=metadata)
    return file.getvalue()


def canonical(compiled: bytes) -> bytes:
    """Rewrite a TorchScript file without what differs between machines and runs.

    That is the records with the paths of the source files, and the order in which a class lists its constants.
    """
    reader = torch._C.PyTorchFileReader(io.BytesIO(compiled))
    writer = torch._C.PyTorchFileWriter(file := io.BytesIO())
    for name in reader.get_all_records():
        if name not in WRITERS_OWN and not name.endswith(".debug_pkl"):
            record = reader.get_record(name)
            if name.startswith("code/"):
                record = re.sub(rb"(?:  \w+ : Final\[.*\n)+", _sorted_lines, record)
            writer.write_record(name, record, len(record))
    writer.write_end_of_file()
    return file.getvalue()


def _sorted_lines(found: re.Match[bytes]) -> bytes:
    return b"".join(sorted(found[0].splitlines(keepends=True)))
