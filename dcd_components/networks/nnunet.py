"""Networks of nnU-Net v2: their architecture from plans, their weights from checkpoints.

They are built by the package ``dynamic-network-architectures``, which is all that nnU-Net needs for them too; nnU-Net
itself is not needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dcd_components.errors import InputError
from dcd_components.networks.weights import read_safely

PLACE = "dynamic_network_architectures.architectures.unet"
#: Where the two architectures are, by the last part of the names that plans have for them.
ARCHITECTURES = {name: f"{PLACE}.{name}" for name in ("PlainConvUNet", "ResidualEncoderUNet")}
#: What the classes take for granted in all plans that nnU-Net's planners write: others were not tried.
USUAL = {
    "conv_op": "torch.nn.modules.conv.Conv3d",
    "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
    "norm_op_kwargs": {"eps": 1e-5, "affine": True},
    "dropout_op": None,
    "nonlin": "torch.nn.LeakyReLU",
    "nonlin_kwargs": {"inplace": True},
    "conv_bias": True,
}
#: Arguments that differ between plans.
VARYING = ("n_stages", "features_per_stage", "kernel_sizes", "strides", "n_conv_per_stage_decoder")
#: Names by which checkpoints of numpy 2 and of numpy 1 call a function of it.
SCALAR = ("numpy._core.multiarray.scalar", "numpy.core.multiarray.scalar")


def architecture(configuration: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Name and varying arguments of the network of a configuration, in plans of before 2.3 or later ones.

    Args:
        configuration: of ``plans.json``, with what it inherits.

    Returns:
        The class's name, a key of :data:`ARCHITECTURES`, and its arguments without those that are :data:`USUAL`.

    Raises:
        InputError: for another network than nnU-Net's planners choose for 3D images.
    """
    if "architecture" not in configuration:
        return _older(configuration)
    found = configuration["architecture"]
    name, given = str(found["network_class_name"]).rpartition(".")[2], dict(found["arch_kwargs"])
    blocks = _blocks(name)
    known = {*USUAL, *VARYING, blocks, "dropout_op_kwargs"}
    wrong = [key for key, value in USUAL.items() if given.get(key, value) != value] + sorted({*given} - known)
    if wrong:
        said = f"arch_kwargs of plans.json have {wrong[0]} {given[wrong[0]]!r}"
        raise InputError(f"{said}, which no planner of nnU-Net writes")
    return name, {key: given[key] for key in (*VARYING, blocks)}


def _blocks(name: str) -> str:
    if name not in ARCHITECTURES:
        raise InputError(f"the network must be {' or '.join(ARCHITECTURES)}, plans.json has {name}")
    return "n_conv_per_stage" if name == "PlainConvUNet" else "n_blocks_per_stage"


def _older(configuration: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    name, blocks = configuration["UNet_class_name"], configuration["n_conv_per_stage_encoder"]
    base, most = configuration["UNet_base_num_features"], configuration["unet_max_num_features"]
    return name, {
        "n_stages": len(blocks),
        "features_per_stage": [min(base * 2**stage, most) for stage in range(len(blocks))],
        "kernel_sizes": configuration["conv_kernel_sizes"],
        "strides": configuration["pool_op_kernel_sizes"],
        "n_conv_per_stage_decoder": configuration["n_conv_per_stage_decoder"],
        _blocks(name): blocks,
    }


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint of nnU-Net, whose log of numbers of numpy torch would refuse, and run no code from it.

    Raises:
        InputError: when it is not one.
    """
    if not Path(path).is_file():
        raise InputError(f"no checkpoint at {path}")
    with numbers_allowed():
        checkpoint = read_safely(path, "a checkpoint of nnU-Net")
    needed = ("network_weights", "init_args", "trainer_name")
    if not isinstance(checkpoint, dict) or not all(key in checkpoint for key in needed):
        raise InputError(f"{path} must be a checkpoint of nnU-Net v2, with {', '.join(needed)}")
    return checkpoint


def numbers_allowed() -> AbstractContextManager[None]:
    """While files are read: allow what numbers of numpy are made of, as numpy 2 or numpy 1 has written them."""
    scalar: Any = np.float64(0).__reduce__()[0]
    kinds: list[Any] = [np.dtype, np.dtypes.Float32DType, np.dtypes.Float64DType]
    allowed: AbstractContextManager[None] = torch.serialization.safe_globals(
        [*kinds, *((scalar, name) for name in SCALAR)]
    )
    return allowed
