"""How much memory the inference of a case takes, known from the headers of its files."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from nibabel.orientations import io_orientation

from dcd_components.data.case_files import FAULT, IMAGE, Case, Layout
from dcd_components.data.cases import sequence_files
from dcd_components.data.grids import Grid
from dcd_components.data.label_maps import SLAB
from dcd_components.data.nifti import read_header
from dcd_components.errors import InputError

FLOAT, HALF = 4, 2  # bytes
RESAMPLED = 32  # bytes of a voxel that is interpolated axis by axis in double precision
BASE = 700e6  # bytes of a process that has imported torch and MONAI, and run a transform
PIECES = 1.1  # memory that is freed is kept, and lies in pieces of which some are too small for what is needed next


class MemoryLimit:
    """Refuse a case whose inference would take more memory than it may.

    The peak is estimated from the headers, for a process on a CPU; on a GPU, host and device together take about as
    much. It is the largest of these stages, where a voxel of the network's grid holds ``S`` sequences and ``C``
    classes: the sequences are resampled, in double precision; the image is normalised; windows are summed up, which
    takes ``2 S + C + 6`` numbers a voxel and the feature maps of a window; probabilities become labels, slab by slab.

    Args:
        gigabytes: of 10^9 bytes, for the whole process; None for no limit.
        layout: names of the files.
        spacing: of the network's grid in mm, along x, y and z.
        patch_size: of the largest window in voxels.
        width: channels of the network at its highest resolution.
        classes: of its output, with the background.
    """

    def __init__(
        self,
        gigabytes: float | None,
        layout: Layout,
        spacing: Sequence[float],
        patch_size: Sequence[int],
        width: int,
        classes: int,
    ) -> None:
        if gigabytes is not None and not (isinstance(gigabytes, int | float) and gigabytes > 0):
            raise InputError(f"max_memory must be gigabytes above 0, or null for no limit, got {gigabytes!r}")
        self.gigabytes = gigabytes
        self.layout = layout
        self.spacing = spacing
        self.patch_size = patch_size
        self.width = width
        self.classes = classes

    def __call__(self, case: Case) -> None:
        """Look at one case.

        Raises:
            InputError: when it would take too much.
        """
        self.check([case])

    def check(self, cases: Iterable[Case]) -> None:
        """Look at several cases; those with a ``fault`` are passed over.

        Raises:
            InputError: for those that would take too much, with what each needs.
        """
        if self.gigabytes is None:
            return
        needs = {case["case"]: self.estimate(case) / 1e9 for case in cases if FAULT not in case}
        if large := [f"{name} needs about {need:.1f} GB" for name, need in needs.items() if need > self.gigabytes]:
            raise InputError(f"{'; '.join(large)} of memory, and max_memory allows {self.gigabytes:g}")

    def estimate(self, case: Case) -> float:
        """Bytes of the process at its peak; 0 for a case whose headers cannot be read, which is refused elsewhere."""
        files = sequence_files(case[IMAGE], self.layout.sequences)
        several = [*files] if len(set(files.values())) == 1 < len(files) else []
        grids = {name: read_header(path, several).grid for name, path in files.items()}
        reference = grids[self.layout.reference]
        if reference is None or not reference.placed or not all(grids.values()):
            return 0.0
        sizes = [math.prod(grid.shape) for grid in grids.values() if grid]
        moved = bool(self.layout.resampled) or self._is_resampled(reference)
        shape = self._network_shape(reference)
        return BASE + PIECES * self._peak(math.prod(reference.shape), sizes, shape, None, moved=moved)

    def peak(self, shape: Sequence[int], window: float | None = None) -> float:
        """Bytes of the process at its peak for a case of some shape on the network's grid.

        Args:
            shape: of the case.
            window: bytes that the network takes for one; estimated by default.
        """
        voxels = math.prod(shape)
        return BASE + PIECES * self._peak(voxels, [voxels] * len(self.layout.sequences), shape, window, moved=False)

    def _network_shape(self, grid: Grid) -> list[int]:
        """Shape of the reference on the network's grid, along x, y and z."""
        lengths, edges = (_along_patient(grid, values) for values in (grid.shape, grid.spacing_mm))
        return [math.ceil(n * edge / mm) + 1 for n, edge, mm in zip(lengths, edges, self.spacing, strict=True)]

    def _is_resampled(self, grid: Grid) -> bool:
        pairs = zip(_along_patient(grid, grid.spacing_mm), self.spacing, strict=True)
        return not all(math.isclose(edge, mm, rel_tol=1e-3) for edge, mm in pairs)

    def _peak(
        self, reference: int, sizes: Sequence[int], shape: Sequence[int], window: float | None, *, moved: bool
    ) -> float:
        """Bytes of the largest stage.

        Args:
            reference: voxels of the mask.
            sizes: voxels of each sequence.
            shape: of the network's grid.
            window: bytes that the network takes for one, None for an estimate.
            moved: whether anything is resampled.
        """
        several, image = len(sizes), math.prod(shape)
        patch, padded = self._windows(shape)
        window = self._window(several, patch) if window is None else window
        before = FLOAT * (several * image + reference)  # image and mask of the case before
        loaded = FLOAT * sum(sizes)
        held = FLOAT * (several + 1) * image  # the image and the reference
        slab = SLAB * (160 + 28 * self.classes)
        stages = [
            before + 2.5 * loaded + 12 * max(sizes),  # files are unpacked
            before + loaded + moved * (12 * max(sizes) + (FLOAT * several + 52) * image),
            before + FLOAT * image * (3 * several + 4),
            held + FLOAT * several * padded + FLOAT * (self.classes + 5) * padded + window,
            held + FLOAT * 2 * self.classes * image,  # logits of the box go into those of the image
            held + FLOAT * (self.classes + 1) * image + reference + slab,
            held + 3 * reference,
        ]
        return max(stages)

    def _windows(self, shape: Sequence[int]) -> tuple[int, int]:
        """Voxels of a window, and of an image that is padded to it."""
        return math.prod(self.patch_size), math.prod(max(pair) for pair in zip(shape, self.patch_size, strict=True))

    def _window(self, several: int, patch: int) -> int:
        """Bytes of the feature maps of a window."""
        return patch * FLOAT * (9 * self.width + 4 * (several + self.classes))


