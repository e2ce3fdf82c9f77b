"""The files of a new bundle: those of the bundle for BraTS, with another task, or with the steps of an nnU-Net."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import yaml

from dcd_components.bundle.assemble import MARK, blocks, head, mark, title, wanted_files
from dcd_components.bundle.configs import BUNDLES
from dcd_components.data.case_files import Layout

TEMPLATE = BUNDLES / "brats_gli_dcd"
PARTS, NNUNET = "bundles/common/parts/", BUNDLES / "common" / "nnunet"
NETWORK = "A residual U-Net a quarter as wide as its teacher"
README = """\
# {name}

Segments {labels} in {channels}, by a residual U-Net a quarter as wide as its teacher.
It is trained with Detail Consistent Distillation (MICCAI 2026, arXiv:2605.26382). Research only; not a medical device.

## Still to be written

- here: what the data are, how many cases of how many patients, the scores on patients that no training saw
- in `docs/data_license.txt`: who may use the data, and weights trained on them (the code is under Apache-2.0)
- in `metadata.json`: `name`, `authors`, `copyright`, `data_source`; in `evaluate.yaml`: `regions`, `lesion_labels`

## Data

Anywhere below `DIR`, `{{case}}` being the case's name and the label on the grid of {reference}:

{files}

Write the data list, with folds that keep each patient in one, and check every file:

    dcd datalist DIR --bundle .
    dcd check DIR/datalist.json --dataset_dir DIR

## Input and output

- `image`: {channels} in RAS at {spacing} mm,
  each brought to zero mean and unit variance over its non-zero voxels, so that 0 must mean outside the head.
- `pred`: logits of background, {values}; the mask is written in the geometry of {reference}.

{commands}
"""
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
    """

    plan: Mapping[str, Any]
    teacher_def: Mapping[str, Any]
    widths: Sequence[int]
    outputs: Mapping[str, Sequence[int]]


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
        text = (NNUNET / f"{name}.yaml").read_text(encoding="utf-8")
        (configs / f"{name}.yaml").write_text(_with_settings(text, settings), encoding="utf-8")
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
    if replaces and part.name == "training.yaml" and task.nnunet and task.nnunet.plan["painted"]:
        yield mark((NNUNET / "regions.yaml").relative_to(BUNDLES.parent).as_posix())


def _overlays(task: Task) -> dict[str, dict[str, Any]]:
    """Settings of the overlays that a bundle with an nnU-Net has of its own."""
    if not task.nnunet:
        return {}
    grid = {"spacing": list(task.spacing), "patch_size": list(task.patch_size), "teacher_widths": task.teacher_widths}
    return {"teacher": {"teacher_def": task.nnunet.teacher_def}, "quick": grid, "mirror": {}}


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
        "train_student": {"patient_regex": layout.patient_regex},
        **({} if task.nnunet else {"train_teacher": {}}),
        "distill": {},
        "evaluate": {
            "regions": task.nnunet.outputs if task.nnunet else {name: [value] for name, value in labels.items()},
            "lesion_labels": sorted(labels.values()),
        },
    }


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
        kept = "".join(block for key, block in blocks(theirs) if key not in plan)
        theirs = f"{title(theirs)}\n{kept.strip()}\n\n{''.join(plan.values())}\n"
    return _with_settings(theirs, settings)


def _with_settings(text: str, settings: Mapping[str, Any]) -> str:
    """Text of a head with other values; its comments stay."""
    above = title(text)
    gap = "\n" * text[len(above) :].startswith("\n")
    changed = (_changed(key, block, settings[key]) if key in settings else block for key, block in blocks(head(text)))
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
    layout, classes, multiple = task.layout, task.classes, 2 ** len(task.teacher_widths)
    channels, labels = _listing(layout.sequences), _listing(layout.labels)
    ours = {
        **json.loads(_theirs("configs/metadata.json")),
        "version": "0.1.0",
        "changelog": {"0.1.0": "made by dcd new_bundle"},
        "name": name,
        "task": f"Segmentation of {labels} in {channels} by a distilled network",
        "description": f"{NETWORK}, trained with Detail Consistent Distillation, that segments {labels} in {channels}",
        "data_source": "to be stated, see docs/data_license.txt",
        "image_classes": f"sequences, zero outside the head: {', '.join(layout.sequences)}",
        "label_classes": f"one label map: {_values(layout)}",
        "pred_classes": f"{len(classes)} channels: {', '.join(classes.values())}",
    }
    data_format, named = ours["network_data_format"], {str(n): name for n, name in enumerate(layout.sequences)}
    for data, meaning in ((data_format["inputs"]["image"], named), (data_format["outputs"]["pred"], classes)):
        data |= {"num_channels": len(meaning), "spatial_shape": [f"{multiple}*n"] * 3, "channel_def": meaning}
    # These stand in one line, as in the other bundles.
    short = r'("(?:spatial_shape|channel_def)": )([\[{][^\]}]*[\]}])'
    return re.sub(short, lambda old: old[1] + json.dumps(json.loads(old[2])), json.dumps(ours, indent=2)) + "\n"


def _readme(name: str, task: Task) -> str:
    layout = task.layout
    _, heading, commands = _theirs("docs/README.md").partition("## Commands")
    files = {**layout.sequences, "label": layout.label_file}
    return README.format(
        name=name,
        labels=_listing(layout.labels),
        channels=_listing(layout.sequences),
        reference=layout.reference,
        files="\n".join(f"    {key}: {' or '.join(patterns)}" for key, patterns in files.items()),
        spacing=" x ".join(map(str, task.spacing)),
        values=_values(layout),
        commands=heading + commands.partition("## Settings")[0].rstrip(),
    )
