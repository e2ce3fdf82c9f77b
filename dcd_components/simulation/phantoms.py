"""Simulated patients in the folder layouts of BraTS 2024 GLI and ISLES 2022."""

import multiprocessing
import os
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

import nibabel as nib
import numpy as np
from tqdm import tqdm

from dcd_components.errors import InputError
from dcd_components.simulation import gliomas, stroke_scans, strokes
from dcd_components.simulation.anatomy import Grid, draw_brain

Case = TypeVar("Case")


def simulate_brats_gli(
    out: Path,
    cases: int,
    seed: int,
    spacing_mm: float = 2.0,
    size: tuple[int, int, int] = (80, 96, 80),
    workers: int | None = None,
) -> list[Path]:
    """Write simulated cases as ``<case>/<case>-{t1n,t1c,t2w,t2f,seg}.nii.gz`` below ``out``.

    Patients have one to three visits, between which their lesions evolve. Case k depends on ``seed``, the grid and k.
    Scripts call this below ``if __name__ == "__main__"``, since two or more workers are new processes.

    Args:
        out: folder to fill; new or empty.
        cases: number of visits to write, over all patients.
        seed: 0 or more.
        spacing_mm: edge of the isotropic voxels in mm.
        size: voxels along the axes right, anterior, superior.
        workers: processes; one per core by default.

    Returns:
        The folders of the cases, in order of patient and visit.

    Raises:
        InputError: for a folder that holds something, or a number out of its range.
    """
    workers = _check(out, cases, seed, spacing_mm, size, workers)
    write = partial(_write_glioma, out, Grid(size, spacing_mm), seed)
    return _write_all(write, _visits(cases, seed), out, workers)


def simulate_isles22(
    out: Path,
    cases: int,
    seed: int,
    spacing_mm: float = 2.0,
    size: tuple[int, int, int] = (80, 96, 72),
    workers: int | None = None,
) -> list[Path]:
    """Write simulated cases in the layout of the ISLES 2022 challenge below ``out``.

    With ``<patient>`` for ``sub-strokecase0001`` and so on, images go to
    ``rawdata/<patient>/ses-0001/<patient>_ses-0001_{flair,dwi,adc}.nii.gz``, masks of the acute infarcts to
    ``derivatives/<patient>/ses-0001/<patient>_ses-0001_msk.nii.gz``. FLAIR has thick slices at another angle, and the
    head has moved a little since, which no header tells. About one patient in seventy has no infarct. Case k depends
    on ``seed``, the grid and k. Scripts call this below ``if __name__ == "__main__"``, since two or more workers are
    new processes.

    Args:
        out: folder to fill; new or empty.
        cases: number of patients to write.
        seed: 0 or more.
        spacing_mm: edge of the isotropic voxels of DWI, ADC and mask in mm.
        size: voxels of DWI, ADC and mask along the axes left, anterior, superior.
        workers: processes; one per core by default.

    Returns:
        The folders of the images, in order of patient.

    Raises:
        InputError: for a folder that holds something, or a number out of its range.
    """
    workers = _check(out, cases, seed, spacing_mm, size, workers)
    write = partial(_write_stroke, out, Grid(size, spacing_mm), seed)
    return _write_all(write, range(1, cases + 1), out, workers)


def _check(out: Path, cases: int, seed: int, spacing_mm: float, size: tuple[int, int, int], workers: int | None) -> int:
    """Refuse arguments out of their range; the number of workers."""
    workers = os.cpu_count() or 1 if workers is None else workers
    for name, value, least in (("cases", cases, 1), ("workers", workers, 1), ("seed", seed, 0), ("size", min(size), 1)):
        if value < least:
            raise InputError(f"{name} must be at least {least}, got {value}")
    if not 0 < spacing_mm < float("inf"):
        raise InputError(f"spacing_mm must be above 0 and finite, got {spacing_mm}")
    if out.exists() and any(out.iterdir()):
        raise InputError(f"out must be a new or an empty folder, got {out} with files in it")
    return workers


def _write_all(write: Callable[[Case], Path], cases: Sequence[Case], out: Path, workers: int) -> list[Path]:
    """Write each of ``cases`` below ``out``, on ``workers`` processes."""
    out.mkdir(parents=True, exist_ok=True)
    progress = partial(tqdm, total=len(cases), desc="simulated cases", unit="case")
    if workers == 1:
        return list(progress(map(write, cases)))
    with ProcessPoolExecutor(min(workers, len(cases)), mp_context=multiprocessing.get_context("spawn")) as pool:
        return list(progress(pool.map(write, cases)))


def _visits(cases: int, seed: int) -> list[tuple[int, int]]:
    """First ``cases`` pairs of patient and visit."""
    pairs: list[tuple[int, int]] = []
    patient = 0
    while len(pairs) < cases:
        rng = np.random.default_rng([seed, patient])
        pairs += [(patient, visit) for visit in range(rng.choice([1, 2, gliomas.MAX_VISITS], p=[0.7, 0.2, 0.1]))]
        patient += 1
    return pairs[:cases]


def _write_glioma(out: Path, grid: Grid, seed: int, visit: tuple[int, int]) -> Path:
    """Simulate one ``(patient, visit)`` and write its five files; its folder."""
    patient, number = visit
    case = f"BraTS-GLI-{patient:05d}-{100 + number}"
    seeds = np.random.SeedSequence([seed, patient]).spawn(3 + gliomas.MAX_VISITS)
    anatomy, disease, style, *scans = [np.random.default_rng(one) for one in seeds]
    brain = draw_brain(anatomy, grid)
    lesions = gliomas.draw_lesions(disease, brain, number)
    scanned = {name: gliomas.render(name, style, scans[number], brain, lesions) for name in gliomas.CONTRAST}
    arrays = {**scanned, "seg": lesions[0]}
    files = {f"{case}/{case}-{name}": nib.Nifti1Image(array, grid.affine) for name, array in arrays.items()}
    _save(out, files, (case,))
    return out / case


def _write_stroke(out: Path, grid: Grid, seed: int, number: int) -> Path:
    """Simulate one patient and write the four files; the folder of the images."""
    patient = f"sub-strokecase{number:04d}"
    seeds = np.random.SeedSequence([seed, number]).spawn(3)
    anatomy, disease, scan = [np.random.default_rng(one) for one in seeds]
    brain = strokes.draw_patient(anatomy, grid)
    images = stroke_scans.scan_patient(scan, brain, strokes.draw_lesions(disease, brain))
    roots = {name: "derivatives" if name == "msk" else "rawdata" for name in images}
    files = {f"{roots[name]}/{patient}/ses-0001/{patient}_ses-0001_{name}": image for name, image in images.items()}
    # readers look for images: those appear last, when their mask is there
    _save(out, files, (f"derivatives/{patient}", f"rawdata/{patient}"))
    return out / "rawdata" / patient / "ses-0001"


def _save(out: Path, images: dict[str, nib.Nifti1Image], folders: Sequence[str]) -> None:
    """Write a case in a hidden folder, then move its ``folders`` to their places below ``out``: all or none."""
    with tempfile.TemporaryDirectory(prefix=".", dir=out) as unfinished:
        for name, image in images.items():
            path = Path(unfinished, f"{name}.nii.gz")
            path.parent.mkdir(parents=True, exist_ok=True)
            nib.save(image, path)
        for folder in folders:
            (out / folder).parent.mkdir(exist_ok=True)
            Path(unfinished, folder).rename(out / folder)
