from __future__ import annotations

from pathlib import Path

import pytest
from tiny import SEQUENCES

from dcd_components import datalists, phantoms


@pytest.fixture(scope="session")
def patients(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten tiny phantoms in five folds."""
    folder = tmp_path_factory.mktemp("patients") / "brats"
    phantoms.simulate_brats_gli(folder, 10, seed=0, spacing_mm=4.0, size=(40, 48, 40), workers=1)
    cases = datalists.make_datalist(folder, SEQUENCES, "seg", patient=r"(.+)-\d{3}$")
    datalists.write_datalist(cases, folder / "datalist.json", "made by the tests")
    return folder
