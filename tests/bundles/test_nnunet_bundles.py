"""Bundles from nnU-Net: distilled, evaluated, run, and given back to nnU-Net."""

from __future__ import annotations

import json
import re
import shutil
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from monai.networks.blocks import UnetResBlock
from monai.transforms import RandFlipd
from result_folders import FLAT, LABELS, REAL, REGIONS, edited, needs_real, network, small, unequal_voxels, voxels
from tiny import BRATS, TINY, Workflow, config_files

from dcd_components import commands, inferers
from dcd_components.bundle import running
from dcd_components.bundle.configs import ARCHITECTURES, read_configs
from dcd_components.bundle.nnunet.result_folder import read_result_folder
from dcd_components.bundle.release import packing
from dcd_components.deploy import onnx_export, onnx_inference
from dcd_components.errors import InputError, input_error
from dcd_components.handlers import validation_picture
from dcd_components.handlers.pictures import CasePicture, case_figure
from dcd_components.networks.nnunet import read_checkpoint
from dcd_components.networks.stage_pairs import stage_pairs
from dcd_components.networks.weights import save_weights
from dcd_components.tables import read_csv

Make = Callable[..., Path]
KINDS: dict[str, dict[str, Any]] = {
    "labels": {},
    "residual": {"kind": "ResidualEncoderUNet"},
    "regions": {"labels": REGIONS},
    "thick": FLAT,
}
DEEP = {
    "n_stages": 4,
    "features_per_stage": [16, 32, 32, 48],
    "kernel_sizes": [[3, 3, 3]] * 4,
    "strides": [[1, 1, 1], *([[2, 2, 2]] * 3)],
    "n_conv_per_stage": [2] * 4,
    "n_conv_per_stage_decoder": [2] * 3,
}
DEEP_KINDS = {
    "deep": DEEP,
    "deep_thick": {
        **DEEP,
        "kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3], [3, 3, 3]],
        "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2], [2, 2, 2]],
    },
}
#: Settings of a training by what it is with.
QUICK = {key: TINY[key] for key in ("batch_size", "max_epochs", "epoch_length", "val_interval", "num_workers")}
QUICK |= {"learning_rate": 0.004, "distillation_weight": {"_target_": "dcd_components.constant", "maximum": 0.3}}


