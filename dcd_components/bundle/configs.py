"""A bundle's configs by name."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import fields
from itertools import chain
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from dcd_components.data.case_files import Layout
from dcd_components.errors import InputError

#: The bundles of the repository, where the package lies in it.
BUNDLES = Path(__file__).parents[2] / "bundles"
#: Overlays that make another network of the teacher or the student, for every bundle; in the repository alone.
ARCHITECTURES = BUNDLES / "common" / "architectures"
#: For threads that read configs: MONAI walks over all modules then, and another thread may not import meanwhile.
READING = threading.Lock()


def read_configs(bundle: Path, names: Sequence[str]) -> ConfigParser:
    """Read configs of a bundle, the later on top of the earlier, wherever the program runs.

    Args:
        bundle: its folder.
        names: of the files in ``configs``, without their suffix.

    Raises:
        InputError: when there is no such file.
    """
    parser = ConfigParser()
    parser.read_config([str(config_file(bundle, name)) for name in names])
    parser["bundle_root"] = literal(str(bundle))
    return parser


def config_file(bundle: Path, name: str, more: Sequence[Path] = ()) -> Path:
    """File of a bundle's config, or of an architecture for every bundle.

    Args:
        bundle: its folder.
        name: of the file, without its suffix.
        more: folders of further configs, for names that neither has.

    Raises:
        InputError: when there is none.
    """
    folders = [bundle / "configs", ARCHITECTURES, *more]
    for folder in folders:
        if (path := folder / f"{name}.yaml").is_file():
            return path
    there, *others = (sorted(path.stem for path in folder.glob("*.yaml")) for folder in folders)
    has = f"it has {', '.join(there)}" if there else "there is no folder configs with any"
    has += f"; further ones are {', '.join(chain.from_iterable(others))}" if any(others) else ""
    raise InputError(f"the bundle {bundle} has no config {name}: {has}")


def literal(value: object) -> str:
    """Write texts, or lists of them, so that a config takes them as they are: paths may hold ``#``, ``@`` and ``%``."""
    return "$" + "".join(f"\\x{ord(sign):02x}" if sign in "#@%" else sign for sign in repr(value))


def bundle_settings(bundle: str | Path) -> dict[str, Any]:
    """Read what a bundle says of the files of its cases, for :func:`.make_layout`.

    Raises:
        InputError: when there is no such bundle.
    """
    parser = read_configs(Path(bundle), ["train_student"])
    return {one.name: parser.get_parsed_content(one.name) for one in fields(Layout)}
