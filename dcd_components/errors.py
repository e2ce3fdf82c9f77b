"""One plain sentence for bad input instead of the traceback through MONAI's config parser and Ignite's engine."""

from __future__ import annotations

import difflib
import os
import re
import sys
import traceback
from collections.abc import Iterator
from types import FrameType, TracebackType


class InputError(ValueError):
    """Input that cannot be used, in one sentence: what is wrong, with which file or key, and what was expected."""


#: What gloo and NCCL say when another process is gone, and not when they cannot start.
LOST = re.compile(
    r"(?s)(?=.*(gloo|nccl)).*(connection (closed|reset)|timed out|remote process exited|broken pipe)", re.I
)
#: A process that loads data hands on its errors as text: the traceback, whose first error is the one of interest.
LOADER = re.compile(r"(?ms)\ACaught \w+ in .*?^(?:[\w.]+\.)?InputError: (.+?)(?:\n\n|\Z)")
#: What torch says when a process that loads data has died.
WORKER_DIED = re.compile(r"DataLoader worker \(pid.*?\) (?:is killed by signal|exited unexpectedly).*?(?=\.|$)")
#: What torch and NumPy say when memory has run out, on a CPU, a GPU or in a process that loads data.
NO_MEMORY = re.compile(
    r"(?:\w+ )?out of memory|can't allocate memory(?:: you tried to allocate \d+ bytes)?|Unable to allocate .*? array",
    re.I,
)
SHORT_OF_MEMORY = (
    "memory ran out: lower batch_size, patch_size or num_workers in a training, max_memory or patch_size in inference"
)
#: A number that YAML takes for text, for want of a point.
NUMBER_AS_TEXT = re.compile(r"[+-]?\d+e[+-]?\d+", re.I)
#: Modules of packages whose own requirements would bring another torch, and how to install each without them.
INSTALLED_ALONE = {"dynamic_network_architectures": "pip install --no-deps dynamic-network-architectures"}
#: What Python says of a module that is not there, and MONAI of a class in one.
NO_MODULE = re.compile(r"(?:No module named|Cannot locate class or function path:) '(\w+)")
#: What MONAI says of a reference that leads nowhere.
DANGLING = re.compile(r"the referring item `@(.+)` is not defined")


def plain_errors() -> None:
    """Let an uncaught :class:`InputError` end the program with its sentence alone, and exit status 1.

    MONAI wraps an error inside a config as "Failed to evaluate ...", which hides its cause in the middle of the
    traceback; the first :class:`InputError` along such a chain is the one that is printed. Every other error keeps its
    traceback; where it arose in a config, one more sentence names the key and the cause. A process that has lost
    another one of its run says only that, since the other's message is the one to read. Memory that has run out, and a
    process for data that has died, are no faults of the program either: the sentence names the settings to lower.

    With ``DCD_TRACEBACK=1`` in the environment every traceback is kept.
    """
    sys.excepthook = _hook


def root_cause(error: BaseException) -> BaseException:
    """Follow a chain of wrapped errors to its first; ``raise ... from None`` starts a chain."""
    return list(_chain(error))[-1]


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, then what it was raised from, and so on."""
    following: BaseException | None = error
    while (one := following) is not None:
        yield one
        following = one.__cause__ or (None if one.__suppress_context__ else one.__context__)


def _hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    plain = (
        None if os.environ.get("DCD_TRACEBACK") == "1" else input_error(error) or missing(error) or _exhausted(error)
    )
    if plain is None:
        traceback.print_exception(kind, error, trace)
        plain = _config_error(error)
    if plain is not None:
        sys.stderr.write(f"error: {plain}\n")


def input_error(error: BaseException) -> str | None:
    """What the first :class:`InputError` of a chain says, be it of this process or of one that loads data."""
    for one in _chain(error):
        if passed_on := LOADER.match(str(one)):
            return passed_on[1]
        if isinstance(one, InputError):
            return str(one)
    return None


def missing(error: BaseException) -> str | None:
    """Which package of :data:`INSTALLED_ALONE` is not there, along a chain, and how to install it."""
    for one in _chain(error):
        found = NO_MODULE.search(str(one)) if isinstance(one, ModuleNotFoundError) else None
        if found and found[1] in INSTALLED_ALONE:
            return f"{found[1]}, nnU-Net's networks, is not installed: {INSTALLED_ALONE[found[1]]}"
    return None


def _exhausted(error: BaseException) -> str | None:
    """What says that processes or memory were lost, along the chain."""
    for one in _chain(error):
        text = " ".join(str(one).split())
        if isinstance(one, RuntimeError) and (died := WORKER_DIED.search(text)):
            return f"a process that loads data died, for want of memory perhaps: lower num_workers ({died[0]})"
        lacking = NO_MEMORY.search(text)
        if isinstance(one, MemoryError) or (isinstance(one, RuntimeError) and lacking):
            return f"{SHORT_OF_MEMORY} ({lacking[0] if lacking else type(one).__name__})"
    cause = root_cause(error)
    if isinstance(cause, RuntimeError) and LOST.search(str(cause)):
        return f"another process was lost, look for its own message: {cause}"
    return None


def _config_error(error: BaseException) -> str | None:
    """Key of a config and the cause, for an error of which MONAI's message has the cause but no key.

    The key is the one that MONAI was resolving at last, which the frames of the tracebacks know.
    """
    if not isinstance(error, Exception):
        return None
    for one in reversed(list(_chain(error))):
        frames = [frame for frame, _ in traceback.walk_tb(one.__traceback__) if _resolves(frame)]
        if frames:
            return f"config key {frames[-1].f_locals['id']}: {_cause(error, frames[-1])}"
    return None


def _resolves(frame: FrameType) -> bool:
    module = frame.f_globals.get("__name__")
    return module == "monai.bundle.reference_resolver" and frame.f_code.co_name == "_resolve_one_item"


def _cause(error: BaseException, frame: FrameType) -> str:
    """Why MONAI could not resolve a key: a name that no config has, or the first error of the chain."""
    known = [*frame.f_locals["self"].items]
    dangling = next((found[1] for one in _chain(error) if (found := DANGLING.search(str(one)))), None)
    if dangling is None and frame.f_locals["id"] in known:
        cause = root_cause(error)
        return f"{type(cause).__name__}: {' '.join(str(cause).split())}{_numbers_as_text(frame)}"
    near = difflib.get_close_matches(dangling or frame.f_locals["id"], known, n=1)
    return f"{f'no config has @{dangling}' if dangling else 'no config has it'}{f'; {near[0]} is near' if near else ''}"


def _numbers_as_text(frame: FrameType) -> str:
    """Keys whose value YAML took for text, where it was meant as a number."""
    values = {key: item.get_config() for key, item in frame.f_locals["self"].items.items()}
    found = [key for key, x in values.items() if isinstance(x, str) and NUMBER_AS_TEXT.fullmatch(x)]
    return "".join(f"; {key} is the text {values[key]!r} to YAML, a number needs a point: 1.0e-4" for key in found)
