"""What a program of this project sets for its whole process."""

from __future__ import annotations

import ctypes
import os

from dcd_components.errors import plain_errors

#: Parameters of glibc's ``mallopt`` (malloc.h).
TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD, MMAP_MAX = -1, -2, -3, -4
MIB, GIB = 1 << 20, 1 << 30
#: Variables by which a user has chosen how memory is allocated.
CHOSEN = ("GLIBC_TUNABLES", "MALLOC_")


def set_up_process() -> None:
    """Do what a program does first: :func:`.plain_errors` and :func:`keep_freed_memory`. Configs call it.

    Threads that have nothing to do wait only for a moment before they sleep, unless the environment says otherwise: on
    cores that other programs use too, a step is else several times slower. That holds where torch is not imported yet,
    as by the command ``dcd``, and for the programs that this one starts.
    """
    plain_errors()
    keep_freed_memory()
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def keep_freed_memory() -> None:
    """Have the C library keep memory that is freed, up to 2 GB, for what is allocated next.

    PyTorch allocates each map of a network anew on a CPU. By default, glibc hands large maps back to the system when
    they are freed, and to get their pages again takes much of a pass: `docs/benchmarks.md`. The process then holds
    about what it needed at most. Nothing is done without glibc, and where the environment says how memory is to be
    allocated, in ``GLIBC_TUNABLES`` or a variable ``MALLOC_...``.
    """
    if any(name.startswith(CHOSEN) for name in os.environ):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # TypeError: Windows
        return
    mallopt(TRIM_THRESHOLD, 2 * GIB - 1)
    mallopt(TOP_PAD, 256 * MIB)
    if not mallopt(MMAP_THRESHOLD, GIB):  # older versions take at most 32 MB
        mallopt(MMAP_MAX, 0)
