"""The wavelet transform, the energies of its sub-bands, and their passes by matrix and by numba."""

from typing import Any

from dcd_components import public_name


def __getattr__(name: str) -> Any:
    return public_name(name, __name__)