#: What nnU-Net's plans do not say of a network, by the overlay that makes it.
OTHER_NETWORKS = {
    "architecture::norm_name: [GROUP, {num_groups: 4}]": r"GroupNorm\(4, .* at input_block.norm1, .* InstanceNorm3d",
    "architecture::norm_name: [INSTANCE, {affine: true, eps: 1.0e-3}]": r"InstanceNorm3d\(8, eps=0.001, ",
    "architecture::norm_name: INSTANCE": r"InstanceNorm3d\(.* affine=False",
    "architecture::act_name: relu": r"ReLU\(\) at input_block.lrelu, ",
    "architecture::act_name: [leakyrelu, {negative_slope: 0.2}]": r"LeakyReLU\(negative_slope=0.2\)",
    "architecture::dropout: 0.1": r"\w+ at ",
    "architecture::deep_supervision: true": r"\w+ at deep_supervision_heads",
    'architecture::upsample_kernel_size: "$[3] * (len(@strides) - 1)"': r"ConvTranspose3d\(.* kernel_size=\(3, 3, 3\)",
    "architecture::trans_bias: false": r"ConvTranspose3d\(.* bias=False",
    'architecture::in_channels: "$1 + len(@sequences)"': r"Conv3d\(5, 8, ",
    "architecture::out_channels: 7": r"Conv3d\(8, 7, ",
    "architecture::kernel_size: [1, 3, 3]": r"Conv3d\(",
}


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Bundles by kind, each made once."""
    known: dict[str, Path] = {}

    def make(kind: str) -> Path:
        if kind not in known:
            parent = tmp_path_factory.mktemp("bundles")
            commands.from_nnunet(small(parent / "results", **{**KINDS, **DEEP_KINDS}[kind]), kind, out=parent)
            known[kind] = parent / kind
        return known[kind]

    return make


@pytest.fixture
def run(workflow: Workflow, raw_patients: Path, tmp_path: Path) -> Callable[..., Any]:
    """Run configs of a bundle on the glioma phantoms, with its own grid and widths."""

    def start(bundle: Path, *names: str, **settings: Any) -> Any:
        own = {key: read_configs(bundle, ["inference"])[key] for key in ("spacing", "patch_size", "teacher_widths")}
        teacher = {"teacher_path": str(bundle / "models" / "teacher" / "model.pt")} if "distill" in names else {}
        own |= {} if "distill" in names else {"sliding_window::overlap": 0.5}  # as nnU-Net and ONNX Runtime have it
        places = {"bundle_root": str(bundle), "dataset_dir": str(raw_patients)}
        flow = workflow(*names, bundle=bundle, **{**own, **QUICK, **places, **teacher, **settings})
        flow.initialize()
        flow.run()
        return flow

    return start


@pytest.fixture
def images(raw_patients: Path, tmp_path: Path) -> Path:
    """Images of two cases."""
    folder = tmp_path / "images"
    folder.mkdir()
    for path in sorted((raw_patients / "imagesTr").iterdir())[:8]:
        shutil.copy(path, folder)
    return folder


def draw(bundle: Path, path: Path, seed: int = 0) -> Path:
    """Random weights of a student whose norms are not those that it is built with."""
    torch.manual_seed(seed)
    student = read_configs(bundle, ["inference"]).get_parsed_content("network_def")
    for parameter in student.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    torch.save(student.state_dict(), path)
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_a_student_is_distilled_evaluated_and_run(
    kind: str, made: Make, run: Callable[..., Any], images: Path, tmp_path: Path
) -> None:
    bundle = made(kind)
    run(bundle, "distill", "quick", max_epochs=4, epoch_length=4, val_interval=4)
    rows = read_csv(tmp_path / "model_training.csv")
    for column in ("loss", "distillation_loss"):
        assert 0 < float(rows[-1][column]) < float(rows[0][column])
    assert 0 <= float(rows[-1]["val_mean_dice"]) <= 1
    assert {name for name in rows[0] if "distillation_loss/" in name} == {
        f"distillation_loss/{stage}" for stage in ("input_block", "downsamples.0", "bottleneck")
    }
    apart: dict[str, Any] = {"sliding_window::overlap": 0.0}  # a third of the windows
    teacher = {"ckpt_path": str(bundle / "models" / "teacher" / "model.pt")}
    for names, places in (([], {}), (["teacher"], teacher)):
        out = tmp_path / "-".join(["eval", *names])
        run(bundle, "inference", "evaluate", *names, output_dir=str(out), **places, **apart)
        rows = read_csv(out / "scores.csv")
        assert len(rows) == 2
        regions = ["whole_tumour", "tumour_core", "enhancing", "cavity"] if kind == "regions" else [*LABELS][1:]
        assert [name for name in rows[0] if name.startswith("dice_")] == [f"dice_{name}" for name in regions]
    run(bundle, "inference", dataset_dir=str(images), output_dir=str(tmp_path / "masks"), **apart)
    masks = [*(tmp_path / "masks").glob("*_seg.nii.gz")]
    assert len(masks) == 2
    assert {*np.unique(voxels(masks[0]))} <= {0, 1, 2, 3, 4}


@pytest.mark.parametrize("names", [[], ["teacher"]], ids=["student", "teacher"])
def test_masks_of_an_evaluation_are_those_of_inference(
    names: list[str],
    made: Make,
    run: Callable[..., Any],
    raw_patients: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Bit by bit, also on a CPU that multiplies bfloat16."""
    monkeypatch.setattr(inferers, "cpu_has_bfloat16", lambda: True)
    bundle = made("labels")
    teacher = bundle / "models" / "teacher" / "model.pt"
    places = {"ckpt_path": str(teacher if names else draw(bundle, tmp_path / "drawn.pt"))}
    run(bundle, "inference", "evaluate", *names, **places, output_dir=str(tmp_path / "scored"))
    scored = [*(tmp_path / "scored").glob("*_seg.nii.gz")]
    assert len(scored) == 2
    (images := tmp_path / "images").mkdir()
    for case in (path.name.removesuffix("_seg.nii.gz") for path in scored):
        for image in (raw_patients / "imagesTr").glob(f"{case}_*"):
            shutil.copy(image, images)
    run(bundle, "inference", *names, **places, dataset_dir=str(images), output_dir=str(tmp_path / "segmented"))
    for path in scored:
        mask = voxels(path)
        assert len(np.unique(mask)) > 1
        assert np.array_equal(mask, voxels(tmp_path / "segmented" / path.name))


