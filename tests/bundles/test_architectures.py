"""Teachers and students of other architectures, each an overlay of a few lines, on the glioma phantoms."""

from __future__ import annotations

import re
import shlex
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from forked import run_module
from monai.networks.nets import SegResNet, UNet
from releases import draw_weights, trained, write_overlay
from tiny import BRATS, HIPPOCAMPUS, ROOT, TINY, Workflow

from dcd_components.bundle.configs import ARCHITECTURES, read_configs
from dcd_components.bundle.release.packing import config_texts, merged, pack
from dcd_components.commands import export, stages
from dcd_components.data.marks import read_mark
from dcd_components.errors import InputError
from dcd_components.tables import read_csv

#: Teacher and student, of the bundle itself where there is none, and the number of stages that they share.
PAIRS: dict[tuple[str, ...], int] = {
    ("swin_unetr_teacher", "segresnet_student"): 4,
    ("segresnet_teacher", "unet_student"): 2,
    ("mednext_teacher",): 3,
    ("mednext_student",): 3,
    ("unet_teacher",): 2,
    ("shallow_student",): 3,
}
SETTINGS: Mapping[str, Any] = {"patch_size": [32, 32, 32], "teacher_widths": [16, 16, 32], "batch_size": 1}
#: What some of them need.
OTHERS: Mapping[str, Mapping[str, Any]] = {
    "swin_unetr_teacher": {"patch_size": [64, 32, 32], "teacher_widths": [8, 16, 32]},
    "shallow_student": {"teacher_widths": [16, 16, 16, 32]},
}
#: A block a stage, since an export takes a time in proportion to their number.
SHORT: Mapping[str, Mapping[str, Any]] = {
    "segresnet": {"blocks_down": [1] * 4},
    "mednext": {"blocks_down": [1] * 4, "blocks_bottleneck": 1, "blocks_up": [1] * 4},
}
every_pair = pytest.mark.parametrize("overlays", PAIRS, ids="-".join)


def shared(*names: str) -> list[str]:
    """Names of overlays as if they were of the bundle."""
    return [f"../../common/architectures/{name}" for name in names]


def settings_of(*names: str) -> dict[str, Any]:
    return {**SETTINGS, **{key: value for name in names for key, value in OTHERS.get(name, {}).items()}}


def short(network: str, overlay: str) -> dict[str, Any]:
    """Settings that go over an overlay of an architecture."""
    return {f"{network}::{name}": value for name, value in SHORT.get(overlay.partition("_")[0], {}).items()}


def of(role: str, overlays: tuple[str, ...]) -> list[str]:
    return [name for name in overlays if name.endswith(role)]


def test_each_architecture_is_tested() -> None:
    tested = {name for pair in PAIRS for name in pair} | {"several_teachers", "mean_of_teachers"}
    assert {path.stem for path in ARCHITECTURES.glob("*.yaml")} == tested


def test_a_student_learns_from_several_teachers(workflow: Workflow, tmp_path: Path) -> None:
    network = workflow("inference", "teacher", "quick").parser.get_parsed_content("network_def")
    for name in ("teacher", "second"):
        torch.save(
            {key: torch.randn_like(value) for key, value in network.state_dict().items()}, tmp_path / f"{name}.pt"
        )
    further = [str(tmp_path / "second.pt")]
    flow = workflow("distill", "quick", *shared("several_teachers"), further_teachers=further, max_epochs=3)
    flow.initialize()
    distiller = flow.parser.get_parsed_content("distiller")
    assert len(distiller.distillers) == 2
    assert not torch.equal(
        *(one._teacher.network.state_dict()["input_block.conv1.conv.weight"] for one in distiller.distillers)
    )
    flow.run()
    rows = read_csv(tmp_path / "model_training.csv")
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])
    assert "distillation_loss/bottleneck" in rows[0]


def test_a_student_learns_from_teachers_of_several_architectures(workflow: Workflow, tmp_path: Path) -> None:
    """By an overlay of one's own, in which each further teacher is a network and a file."""
    torch.manual_seed(0)
    network = workflow("inference", "teacher", "quick").parser.get_parsed_content("network_def")
    torch.save(network.state_dict(), tmp_path / "teacher.pt")
    other = {"spatial_dims": 3, "in_channels": 4, "out_channels": 5, "channels": [8, 16, 16], "strides": [2, 2]}
    torch.save(UNet(**other).state_dict(), path := tmp_path / "unet.pt")
    overlay = {
        "further_teachers": [str(path)],
        "further": [
            {"_target_": "dcd_components.load_frozen", "network": {"_target_": "UNet", **other}, "path": str(path)}
        ],
        "stages": "auto",
        "teacher_stages": "auto",
    }
    flow = workflow("distill", "quick", *shared("several_teachers"), **overlay, max_epochs=3)
    flow.initialize()
    flow.run()
    rows = read_csv(tmp_path / "model_training.csv")
    assert float(rows[-1]["distillation_loss"]) < float(rows[0]["distillation_loss"])
    distiller = flow.parser.get_parsed_content("distiller")
    assert [len(one.stages) for one in distiller.distillers] == [3, 2]


