"""nnU-Net's networks: plans, checkpoints, and a student's weights by their names."""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.networks.nets import DynUNet
from result_folders import FLAT, REAL, needs_real, network, plans, sizes, small
from torch import nn

from dcd_components.errors import InputError
from dcd_components.files import read_json
from dcd_components.networks.nnunet import architecture, read_checkpoint
from dcd_components.networks.nnunet_student import NnunetUNet, in_student_class, nnunet_weights

ISOTROPIC = {key: sizes()[key] for key in ("kernel_sizes", "strides")}


def configuration(kind: str = "PlainConvUNet") -> dict[str, Any]:
    found: dict[str, Any] = plans(kind=kind)["configurations"]["3d_fullres"]
    return found


OLD = {
    "UNet_class_name": "PlainConvUNet",
    "UNet_base_num_features": 16,
    "unet_max_num_features": 40,
    "n_conv_per_stage_encoder": [2, 2, 2],
    "n_conv_per_stage_decoder": [2, 2],
    "pool_op_kernel_sizes": [[1, 1, 1], [2, 2, 2], [2, 2, 2]],
    "conv_kernel_sizes": [[3, 3, 3]] * 3,
}


@pytest.mark.parametrize("kind", ["PlainConvUNet", "ResidualEncoderUNet"])
def test_the_architecture_of_current_and_older_plans(kind: str) -> None:
    assert architecture(configuration(kind)) == (kind, sizes(kind))
    expected = {**sizes(kind), "features_per_stage": [16, 32, 40]}
    blocks = next(key for key in expected if key in ("n_conv_per_stage", "n_blocks_per_stage"))
    expected[blocks] = [2, 2, 2]
    assert architecture({**OLD, "UNet_class_name": kind}) == (kind, expected)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"network_class_name": "dynamic_network_architectures.architectures.primus.PrimusM"}, "the network must be"),
        ({"norm_op": "torch.nn.BatchNorm3d"}, "arch_kwargs of plans.json have norm_op 'torch.nn.BatchNorm3d'"),
        ({"conv_op": "torch.nn.modules.conv.Conv2d"}, "arch_kwargs of plans.json have conv_op"),
        ({"dropout_op": "torch.nn.Dropout3d"}, "arch_kwargs of plans.json have dropout_op"),
        ({"conv_bias": False}, "arch_kwargs of plans.json have conv_bias False"),
        ({"nonlin": "torch.nn.ReLU"}, "arch_kwargs of plans.json have nonlin"),
        ({"squeeze_excitation": True}, "arch_kwargs of plans.json have squeeze_excitation True"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_other_networks_are_refused(changes: dict[str, Any], expected: str) -> None:
    found = configuration()["architecture"]
    found |= {key: value for key, value in changes.items() if key in found}
    found["arch_kwargs"] |= {key: value for key, value in changes.items() if key not in found}
    with pytest.raises(InputError, match=expected):
        architecture({"architecture": found})


def test_an_older_name_that_is_not_known_is_refused() -> None:
    with pytest.raises(InputError, match=r"must be PlainConvUNet or ResidualEncoderUNet, plans.json has Residual"):
        architecture({**OLD, "UNet_class_name": "ResidualUNet"})


# -- checkpoints


class Harmful:
    """Would write a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_a_checkpoint_with_numbers_of_numpy_is_read(tmp_path: Path) -> None:
    """Those that are written with the numpy that is installed."""
    found = read_checkpoint(small(tmp_path / "made") / "fold_0" / "checkpoint_final.pth")
    assert found["_best_ema"] == 0.5
    assert found["logging"]["dice_per_class_or_region"] == [[0.5]]
    with pytest.raises(Exception, match="Weights only load failed"):  # and no longer allowed than that
        torch.load(tmp_path / "made" / "fold_0" / "checkpoint_final.pth", weights_only=True)


@needs_real
@pytest.mark.parametrize("name", ["plain", "residual", "regions", "student_by_hand", "old_2.2.1_numpy1"])
def test_checkpoints_of_nnunet_by_numpy_1_and_2(name: str) -> None:
    found = read_checkpoint(REAL / "models" / name / "fold_0" / "checkpoint_final.pth")
    kind, arguments = architecture(read_json(REAL / "models" / name / "plans.json")["configurations"]["3d_fullres"])
    outputs = 4 if name == "regions" else 5
    network(4, outputs, kind, **arguments).load_state_dict(found["network_weights"])
    assert found["trainer_name"].startswith("nnUNetTrainer")


def test_no_code_of_a_checkpoint_is_run(tmp_path: Path) -> None:
    content = {"network_weights": {}, "init_args": {}, "trainer_name": Harmful(tmp_path / "harm")}
    torch.save(content, path := tmp_path / "checkpoint_final.pth")
    with pytest.raises(InputError, match=r"checkpoint_final.pth is not a checkpoint of nnU-Net that torch can read"):
        read_checkpoint(path)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("content", [[1], {"state_dict": {}}, {"network_weights": {}, "init_args": {}}], ids=str)
def test_what_is_no_checkpoint_of_nnunet_is_refused(content: Any, tmp_path: Path) -> None:
    torch.save(content, path := tmp_path / "one.pth")
    with pytest.raises(InputError, match=r"one.pth must be a checkpoint of nnU-Net v2, with network_weights, init_arg"):
        read_checkpoint(path)


def test_a_file_that_torch_cannot_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "one.pth").write_bytes(b"no checkpoint")
    with pytest.raises(InputError, match=r"one.pth is not a checkpoint of nnU-Net that torch can read safely: "):
        read_checkpoint(tmp_path / "one.pth")
    with pytest.raises(InputError, match=r"no checkpoint at .*two.pth$"):
        read_checkpoint(tmp_path / "two.pth")


# -- the student


def student(made: Any = NnunetUNet, outputs: int = 3, **shape: Any) -> nn.Module:
    """A student of random weights and norms."""
    torch.manual_seed(0)
    built: nn.Module = made(
        spatial_dims=3,
        in_channels=2,
        out_channels=outputs,
        kernel_size=shape["kernel_sizes"],
        strides=shape["strides"],
        upsample_kernel_size=shape["strides"][1:],
        filters=[16, 16, 32],
        norm_name=("INSTANCE", {"affine": True}),
        act_name=("leakyrelu", {"inplace": True, "negative_slope": 0.01}),
        res_block=shape.get("res_block", False),
        trans_bias=shape.get("trans_bias", True),
    )
    for parameter in built.parameters():
        nn.init.normal_(parameter, std=0.3)
    return built.eval()


@pytest.mark.parametrize(("made", "shape"), [(NnunetUNet, ISOTROPIC), (NnunetUNet, FLAT), (DynUNet, ISOTROPIC)])
def test_nnunet_s_network_computes_what_the_student_does(made: Any, shape: dict[str, Any]) -> None:
    ours, theirs = student(made, **shape), network(2, 3, **shape).eval()
    weights = nnunet_weights(ours.state_dict())
    assert weights.keys() == theirs.state_dict().keys()
    theirs.load_state_dict(weights)
    image = torch.randn(2, 2, 8, 16, 12)
    with torch.no_grad():
        expected = ours(image)
        assert expected.std() > 0.1
        torch.testing.assert_close(theirs(image), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize(("made", "shape"), [(NnunetUNet, ISOTROPIC), (NnunetUNet, FLAT), (DynUNet, ISOTROPIC)])
def test_a_teacher_of_nnunet_s_is_one_of_the_student_s_class(made: Any, shape: dict[str, Any]) -> None:
    """From which the student can start."""
    torch.manual_seed(1)
    teacher = network(2, 3, **{**shape, "features_per_stage": [24, 32, 40]}).eval()
    for parameter in teacher.parameters():
        nn.init.normal_(parameter, std=0.3)  # biases before norms too, which change nothing
    ours = student(made, **shape)
    before = torch.get_rng_state()
    wide = in_student_class(teacher, ours)
    assert torch.equal(torch.get_rng_state(), before)
    assert isinstance(wide, made)
    assert wide.filters == [24, 32, 40]
    assert not any(parameter.requires_grad for parameter in wide.parameters())
    image = torch.randn(2, 2, 8, 16, 12)
    with torch.no_grad():
        expected = teacher(image)
        assert expected.std() > 0.1
        torch.testing.assert_close(wide(image), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    assert in_student_class(wide, ours) is wide


@pytest.mark.parametrize(
    ("teacher", "expected"),
    [
        ({"kind": "ResidualEncoderUNet"}, "of the student's class, NnunetUNet, got ResidualEncoderUNet"),
        ({"n_conv_per_stage": [3, 2, 2]}, "differs in encoder.stages.0.0.convs.2.conv.weight"),
        ({"n_conv_per_stage": [1, 2, 2]}, "differs in encoder.stages.0.0.convs.1.conv.weight"),
        ({"strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]]}, "differs in decoder.transpconvs.1.weight"),
    ],
)
def test_a_teacher_of_another_build_is_refused(teacher: dict[str, Any], expected: str) -> None:
    with pytest.raises(InputError, match=f"init: teacher needs a teacher .*{expected}"):
        in_student_class(network(2, 3, **{**ISOTROPIC, **teacher}), student(**ISOTROPIC))


def test_monai_s_own_network_has_other_kernels_where_slices_are_thick() -> None:
    """Why there is another class: without it the weights do not fit."""
    with pytest.raises(RuntimeError, match=r"decoder.stages.1.convs.0.*\[16, 32, 3, 3, 3\].*\[16, 32, 1, 3, 3\]"):
        network(2, 3, **FLAT).load_state_dict(nnunet_weights(student(DynUNet, **FLAT).state_dict()))


def test_a_student_with_heads_gives_the_weights_of_one_without() -> None:
    heads = partial(DynUNet, deep_supervision=True, deep_supr_num=1)
    weights = {k: v for k, v in student(heads, **ISOTROPIC).state_dict().items() if "head" not in k}
    assert nnunet_weights(weights).keys() == network(2, 3, **ISOTROPIC).state_dict().keys()


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ({"res_block": True}, r"the weights have input_block.conv3.conv.weight, which no plain U-Net of nnU-Net has$"),
        ({"trans_bias": False}, r"the weights lack upsamples.0.transp_conv.conv.bias, which a plain U-Net of nnU-Net"),
    ],
)
def test_weights_of_other_networks_are_refused(shape: dict[str, bool], expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        nnunet_weights(student(DynUNet, **ISOTROPIC, **shape).state_dict())


def test_torch_compiles_the_class_for_thick_slices() -> None:
    """Releases hold the student as TorchScript too."""
    ours, image = student(**FLAT), torch.randn(1, 2, 8, 16, 16)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        scripted = torch.jit.script(ours)
        torch.testing.assert_close(scripted(image), ours(image))