@pytest.mark.parametrize("kind", ["labels", "regions"])
@pytest.mark.parametrize("method", ["logits", "logits_by_class", "ifvd", "cwd", "dcd_logits", "fitnet"])
def test_other_methods(method: str, kind: str, made: Make, run: Callable[..., Any], tmp_path: Path) -> None:
    """By the modules of both networks; the classes of `ifvd` are the labels, whatever the outputs are."""
    flow = run(made(kind), "distill", str(running.BASELINES / method), epoch_length=1)
    settings = flow.parser.get_parsed_content("distiller").settings
    assert settings.get("output_loss", settings["loss"]).get("overlapping", kind == "regions") == (kind == "regions")
    (row,) = read_csv(tmp_path / "model_training.csv")
    terms = [float(value) for name, value in row.items() if "distillation_loss/" in name]
    assert terms
    assert all(term > 0 for term in terms)


def test_regions_are_shown_and_taught_to_other_students(
    made: Make, run: Callable[..., Any], raw_patients: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shown are axial slices, though the axes of the network are z y x."""
    shown: list[CasePicture] = []

    def figure(cases: Sequence[CasePicture], labels: Mapping[str, int]) -> Figure:
        shown.extend(cases)
        return case_figure(cases, labels)

    monkeypatch.setattr(validation_picture, "case_figure", figure)
    names = ("distill", "quick", "tensorboard", str(ARCHITECTURES / "unet_student"))
    run(made("regions"), *names, max_epochs=4, epoch_length=4, val_interval=4)
    rows = read_csv(tmp_path / "model_training.csv")
    for column in ("loss", "distillation_loss"):
        assert float(rows[-1][column]) < float(rows[0][column])
    assert [*tmp_path.glob("model_tensorboard/*/events*")]
    cases = json.loads((raw_patients / "datalist.json").read_text())["training"]
    label = voxels(raw_patients / next(case["label"] for case in cases if case["fold"] == 1))
    truth = np.concatenate([one.masks["truth"] for one in shown], -1)
    assert [*np.count_nonzero(truth, (0, 1))] == [count for count in np.count_nonzero(label, (0, 1)) if count]


@pytest.mark.parametrize("kind", ["labels", "thick"])
def test_a_residual_student(kind: str, made: Make, run: Callable[..., Any], images: Path, tmp_path: Path) -> None:
    """It learns, is scored, exported, packed and run; nnU-Net has no class for it."""
    bundle = shutil.copytree(made(kind), tmp_path / kind)
    (bundle / "configs" / "residual.yaml").write_text("architecture::res_block: true\n")
    weights = bundle / "models" / "model.pt"
    run(bundle, "distill", "residual", "quick", ckpt_path=str(weights), max_epochs=4, epoch_length=4)
    rows = read_csv(weights.with_name("model_training.csv"))
    for column in ("loss", "distillation_loss"):
        assert float(rows[-1][column]) < float(rows[0][column])
    places = {"ckpt_path": str(weights), "output_dir": str(tmp_path / "eval")}
    flow = run(bundle, "inference", "evaluate", "residual", **places)
    assert any(isinstance(module, UnetResBlock) for module in flow.parser.get_parsed_content("network").modules())
    assert len(read_csv(tmp_path / "eval" / "scores.csv")) == 2
    assert re.search(r"within \d\.\de-\d\d of PyTorch", commands.export(bundle, ["residual"]))
    with zipfile.ZipFile(packing.pack(bundle, tmp_path / "packed", overlays=["residual"])) as release:
        release.extractall(tmp_path / "release")
    packed = tmp_path / "release" / kind
    places = {"ckpt_path": str(packed / "models" / "model.pt"), "output_dir": str(tmp_path / "masks")}
    run(packed, "inference", dataset_dir=str(images), **places)
    assert len([*(tmp_path / "masks").glob("*_seg.nii.gz")]) == 2
    with pytest.raises(
        InputError, match=r"the student has UnetResBlock at input_block, the plain U-Net of nnU-Net UnetB"
    ):
        commands.to_nnunet(bundle, tmp_path / "new" / "out", ["residual"])
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("kind", ["deep", "deep_thick"])
def test_a_shallow_student(kind: str, made: Make, run: Callable[..., Any], tmp_path: Path) -> None:
    """It has the plan's strides and kernels but for the last stage, and nnU-Net's network as its teacher."""
    bundle, shallow = made(kind), ["shallow_student"]
    student = read_configs(bundle, ["inference", *shallow]).get_parsed_content("network_def")
    plan = read_configs(bundle, ["inference"])
    assert [[*student.filters], student.strides, student.kernel_size] == [
        [max(8, width // 4) for width in plan["teacher_widths"][:-1]],
        plan["strides"][:-1],
        plan["kernel_size"][:-1],
    ]
    said = commands.stages(bundle, shallow)
    assert "stages: [input_block, downsamples.0, bottleneck]" in said
    assert "teacher_stages: [encoder.stages.0, encoder.stages.1, encoder.stages.2]" in said
    weights = bundle / "models" / "model.pt"
    run(
        bundle,
        "distill",
        "quick",
        str(ARCHITECTURES / shallow[0]),
        ckpt_path=str(weights),
        max_epochs=3,
        epoch_length=4,
    )
    rows = read_csv(weights.with_name("model_training.csv"))
    assert 0 < float(rows[-1]["distillation_loss"]) < float(rows[0]["distillation_loss"])
    assert re.search(r"within \d\.\de-\d\d of PyTorch", commands.export(bundle, shallow))
    commands.to_nnunet(bundle, tmp_path / "out", shallow)
    given = network(4, 5, **read_result_folder(tmp_path / "out").network[1])
    checkpoint = torch.load(tmp_path / "out" / "fold_0" / "checkpoint_final.pth", weights_only=True)
    given.load_state_dict(checkpoint["network_weights"])
    student.load_state_dict(torch.load(weights, weights_only=True))
    image = torch.randn(1, 4, 16, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(given.eval()(image), student.eval()(image), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("student", "pairs"), [("unet_student", 3), ("segresnet_student", 4), ("mednext_student", 4)], ids=str
)
def test_students_of_other_architectures_have_a_stage_for_each_of_a_teacher_s_for_thick_slices(
    student: str, pairs: int, made: Make
) -> None:
    """MONAI's UNet has the plan's strides and begins at half of the resolution, the others halve all axes at once."""
    parser = read_configs(made("deep_thick"), ["distill", student])
    parser.update({"patch_size": [32, 32, 32]})
    ours, theirs = (parser.get_parsed_content(key) for key in ("network_def", "teacher_def"))
    found = stage_pairs(ours, theirs, [4, 32, 32, 32])
    assert [stage.path for _, stage in found] == [f"encoder.stages.{k}" for k in range(4 - pairs, 4)]


def test_one_of_them_learns(made: Make, run: Callable[..., Any], tmp_path: Path) -> None:
    run(made("thick"), "distill", "quick", str(ARCHITECTURES / "segresnet_student"), max_epochs=4, epoch_length=4)
    rows = read_csv(tmp_path / "model_training.csv")
    assert sum("distillation_loss/" in name for name in rows[0]) == 3
    for column in ("loss", "distillation_loss"):
        assert float(rows[-1][column]) < float(rows[0][column])


@pytest.mark.parametrize("student", ["unet_student", "shallow_student"])
def test_modules_of_the_teacher_are_its_own_whatever_the_student_is(student: str, made: Make) -> None:
    expected = {
        BRATS: ("output_block", "upsamples.4"),
        made("deep"): ("decoder.seg_layers.2", "decoder.stages.2"),
    }
    for bundle, names in expected.items():
        parser = read_configs(bundle, ["distill", student])
        found = tuple(parser.get_parsed_content(key) for key in ("teacher_output", "teacher_last_stage"))
        assert found == names
        modules = {name for name, _ in parser.get_parsed_content("teacher_def").named_modules()}
        assert {*names} <= modules


@pytest.mark.parametrize("kind", ["labels", "thick"])
def test_a_student_starts_as_channels_of_the_plain_u_net(kind: str, made: Make, run: Callable[..., Any]) -> None:
    """As wide and not trained, it is the teacher."""
    flow = run(made(kind), "distill", init="teacher", width_divisor=1, learning_rate=1e-12, device="cpu")
    student, teacher = (flow.parser.get_parsed_content(name) for name in ("network", "teacher"))
    image = torch.rand(1, 4, 16, 16, 16)
    with torch.no_grad():
        expected = teacher(image)
        assert expected.std() > 0.01
        torch.testing.assert_close(student.eval()(image), expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


def test_a_student_cannot_start_as_channels_of_another_class(made: Make, run: Callable[..., Any]) -> None:
    with pytest.raises(RuntimeError) as caught:
        run(made("residual"), "distill", init="teacher")
    expected = "init: teacher needs a teacher of the student's class, DynUNet, got ResidualEncoderUNet"
    assert input_error(caught.value) == expected


@pytest.mark.parametrize("axes", [(0, 1, 2), (0, 1), (0, 2), (), None, "absent"], ids=str)
def test_mirroring_is_over_the_axes_of_the_checkpoint(axes: Any, made: Make, tmp_path: Path) -> None:
    """In trainings too, whose labels would contradict the teacher's; nnU-Net mirrors over none where none are said."""
    source = edited(made("labels").parent / "results", tmp_path / "results")
    path = source / "fold_0" / "checkpoint_final.pth"
    checkpoint = {**read_checkpoint(path), "inference_allowed_mirroring_axes": axes}
    if axes == "absent":
        del checkpoint["inference_allowed_mirroring_axes"]
    torch.save(checkpoint, path)
    commands.from_nnunet(source, "mirrored", out=tmp_path)
    expected = [*axes] if isinstance(axes, tuple) else []
    inferer = read_configs(tmp_path / "mirrored", ["inference", "mirror"]).get_parsed_content("inferer")
    assert len(inferer.flips) == 2 ** len(expected)
    assert inferer.flips[1 : len(expected) + 1] == [[axis + 2] for axis in expected]
    assert read_configs(tmp_path / "mirrored", ["inference"]).get_parsed_content("inferer").flips == [[]]
    batch = torch.arange(24).reshape(1, 1, 2, 3, 4)
    for name in ("train_student", "distill"):
        transforms = read_configs(tmp_path / "mirrored", [name]).get_parsed_content("train::preprocessing").transforms
        flips = [one.flipper for one in transforms if isinstance(one, RandFlipd)]
        for flip, axis in zip(flips, expected, strict=True):
            assert torch.equal(flip(batch[0]), batch.flip(axis + 2)[0])


# -- back to nnU-Net


def test_a_bundle_of_before_the_reader_was_kept_is_given_back(made: Make, tmp_path: Path) -> None:
    bundle = shutil.copytree(made("labels"), tmp_path / "labels")
    draw(bundle, bundle / "models" / "model.pt")
    config = bundle / "configs" / "inference.yaml"
    config.write_text(re.sub(r"\nreader: .*", "", config.read_text()))
    commands.to_nnunet(bundle, tmp_path / "out")
    assert read_result_folder(tmp_path / "out").plans["image_reader_writer"] == "SimpleITKIO"


@pytest.mark.parametrize("kind", ["labels", "regions", "thick"])
def test_the_student_is_a_result_folder(
    kind: str, made: Make, run: Callable[..., Any], images: Path, tmp_path: Path
) -> None:
    """It is read as any other: as a teacher it gives the masks that it gave as a student."""
    bundle = shutil.copytree(made(kind), tmp_path / kind)
    draw(bundle, bundle / "models" / "model.pt")
    config = bundle / "configs" / "inference.yaml"
    config.write_text(config.read_text().replace("reader: SimpleITKIO", "reader: NibabelIO"))
    out = tmp_path / "nnUNetTrainer__Mine__3d_small"
    said = commands.to_nnunet(bundle, out)
    assert f"-m {out} -f 0" in said
    assert sorted(path.name for path in tmp_path.iterdir() if path.name[0] == ".") == []
    found = read_result_folder(out)
    assert found.name == "3d_small"
    teacher = network(4, 4 if kind == "regions" else 5, **found.network[1])
    teacher.load_state_dict(torch.load(out / "fold_0" / "checkpoint_final.pth", weights_only=True)["network_weights"])
    commands.from_nnunet(out, "again", out=tmp_path)
    masks = []
    for one, names in ((bundle, []), (tmp_path / "again", ["teacher"])):
        weights = one / "models" / ("teacher/model.pt" if names else "model.pt")
        places = {"dataset_dir": str(images), "output_dir": str(tmp_path / f"of_{one.name}")}
        run(one, "inference", *names, **places, ckpt_path=str(weights))
        masks.append({path.name: voxels(path) for path in (tmp_path / f"of_{one.name}").glob("*_seg.nii.gz")})
    assert masks[0].keys() == masks[1].keys()
    assert sum(int((mask != masks[1][name]).sum()) for name, mask in masks[0].items()) <= len(masks[0])
    assert any(len(np.unique(mask)) > 2 for mask in masks[0].values())
    first, second = (read_configs(one, ["inference"]) for one in (bundle, tmp_path / "again"))
    same = (
        "reader",
        "spacing",
        "patch_size",
        "transpose",
        "normalization",
        "masked",
        "intensities",
        "painted",
        "region_labels",
    )
    assert [first[key] for key in same] == [second[key] for key in same]
    assert first["labels"] == second["labels"]
    assert first.get_parsed_content("widths") == second["teacher_widths"]


def test_a_student_of_other_strides_is_given_back(made: Make, tmp_path: Path) -> None:
    """Of an overlay that computes them, as that of the shallow student does."""
    bundle = shutil.copytree(made("labels"), tmp_path / "labels")
    (bundle / "configs" / "other.yaml").write_text('strides: "$[1, 2] + [1]"\nkernel_size: "$[3] * len(@widths)"\n')
    student = read_configs(bundle, ["inference", "other"]).get_parsed_content("network_def")
    torch.save(student.state_dict(), bundle / "models" / "model.pt")
    commands.to_nnunet(bundle, tmp_path / "out", ["other"])
    given = network(4, 5, **read_result_folder(tmp_path / "out").network[1])
    checkpoint = torch.load(tmp_path / "out" / "fold_0" / "checkpoint_final.pth", weights_only=True)
    given.load_state_dict(checkpoint["network_weights"])
    image = torch.randn(1, 4, 16, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(given.eval()(image), student.eval()(image), rtol=1e-4, atol=1e-4)


def test_what_cannot_be_given_back(made: Make, tmp_path: Path) -> None:
    bundle = shutil.copytree(made("labels"), tmp_path / "labels")
    with pytest.raises(InputError, match=r"no weights at .*models/model.pt"):
        commands.to_nnunet(bundle, tmp_path / "out")
    draw(bundle, bundle / "models" / "model.pt")
    (tmp_path / "taken").mkdir()
    with pytest.raises(InputError, match=r"taken exists: name another folder$"):
        commands.to_nnunet(bundle, tmp_path / "taken")
    for name in ("nnUNetTrainer__Plans", "Mine__Plans__3d", "nnUNetTrainer____3d"):
        with pytest.raises(InputError, match=rf"called nnUNetTrainer__PLANS__CONFIGURATION, got {name}$"):
            commands.to_nnunet(bundle, tmp_path / name)
    said = "for which nnU-Net has no class: only its plain U-Net can be given back$"
    with pytest.raises(InputError, match=r"^the teacher is a result folder of nnU-Net already: leave out the overlay"):
        commands.to_nnunet(bundle, tmp_path / "deep" / "out", ["teacher"])
    with pytest.raises(InputError, match=f"the student is a SegResNet, {said}"):
        commands.to_nnunet(bundle, tmp_path / "deep" / "out", [str(ARCHITECTURES / "segresnet_student")])
    for overlay, said in OTHER_NETWORKS.items():
        (bundle / "configs" / "other.yaml").write_text(overlay)
        with pytest.raises(InputError, match=rf"the student has {said}.*: it cannot be given back$"):
            commands.to_nnunet(bundle, tmp_path / "deep" / "out", ["other"])
    (bundle / "configs" / "other.yaml").unlink()
    student = read_configs(bundle, ["inference"]).get_parsed_content("network_def")
    for record in ({"spacing": [9.0, 9.0, 9.0]}, {"labels": {"ET": 1}}):
        save_weights(student.state_dict(), bundle / "models" / "model.pt", record)
        with pytest.raises(InputError, match=f"model.pt was trained with {next(iter(record))} "):
            commands.to_nnunet(bundle, tmp_path / "out")
    with pytest.raises(
        InputError, match=r"brats_gli_dcd does not have nnU-Net's steps: only bundles of dcd from_nnunet"
    ):
        commands.to_nnunet(Path(config_files("inference")[0]).parents[1], tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["labels", "taken"]


# -- ONNX


def test_masks_of_onnx_runtime_are_those_of_the_bundle(
    made: Make, run: Callable[..., Any], images: Path, tmp_path: Path
) -> None:
    """Of regions, whose number is not that of the labels and the background."""
    bundle = shutil.copytree(made("regions"), tmp_path / "regions")
    weights = draw(bundle, bundle / "models" / "model.pt")
    onnx_export.run(str(bundle))
    places = {"dataset_dir": str(images), "output_dir": str(tmp_path / "theirs")}
    run(bundle, "inference", ckpt_path=str(weights), **places)
    onnx_inference.run([images], bundle / "models" / "model.onnx", tmp_path / "ours")
    paths = [*(tmp_path / "theirs").glob("*_seg.nii.gz")]
    assert len(paths) == 2
    for path in paths:
        mask = voxels(path)
        assert len(np.unique(mask)) > 1
        assert (voxels(tmp_path / "ours" / path.name) != mask).sum() <= 3


# -- masks of nnU-Net's own commands; tests/nnunet has those that are mirrored, which take a minute each


@needs_real
@pytest.mark.parametrize(("name", "grid"), [("plain", "same"), ("old_2.2.1_numpy1", "thick")])
def test_masks_are_those_of_nnunet(name: str, grid: str, tmp_path: Path) -> None:
    (path,) = (REAL / "masks" / f"{name}_no_mirroring").glob(f"*{grid}.nii.gz")
    assert unequal_voxels(name, path, tmp_path) <= 1
