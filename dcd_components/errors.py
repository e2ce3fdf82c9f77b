"""One plain sentence for bad input instead of the traceback through MONAI's config parser and Ignite's engine."""

from __future__ import annotations

import re
import sys
import traceback
from types import TracebackType


class InputError(ValueError):
    """Input that cannot be used, in one sentence: what is wrong, with which file or key, and what was expected."""


#: What gloo and NCCL say when another process is gone, and not when they cannot start.
LOST = re.compile(
    r"(?s)(?=.*(gloo|nccl)).*(connection (closed|reset)|timed out|remote process exited|broken pipe)", re.I
)


def plain_errors() -> None:
    """Let uncaught errors about input end the program with the sentence that says what is wrong.

    MONAI wraps an error inside a config as "Failed to evaluate ...", which hides its cause in the middle of the
    traceback. From now on, if the first error of such a chain is about values, files or a missing library, only it is
    printed, and the exit status is 1. So is that of a process of several that has lost another one, whose own error is
    the one to read. Every other error keeps its traceback. For programs, that is, for the ``initialize`` of a config.
    """
    sys.excepthook = _hook


def root_cause(error: BaseException) -> BaseException:
    """Follow a chain of wrapped errors to its first; ``raise ... from None`` starts a chain."""
    while (cause := error.__cause__ or (None if error.__suppress_context__ else error.__context__)) is not None:
        error = cause
    return error


def _hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    cause = root_cause(error)
    if isinstance(cause, InputError):
        sys.stderr.write(f"error: {cause}\n")
    elif isinstance(cause, RuntimeError) and LOST.search(str(cause)):
        sys.stderr.write(f"error: another process was lost, look for its own message: {cause}\n")
    else:
        traceback.print_exception(kind, error, trace)
