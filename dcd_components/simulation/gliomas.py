"""A glioma after surgery as BraTS 2024 GLI shows it: drawn for each visit of a patient, then scanned."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from dcd_components.simulation.anatomy import Brain, Field, Generator, Labels, Mask, smooth_noise, vessel

# labels, how far each voxel's signal is changed by its lesion (0 to 1), weights of the unlabelled confounders
Lesions = tuple[Labels, Field, Field]

NETC, SNFH, ET, RC = 1, 2, 3, 4
MAX_VISITS = 3


class Contrast(NamedTuple):
    """Signal of each tissue and lesion in one sequence, relative to white matter."""

    grey_matter: float
    white_matter: float
    csf: float
    necrosis: float
    oedema: float
    enhancing: float
    cavity: float
    vessel: float
    blood: float
    hyperintensity: float


CONTRAST = {
    "t1n": Contrast(
        grey_matter=0.76,
        white_matter=1.00,
        csf=0.34,
        necrosis=0.55,
        oedema=0.73,
        enhancing=0.74,
        cavity=0.34,
        vessel=0.95,
        blood=1.25,
        hyperintensity=0.90,
    ),
    "t1c": Contrast(
        grey_matter=0.80,
        white_matter=1.00,
        csf=0.36,
        necrosis=0.55,
        oedema=0.75,
        enhancing=1.40,
        cavity=0.36,
        vessel=1.50,
        blood=1.30,
        hyperintensity=0.90,
    ),
    "t2w": Contrast(
        grey_matter=1.35,
        white_matter=1.00,
        csf=2.50,
        necrosis=2.00,
        oedema=1.75,
        enhancing=1.60,
        cavity=2.45,
        vessel=0.80,
        blood=1.20,
        hyperintensity=1.65,
    ),
    "t2f": Contrast(
        grey_matter=1.22,
        white_matter=1.00,
        csf=0.40,
        necrosis=1.35,
        oedema=1.80,
        enhancing=1.55,
        cavity=0.44,
        vessel=0.90,
        blood=1.20,
        hyperintensity=1.70,
    ),
}


def draw_lesions(rng: Generator, brain: Brain, visit: int) -> Lesions:
    """Draw a patient's lesions at ``visit``; the draws are the same at each visit, so that the lesions evolve."""
    labels = np.zeros(brain.grid.size, np.uint8)
    wall = _cavity(rng, brain, labels, visit)
    border = _tumour(rng, brain, labels, visit)
    near = _satellites(rng, brain, labels, visit)
    strength = _oedema(rng, brain, labels, np.minimum(border, wall + 4), near, visit)
    return labels, strength, _confounders(rng, brain, labels)


def _cavity(rng: Generator, brain: Brain, labels: Labels, visit: int) -> Field:
    """Cut a resection cavity towards the brain's surface for most patients; signed distance in mm to its wall."""
    steps = np.zeros(3), brain.outward * rng.uniform(8, 20), rng.normal(0, 8, 3)
    distance = np.minimum.reduce([brain.distance(rng, brain.seats_mm[0] + step, brain.noise[0]) for step in steps])
    volume_ml = rng.triangular(4, 9, 26) * 0.92**visit * (rng.random() < 0.82)
    distance -= brain.level(distance, brain.inside, volume_ml)
    labels[(distance <= 0) & brain.inside] = RC
    rim = (distance > 0) & (distance < 3 + brain.noise[1]) & brain.parenchyma
    labels[rim & (brain.noise[0] > 0.5)] = ET
    return np.asarray(distance)


def _tumour(rng: Generator, brain: Brain, labels: Labels, visit: int) -> Field:
    """Draw the tumour beside the cavity, ring-enhancing for most patients; signed distance in mm to its border."""
    rim_mm, core_mm = rng.uniform(2.4, 4.4), rng.triangular(5.5, 8, 14) * 1.08**visit
    core_ml, whole_ml = 4e-3 / 3 * np.pi * np.array([core_mm, core_mm + rim_mm]) ** 3
    beside = rng.normal(0, 1, 3) - brain.outward
    hole_mm = (0.75 / np.pi * (labels == RC).sum()) ** (1 / 3) * brain.grid.spacing_mm
    centre = brain.seats_mm[0] + 1.3 * hole_mm * beside / np.linalg.norm(beside)
    distance = brain.distance(rng, centre, brain.noise[0])
    allowed = brain.parenchyma & (labels != RC)
    distance -= brain.level(distance, allowed, whole_ml)
    solid = (distance <= 0) & allowed
    inner = solid & (distance < -0.5 * rim_mm)
    uneven = distance + 1.2 * brain.noise[1]
    labels[solid] = ET if rng.random() < 0.96 else NETC
    labels[inner & (uneven <= brain.level(uneven, inner, core_ml * (rng.random() < 0.88)))] = NETC
    return distance


