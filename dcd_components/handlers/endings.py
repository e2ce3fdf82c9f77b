"""How a run of an engine ends: by itself, by an exception, or by a signal."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from ignite.engine import Engine, Events

#: A terminal and a launcher may both send the same signal within this time.
SECONDS = 1.0


def at_end(engine: Engine, function: Callable[[], None]) -> None:
    """Call a function at the end of every run of an engine, whichever way it ends; an exception goes on afterwards.

    It may be called twice, as Ignite fires ``EXCEPTION_RAISED`` for an iteration and again for its run.

    Ignite leaves it to the first handler of ``EXCEPTION_RAISED`` to raise, and those after it are not called.
    """
    functions: list[Callable[[], None]] | None = getattr(engine, "_at_end", None)
    if functions is None:
        functions = engine._at_end = []
        engine.add_event_handler(Events.TERMINATE, _call, functions)
        engine.add_event_handler(Events.COMPLETED, _call, functions)
        engine.add_event_handler(Events.EXCEPTION_RAISED, _call_and_raise, functions)
    functions.append(function)


def _call(engine: Engine, functions: list[Callable[[], None]]) -> None:
    for function in functions:
        function()


def _call_and_raise(engine: Engine, error: BaseException, functions: list[Callable[[], None]]) -> None:
    _call(engine, functions)
    raise error


class Stopped(SystemExit):
    """End of a program that a signal asked for, with the exit status that shells give it."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)

    def __str__(self) -> str:
        """Name of the signal, for those that log it."""
        return signal.Signals(self.code - 128).name  # type: ignore[operator]


class StopSignals:
    """Note SIGTERM and Ctrl-C instead of ending at once, so that a training can end where it can go on from.

    A second Ctrl-C interrupts at once. Only programs whose main thread listens are asked; a signal that is ignored, as
    below ``nohup``, stays so.

    Attributes:
        number: of the signal that came, 0 before.
    """

    def __init__(self) -> None:
        self.number = 0
        self._when = 0.0
        self._before: dict[int, Any] = {}

    def listen(self) -> None:
        """Take over the handling of the signals; none has come yet."""
        self.number = 0
        if threading.current_thread() is not threading.main_thread():
            return
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) not in (signal.SIG_IGN, None, self._note):
                self._before[number] = signal.signal(number, self._note)

    def release(self) -> None:
        """Give it back."""
        while self._before:
            signal.signal(*self._before.popitem())

    def _note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if number == signal.SIGINT and self.number and now - self._when > SECONDS:
            self.release()
            raise KeyboardInterrupt
        self.number, self._when = number, now
