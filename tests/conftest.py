from __future__ import annotations

import signal
from pathlib import Path

import pytest

from dcd_components.commands import phantom

# Started in the background of a shell, as by nohup, tests and the programs that they start would ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def patients(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten tiny glioma phantoms in five folds."""
    folder = tmp_path_factory.mktemp("patients") / "brats"
    phantom("brats_gli", folder, cases=10, spacing_mm=4.0, size=(40, 48, 40), workers=1)
    return folder


@pytest.fixture(scope="session")
def strokes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten tiny stroke phantoms in five folds."""
    folder = tmp_path_factory.mktemp("patients") / "isles"
    phantom("isles22", folder, cases=10, spacing_mm=4.0, size=(40, 48, 36), workers=1)
    return folder
