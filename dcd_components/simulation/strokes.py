"""An acute ischaemic stroke, drawn: embolic showers, territorial infarcts, lacunes, and what only looks like one."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from dcd_components.simulation.anatomy import (
    BRAIN_CENTRE_MM,
    Brain,
    Field,
    Generator,
    Grid,
    Labels,
    Mask,
    draw_brain,
    load_template,
    smooth_noise,
)

# mask of acute infarcts; weights (0 to 1) of acute infarct, hyperintensity, scar, bright cortex, blood and cavity,
# ``(6, X, Y, Z)``; factor by which distortion brightens echo-planar images
Lesions = tuple[Labels, Field, Field]
Volumes = NDArray[np.float64]

Place = tuple[int, int, int]


class Territory(NamedTuple):
    """What an artery supplies.

    Args:
        middle_mm: of the territory in the right hemisphere, MNI coordinates.
        apex_mm: deep end of its infarcts, likewise.
        largest_ml: volume that its infarcts reach.
        share: of the infarcts that are its.
    """

    middle_mm: Place
    apex_mm: Place
    largest_ml: int
    share: float


TERRITORIES = (
    Territory((50, 2, 30), (27, 0, 14), largest_ml=150, share=0.34),  # middle cerebral artery, upper division
    Territory((54, -40, 14), (28, -25, 8), largest_ml=150, share=0.28),  # middle cerebral artery, lower division
    Territory((10, 25, 40), (9, 18, 16), largest_ml=45, share=0.08),  # anterior cerebral artery
    Territory((16, -82, 6), (20, -45, 4), largest_ml=45, share=0.15),  # posterior cerebral artery
    Territory((18, -62, -32), (8, -48, -26), largest_ml=45, share=0.15),  # cerebellar arteries
)
# of the right hemisphere, MNI mm: basal ganglia, thalamus, white matter and pons, where small arteries close
DEEP_MM = ((25, -2, 6), (13, -18, 8), (25, -12, 28), (24, 15, 22), (5, -28, -32))
# where air and bone beside the brain distort echo-planar images: orbits, petrous bones, transverse sinuses
AIR_MM = ((10, 45, -22), (-10, 45, -22), (55, -28, -28), (-55, -28, -28), (28, -82, -35), (-28, -82, -35))


def sample_tissue(grid: Grid, points: Field) -> Field:
    """Grey matter, white matter, fine texture and brain at MNI ``points`` ``(3, N)`` in mm of an ageing brain."""
    maps: Field = load_template(grid.spacing_mm).sample(points[:, :, None, None])[:, :, 0, 0]
    solid = maps[0] + maps[1]
    maps[:2] *= np.clip(1 - 0.25 * (1 - solid) / np.maximum(0.75 * solid, 1e-3), 0, 1)
    return maps


def draw_patient(rng: Generator, grid: Grid) -> Brain:
    """Draw a person with wide sulci, whose brain no tumour displaces."""
    brain = draw_brain(rng, grid)
    near = ndimage.binary_dilation(brain.inside)
    tissue = np.zeros_like(brain.tissue)
    tissue[:, near] = sample_tissue(grid, brain.points[:, near])
    return replace(brain, tissue=tissue)


def draw_lesions(rng: Generator, brain: Brain) -> Lesions:
    """Draw a shower of emboli, a territorial infarct, a lacune or none, and what is not acute."""
    acute = np.zeros(brain.grid.size, bool)
    allowed = brain.inside & (brain.tissue[:2].sum(0) > 0.55)
    kind = rng.choice(["none", "lacune", "shower", "territory"], p=[0.015, 0.11, 0.455, 0.42])
    side = rng.choice([-1, 1])
    beside = allowed & (brain.points[0] * side > 0)
    if kind == "lacune":
        seat_mm = np.multiply(DEEP_MM[rng.integers(len(DEEP_MM))], (side, 1, 1))
        _scatter(rng, brain, acute, beside, seat_mm, rng.uniform(0.1, 1.6, 1), spread_mm=6.0)
    elif kind == "shower":
        volumes_ml = _emboli(rng, min(1 + rng.geometric(0.12), 28))
        spread = rng.random() < 0.35
        seat_mm = np.multiply(TERRITORIES[_struck(rng)].middle_mm, (side, 1, 1))
        _scatter(rng, brain, acute, allowed if spread else beside, seat_mm, volumes_ml, 90.0 if spread else 24.0)
    elif kind == "territory":
        struck = _struck(rng)
        reach, seat_mm = _territory(rng, brain, struck, side)
        volume_ml = np.clip(rng.lognormal(3.3, 0.85), 10, TERRITORIES[struck].largest_ml)
        acute |= beside & (reach <= brain.level(reach, beside, volume_ml))
        _scatter(rng, brain, acute, beside, seat_mm, _emboli(rng, rng.choice([0, 1, 2, 4, 6], p=[0.4, *[0.15] * 4])))
    weights = acute * np.clip(0.85 + 0.12 * brain.noise[1], 0.6, 1), *_imitations(rng, brain, allowed & ~acute)
    return acute.astype(np.uint8), np.stack(weights).astype(np.float32), _pile_up(rng, brain)


def _emboli(rng: Generator, number: int) -> Volumes:
    """Volumes in ml of the infarcts of ``number`` emboli."""
    return np.clip(rng.lognormal(-1.7, 1.1, number), 0.04, 4)


def _struck(rng: Generator) -> int:
    """Draw a vascular territory."""
    return int(rng.choice(len(TERRITORIES), p=[one.share for one in TERRITORIES]))


def _scatter(
    rng: Generator,
    brain: Brain,
    lesion: Mask,
    allowed: Mask,
    seat_mm: NDArray[np.floating],
    volumes_ml: Volumes,
    spread_mm: float = 24.0,
) -> None:
    """Add blobs of the given volumes to ``lesion``, about ``spread_mm`` from ``seat_mm``."""
    where = np.argwhere(allowed)
    offset = brain.points[:, allowed] - np.asarray(seat_mm, np.float32)[:, None]
    odds = np.exp(-0.5 * np.square(offset / spread_mm).sum(0)) * (0.3 + brain.tissue[0][allowed]) + 1e-12
    centres = where[rng.choice(len(where), len(volumes_ml), p=odds / odds.sum())]
    # at least two voxels, or coarse grids would have no lesion
    for centre, volume_ml in zip(centres, np.maximum(volumes_ml, 2e-3 * brain.grid.spacing_mm**3), strict=True):
        half = int(16 * np.cbrt(volume_ml) / brain.grid.spacing_mm) + 2
        box = tuple(slice(max(place - half, 0), place + half + 1) for place in centre)
        part = replace(brain, points=brain.points[(slice(None), *box)])
        distance = part.distance(rng, brain.points[(slice(None), *centre)], brain.noise[1][box])
        lesion[box] |= allowed[box] & (distance <= part.level(distance, allowed[box], volume_ml))


def _territory(rng: Generator, brain: Brain, struck: int, side: int) -> tuple[Field, NDArray[np.floating]]:
    """Order in which an occluded artery's tissue dies, a wedge that widens to the cortex; and its place there in mm."""
    mirror = np.array([side, 1, 1], np.float32)
    middles = np.array([one.middle_mm for one in TERRITORIES], np.float32) * mirror
    apex = np.asarray(TERRITORIES[struck].apex_mm, np.float32) * mirror + rng.normal(0, 3, 3).astype(np.float32)
    away = np.stack([np.sqrt(np.square(brain.points - middle[:, None, None, None]).sum(0)) for middle in middles])
    beyond = np.maximum(away[struck] - away.min(0), 0)
    axis = middles[struck] + rng.normal(0, 9, 3).astype(np.float32) - apex
    length = np.linalg.norm(axis)
    offset = brain.points - apex[:, None, None, None]
    along = np.einsum("i,ixyz->xyz", axis / length, offset)
    across = np.sqrt(np.maximum(np.square(offset).sum(0) - along**2, 0))
    reach = across / np.clip(0.35 + 0.65 * along / length, 0.3, 1.3) + 0.5 * np.maximum(length - along, 0)
    reach = (reach + 2 * beyond + 4) * (1 + 0.22 * brain.noise[0].clip(-2, 2)) + 2.5 * brain.noise[1]
    reach += 1.5 * smooth_noise(rng, brain.grid, 5.0) - 4 * brain.tissue[0]
    return reach, apex + axis


