"""The commands that lay out data and bundles; each returns what is to be printed."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from dcd_components.bundle import new_bundles
from dcd_components.bundle.configs import BUNDLES, bundle_settings
from dcd_components.data import datalists, file_naming
from dcd_components.errors import InputError
from dcd_components.simulation import phantoms

#: Voxels of the simulated images of each data set.
TASKS = {"brats_gli": (80, 96, 80), "isles22": (80, 96, 72)}


def phantom(
    task: str,
    out: str,
    cases: int,
    seed: int = 0,
    spacing_mm: float = 2.0,
    size: Sequence[int] | None = None,
    folds: int = 5,
    workers: int | None = None,
) -> str:
    """Simulate patients on real anatomy, named as in a data set, with a data list.

    Args:
        task: brats_gli or isles22.
        out: new folder to write them into.
        cases: number of cases.
        seed: the same seed gives the same bytes.
        spacing_mm: size of a voxel.
        size: voxels along each axis; 80,96,80 or 80,96,72 by default.
        folds: number of folds in the data list.
        workers: processes; all cores by default.
    """
    if task not in TASKS:
        raise InputError(f"unknown task {task!r}; choose {' or '.join(TASKS)}")
    if not BUNDLES.is_dir():
        raise InputError(f"phantom works in the repository only: it names files as the bundles in {BUNDLES} say")
    if folds < 1:
        raise InputError(f"--folds must be at least 1, got {folds}")
    size = size or TASKS[task]
    if not isinstance(size, Sequence) or len(size) != 3:
        raise InputError(f"--size must be three numbers of voxels, such as 80,96,80, got {size}")
    depth, height, width = size
    simulate = {"brats_gli": phantoms.simulate_brats_gli, "isles22": phantoms.simulate_isles22}[task]
    simulate(Path(str(out)), cases, seed, spacing_mm, (depth, height, width), workers)
    return datalist(str(out), bundle=str(BUNDLES / f"{task}_dcd"), folds=folds, seed=seed)


def datalist(
    dataset_dir: str,
    bundle: str | None = None,
    files: Mapping[str, str | Sequence[str]] | None = None,
    label_file: str | Sequence[str] | None = None,
    reference: str | None = None,
    own_grid: Sequence[str] | None = None,
    labels: Mapping[str, int] | None = None,
    patient: str | None = None,
    folds: int = 5,
    seed: int = 0,
    nnunet_folds: bool = False,
    skip_incomplete: bool = False,
    out: str | None = None,
) -> str:
    r"""List all cases of a folder, in folds that keep each patient in one.

    Args:
        dataset_dir: the data set; its cases may lie at any depth.
        bundle: folder of the bundle that says how the files are named, such as bundles/brats_gli_dcd; what the next
            options say goes before it.
        files: pattern of each sequence's path, "{'t1n': '{case}-t1n.nii.gz', 't1c': '{case}-t1c.nii.gz'}".
        label_file: pattern of the label's path; "" for a list of unlabelled images, for inference.
        reference: sequence that names a case and shares the label's grid; the first by default.
        own_grid: sequences that need not share that grid, "['flair']".
        labels: values of the labels, "{'necrosis': 1, 'oedema': 2}".
        patient: regular expression whose first group is the patient in a case's name, "(.+)-\d{3}$".
        folds: number of folds.
        seed: of the assignment of patients to folds.
        nnunet_folds: nnU-Net's own folds, which may put a patient into several, to compare with published figures.
        skip_incomplete: leave out cases with missing or doubled files instead of stopping.
        out: file to write; DATASET_DIR/datalist.json by default.
    """
    folder = folder_of(dataset_dir)
    given: dict[str, object] = {"files": files, "label_file": label_file, "reference": reference, "own_grid": own_grid}
    given = {k: v for k, v in {**given, "labels": labels, "patient": patient}.items() if v is not None}
    if bundle is None and files is None:
        raise InputError("say how the files are named: --bundle bundles/brats_gli_dcd, or --files and --label_file")
    layout = file_naming.make_layout({**(bundle_settings(bundle) if bundle else {}), **given})
    rule = {"nnunet_folds": True} if nnunet_folds else {"seed": seed}
    options = {"bundle": bundle and f"bundles/{Path(bundle).resolve().name}", **given, "folds": folds, **rule}
    words = [word for name, value in options.items() if value is not None for word in (f"--{name}", str(value))]
    listed, skipped = datalists.make_datalist(
        folder,
        layout,
        folds=folds,
        seed=seed,
        nnunet=nnunet_folds,
        skip_incomplete=skip_incomplete,
        description=shlex.join(["python", "-m", "dcd_components", "datalist", "DIR", *words]),
    )
    datalists.write_datalist(listed, path := Path(out or folder / "datalist.json"))
    faults = "\n  ".join([f"left out, with {len(skipped)} faults:", *skipped]) + "\n" if skipped else ""
    return f"{faults}{len(listed.cases)} cases of {len({case['patient'] for case in listed.cases})} patients in {path}"


def new_bundle(
    name: str,
    channels: new_bundles.Names,
    labels: new_bundles.Names | Mapping[str, int],
    files: Mapping[str, str | Sequence[str]] | None = None,
    label_file: str | Sequence[str] = "{case}-seg.nii.gz",
    patient: str = "(.+)",
    reference: str | None = None,
    own_grid: Sequence[str] | None = None,
    dataset_dir: str | None = None,
    spacing: Sequence[float] | None = None,
    patch_size: Sequence[int] | None = None,
    out: str = ".",
) -> str:
    r"""Write a bundle for other sequences and labels, ready to train.

    Args:
        name: of the bundle and its new folder.
        channels: the sequences, in the order of the network's channels, "['Flair','T1c']".
        labels: values of the labels, "{'necrosis': 1, 'oedema': 2}", or only names, for 1, 2 and so on.
        files: pattern of each sequence's path; "{case}-Flair.nii.gz" for Flair by default.
        label_file: pattern of the label's path.
        patient: regular expression whose first group is the patient in a case's name, "(.+)-\d{3}$".
        reference: sequence that names a case and shares the label's grid; the first by default.
        own_grid: sequences that need not share that grid, "['flair']".
        dataset_dir: images to take spacing and patch from, where they are not given; 1 mm and 128^3 without.
        spacing: mm along each axis in RAS.
        patch_size: voxels along each axis in RAS.
        out: folder to put the new one into.
    """
    folder = new_bundles.free_folder(str(name), str(out))
    options = {"label_file": label_file, "patient": patient, "reference": reference, "own_grid": own_grid}
    layout = new_bundles.plan_layout(channels, labels, files=files, **options)
    task = new_bundles.plan_task(layout, dataset_dir, spacing, patch_size)
    new_bundles.write_bundle(folder, task)
    patch, mm = (" x ".join(map(str, sizes)) for sizes in (task.patch_size, task.spacing))
    return f"{folder}: patches of {patch} voxels of {mm} mm; its docs/README.md says what is still to be written"


def folder_of(name: object) -> Path:
    """Folder of a name that Fire took for a number or a list where it looks like one."""
    if not isinstance(name, (str, int, float)):
        raise InputError(f"quote a folder's name that looks like a list twice, got {name}")
    return Path(str(name))
