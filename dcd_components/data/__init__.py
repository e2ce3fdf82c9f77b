"""Cases: how their files are named, listed, checked, loaded and cached."""

from typing import Any

from dcd_components import public_name


def __getattr__(name: str) -> Any:
    return public_name(name, __name__)
