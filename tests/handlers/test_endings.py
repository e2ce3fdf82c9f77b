from __future__ import annotations

import os
import signal
import threading
import time

import pytest
from ignite.engine import Engine, Events

from dcd_components.handlers.endings import Stopped, StopSignals, at_end


def test_what_is_due_at_the_end_is_done_by_every_handler_and_an_exception_goes_on() -> None:
    done: list[str] = []

    def fail(engine: Engine, batch: int) -> None:
        raise KeyError("of the training")

    engine = Engine(fail)
    for name in ("first", "second"):
        at_end(engine, lambda name=name: done.append(name))  # type: ignore[misc]
    with pytest.raises(KeyError, match="of the training"):
        engine.run([0])
    assert done[:2] == ["first", "second"]  # and once more: Ignite fires the event in an iteration and in the run


def test_a_run_that_ends_by_itself_ends_once() -> None:
    done: list[int] = []
    engine = Engine(lambda engine, batch: None)
    at_end(engine, lambda: done.append(1))
    engine.run([0])
    assert done == [1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_noted_and_its_handler_given_back(number: int) -> None:
    before = signal.getsignal(number)
    signals = StopSignals()
    for _ in range(2):
        signals.listen()
        assert not signals.number
        os.kill(os.getpid(), number)
        assert signals.number == number
        signals.release()
        assert signal.getsignal(number) is before


def test_a_second_ctrl_c_interrupts_but_not_one_that_a_launcher_passes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    signals, now = StopSignals(), [10.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    signals.listen()
    os.kill(os.getpid(), signal.SIGINT)
    now[0] = 10.5
    os.kill(os.getpid(), signal.SIGINT)
    now[0] = 20.0
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_only_the_main_thread_listens_and_an_ignored_signal_stays_ignored() -> None:
    before, signals = signal.getsignal(signal.SIGTERM), StopSignals()
    thread = threading.Thread(target=signals.listen)
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGTERM) is before
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        signals.listen()
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signals.release()
        signal.signal(signal.SIGTERM, before)


def test_a_training_has_given_the_signals_back_after_its_end() -> None:
    signals, before = StopSignals(), signal.getsignal(signal.SIGINT)
    engine = Engine(lambda engine, batch: None)
    engine.add_event_handler(Events.STARTED, lambda: signals.listen())
    at_end(engine, signals.release)
    engine.run([0])
    assert signal.getsignal(signal.SIGINT) is before


def test_the_end_by_a_signal_has_its_exit_status_and_name() -> None:
    assert Stopped(signal.SIGTERM).code == 143
    assert str(Stopped(signal.SIGINT)) == "SIGINT"
