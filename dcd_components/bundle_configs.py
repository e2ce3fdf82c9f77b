"""A bundle's configs by name, in the YAML of the repository or the JSON of a release."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from monai.bundle import ConfigParser

SUFFIXES = (".json", ".yaml")


def read_configs(bundle: Path, names: Sequence[str]) -> ConfigParser:
    """Read configs of a bundle, the later on top of the earlier, wherever the program runs.

    Args:
        bundle: its folder.
        names: of the files in ``configs``, without their suffix.

    Raises:
        FileNotFoundError: when there is no such file.
    """
    parser = ConfigParser()
    parser.read_config([str(_config_file(bundle, name)) for name in names])
    parser["bundle_root"] = literal(str(bundle))
    return parser


def _config_file(bundle: Path, name: str) -> Path:
    files = [bundle / "configs" / f"{name}{suffix}" for suffix in SUFFIXES]
    found = next((file for file in files if file.is_file()), None)
    if found is None:
        raise FileNotFoundError(f"{bundle} is no bundle with this config: there is no {' or '.join(map(str, files))}")
    return found


def literal(value: object) -> str:
    """Write texts, or lists of them, so that a config takes them as they are: paths may hold ``#``, ``@`` and ``%``."""
    return "$" + "".join(f"\\x{ord(sign):02x}" if sign in "#@%" else sign for sign in repr(value))
