from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import forked
import nibabel as nib
import numpy as np
import pytest
from tiny import HIPPOCAMPUS

from dcd_components.bundle.release import weights
from dcd_components.commands import datalist, phantom
from dcd_components.data.patients import read_patients
from dcd_components.process import keep_freed_memory

keep_freed_memory()  # as the programs do that are tested
# Started in the background of a shell, as by nohup, tests and the programs that they start would ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)

TESTS = Path(__file__).parent
#: Files and folders whose tests take longest: begun last, one would leave the other worker idle at the end.
FIRST = ("test_documents.py", "demo", "release", "bundles", "study", "benchmarks", "test_package.py", "test_cli.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort the tests, which keep their order otherwise; `make test` hands their files out in this one."""
    places = {name: place for place, name in enumerate(FIRST)}
    items.sort(key=lambda item: places.get(item.path.relative_to(TESTS).parts[0], len(places)))


@pytest.fixture(scope="session", autouse=True)
def forked_compilers() -> Iterator[None]:
    """Networks are compiled for releases in forks: to start a program takes several times as long as to compile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weights, "CONTEXT", forked.CONTEXT)
        yield


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


@pytest.fixture(scope="session")
def hippocampi(patients: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One sequence of the glioma phantoms and two of their labels, named as the hippocampi are: two cases a fold."""
    folder = tmp_path_factory.mktemp("patients") / "Task04_Hippocampus"
    table = read_patients(HIPPOCAMPUS / "docs" / "patients.csv")
    names = [name for fold in range(5) for name in [case for case, of in table.items() if of.fold == fold][:2]]
    for case, name in zip(sorted(path for path in patients.iterdir() if path.is_dir()), names, strict=True):
        image, label = (nib.load(case / f"{case.name}-{kind}.nii.gz") for kind in ("t1n", "seg"))
        two = nib.Nifti1Image(np.minimum(np.asarray(label.dataobj), 2).astype(np.uint8), label.affine)
        for kind, one in (("images", image), ("labels", two)):
            (folder / f"{kind}Tr").mkdir(parents=True, exist_ok=True)
            nib.save(one, folder / f"{kind}Tr" / f"{name}.nii.gz")
    datalist(folder, bundle=HIPPOCAMPUS)
    return folder