def test_the_mean_of_several_teachers_is_scored(workflow: Workflow, tmp_path: Path) -> None:
    network = workflow("inference", "teacher", "quick").parser.get_parsed_content("network_def")
    paths = [str(tmp_path / f"{name}.pt") for name in ("first", "second", "third")]
    for path in paths:
        torch.save({key: torch.randn_like(value) for key, value in network.state_dict().items()}, path)
    names = ["inference", "evaluate", "teacher", *shared("mean_of_teachers"), "quick"]
    place, marks, image = {"ckpt_path": paths[0], "device": "cpu"}, [], torch.rand(1, 4, 24, 24, 24)
    for further in ([], paths[1:]):
        out = tmp_path / f"{len(further)}"
        flow = workflow(*names, **place, further_teachers=further, output_dir=str(out))
        flow.initialize()
        flow.run()
        assert (out / "scores.csv").is_file()
        marks.append({mark.weights for mark in map(read_mark, out.glob("*_seg.nii.gz")) if mark})
    assert [len(one) for one in marks] == [1, 1]
    assert marks[0] != marks[1]
    evaluator = flow.parser.get_parsed_content("evaluator")
    alone = flow.parser.get_parsed_content("inferer")
    with torch.no_grad():
        found, expected = evaluator.inferer(image, evaluator.network), []
        for path in paths:
            network.load_state_dict(torch.load(path))
            expected.append(alone(image, network.eval()))
    torch.testing.assert_close(found, torch.stack(expected).mean(0))


@every_pair
def test_a_student_learns_from_a_teacher_of_another_architecture(
    overlays: tuple[str, ...], workflow: Workflow, tmp_path: Path
) -> None:
    teacher, student = of("teacher", overlays), of("student", overlays)
    settings = settings_of(*overlays)
    trained_teacher = workflow(
        "train_teacher", "quick", *shared(*teacher), **settings, ckpt_path=f"{tmp_path}/teacher.pt"
    )
    trained_teacher.initialize()
    trained_teacher.run()
    few = {key: value for name in student for key, value in short("network_def", name).items()}
    length = {"max_epochs": 4, "epoch_length": 3, "val_interval": 4}
    flow = workflow("distill", "quick", *shared(*overlays), **settings, **few, **length)
    flow.initialize()
    flow.run()
    rows = read_csv(tmp_path / "model_training.csv")
    assert sum(name.startswith("distillation_loss/") for name in rows[0]) == PAIRS[overlays]
    for column in ("loss", "distillation_loss"):
        assert float(rows[-1][column]) < float(rows[0][column])
    for names, place in ((student, few), (["teacher", *shared(*teacher)], {"ckpt_path": f"{tmp_path}/teacher.pt"})):
        named = shared(*names) if names is student else names
        out = tmp_path / "scores" / ("student" if names is student else "teacher")
        scored = workflow("inference", "evaluate", "quick", *named, **settings, **place, output_dir=str(out))
        scored.initialize()
        scored.run()
        assert (out / "scores.csv").is_file()


@pytest.mark.parametrize("student", ["segresnet_student", "unet_student", "shallow_student", "mednext_student"])
def test_a_student_of_another_architecture_is_published(student: str, patients: Path, tmp_path: Path) -> None:
    bundle = trained(BRATS, tmp_path)
    write_overlay(bundle, {**TINY, **settings_of(student), **short("network_def", student)})
    overlays = [student, "tiny"]
    draw_weights(merged(config_texts(bundle, overlays)["inference"]), bundle / "models" / "model.pt", seed=0)
    assert re.search(r"within \d\.\de-\d\d of PyTorch", export(bundle, overlays))
    zipfile.ZipFile(pack(bundle, tmp_path / "out", overlays=overlays)).extractall(tmp_path / "release")
    release = tmp_path / "release" / BRATS.name
    network = read_configs(release, ["inference"]).get_parsed_content("network_def")
    assert type(network).__name__.lower() in student.replace("_", "").replace("shallow", "dynunet")
    assert student != "shallow_student" or len(network.downsamples) == 1
    network.load_state_dict(torch.load(release / "models" / "model.pt", weights_only=True))
    image = torch.zeros(1, 4, 32, 32, 32)
    with torch.no_grad():
        script = torch.jit.load(  # type: ignore[no-untyped-call]
            release / "models" / "model.ts"
        )
        torch.testing.assert_close(script(image), network.eval()(image), rtol=1e-4, atol=1e-4)


