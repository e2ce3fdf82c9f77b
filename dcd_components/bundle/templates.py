"""The files of a new bundle: those of the bundle for BraTS, with another task."""

from __future__ import annotations

import json
import re
import shutil
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dcd_components.bundle.configs import BUNDLES
from dcd_components.data.file_naming import Layout

TEMPLATE = BUNDLES / "brats_gli_dcd"
COMMON = "# From here on, every bundle says the same."
NETWORK = "A residual U-Net a quarter as wide as its teacher"
README = """\
# {name}

Segments {labels} in {channels}, by a residual U-Net a quarter as wide as its teacher.
It is trained with Detail Consistent Distillation (MICCAI 2026, arXiv:2605.26382). Research only; not a medical device.

## Still to be written

- here: what the data are, how many cases of how many patients, the scores on patients that no training saw
- in `docs/data_license.txt`: who may use the data, and weights trained on them (the code is under Apache-2.0)
- in `configs`: `name`, `authors`, `copyright`, `data_source` (`metadata.json`); `regions`, `lesions` (`inference.yaml`)

## Data

Anywhere below `DIR`, `{{case}}` being the case's name and the label on the grid of {reference}:

{files}

Write the data list, with folds that keep each patient in one, and check every file:

    python -m dcd_components datalist DIR --bundle .
    python -m dcd_components check DIR/datalist.json --dataset_dir DIR

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
class Task:
    """What a bundle segments.

    Args:
        layout: how the files are named, and the values of the labels.
        spacing: mm along each axis in RAS.
        patch_size: voxels along each axis in RAS.
    """

    layout: Layout
    spacing: Sequence[float]
    patch_size: Sequence[int]

    @property
    def halvings(self) -> int:
        """How often the patch can be halved so that at least 4 voxels are left along its shortest axis."""
        return max(n for n in range(9) if all(size % 2**n == 0 and size // 2**n >= 4 for size in self.patch_size))

    @property
    def classes(self) -> dict[str, str]:
        """What the channels of the output mean, those without a label included."""
        names = {0: "background", **{value: name for name, value in self.layout.labels.items()}}
        return {str(value): names.get(value, "unused") for value in range(max(names) + 1)}


def write_files(folder: Path, task: Task) -> None:
    """Write all files of a bundle into a folder that is not there yet."""
    configs, docs, models = (folder / name for name in ("configs", "docs", "models"))
    for made in (folder, configs, docs, models):
        made.mkdir()
    shutil.copyfile(TEMPLATE / "LICENSE", folder / "LICENSE")
    for path in (BUNDLES / "common").glob("*.*"):
        shutil.copyfile(path, configs / path.name)
    theirs, mark, rest = _theirs("configs/inference.yaml").partition(COMMON)
    texts = {
        configs / "inference.yaml": (ours := task_block(theirs, task)) + mark + rest,
        configs / "metadata.json": _metadata(folder.name, task, 2 ** len(yaml.safe_load(ours)["teacher_widths"])),
        docs / "README.md": _readme(folder.name, task),
        docs / "data_license.txt": DATA_LICENSE,
        models / ".gitkeep": "",
    }
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8")


def _theirs(path: str) -> str:
    return (TEMPLATE / path).read_text(encoding="utf-8")


def task_block(theirs: str, task: Task) -> str:
    """Put a task into the block of another bundle, whose order, comments and other settings stay.

    Args:
        theirs: what ``inference.yaml`` of the other bundle says before its common part.
        task: what the new bundle segments.
    """
    layout, labels = task.layout, task.layout.labels
    values = {
        "files": "".join(f"\n  {_yaml(name)}: {_yaml(patterns)}" for name, patterns in layout.files.items()),
        "reference": _yaml(layout.reference),
        "own_grid": _yaml(layout.own_grid),
        "labels": _yaml(labels),
        "spacing": _yaml(task.spacing),
        "patch_size": _yaml(task.patch_size),
        "teacher_widths": _yaml(yaml.safe_load(theirs)["teacher_widths"][: task.halvings + 1]),
        "label_file": _yaml(layout.label_file),
        "patient": "'" + layout.patient.replace("'", "''") + "'",
        "regions": _yaml({name: [value] for name, value in labels.items()}),
        "lesions": _yaml(sorted(labels.values())),
    }
    text = f"# The task: {_listing(labels)} in {_listing(layout.files)}.\n" + theirs.partition("\n")[2]
    for key, value in values.items():
        text = _with(text, key, value)
    return text


def _with(text: str, key: str, value: str) -> str:
    """Give a key another value and keep its comment, which stands before a value of several keys."""

    def write(old: re.Match[str]) -> str:
        comment = old[1] or ""
        return f"{key}:{comment}{value}" if value.startswith("\n") else f"{key}: {value}{comment}"

    return re.sub(rf"(?m)^{key}:[^#\n]*?(  #.*)?(\n  .*)*$", write, text)


def _yaml(value: Any) -> str:
    """Write a value in YAML's flow style, quoted only where it must be."""
    if isinstance(value, Mapping):
        text = "{" + ", ".join(f"{_yaml(key)}: {_yaml(one)}" for key, one in value.items()) + "}"
        return textwrap.fill(text, 110, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    if isinstance(value, str):
        return value if re.fullmatch(r"[\w-]+", value) and yaml.safe_load(value) == value else json.dumps(value)
    return "[" + ", ".join(map(_yaml, value)) + "]" if isinstance(value, Sequence) else str(value)


def _listing(words: Iterable[str]) -> str:
    return " and ".join(", ".join(words).rsplit(", ", 1))


def _values(layout: Layout) -> str:
    return ", ".join(f"{value} {name}" for name, value in layout.labels.items())


def _metadata(name: str, task: Task, multiple: int) -> str:
    layout, classes = task.layout, task.classes
    channels, labels = _listing(layout.files), _listing(layout.labels)
    ours = {
        **json.loads(_theirs("configs/metadata.json")),
        "version": "0.1.0",
        "changelog": {"0.1.0": "made by python -m dcd_components new_bundle"},
        "name": name,
        "task": f"Segmentation of {labels} in {channels} by a distilled network",
        "description": f"{NETWORK}, trained with Detail Consistent Distillation, that segments {labels} in {channels}",
        "data_source": "to be stated, see docs/data_license.txt",
        "image_classes": f"sequences, zero outside the head: {', '.join(layout.files)}",
        "label_classes": f"one label map: {_values(layout)}",
        "pred_classes": f"{len(classes)} channels: {', '.join(classes.values())}",
    }
    data_format, named = ours["network_data_format"], {str(n): name for n, name in enumerate(layout.files)}
    for data, meaning in ((data_format["inputs"]["image"], named), (data_format["outputs"]["pred"], classes)):
        data |= {"num_channels": len(meaning), "spatial_shape": [f"{multiple}*n"] * 3, "channel_def": meaning}
    # These stand in one line, as in the other bundles.
    short = r'("(?:spatial_shape|channel_def)": )([\[{][^\]}]*[\]}])'
    return re.sub(short, lambda old: old[1] + json.dumps(json.loads(old[2])), json.dumps(ours, indent=2)) + "\n"


def _readme(name: str, task: Task) -> str:
    layout = task.layout
    _, title, commands = _theirs("docs/README.md").partition("## Commands")
    files = {**layout.files, "label": layout.label_file}
    return README.format(
        name=name,
        labels=_listing(layout.labels),
        channels=_listing(layout.files),
        reference=layout.reference,
        files="\n".join(f"    {key}: {' or '.join(patterns)}" for key, patterns in files.items()),
        spacing=" x ".join(map(str, task.spacing)),
        values=_values(layout),
        commands=title + commands.partition("## Settings")[0].rstrip(),
    )
