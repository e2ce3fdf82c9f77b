"""Command line: ``python -m dcd_components COMMAND``; ``--help`` after a command lists its options."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import fire

from dcd_components import datalists, demo, errors, phantoms


def phantom(
    task: str,
    out: str,
    cases: int,
    seed: int = 0,
    spacing_mm: float = 2.0,
    size: Sequence[int] = (80, 96, 80),
    folds: int = 5,
    workers: int | None = None,
) -> None:
    """Simulate patients on real anatomy, with a data list.

    Args:
        task: brats_gli.
        out: new folder to write them into.
        cases: number of cases.
        seed: the same seed gives the same bytes.
        spacing_mm: size of a voxel.
        size: voxels along each axis.
        folds: number of folds in the data list.
        workers: processes; all cores by default.
    """
    if task != "brats_gli":
        raise ValueError(f"unknown task {task!r}; choose brats_gli")
    if not isinstance(size, Sequence) or len(size) != 3:
        raise ValueError(f"--size must be three numbers of voxels, such as 80,96,80, got {size}")
    if folds < 1:
        raise ValueError(f"--folds must be at least 1, got {folds}")
    depth, height, width = size
    phantoms.simulate_brats_gli(Path(str(out)), cases, seed, spacing_mm, (depth, height, width), workers)
    datalist(out, ("t1n", "t1c", "t2w", "t2f"), "seg", r"(.+)-\d{3}$", folds, seed)


def datalist(
    dataset_dir: str,
    sequences: Sequence[str],
    label: str,
    patient: str = "(.+)",
    folds: int = 5,
    seed: int = 0,
    out: str | None = None,
) -> None:
    """List all cases of a folder, in folds that keep each patient in one.

    Args:
        dataset_dir: folder with one sub-folder a case.
        sequences: names that end the files of a case, such as "['t1n','t1c','t2w','t2f']".
        label: name that ends the file of the segmentation, such as seg.
        patient: regular expression whose first group is the patient in a case's folder name.
        folds: number of folds.
        seed: of the assignment of patients to folds.
        out: file to write; DATASET_DIR/datalist.json by default.
    """
    cases = datalists.make_datalist(dataset_dir, sequences, label, patient=patient, folds=folds, seed=seed)
    path = Path(out or Path(dataset_dir) / "datalist.json")
    options = f"--sequences {list(sequences)} --label {label} --patient {patient!r} --folds {folds} --seed {seed}"
    command = f"python -m dcd_components datalist DIR {options}"
    datalists.write_datalist(cases, path, command)
    print(f"{len(cases)} cases of {len({case['patient'] for case in cases})} patients in {path}")


COMMANDS: dict[str, Callable[..., None]] = {"phantom": phantom, "datalist": datalist, "demo": demo.run}


def check_options(arguments: Sequence[str]) -> None:
    """Refuse an option that the command does not have: Fire would do the work first and complain after."""
    if not arguments or arguments[0] not in COMMANDS:
        return
    known = inspect.signature(COMMANDS[arguments[0]]).parameters
    for word in arguments[1:]:
        name = word.split("=")[0].removeprefix("--").replace("-", "_")
        if word.startswith("--") and name not in known and name not in ("help", ""):
            options = ", ".join(f"--{option}" for option in known)
            raise ValueError(f"{arguments[0]} has no option --{name}; it has {options}")


if __name__ == "__main__":
    errors.plain_errors()
    check_options(sys.argv[1:])
    fire.Fire(COMMANDS, name="dcd_components")