def test_a_network_for_multiples_of_some_size_is_exported_for_patches_alone(tmp_path: Path) -> None:
    bundle = trained(BRATS, tmp_path)
    write_overlay(bundle, {**TINY, **SETTINGS, **short("teacher_def", "mednext_teacher")})
    overlays = ["teacher", "mednext_teacher", "tiny"]
    teacher = bundle / "models" / "teacher" / "model.pt"
    draw_weights(read_configs(bundle, ["inference", *overlays]).get(), teacher, seed=0)
    said = "on images of 1x4x32x32x32, 2x4x32x32x32; it takes patches of 4x32x32x32 alone"
    assert export(bundle, overlays).endswith(said)
    with pytest.raises(InputError, match=r"model\.onnx would take patches alone: leave out the overlay long_windows"):
        export(bundle, [*overlays, "long_windows"])


@pytest.mark.parametrize("order", [1, -1], ids=["before", "after"])
def test_long_windows_are_of_its_multiple(order: int) -> None:
    overlays = ["long_windows", *shared("mednext_student")][::order]
    parser = read_configs(HIPPOCAMPUS, ["inference", *overlays])
    assert parser.get_parsed_content("sliding_window").k_divisible == (16, 16, 16)


PAGE = (ROOT / "docs" / "architectures.md").read_text(encoding="utf-8")


def test_the_page_names_every_overlay() -> None:
    table = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", PAGE, re.M)
    assert set(re.findall(r"`(\w+)`", " ".join(table))) == {path.stem for path in ARCHITECTURES.glob("*.yaml")}


def test_the_commands_of_the_page_run(patients: Path, tmp_path: Path) -> None:
    bundle = trained(BRATS, tmp_path / "bundles")
    shutil.copytree(ARCHITECTURES, bundle.parent / "common" / ARCHITECTURES.name)
    write_overlay(bundle, {**TINY, **SETTINGS})
    for name in ("fold_1", "fold_2"):
        shutil.copy(bundle / "models" / "teacher" / "model.pt", bundle / "models" / "teacher" / f"{name}.pt")
    # SegResNet takes the place of the transformer, whose patches cost minutes.
    text = PAGE.replace("swin_unetr_teacher", "segresnet_teacher").replace("DIR", str(patients)).replace("OUT", "out")
    text = text.replace("--seconds 30", "--seconds 100000")  # on whatever machine
    found = re.findall(r"^    (dcd .+|python .+)", text, re.M)
    # Several teachers of one architecture, in a bundle of their own: masks of other weights are not overwritten.
    of_folds = Path(shutil.copytree(bundle.parent, tmp_path / "of_folds")) / bundle.name
    for line in found:
        program, *words = shlex.split(line.replace("distill.yaml',", "distill.yaml','configs/tiny.yaml',"))
        module, words = ("dcd_components", [*words, "--overlay", "tiny"]) if program == "dcd" else (words[1], words[2:])
        status, said = run_module(module, words, of_folds if "further_teachers" in line else bundle)
        assert status == 0, f"{line}\n{said[-4000:]}"
    assert (bundle / "out" / f"{BRATS.name}_v0.7.0.zip").is_file()


def test_the_python_of_the_page_runs() -> None:
    (text,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    student, unet, transformer = UNet(3, 1, 2, [4, 8], [2]), UNet(3, 1, 2, [8, 16], [2]), SegResNet(3, 8, 1, 2)
    names: dict[str, Any] = {"student": student, "unet": unet, "transformer": transformer}
    exec(compile(text, "architectures.md", "exec"), names)
    image = torch.rand(1, 1, 32, 32, 32)
    with names["distiller"] as distiller:
        student(image)
        assert distiller.loss(image, 0) > 0


def test_the_stages_are_listed_and_paired() -> None:
    said = stages(BRATS, ["swin_unetr_teacher"])
    assert "student: DynUNet, for images of 4x128x128x128" in said
    assert re.search(r"^input_block +8  128x128x128 +1$", said, re.M)
    assert re.search(r"^encoder1 +48  128x128x128 +1$", said, re.M)
    assert re.search(r"^teacher_stages: \[encoder1, encoder2, .*, encoder10\]$", said, re.M)


@pytest.mark.parametrize(("config", "overlay"), [("train_student", "mednext"), ("train_teacher", "swin_unetr")])
def test_a_training_alone_refuses_patches_that_its_architecture_does_not_take(config: str, overlay: str) -> None:
    names = (config, "quick", f"{overlay}_{config.removeprefix('train_')}")
    with pytest.raises(RuntimeError, match="check_task") as caught:
        read_configs(BRATS, names).get_parsed_content("task")
    assert isinstance(caught.value.__cause__, InputError)
    assert re.match(r"patch_size must be a multiple of (16|32), as the overlay says", str(caught.value.__cause__))


def test_patches_that_an_architecture_does_not_take_are_refused() -> None:
    with pytest.raises(InputError, match="SwinUNETR takes no images of 4x40x40x40: "):
        stages(BRATS, ["quick", "swin_unetr_teacher"])
