from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from forked import run_module

from dcd_components.study.runner import Programs


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The programs of a study run forked, since to start them takes longer than what they do."""

    def call(_: Programs, words: Sequence[str], log: Path, __: int | None) -> int:
        assert [*words[:4]] == [sys.executable, "-W", "ignore", "-m"]
        status, said = run_module(words[4], words[5:], Path.cwd())
        with log.open("a") as file:
            file.write(said)
        return status

    monkeypatch.setattr(Programs, "__call__", call)