class NnunetMemoryLimit(MemoryLimit):
    """Refuse a case whose inference by the steps of nnU-Net would take more memory than it may.

    What would be cropped away is not known from the headers and counts as kept. Stages are those of
    :class:`MemoryLimit`, except that grids are those of the files: axes are not turned to the patient's. Images are
    normalised in single precision and resampled in double precision, each by itself; logits and their sums are of half
    precision, and are resampled onto the grid of the file before labels are taken there.

    Args:
        spacing: of the network's grid in mm, along the axes of the file.
        patch_size: of a window in voxels, along the same axes.
    """

    def _network_shape(self, grid: Grid) -> list[int]:
        """Shape of the whole image on the network's grid, along the axes of the file."""
        edges = map(float, grid.spacing_mm)
        return [max(1, round(n * edge / mm)) for n, edge, mm in zip(grid.shape, edges, self.spacing, strict=True)]

    def _is_resampled(self, grid: Grid) -> bool:
        return self._network_shape(grid) != [*grid.shape]

    def _peak(
        self, reference: int, sizes: Sequence[int], shape: Sequence[int], window: float | None, *, moved: bool
    ) -> float:
        several, image = len(sizes), math.prod(shape)
        patch, padded = self._windows(shape)
        window = self._window(several, patch) if window is None else window
        case = FLOAT * (several * image + reference) + reference  # image, reference and mask of what is not 0
        before = case + reference
        loaded, sums = FLOAT * sum(sizes), HALF * self.classes
        made = before + 2 * loaded + FLOAT * reference + reference  # stored and cropped images, and the reference
        resampling = moved * RESAMPLED * max(reference, image)
        stages = [
            before + 2.5 * loaded + 12 * max(sizes),  # files are unpacked
            made + 4 * FLOAT * reference,  # statistics of an image
            made + moved * FLOAT * several * image + resampling,
            before + 2 * case,  # a batch is made of the case
            case + (FLOAT * several + sums + HALF) * padded + window,
            case + sums * (image + moved * reference) + resampling,
            case + sums * (image + 2 * reference) + 10 * reference,  # the most probable of all labels
        ]
        return max(stages)


def _along_patient(grid: Grid, values: Iterable[float]) -> list[float]:
    """Values of the axes of an image, in the order of the patient's: x, y and z."""
    axes = io_orientation(grid.affine)[:, 0].astype(int)
    return [value for _, value in sorted(zip(axes, map(float, values), strict=True))]
