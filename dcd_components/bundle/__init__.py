"""Bundles: their configs, how they are run and assembled, what is new in one, and its release."""

from typing import Any

from dcd_components import public_name


def __getattr__(name: str) -> Any:
    return public_name(name, __name__)
