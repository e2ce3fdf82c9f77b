"""MRI of a patient with stroke as in ISLES 2022: DWI and ADC on one grid, FLAIR in thick slices on another."""

from typing import NamedTuple

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from dcd_components.simulation.anatomy import BRAIN_CENTRE_MM, Brain, Field, Generator, Grid, smooth_noise
from dcd_components.simulation.strokes import Lesions, sample_tissue

Affine = NDArray[np.float64]
Image = NDArray[np.int16]

Range = tuple[float, float]


class Tissues(NamedTuple):
    """Signal of healthy tissue in one image, relative to white matter; for ADC the diffusivity in 1e-3 mm2/s."""

    grey_matter: float
    white_matter: float
    csf: float
    texture: float


class Changes(NamedTuple):
    """Ranges of the factors by which what is drawn changes the tissue's signal in one image."""

    acute_infarct: Range
    hyperintensity: Range
    scar: Range
    bright_cortex: Range
    blood: Range


TISSUES = {
    "t2": Tissues(grey_matter=1.42, white_matter=1.0, csf=2.6, texture=-0.4),
    "adc": Tissues(grey_matter=0.82, white_matter=0.74, csf=3.0, texture=0.0),
    "flair": Tissues(grey_matter=1.28, white_matter=1.0, csf=0.28, texture=-0.4),
}
CHANGES = {
    "t2": Changes(
        acute_infarct=(1.1, 1.45),
        hyperintensity=(1.3, 1.7),
        scar=(1.3, 1.6),
        bright_cortex=(1.2, 1.6),
        blood=(0.3, 0.6),
    ),
    "adc": Changes(
        acute_infarct=(0.4, 0.6),
        hyperintensity=(1.15, 1.4),
        scar=(1.3, 1.7),
        bright_cortex=(0.95, 1.05),
        blood=(0.4, 0.8),
    ),
    "flair": Changes(
        acute_infarct=(1.15, 1.9),
        hyperintensity=(1.4, 1.7),
        scar=(1.35, 1.7),
        bright_cortex=(1.0, 1.08),
        blood=(0.5, 0.8),
    ),
}
# share of infarcts of the first hours, which FLAIR does not show yet
HYPERACUTE = 0.22


def scan_patient(rng: Generator, brain: Brain, lesions: Lesions) -> dict[str, nib.Nifti1Image]:
    """Scan a patient; axes left, anterior, superior.

    Args:
        rng: of scanner, positions and signals.
        brain: the patient's healthy brain.
        lesions: what was drawn in it.

    Returns:
        Images ``flair``, ``dwi`` (b = 1000 s/mm2), ``adc`` (in 1e-3 mm2/s), and the mask ``msk`` of acute infarcts.
    """
    acute, weights, pile_up = lesions
    values = {name: [rng.uniform(*span) for span in spans] for name, spans in CHANGES.items()}
    if rng.random() < HYPERACUTE:
        values["flair"][Changes._fields.index("acute_infarct")] = rng.uniform(1, 1.05)
    changes = {name: _change(value, weights[:-1]) for name, value in values.items()}
    t2, diffusivity = (_signal(name, brain.tissue, changes[name], weights[-1]) for name in ("t2", "adc"))
    dwi, adc = _diffusion(rng, brain, t2 * pile_up, diffusivity)
    affine, affine_flair, index, size = _positions(rng, brain.grid)
    flair = _flair(rng, brain, index, size, np.stack([changes["flair"], weights[-1]]))
    arrays = {"flair": flair, "dwi": dwi, "adc": adc, "msk": acute}
    left = np.array([[0, -1], [1, 1], [2, 1]])
    return {
        name: nib.Nifti1Image(array, affine_flair if name == "flair" else affine).as_reoriented(left)
        for name, array in arrays.items()
    }


def _positions(rng: Generator, grid: Grid) -> tuple[Affine, Affine, Affine, tuple[int, int, int]]:
    """Place both grids: their affines, the true matrix from FLAIR's voxels to those of DWI, and FLAIR's size."""
    spacing = grid.spacing_mm * rng.uniform((0.46, 0.46, 2.3), (0.54, 0.54, 2.7))
    spacing[1] = spacing[0]
    across, along, up = (np.ceil(1.06 * grid.spacing_mm * np.array(grid.size) / spacing) + 1).astype(int).tolist()
    local = np.diag([*spacing, 1.0])
    local[:3, 3] = BRAIN_CENTRE_MM - spacing * (np.array([across, along, up]) - 1) / 2
    tilt = _motion(rng, (12, 4, 4), 4.0)
    affine, affine_flair = tilt @ grid.affine, _motion(rng, (8, 3, 3), 2.0) @ tilt @ local
    # at most 1 degree and 1.5 mm in all, between the two scans
    moved = _motion(rng, (0.57, 0.57, 0.57), 0.85)
    return affine, affine_flair, np.linalg.inv(moved @ affine) @ affine_flair, (across, along, up)


