"""The healthy brain of a simulated patient: random deformations of the ICBM152 template that nilearn ships."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

Field = NDArray[np.float32]
Mask = NDArray[np.bool_]
Labels = NDArray[np.uint8]
Generator = np.random.Generator

BRAIN_CENTRE_MM = np.array([0.0, -17.0, 5.0], dtype=np.float32)


@dataclass(frozen=True)
class Grid:
    """Isotropic voxel grid centred on the brain, axes right, anterior, superior.

    Args:
        size: voxels along each axis.
        spacing_mm: edge of a voxel in mm.
    """

    size: tuple[int, int, int]
    spacing_mm: float

    @property
    def affine(self) -> NDArray[np.float64]:
        """Matrix ``(4, 4)`` from voxel indices to MNI coordinates in mm."""
        affine = np.diag([self.spacing_mm] * 3 + [1.0])
        affine[:3, 3] = BRAIN_CENTRE_MM - self.spacing_mm * (np.array(self.size) - 1) / 2
        return affine

    def points(self) -> Field:
        """MNI coordinates of the voxels in mm, ``(3, X, Y, Z)``."""
        steps = np.indices(self.size, dtype=np.float32) * np.float32(self.spacing_mm)
        return steps + self.affine[:3, 3, None, None, None].astype(np.float32)


def smooth_noise(rng: Generator, grid: Grid, cell_mm: float) -> Field:
    """Gaussian field ``(X, Y, Z)`` of unit variance that varies over about ``cell_mm`` mm."""
    cells = [max(4, round(length * grid.spacing_mm / cell_mm) + 1) for length in grid.size]
    field = rng.standard_normal(cells, dtype=np.float32)
    for count, length in zip(cells, grid.size, strict=True):
        # mirrored, as rounding may put the last row just outside, where zoom would give zeros
        weights = ndimage.zoom(np.eye(count, dtype=np.float32), (length / count, 1), order=3, mode="mirror")
        weights /= np.linalg.norm(weights, axis=1, keepdims=True)
        # einsum, unlike a matrix product, gives the same bits whatever the number of BLAS threads
        field = np.einsum("abc,ia->bci", field, weights)
    return field


@dataclass(frozen=True)
class Template:
    """Maps of the ICBM152 brain at 1 mm and places where a glioma may sit.

    Args:
        maps: grey matter, white matter, fine texture and brain, ``(4, X, Y, Z)``.
        origin_mm: MNI coordinates of the first voxel in mm.
        seats_mm: MNI coordinates of deep cerebral white matter in mm, ``(N, 3)``.
    """

    maps: Field
    origin_mm: Field
    seats_mm: Field

    def sample(self, points: Field) -> Field:
        """Maps at MNI ``points`` ``(3, X, Y, Z)`` in mm, as ``(4, X, Y, Z)``, 0 outside."""
        index = points - self.origin_mm[:, None, None, None]
        return np.stack([ndimage.map_coordinates(one, index, order=1) for one in self.maps])


@lru_cache(maxsize=1)
def load_template(spacing_mm: float) -> Template:
    """Read the template, once per process, and blur it to the resolution of ``spacing_mm``."""
    from nilearn import datasets  # slow to import, and nothing else needs it

    image = datasets.load_mni152_template(resolution=1)
    t1 = image.get_fdata(dtype=np.float32)
    grey = datasets.load_mni152_gm_template(resolution=1).get_fdata(dtype=np.float32)
    white = datasets.load_mni152_wm_template(resolution=1).get_fdata(dtype=np.float32)
    brain = (t1 > 0).astype(np.float32)
    local_mean = ndimage.gaussian_filter(t1, 2.0) / np.maximum(ndimage.gaussian_filter(brain, 2.0), 0.05)
    grey, white = _sharpen(t1 + 2 * (t1 - local_mean), grey, white)
    grey, white = grey * brain, white * brain
    texture = (t1 - local_mean) * brain
    blurred = np.stack([ndimage.gaussian_filter(one, 0.3 * spacing_mm) for one in (grey, white, texture, brain)])
    origin = image.affine[:3, 3].astype(np.float32)
    deep = ndimage.gaussian_filter(white, 4.0)[::3, ::3, ::3] > 0.55
    seats = 3 * np.argwhere(deep).astype(np.float32) + origin
    cerebrum = (np.abs(seats[:, 0]) > 16) & (seats[:, 2] > 0) & (seats[:, 2] < 48)
    return Template(blurred, origin, seats[cerebrum])


def _sharpen(t1: Field, grey: Field, white: Field) -> tuple[Field, Field]:
    """Turn the blurred maps of 152 people into one person's: posterior given the sharpened T1."""
    t1 = np.clip(t1, 0.27, 0.87)
    priors = grey + 0.05, white + 0.02, np.clip(1 - grey - white, 0, 1) + 0.1
    # modes of grey matter, white matter and CSF in this template's T1
    weights = [p * np.exp(-0.5 * ((t1 - mode) / 0.1) ** 2) for p, mode in zip(priors, (0.62, 0.85, 0.3), strict=True)]
    total = sum(weights)
    return weights[0] / total, weights[1] / total


