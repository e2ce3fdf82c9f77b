"""The files of a new bundle: those of the bundle for BraTS, with another task, or with the steps of an nnU-Net."""

from __future__ import annotations

import json
import math
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import yaml

from dcd_components.bundle.assemble import MARK, blocks, head, mark, title, wanted_files
from dcd_components.bundle.configs import ARCHITECTURES, BUNDLES
from dcd_components.bundle.release.metadata import installed
from dcd_components.data.case_files import Layout

TEMPLATE = BUNDLES / "brats_gli_dcd"
PARTS, NNUNET = "bundles/common/parts/", BUNDLES / "common" / "nnunet"
PATIENTS = "docs/patients.csv"
README = """\
# {name}

Segments {labels} in {channels},
by {network} a quarter as wide as its teacher{teacher}.
It is trained with Detail Consistent Distillation (MICCAI 2026, arXiv:2605.26382). Research only; not a medical device.

## Still to be written

- here: what the data are, how many cases of how many patients, the scores on patients that no training saw
- in `docs/data_license.txt`: who may use the data, and weights trained on them (the code is under Apache-2.0)
- in `metadata.json`: `name`, `authors`, `copyright`, `data_source`
- in `evaluate.yaml`: `regions`, `lesion_labels`{names}

## Data

Anywhere below `DIR`, `{{case}}` being the case's name and the label on the grid of {reference}:

{files}

Write the data list, {folds}, and check every file:

    dcd datalist DIR --bundle .{rule}
    dcd check DIR/datalist.json --dataset_dir DIR

## Input and output

- `image`: {channels} {image}.
- `pred`: logits of {pred}; the mask is written in the geometry of
  {reference}.

{commands}
"""
RAS_IMAGE = """\
in RAS at {spacing} mm,
  each brought to zero mean and unit variance over its non-zero voxels, so that 0 must mean outside the head"""
NNUNET_IMAGE = """\
as nnU-Net prepares them, in the order and to the rounding of its
  plans: axes {axes} of the file, cropped to what is not 0, normalised ({schemes}),
  resampled to {spacing} mm by splines"""
NNUNET_COMMANDS = """\
## Commands

The teacher is given: nnU-Net trained it, and its weights are in `models/teacher`. To use it takes the package
dynamic-network-architectures; the student does not need it, and neither needs nnU-Net.{seen}

In the bundle's folder, distil the student, evaluate it and its teacher on the test fold, and segment every case below
DIR, without and with the mirrored windows that nnU-Net averages over unless told not to:

    dcd run distill . --dataset_dir DIR
    dcd run evaluate . --dataset_dir DIR
    dcd run evaluate . --overlay teacher mirror --dataset_dir DIR
    dcd run segment . --dataset_dir DIR --output_dir OUT
    dcd run segment . --overlay mirror --dataset_dir DIR --output_dir MIRRORED

`run` prints a command of MONAI and runs it. Settings are words `key=value`. `--quick`, for all but to segment, takes
few epochs, by another optimizer and weight, but leaves patches and widths as they are. This trains the student without
its teacher, for comparison:

    dcd run student . --dataset_dir DIR ckpt_path=models/plain.pt

The student as a result folder, which `nnUNetv2_predict_from_modelfolder` runs where nothing of this project is
installed:

    dcd to_nnunet . --out nnUNetTrainer__StudentPlans__3d_fullres

Training writes the exponential moving average of the weights to `models/model.pt` whenever the Dice of the validation
improves, and the course of the training to a CSV file beside it. Evaluation writes masks and `scores.csv`, with one row
for each case, to `eval/`, of the teacher to `eval/teacher/`. Neither masks nor scores of other weights are replaced:
name another `output_dir`."""
SEEN = """
{teachers} trained on all cases: in the test fold, its own scores say nothing of new patients, and those of the student
flatter it."""
NNUNET_REFERENCE = (
    "nnU-Net: a self-configuring method for deep learning-based biomedical image segmentation. Nature Methods 18, 2021."
)
#: In configs of a bundle with several teachers.
FURTHER = "\nfurther_teachers: []  # beside the first one\n"
DATA_LICENSE = """\
To be stated by the owner of the data: where they come from, under which terms they may be used, and what these terms
mean for weights trained on them, which are derived from them. The data set is not part of this bundle.
"""