def _satellites(rng: Generator, brain: Brain, labels: Labels, visit: int) -> Mask:
    """Scatter small enhancing lesions, some with a necrotic core; where their own oedema may lie."""
    near, parenchyma = np.zeros(brain.grid.size, bool), brain.parenchyma
    for _ in range(rng.choice(7, p=[0.12, 0.2, 0.2, 0.18, 0.14, 0.1, 0.06])):
        radius_mm, onset = rng.uniform(1.8, 4.6), rng.choice(MAX_VISITS, p=[0.8, 0.12, 0.08])
        centre = brain.seats_mm[0] + rng.normal(0, 1, 3) * rng.uniform(12, 24)
        distance = brain.distance(rng, centre, 0.5 * brain.noise[1]) - radius_mm * 1.1 ** (visit - onset)
        oedema_mm, cored = rng.uniform(1, 5), rng.random() < 0.5 and radius_mm > 3
        if onset <= visit:
            free = parenchyma & (labels == 0) & (distance <= 0)
            labels[free] = np.where((distance[free] <= -2.0) & cored, NETC, ET)
            near |= distance < oedema_mm * (0.3 + 0.7 * brain.tissue[1]) * (1 + 0.3 * brain.noise[0])
    return near


def _oedema(rng: Generator, brain: Brain, labels: Labels, distance: Field, near: Mask, visit: int) -> Field:
    """Spread oedema along the white matter; how strongly each voxel is changed, 0 to 1."""
    lesion = labels > 0
    allowed = brain.parenchyma & ~lesion
    white = ndimage.gaussian_filter(brain.tissue[1], 2.0 / brain.grid.spacing_mm)
    delay = np.maximum(distance, 0) / ((0.12 + white**2) * np.exp(0.35 * brain.noise[0]))
    volume_ml = rng.triangular(16, 34, 85) * np.exp(rng.normal(0, 0.3, MAX_VISITS)[:visit].sum())
    reach = brain.level(delay, allowed, min(volume_ml, 90))
    parts, _ = ndimage.label(lesion | (allowed & (near | (delay <= reach))))
    labels[np.isin(parts, parts[lesion]) & ~lesion] = SNFH
    fading = np.clip(1.2 - 0.8 * delay / max(reach, 1e-3), 0.4, 1.0)
    return np.where(lesion, 1, fading * (labels == SNFH)).astype(np.float32)


def _confounders(rng: Generator, brain: Brain, labels: Labels) -> Field:
    """Draw what looks like a lesion and is none: vessels, blood, hyperintensities; weights ``(3, X, Y, Z)``."""
    vessels = np.max([vessel(rng, brain.grid) for _ in range(rng.integers(1, 3))], axis=0)
    blood = ndimage.morphological_gradient((labels == RC).astype(np.float32), size=(3, 3, 3)) * (brain.noise[1] > 1)
    radius_mm, places = rng.uniform(2, 4), brain.seats_mm[1 : rng.integers(2, 4)]
    spots = np.max([np.clip(radius_mm - brain.distance(rng, one, brain.noise[1]), 0, 1) for one in places], axis=0)
    return np.stack([vessels * (labels == 0), blood, spots * brain.tissue[1] * (labels == 0)]).astype(np.float32)


def render(sequence: str, style: Generator, scan: Generator, brain: Brain, lesions: Lesions) -> NDArray[np.int16]:
    """Scan a patient with one of the four sequences; intensities above 0 in the brain and 0 outside, ``(X, Y, Z)``."""
    drawn = Contrast(*(np.array(CONTRAST[sequence], np.float32) * np.exp(style.normal(0, 0.05, 10)).astype(np.float32)))
    labels, strength, confounders = lesions
    grey, white, texture, head = brain.tissue
    signal = grey * drawn.grey_matter + white * drawn.white_matter + (head - grey - white) * drawn.csf
    signal += texture * (0.4 if sequence.startswith("t1") else -0.3)
    by_label = np.array([drawn.grey_matter, drawn.necrosis, drawn.oedema, drawn.enhancing, drawn.cavity])
    lesion = by_label[labels] * (1 + 0.12 * smooth_noise(style, brain.grid, 6.0))
    signal += strength * (lesion - signal)
    for weight, value in zip(confounders, (drawn.vessel, drawn.blood, drawn.hyperintensity), strict=True):
        signal += weight * (value - signal)
    for axis in range(3):
        offsets = np.arange(-2, 3) - scan.normal(0, 0.1)
        kernel = np.exp(-0.5 * (offsets / scan.uniform(0.35, 0.55)) ** 2)
        signal = ndimage.correlate1d(signal, kernel / kernel.sum(), axis, mode="nearest")
    signal *= np.exp(scan.uniform(0.02, 0.07) * smooth_noise(scan, brain.grid, 60.0))
    noise = scan.uniform(0.015, 0.04) * scan.standard_normal((2, *brain.grid.size), dtype=np.float32)
    magnitude = np.hypot(signal + noise[0], noise[1]) * style.uniform(250, 900)
    return np.asarray(np.clip(np.rint(magnitude), 1, 32767) * brain.inside, np.int16)