def _deform(rng: Generator, grid: Grid) -> Field:
    """MNI coordinates in mm of each voxel of a random head, ``(3, X, Y, Z)``."""
    matrix = Rotation.from_euler("xyz", rng.uniform(-8, 8, 3), degrees=True).as_matrix()
    matrix = matrix @ (np.diag(rng.uniform(0.98, 1.08, 3)) + np.triu(rng.normal(0, 0.02, (3, 3)), 1))
    centre = BRAIN_CENTRE_MM[:, None, None, None]
    points: Field = np.einsum("ij,jxyz->ixyz", matrix.astype(np.float32), grid.points() - centre) + centre
    for cell_mm, sd_mm in ((40.0, 2.2), (17.0, 1.2)):
        points += sd_mm * np.stack([smooth_noise(rng, grid, cell_mm) for _ in range(3)])
    return points


def _push_apart(points: Field, centre_mm: Field, volume_ml: float) -> Field:
    """Coordinates after ``volume_ml`` of tissue was squeezed in at ``centre_mm``, volume kept elsewhere."""
    offset: Field = points - centre_mm[:, None, None, None]
    cubed = np.sqrt(np.square(offset).sum(0)) ** 3 + 1e-3
    shrunk: Field = np.cbrt(np.maximum(1 - volume_ml * 750 / np.pi / cubed, 0.02)).astype(np.float32)
    return np.asarray(offset * shrunk + centre_mm[:, None, None, None])


@dataclass(frozen=True)
class Brain:
    """One person's brain, the same on every visit.

    Args:
        grid: voxels it is sampled on.
        points: MNI coordinates of the voxels in mm, ``(3, X, Y, Z)``; lesions drawn in them share the brain's shape.
        tissue: grey matter, white matter, fine texture and brain, ``(4, X, Y, Z)``.
        seats_mm: MNI coordinates in mm of the tumour and of three other places in white matter, ``(4, 3)``.
        noise: two fields of unit variance for rough borders, coarse and fine, ``(2, X, Y, Z)``.
    """

    grid: Grid
    points: Field
    tissue: Field
    seats_mm: Field
    noise: Field

    @property
    def inside(self) -> Mask:
        """Voxels within the skull-stripped brain."""
        return np.asarray(self.tissue[3] > 0.5)

    @property
    def parenchyma(self) -> Mask:
        """Voxels of grey and white matter, narrow sulci included, ventricles not."""
        solid = ndimage.gaussian_filter(self.tissue[:2].sum(0), 1.5 / self.grid.spacing_mm)
        return np.asarray(self.inside & (solid > 0.45))

    @property
    def outward(self) -> Field:
        """Unit vector from the brain's centre to the tumour, ``(3,)``."""
        offset = self.seats_mm[0] - BRAIN_CENTRE_MM
        return np.asarray(offset / np.linalg.norm(offset))

    def distance(self, rng: Generator, centre_mm: NDArray[np.floating], noise: Field) -> Field:
        """Distance in mm from ``centre_mm`` along randomly stretched axes, roughened by ``noise``, ``(X, Y, Z)``."""
        axes = Rotation.random(rng=rng).as_matrix() * np.exp(rng.normal(0, 0.18, 3))
        offset = self.points - centre_mm.astype(np.float32)[:, None, None, None]
        stretched = np.einsum("ji,jxyz->ixyz", axes.astype(np.float32), offset)
        return np.asarray(np.sqrt(np.square(stretched).sum(0)) * (1 + 0.25 * noise.clip(-2, 2)))

    def level(self, distance: Field, allowed: Mask, volume_ml: float) -> float:
        """Distance below which ``volume_ml`` of the ``allowed`` voxels lie, ``-inf`` for none."""
        count = min(round(volume_ml * 1000 / self.grid.spacing_mm**3), int(allowed.sum()))
        return float(np.partition(distance[allowed], count - 1)[count - 1]) if count else -np.inf


def draw_brain(rng: Generator, grid: Grid) -> Brain:
    """Draw a person: head shape, folds, place of the tumour and the mass effect around it."""
    template = load_template(grid.spacing_mm)
    points = _deform(rng, grid)
    seats = rng.choice(template.seats_mm, 4)
    tissue = template.sample(_push_apart(points, seats[0], rng.uniform(2, 8)))
    coarse, fine = smooth_noise(rng, grid, 20.0), smooth_noise(rng, grid, 9.0)
    return Brain(grid, points, tissue, seats, np.stack([0.9 * coarse + 0.44 * fine, fine]))


def vessel(rng: Generator, grid: Grid, points_per_mm: int = 2) -> Field:
    """One winding vessel of 30 to 70 mm, weights 0 to 1, ``(X, Y, Z)``."""
    steps = points_per_mm * int(rng.integers(30, 70))
    heading = rng.normal(size=3) + np.cumsum(rng.normal(0, 0.25, (steps, 3)), axis=0)
    path = np.cumsum(heading / np.linalg.norm(heading, axis=1, keepdims=True), axis=0) / points_per_mm
    start = rng.uniform(0.25, 0.75, 3) * grid.size
    index = np.rint(start + path / grid.spacing_mm).astype(int)
    index = index[((index >= 0) & (index < grid.size)).all(1)]
    weights = np.zeros(grid.size, dtype=np.float32)
    np.maximum.at(weights, tuple(index.T), 1)
    return weights