@dataclass(frozen=True)
class Nnunet:
    """What a bundle has of an nnU-Net.

    Args:
        plan: settings of ``bundles/common/nnunet/plan.yaml``.
        teacher_def: the network, as configs write it.
        widths: of its stages.
        outputs: labels of each of its outputs by name, without the background.
        fold: whose cases the network has not seen; None if it has seen all.
        last_fold: of nnU-Net's ``splits_final.json``, whose table the bundle has; None if it has none.
        further: places of the weights of further teachers, which have seen the cases of that fold.
    """

    plan: Mapping[str, Any]
    teacher_def: Mapping[str, Any]
    widths: Sequence[int]
    outputs: Mapping[str, Sequence[int]]
    fold: int | None = None
    last_fold: int | None = None
    further: Sequence[str] = ()

    @property
    def training(self) -> dict[str, Any]:
        """Settings of a training: scored is by what the teacher has not seen, and nnU-Net has five folds."""
        folds = 5 if self.last_fold is None else self.last_fold + 1
        table = {} if self.last_fold is None else {"patients": f"$@bundle_root + '/{PATIENTS}'"}
        chosen = {} if self.fold is None else {"test_folds": [self.fold], "val_folds": [(self.fold + 1) % folds]}
        return {**table, **chosen}


@dataclass(frozen=True)
class Task:
    """What a bundle segments.

    Args:
        layout: how the files are named, and the values of the labels.
        spacing: mm along each axis in RAS.
        patch_size: voxels along each axis in RAS.
        nnunet: of a bundle with an nnU-Net as teacher, whose spacing and patch have the axes of nnU-Net.
    """

    layout: Layout
    spacing: Sequence[float]
    patch_size: Sequence[int]
    nnunet: Nnunet | None = None

    @property
    def halvings(self) -> int:
        """How often the patch can be halved so that at least 4 voxels are left along its shortest axis."""
        return max(n for n in range(9) if all(size % 2**n == 0 and size // 2**n >= 4 for size in self.patch_size))

    @property
    def teacher_widths(self) -> list[int]:
        """As many of the widths in the bundle for BraTS as the patch can be halved, and one; or the nnU-Net's."""
        if self.nnunet:
            return list(self.nnunet.widths)
        widths = yaml.safe_load(head(_theirs("configs/inference.yaml")))["teacher_widths"]
        return list(widths[: self.halvings + 1])

    @property
    def classes(self) -> dict[str, str]:
        """What the channels of the output mean, those without a label included."""
        if self.nnunet and self.nnunet.plan["painted"]:
            return {str(n): name for n, name in enumerate(self.nnunet.outputs)}
        names = {0: "background", **{value: name for name, value in self.layout.labels.items()}}
        return {str(value): names.get(value, "unused") for value in range(max(names) + 1)}


def write_files(folder: Path, task: Task) -> None:
    """Write all files of a bundle into a folder that is not there yet."""
    configs, docs, models = (folder / name for name in ("configs", "docs", "models"))
    for made in (folder, configs, docs, models):
        made.mkdir()
    for name, settings in _settings(task).items():
        path = configs / f"{name}.yaml"
        path.write_text(_head(name, task, settings) + _marks(name, task), encoding="utf-8")
    for name, settings in _overlays(task).items():
        text = _with_settings((NNUNET / f"{name}.yaml").read_text(encoding="utf-8"), settings)
        if "further_teachers" in settings:
            text += "\n" + mark((ARCHITECTURES / "mean_of_teachers.yaml").relative_to(BUNDLES.parent).as_posix())
        (configs / f"{name}.yaml").write_text(text, encoding="utf-8")
    texts = {
        configs / "metadata.json": _metadata(folder.name, task),
        docs / "README.md": _readme(folder.name, task),
        docs / "data_license.txt": DATA_LICENSE,
        models / ".gitkeep": "",
        **wanted_files(folder),
    }
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8")


def _theirs(path: str) -> str:
    return (TEMPLATE / path).read_text(encoding="utf-8")


def _marks(name: str, task: Task) -> str:
    """Lines for the parts of a config, those of the bundle for BraTS; and of nnU-Net's parts of the same names."""
    found = MARK.findall(_theirs(f"configs/{name}.yaml"))
    several = (_nnunet_marks(name, key, task) if task.nnunet else [mark(name, key)] for name, key in found)
    return "\n".join(chain.from_iterable(several))


def _nnunet_marks(name: str, key: str, task: Task) -> Iterator[str]:
    part = NNUNET / Path(name).name
    replaces = name.startswith(PARTS) and part.is_file()
    if part.name == "distillation.yaml":
        yield mark("teacher.yaml", "teacher_def")
    if replaces:
        yield mark(part.relative_to(BUNDLES.parent).as_posix())
    if not (replaces and part.name == "images.yaml"):
        yield mark(name, key)
    if part.name == "distillation.yaml" and task.nnunet and task.nnunet.further:
        yield mark((ARCHITECTURES / "several_teachers.yaml").relative_to(BUNDLES.parent).as_posix())
    if replaces and part.name == "training.yaml" and task.nnunet and task.nnunet.plan["painted"]:
        yield mark((NNUNET / "regions.yaml").relative_to(BUNDLES.parent).as_posix())


def _overlays(task: Task) -> dict[str, dict[str, Any]]:
    """Settings of the overlays that a bundle with an nnU-Net has of its own."""
    if not task.nnunet:
        return {}
    grid = {"spacing": list(task.spacing), "patch_size": list(task.patch_size), "teacher_widths": task.teacher_widths}
    return {"teacher": {"teacher_def": task.nnunet.teacher_def, **_further(task)}, "quick": grid, "mirror": {}}


def _settings(task: Task) -> dict[str, dict[str, Any]]:
    """Settings of each config that are other ones than in the bundle for BraTS."""
    layout, labels = task.layout, dict(task.layout.labels)
    return {
        "inference": {
            "sequences": {name: _single(patterns) for name, patterns in layout.sequences.items()},
            "label_file": _single(layout.label_file),
            "reference": layout.reference,
            "resampled": list(layout.resampled),
            "labels": labels,
            "spacing": list(task.spacing),
            "patch_size": list(task.patch_size),
            "teacher_widths": task.teacher_widths,
            **(task.nnunet.plan if task.nnunet else {}),
        },
        "train_student": {"patient_regex": layout.patient_regex, **(task.nnunet.training if task.nnunet else {})},
        **({} if task.nnunet else {"train_teacher": {}}),
        "distill": _further(task),
        "evaluate": {
            "regions": task.nnunet.outputs if task.nnunet else {name: [value] for name, value in labels.items()},
            "lesion_labels": sorted(labels.values()),
        },
    }


def _further(task: Task) -> dict[str, Any]:
    several = task.nnunet.further if task.nnunet else ()
    return {"further_teachers": [f"$@bundle_root + '/{place}'" for place in several]} if several else {}


def _single(patterns: str | Sequence[str]) -> str | Sequence[str]:
    """One pattern as it is, several as a list."""
    return patterns[0] if len(patterns) == 1 else patterns


def _head(name: str, task: Task, settings: Mapping[str, Any]) -> str:
    """What is written by hand in the other bundle, with other settings, whose comments stay."""
    theirs = head(_theirs(f"configs/{name}.yaml"))
    if name == "inference":
        what = f"# Segment {_listing(task.layout.labels)} in {_listing(task.layout.sequences)}.\n"
        theirs = what + theirs.partition("\n")[2]
    if name == "inference" and task.nnunet:
        plan = dict(blocks((NNUNET / "plan.yaml").read_text(encoding="utf-8")))
        kept = "".join(block for key, block in blocks(theirs) if key not in (*plan, "resampled"))
        theirs = f"{title(theirs)}\n{kept.strip()}\n\n{''.join(plan.values())}\n"
    return _with_settings(theirs, settings)


def _with_settings(text: str, settings: Mapping[str, Any]) -> str:
    """Text of a head with other values; its comments stay."""
    above = title(text)
    gap = "\n" * text[len(above) :].startswith("\n")
    body = head(text) + FURTHER * ("further_teachers" in settings)
    changed = (_changed(key, block, settings[key]) if key in settings else block for key, block in blocks(body))
    marks = "\n".join(mark(*one) for one in MARK.findall(text))
    return f"{above}{gap}{''.join(changed)}{marks}"


def _changed(key: str, block: str, value: Any) -> str:
    """Put another value into the block of a setting: the comments above it and behind it stay."""
    above, line = re.fullmatch(rf"(?s)((?:#[^\n]*\n)*)({key}:.*)", block).groups()  # type: ignore[union-attr]
    comment = re.search(r"  #.*", line)
    return f"{above}{key}: {_yaml(value)}{comment[0] if comment else ''}\n" + "\n" * block.endswith("\n\n")


def _yaml(value: Any) -> str:
    """Write a value in YAML's flow style, quoted only where it must be."""
    if isinstance(value, str):
        return value if re.fullmatch(r"[\w-]+", value) and yaml.safe_load(value) == value else json.dumps(value)
    if isinstance(value, Mapping):
        text = "{" + ", ".join(f"{_yaml(key)}: {_yaml(one)}" for key, one in value.items()) + "}"
    elif isinstance(value, Sequence):
        text = "[" + ", ".join(map(_yaml, value)) + "]"
    else:
        return str(yaml.safe_dump(value)).partition("\n")[0]
    glued = text.replace(": ", ":\0")  # so that no line ends behind a key
    lines = textwrap.fill(glued, 110, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    return lines.replace("\0", " ")


def _listing(words: Iterable[str]) -> str:
    return " and ".join(", ".join(words).rsplit(", ", 1))


def _values(layout: Layout) -> str:
    return ", ".join(f"{value} {name}" for name, value in layout.labels.items())


def _metadata(name: str, task: Task) -> str:
    layout, classes, nnunet = task.layout, task.classes, task.nnunet
    channels, labels = _listing(layout.sequences), _listing(layout.labels)
    ours = {
        **json.loads(_theirs("configs/metadata.json")),
        "version": "0.1.0",
        "changelog": {"0.1.0": f"made by dcd {'from_nnunet' if nnunet else 'new_bundle'}"},
        "name": name,
        "task": f"Segmentation of {labels} in {channels} by a distilled network",
        "description": f"{_network(task, 'A')} a quarter as wide as its teacher, trained with Detail Consistent "
        f"Distillation, that segments {labels} in {channels}",
        "data_source": "to be stated, see docs/data_license.txt",
        "image_classes": f"{'channels' if nnunet else 'sequences, zero outside the head'}: "
        f"{', '.join(layout.sequences)}",
        "label_classes": f"one label map: {_values(layout)}",
        "pred_classes": f"{len(classes)} channels: {', '.join(classes.values())}",
    }
    data_format, named = ours["network_data_format"], {str(n): name for n, name in enumerate(layout.sequences)}
    for data, meaning in ((data_format["inputs"]["image"], named), (data_format["outputs"]["pred"], classes)):
        data |= {"num_channels": len(meaning), "spatial_shape": _multiples(task), "channel_def": meaning}
    if nnunet:
        scans = {"CT"} == {scheme[:2] for scheme in nnunet.plan["normalization"]}
        data_format["inputs"]["image"]["modality"] = "CT" if scans else "MR"
        ours["required_packages_version"] |= {"scipy": installed("scipy")}
        ours["references"] = [*ours["references"], NNUNET_REFERENCE]
    # These stand in one line, as in the other bundles.
    short = r'("(?:spatial_shape|channel_def)": )([\[{][^\]}]*[\]}])'
    return re.sub(short, lambda old: old[1] + json.dumps(json.loads(old[2])), json.dumps(ours, indent=2)) + "\n"


def _network(task: Task, article: str) -> str:
    return "The U-Net of nnU-Net," if task.nnunet else f"{article} residual U-Net"


def _multiples(task: Task) -> list[str]:
    """Sizes that the network takes along each axis."""
    if not task.nnunet:
        return [f"{2 ** len(task.teacher_widths)}*n"] * 3
    return [f"{2 * math.prod(steps)}*n" for steps in zip(*task.nnunet.plan["strides"], strict=True)]


def _readme(name: str, task: Task) -> str:
    layout = task.layout
    files = {**layout.sequences, "label": layout.label_file}
    return README.format(
        name=name,
        labels=_listing(layout.labels),
        channels=_listing(layout.sequences),
        reference=layout.reference,
        files="\n".join(f"    {key}: {' or '.join(patterns)}" for key, patterns in files.items()),
        **(_nnunet_words(task.nnunet, task) if task.nnunet else _words(task)),
    )


def _words(task: Task) -> dict[str, str]:
    _, heading, commands = _theirs("docs/README.md").partition("## Commands")
    return {
        "network": "a residual U-Net",
        "teacher": "",
        "names": "",
        "folds": "with folds that keep each patient in one",
        "rule": "",
        "image": RAS_IMAGE.format(spacing=" x ".join(map(str, task.spacing))),
        "pred": f"background, {_values(task.layout)}",
        "commands": heading + commands.partition("## Settings")[0].rstrip(),
    }


def _seen(nnunet: Nnunet) -> str:
    if nnunet.fold is not None and not nnunet.further:
        return ""
    return SEEN.format(teachers="It and its further teachers were" if nnunet.further else "It was")


def _nnunet_words(nnunet: Nnunet, task: Task) -> dict[str, str]:
    plan, several = nnunet.plan, nnunet.last_fold is not None
    regions = f"the regions {_listing(nnunet.outputs)}, each by itself"
    return {
        "network": "the U-Net of nnU-Net,",
        "teacher": ", a network of nnU-Net",
        "names": f"\n- whether `{PATIENTS}`, which names the cases and is part of a release, may be published"
        * several,
        "folds": f"with the folds in `{PATIENTS}`, of which the teacher's training held out that of the scores"
        if several
        else "with the folds of the teacher's training",
        "rule": f"{'' if several else ' --nnunet_folds'} --skip_incomplete",  # imagesTs has no labels
        "image": NNUNET_IMAGE.format(
            axes=" ".join("zyx"[axis] for axis in plan["transpose"]),
            schemes=_listing(dict.fromkeys(plan["normalization"])),
            spacing=" x ".join(map(str, task.spacing)),
        ),
        "pred": regions if plan["painted"] else f"background, {_values(task.layout)}",
        "commands": NNUNET_COMMANDS.format(seen=_seen(nnunet)),
    }
