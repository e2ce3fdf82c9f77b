"""A bundle's configs by name, in the YAML of the repository or the JSON of a release."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from dcd_components.data.file_naming import Layout
from dcd_components.errors import InputError

#: The bundles of the repository, where the package lies in it.
BUNDLES = Path(__file__).parents[2] / "bundles"
SUFFIXES = (".json", ".yaml")


def read_configs(bundle: Path, names: Sequence[str]) -> ConfigParser:
    """Read configs of a bundle, the later on top of the earlier, wherever the program runs.

    Args:
        bundle: its folder.
        names: of the files in ``configs``, without their suffix.

    Raises:
        InputError: when there is no such file.
    """
    parser = ConfigParser()
    parser.read_config([str(_config_file(bundle, name)) for name in names])
    parser["bundle_root"] = literal(str(bundle))
    return parser


def _config_file(bundle: Path, name: str) -> Path:
    files = [bundle / "configs" / f"{name}{suffix}" for suffix in SUFFIXES]
    found = next((file for file in files if file.is_file()), None)
    if found is None:
        raise InputError(f"{bundle} is no bundle with this config: there is no {' or '.join(map(str, files))}")
    return found


def literal(value: object) -> str:
    """Write texts, or lists of them, so that a config takes them as they are: paths may hold ``#``, ``@`` and ``%``."""
    return "$" + "".join(f"\\x{ord(sign):02x}" if sign in "#@%" else sign for sign in repr(value))


def bundle_settings(bundle: str | Path) -> dict[str, Any]:
    """Read what ``inference.yaml``, or a release's ``inference.json``, says of the files, for :func:`make_layout`.

    Raises:
        InputError: when there is no such file.
    """
    parser = read_configs(Path(bundle), ["inference"])
    return {one.name: parser.get_parsed_content(one.name) for one in fields(Layout)}