def _imitations(rng: Generator, brain: Brain, free: Mask) -> tuple[Field, ...]:
    """Weights of what is not acute: hyperintense white matter, scars, bright cortex, old bleeds, cavities."""
    fine = smooth_noise(rng, brain.grid, 6.0)
    lost, scar, blood = np.zeros((3, *brain.grid.size), bool)
    if rng.random() < 0.3:
        side = rng.choice([-1, 1])
        reach, _ = _territory(rng, brain, _struck(rng), side)
        beside, volume_ml = free & (brain.points[0] * side > 0), rng.lognormal(1.8, 0.8)
        scar |= beside & (reach <= brain.level(reach, beside, volume_ml))
        lost |= beside & (reach <= brain.level(reach, beside, volume_ml * rng.uniform(0.3, 0.7)))
    seat_mm = np.multiply(DEEP_MM[rng.integers(len(DEEP_MM))], (rng.choice([-1, 1]), 1, 1))
    _scatter(rng, brain, lost, free, seat_mm, rng.uniform(0.03, 0.2, rng.integers(0, 4)), spread_mm=12.0)
    _scatter(
        rng, brain, blood, free & ~lost, BRAIN_CENTRE_MM, rng.uniform(0.02, 0.3, rng.integers(0, 6)), spread_mm=60.0
    )
    scar |= ndimage.binary_dilation(lost) & free & ~lost
    cortex = brain.tissue[0] * free * np.clip(brain.noise[1] + 0.5 * fine - rng.uniform(1.5, 2.2), 0, 1)
    return _hyperintensity(rng, brain, fine) * free, scar, cortex, blood, lost


