"""The student of a bundle as a result folder that nnU-Net runs as it is.

``dcd to_nnunet`` calls :func:`bundle_to_nnunet`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.networks.nets import DynUNet
from torch import nn

from dcd_components.bundle.configs import read_configs
from dcd_components.bundle.nnunet.result_folder import BACKGROUND, CHECKPOINTS, ENDING, KNOWN, READERS, TRAINER
from dcd_components.errors import InputError
from dcd_components.files import write_json
from dcd_components.networks.nnunet import ARCHITECTURES, USUAL
from dcd_components.networks.nnunet_student import NnunetUNet, nnunet_weights
from dcd_components.networks.weights import load_frozen

#: Names of the plans and of their configuration where the folder does not say them.
PLANS, CONFIGURATION = "StudentPlans", "3d_fullres"
IMPORTED = ("conv_op", "norm_op", "dropout_op", "nonlin")


def bundle_to_nnunet(bundle: Path, out: Path, overlays: Sequence[str] = ()) -> Path:
    """Write a result folder, or nothing.

    Args:
        bundle: that :func:`.bundle_from_nnunet` wrote, with a trained student, in the repository or from a release.
        out: the result folder. Where ``nnUNetv2_predict`` is to find it, it is called
            ``nnUNetTrainer__PLANS__CONFIGURATION`` and lies in the folder of a data set below ``nnUNet_results``.
        overlays: configs that the student was trained with.

    Returns:
        The folder.

    Raises:
        InputError: for a bundle without nnU-Net's steps, a student that nnU-Net has no class for, weights that do not
            fit it or were trained on other labels or another grid, and a folder that is there already.
    """
    parser = read_configs(bundle, ["inference", *overlays])
    if "plan" not in parser.get():
        raise InputError(f"{bundle} does not have nnU-Net's steps: only bundles of dcd from_nnunet do")
    if "teacher" in overlays:
        raise InputError("the teacher is a result folder of nnU-Net already: leave out the overlay teacher")
    if out.exists() or out.is_symlink():
        raise InputError(f"{out} exists: name another folder")
    plans_name, configuration = _names(out)
    network = parser.get_parsed_content("network_def")
    dataset = _dataset(parser)
    _check_plain(network, len(parser["sequences"]), len(dataset["labels"]) - bool(parser["painted"]))
    load_frozen(network, parser.get_parsed_content("ckpt_path"), parser.get_parsed_content("trained_on"))
    checkpoint = {
        "network_weights": nnunet_weights(network.state_dict()),
        "trainer_name": TRAINER,  # one of another name would have to be installed there
        "init_args": {"configuration": configuration},
        "inference_allowed_mirroring_axes": tuple(parser["mirror_axes"]) or None,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as hidden:
        built = Path(hidden) / out.name
        (built / "fold_0").mkdir(parents=True)
        write_json(built / "plans.json", _plans(parser, network, plans_name, configuration))
        write_json(built / "dataset.json", dataset)
        torch.save(checkpoint, built / "fold_0" / CHECKPOINTS[0])
        built.rename(out)
    return out


def _check_plain(network: Any, channels: int, outputs: int) -> None:
    """Refuse a student that computes something else than the network that nnU-Net builds of its widths and strides."""
    if type(network) not in (DynUNet, NnunetUNet):
        kind = type(network).__name__
        raise InputError(
            f"the student is a {kind}, for which nnU-Net has no class: only its plain U-Net can be given back"
        )
    plain = NnunetUNet(
        3,
        channels,
        outputs,
        network.kernel_size,
        network.strides,
        network.strides[1:],
        network.filters,
        norm_name=("INSTANCE", {"eps": 1e-5, "affine": True}),
        act_name=("leakyrelu", {"negative_slope": 0.01}),
        trans_bias=True,
    )
    found, expected = _layers(network), _layers(plain)
    for name in {**expected, **found}:
        ours, theirs = (layers.get(name, "nothing") for layers in (found, expected))
        if ours != theirs:
            raise InputError(
                f"the student has {ours} at {name}, the plain U-Net of nnU-Net {theirs}: it cannot be given back"
            )


def _layers(network: nn.Module) -> dict[str, str]:
    """What each module of a network is by its name: its class, and its settings if it has no modules within."""
    named = [(name, one) for name, one in network.named_modules() if name]
    layers = {name: type(one).__name__ if [*one.children()] else repr(one) for name, one in named}
    return {name: layer.replace(", inplace=True", "") for name, layer in layers.items()}


def _names(out: Path) -> tuple[str, str]:
    """Names of plans and configuration, as the folder's own name has them."""
    trainer, *rest = out.name.split("__")
    if not rest:
        return PLANS, CONFIGURATION
    if len(rest) != 2 or trainer != TRAINER or not all(rest):
        raise InputError(f"nnU-Net looks for folders called {TRAINER}__PLANS__CONFIGURATION, got {out.name}")
    return rest[0], rest[1]


def _plans(parser: ConfigParser, network: DynUNet, name: str, configuration: str) -> dict[str, Any]:
    order = [*parser["transpose"]]
    stages = len(network.filters)
    arguments = {
        "n_stages": stages,
        "features_per_stage": network.filters,
        "kernel_sizes": network.kernel_size,
        "strides": network.strides,
        "n_conv_per_stage": [2] * stages,
        "n_conv_per_stage_decoder": [2] * (stages - 1),
        **USUAL,
        "dropout_op_kwargs": None,
    }
    return {
        "plans_name": name,
        "image_reader_writer": parser.get("reader", READERS[0]),
        "transpose_forward": order,
        "transpose_backward": [order.index(axis) for axis in range(3)],
        "label_manager": "LabelManager",
        # nnU-Net looks for every channel's, also where it does not use them.
        "foreground_intensity_properties_per_channel": {
            str(channel): parser["intensities"].get(str(channel), {}) for channel in range(len(parser["sequences"]))
        },
        "configurations": {
            configuration: {
                "patch_size": parser["patch_size"],
                "spacing": parser["spacing"],
                "normalization_schemes": parser["normalization"],
                "use_mask_for_norm": parser["masked"],
                **KNOWN,
                "architecture": {
                    "network_class_name": ARCHITECTURES["PlainConvUNet"],
                    "arch_kwargs": arguments,
                    "_kw_requires_import": [*IMPORTED],
                },
            }
        },
    }


def _dataset(parser: ConfigParser) -> dict[str, Any]:
    """What nnU-Net asks of the data set; regions are in the order of the network's outputs."""
    named = parser["region_labels"] or parser["labels"]
    regions = {"regions_class_order": parser["painted"]} if parser["painted"] else {}
    return {
        "channel_names": {str(channel): name for channel, name in enumerate(parser["sequences"])},
        "labels": {BACKGROUND: 0, **named},
        **regions,
        "file_ending": ENDING,
    }
