"""One JSON file from a list of configs: merged as MONAI merges them, less what nothing in it needs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser
from monai.bundle.properties import InferProperties, TrainProperties
from monai.utils.enums import BundlePropertyConfig

from dcd_components.data.file_naming import Layout
from dcd_components.errors import InputError

Config = dict[str, Any]
#: What MONAI and its commands ask for by name, whatever else refers to it.
ENTRIES = ("imports", "bundle_root", "initialize", "run", "finalize", "network_def", "network")
#: What is said at the command line, where a config has it.
SETTINGS = ("dataset_dir", "output_dir", "datalist", "ckpt_path", "cache_dir", "device")
#: What ``python -m dcd_components datalist --bundle`` reads from inference.json.
OF_THE_DATA = tuple(one.name for one in fields(Layout))
COLUMNS = 120


def flatten(files: Sequence[Path], kind: str) -> Config:
    """Merge configs and keep what a workflow of this kind, MONAI or a user reaches, in the order of the files.

    Args:
        files: configs, the later over the earlier.
        kind: ``infer`` or ``train``, whose properties are kept.
    """
    return pruned(merge(files), kind)


def merge(files: Sequence[Path]) -> Config:
    """Merge configs, the later over the earlier.

    Raises:
        InputError: for a file that is not there, or a key below one that is not.
    """
    if missing := [path for path in files if not path.is_file()]:
        raise InputError(f"no config {', '.join(map(str, missing))}")
    try:
        return dict(ConfigParser.load_config_files([str(path) for path in files]))
    except KeyError as error:
        names = ", ".join(path.name for path in files)
        raise InputError(f"{names} cannot be merged: nothing before them has {error}") from None


def pruned(config: Config, kind: str) -> Config:
    """Leave out what cannot be reached, see :func:`flatten`."""
    found = reachable(config, roots(kind))
    return {key: value for key, value in config.items() if key in found}


def roots(kind: str) -> set[str]:
    """Keys from which a config is used."""
    properties = {"infer": InferProperties, "train": TrainProperties}[kind]
    paths = [one[BundlePropertyConfig.ID] for one in properties.values()]
    layout = OF_THE_DATA if kind == "infer" else ()
    return {*ENTRIES, *SETTINGS, *layout, *(re.split("::|#", path)[0] for path in paths)}


def reachable(config: Mapping[str, Any], keys: Iterable[str]) -> set[str]:
    """Keys among ``keys``, and those to which they refer, also inside expressions and texts."""
    left, found = [key for key in keys if key in config], set[str]()
    while left:
        if (key := left.pop()) not in found:
            found.add(key)
            left += [name for name in re.findall(r"[@%](\w+)", json.dumps(config[key])) if name in config]
    return found


def overlay(file: Path, bases: Sequence[tuple[Sequence[Path], str]]) -> Config:
    """Read a config that stays an overlay, less the keys that matter to none of its bases.

    Args:
        file: the overlay.
        bases: the configs that it may be laid on, and the kind of each list, as :func:`flatten` takes them.
    """
    used = set[str]()
    for files, kind in bases:
        before, merged = merge(files), merge([*files, file])
        known = {*pruned(before, kind), *(set(merged) - set(before))}
        used |= reachable({key: merged[key] for key in merged if key in known}, roots(kind))
    laid = ConfigParser.load_config_file(file)
    return {key: value for key, value in laid.items() if re.split("::|#", key.removeprefix("+"))[0] in used}


def to_json(value: Any, depth: int = 0, before: int = 0) -> str:
    """Write JSON whose lists and objects stand in one line where they fit.

    Args:
        value: what to write.
        depth: how far to indent the lines that follow the first.
        before: characters that stand before the first.
    """
    line = json.dumps(value, ensure_ascii=False)
    if not isinstance(value, (dict, list)) or not value or (depth and len(line) + before + 1 <= COLUMNS):
        return line
    heads = (
        [f"{json.dumps(key, ensure_ascii=False)}: " for key in value] if isinstance(value, dict) else [""] * len(value)
    )
    values = value.values() if isinstance(value, dict) else value
    indent, (first, last) = "  " * (depth + 1), "{}" if isinstance(value, dict) else "[]"
    items = [
        f"{indent}{head}{to_json(one, depth + 1, len(indent) + len(head))}"
        for head, one in zip(heads, values, strict=True)
    ]
    return f"{first}\n" + ",\n".join(items) + f"\n{'  ' * depth}{last}"