def _hyperintensity(rng: Generator, brain: Brain, fine: Field) -> Field:
    """White matter of small-vessel disease, around the ventricles and in deep spots."""
    x, y, z = brain.points
    grey, white, _, head = brain.tissue
    ventricles = (head - grey - white) * ((abs(x) < 28) & (y > -45) & (y < 32) & (z > 0) & (z < 26))
    near = ndimage.gaussian_filter(ventricles, 4.0 / brain.grid.spacing_mm)
    caps = 4 * near + 0.4 * brain.noise[0] + 0.25 * fine - rng.choice([1.5, 0.9, 0.5], p=[0.4, 0.35, 0.25])
    spots = (2 * fine - rng.uniform(4.0, 6.0)) * (z > 0)
    return np.asarray(white * np.maximum(np.clip(caps, 0, 1) * (near > 0.04), np.clip(spots, 0, 1)))


def _pile_up(rng: Generator, brain: Brain) -> Field:
    """Factor of echo-planar signal near the skull base, where distortion squeezes it together."""
    rim = np.clip(2 - 2 * ndimage.gaussian_filter(brain.inside.astype(np.float32), 5.0 / brain.grid.spacing_mm), 0, 1)
    factor = np.ones(brain.grid.size, np.float32)
    for place in AIR_MM:
        offset = brain.points - (place + rng.normal(0, 5, 3)).astype(np.float32)[:, None, None, None]
        factor += rng.uniform(0, 4) * rim * np.exp(-0.5 * np.square(offset / 12).sum(0))
    return factor
