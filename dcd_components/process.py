"""What a program of this project sets for its whole process."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dcd_components.errors import plain_errors

#: Parameters of glibc's ``mallopt`` (malloc.h).
TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD, MMAP_MAX = -1, -2, -3, -4
KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


def set_up_process() -> None:
    """Do what a program does first: :func:`.plain_errors` and :func:`keep_freed_memory`. Configs call it.

    Threads that have nothing to do wait only for a moment before they sleep, unless the environment says otherwise: on
    cores that other programs use too, a step is else several times slower. That holds where torch is not imported yet,
    as by the command ``dcd``, and for the programs that this one starts.
    """
    plain_errors()
    keep_freed_memory()
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def keep_freed_memory() -> None:
    """Have the C library keep memory that is freed for what is allocated next, but for single pieces of over 1 GB.

    PyTorch allocates each map of a network anew on a CPU. By default, glibc hands large maps back to the system when
    they are freed, and to get their pages again takes much of a pass: `docs/benchmarks.md`. The process then holds what
    it needed at most, and up to a third more, since what is free may lie in pieces. Nothing is done without glibc, and
    where the environment says how memory is to be allocated, in ``GLIBC_TUNABLES`` or a variable ``MALLOC_...``.
    """
    chosen = any(name.startswith("MALLOC_") for name in os.environ)
    mallopt = None if chosen or "glibc.malloc." in os.environ.get("GLIBC_TUNABLES", "") else _mallopt()
    if mallopt:
        mallopt(TRIM_THRESHOLD, 2 * GIB - 1)
        mallopt(TOP_PAD, 256 * MIB)
        if not mallopt(MMAP_THRESHOLD, GIB):  # older versions take at most 32 MB
            mallopt(MMAP_MAX, 0)


@contextmanager
def own_pages() -> Iterator[None]:
    """Let every tensor have pages of its own, given back with it, whatever was freed before in the heap (glibc).

    Afterwards freed memory is kept, as by all programs. Where the environment says otherwise, the limits are the
    largest that glibc itself would come to, since it does not go on to adapt them.
    """
    mallopt = _mallopt()
    if mallopt is None:
        yield
        return
    mallopt(MMAP_MAX, 64 * KIB)  # its default
    mallopt(MMAP_THRESHOLD, 64 * KIB)
    try:
        yield
    finally:
        mallopt(MMAP_THRESHOLD, 32 * MIB)
        mallopt(TRIM_THRESHOLD, 64 * MIB)
        keep_freed_memory()


def _mallopt() -> Callable[[int, int], int] | None:
    """Set a parameter of glibc's allocation, and say whether it was taken; None without glibc."""
    try:
        mallopt: Callable[[int, int], int] = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # TypeError: Windows
        return None
    return mallopt