def _motion(rng: Generator, degrees: tuple[float, float, float], shift_mm: float) -> Affine:
    """Rotation about the brain's centre by at most ``degrees`` about each axis, and a shift along each, ``(4, 4)``."""
    move = np.eye(4)
    move[:3, :3] = Rotation.from_euler("xyz", rng.uniform(-1, 1, 3) * degrees, degrees=True).as_matrix()
    move[:3, 3] = BRAIN_CENTRE_MM - move[:3, :3] @ BRAIN_CENTRE_MM + rng.uniform(-shift_mm, shift_mm, 3)
    return move


def _change(values: list[float], weights: Field) -> Field:
    """Factor by which the changes of the tissue alter its signal."""
    factor = np.ones(weights.shape[1:], np.float32)
    for value, weight in zip(values, weights, strict=True):
        factor *= 1 + weight * np.float32(value - 1)
    return factor


def _signal(name: str, tissue: Field, factor: Field, cavity: Field) -> Field:
    """Signal of healthy tissue altered by ``factor`` and of CSF, which fills cavities too."""
    healthy = TISSUES[name]
    solid = healthy.grey_matter * tissue[0] + healthy.white_matter * tissue[1] + healthy.texture * tissue[2]
    solid = solid * factor * (1 - cavity)
    return np.asarray(solid + healthy.csf * (tissue[3] - (tissue[0] + tissue[1]) * (1 - cavity)), np.float32)


def _diffusion(rng: Generator, brain: Brain, t2: Field, adc: Field) -> tuple[Image, Field]:
    """Measure diffusion from two noisy echo-planar images, without and with diffusion weighting."""
    bias = np.exp(rng.uniform(0.03, 0.1) * smooth_noise(rng, brain.grid, 60.0))
    width, sd = rng.uniform(0.35, 0.5), rng.uniform(0.008, 0.025)
    adc = adc * np.exp(0.08 * smooth_noise(rng, brain.grid, 5.0))
    # eddy currents displace the two images against each other, which changes ADC at edges
    shift = 0, rng.uniform(-0.5, 0.5), 0
    scans = []
    for signal in (ndimage.shift(t2, shift, order=1), t2 * np.exp(-adc)):
        noise = sd * rng.standard_normal((2, *brain.grid.size), dtype=np.float32)
        scans.append(np.hypot(ndimage.gaussian_filter(signal, width) * bias + noise[0], noise[1]))
    measured = np.clip(np.log(scans[0] / scans[1]), 0.01, 4)
    dwi = np.maximum(np.rint(scans[1] * rng.uniform(300, 900)), 1)
    return (dwi * brain.inside).astype(np.int16), (measured.round(3) * brain.inside).astype(np.float32)


def _flair(rng: Generator, brain: Brain, index: Affine, size: tuple[int, int, int], altered: Field) -> Image:
    """Scan FLAIR on voxels that ``index`` takes to those of ``brain``; thick slices, sharp within each."""
    matrix, start = index[:3, :3].astype(np.float32), index[:3, 3:].astype(np.float32)
    places = np.einsum("ij,jxyz->ixyz", matrix, np.indices(size, np.float32)) + start[:, :, None, None]
    around = ndimage.binary_dilation(brain.inside).astype(np.uint8)
    near = ndimage.map_coordinates(around, places, order=0, mode="nearest") > 0
    maps = np.concatenate([brain.points - brain.grid.points(), altered])
    image, inside = np.zeros((2, *size), np.float32)
    for step in (-0.25, 0.25):
        signal, head = _sample_flair(brain.grid, places[:, near] + np.float32(step) * matrix[:, 2:], maps)
        image[near] += signal / 2
        inside[near] += head / 2
    image = ndimage.gaussian_filter(image, (0.5, 0.5, 0))
    # the grid's isotropic spacing only sets how fast the bias varies, within a slice
    image *= np.exp(rng.uniform(0.03, 0.1) * smooth_noise(rng, Grid(size, brain.grid.spacing_mm / 2), 60.0))
    noise = rng.uniform(0.015, 0.04) * rng.standard_normal((2, *size), dtype=np.float32)
    magnitude = np.hypot(image + noise[0], noise[1]) * rng.uniform(250, 1000)
    return np.asarray(np.maximum(np.rint(magnitude), 1) * (inside > 0.5), np.int16)


def _sample_flair(grid: Grid, places: Field, maps: Field) -> tuple[Field, Field]:
    """Signal and share of brain at ``places`` ``(3, N)`` in voxels of ``grid``; ``maps`` of shift, change, cavity."""
    *shift, change, cavity = (ndimage.map_coordinates(one, places, order=1, mode="nearest") for one in maps)
    origin = grid.affine[:3, 3:].astype(np.float32)
    tissue = sample_tissue(grid, places * np.float32(grid.spacing_mm) + origin + np.stack(shift))
    return _signal("flair", tissue, change, cavity), tissue[3]
