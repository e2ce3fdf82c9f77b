"""One of a bundle's workflows, as a command of MONAI that is shown, checked and run."""

from __future__ import annotations

import difflib
import inspect
import re
import runpy
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser
from monai.bundle import run as monai_run

from dcd_components.bundle.configs import BUNDLES, config_file, literal
from dcd_components.errors import InputError


@dataclass(frozen=True)
class Workflow:
    """What MONAI's ``run`` is told: its name for what is run, if it has one, and the configs from the lowest up."""

    name: str
    configs: Sequence[str]


WORKFLOWS = {
    "teacher": Workflow("training", ["train_teacher"]),
    "student": Workflow("training", ["train_student"]),
    "distill": Workflow("training", ["distill"]),
    "evaluate": Workflow("evaluating", ["inference", "evaluate"]),
    "segment": Workflow("", ["inference"]),
}

#: Overlays of a distillation that make another method of it, for every bundle; in the repository alone.
BASELINES = BUNDLES / "common" / "baselines"


def command_line(workflow: str, bundle: Path, overlays: Sequence[str], settings: Mapping[str, str]) -> list[str]:
    """Words of the MONAI command that runs a workflow of a bundle, with paths that hold in any folder.

    Args:
        workflow: a name in :data:`WORKFLOWS`.
        bundle: folder of the bundle, in the repository or unpacked from a release.
        overlays: names of further configs, see :func:`workflow_files`.
        settings: text of each config key that is set, such as ``{"trainer::max_epochs": "3"}``.

    Raises:
        InputError: for a config that the bundle does not have, and for a setting that no config has.
    """
    chosen, root = WORKFLOWS[workflow], bundle.absolute()
    files = workflow_files(workflow, root, overlays)
    check_settings(files, settings)
    named = f"{files[0]}" if len(files) == 1 else repr([*map(str, files)])
    words = [
        "run",
        *([chosen.name] if chosen.name else []),
        "--bundle_root",
        _as_text(str(root)),
        "--config_file",
        named,
    ]
    return [*words, *(f"--{key}={_as_text(value)}" for key, value in settings.items())]


def workflow_files(workflow: str, bundle: Path, overlays: Sequence[str]) -> list[Path]:
    """Files of the configs of a workflow, from the lowest up.

    Args:
        workflow: a name in :data:`WORKFLOWS`.
        bundle: folder of the bundle.
        overlays: names of further configs, the later on top of the earlier. Baselines, of which the bundle has none,
            come on top of all others: of the quick overlay too, whose weight is that of DCD.

    Raises:
        InputError: for a config that the bundle does not have.
    """
    more = [BASELINES] if workflow == "distill" else []
    files = [config_file(bundle, name, more) for name in (*WORKFLOWS[workflow].configs, *overlays)]
    return sorted(files, key=lambda file: file.parent == BASELINES)


def _as_text(value: str) -> str:
    """A path whose signs MONAI would take for references as an expression that gives it, all else as it is."""
    return literal(value) if value.startswith("/") and re.search("[#@%$]", value) else value


def check_settings(files: Sequence[Path], settings: Iterable[str]) -> None:
    """Refuse a setting that no config has.

    MONAI takes a misspelt setting in silence, and then runs without it. Every setting must be a key of a config; below
    a component (``_target_``) it may also be a new argument, which the component itself checks, and at the top an
    option of MONAI's ``run``.

    Args:
        files: the configs, from the lowest up.
        settings: keys, such as ``trainer::max_epochs``.

    Raises:
        InputError: for the first that none has, with the nearest that there is.
    """
    config = ConfigParser.load_config_files(files)
    options = set(inspect.signature(monai_run).parameters) - {"override"}
    for key in settings:
        if key not in options:
            _refuse_unknown(key, config)


def run(words: Sequence[str]) -> None:
    """Show a command of ``monai.bundle`` and run it in this process, as ``python -m monai.bundle`` does.

    The exit status, Ctrl-C and the output are thus those of MONAI's own command.
    """
    sys.stdout.write(shlex.join(["python", "-m", "monai.bundle", *words]) + "\n")
    sys.stdout.flush()
    sys.argv = ["monai.bundle", *words]
    runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)


def _refuse_unknown(key: str, config: Any) -> None:
    """Walk down a nested key; where it leaves the config, say so, with the nearest that is there."""
    *parents, last = key.replace("#", "::").split("::")
    try:
        node = config
        for part in parents:
            node = _child(node, part)
        if not (isinstance(node, Mapping) and "_target_" in node):
            _child(node, last)
    except LookupError:
        raise InputError(f"no config has the key {key}{_nearest(key, [*_keys(config)])}") from None


def _child(node: Any, part: str) -> Any:
    try:
        return node[int(part)] if isinstance(node, list) else node[part]
    except (TypeError, ValueError) as error:  # a number or a text has nothing below it
        raise LookupError(part) from error


def _keys(node: Any, prefix: str = "") -> Iterator[str]:
    """All keys of a config, the nested ones with the keys that they lie below."""
    children = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list) else ()
    for part, child in children:
        yield f"{prefix}{part}"
        yield from _keys(child, f"{prefix}{part}::")


def _nearest(key: str, known: Sequence[str]) -> str:
    """The key most alike as a whole, or by its last part, whose place may be what was forgotten."""
    near = difflib.get_close_matches(key, known, n=1)
    if not near:
        last = {one.rpartition("::")[2]: one for one in reversed(known)}
        near = [last[one] for one in difflib.get_close_matches(key.rpartition("::")[2], [*last], n=1)]
    return f"; the nearest is {near[0]}" if near else ""
