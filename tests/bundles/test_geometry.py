"""A mask has the voxels of its image: a known case, moved through all orientations, gives the known mask, so moved."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from nibabel.eulerangles import euler2mat
from nibabel.orientations import axcodes2ornt
from numpy.typing import NDArray
from tiny import BRATS
from torch import Tensor

from dcd_components.bundle.configs import read_configs
from dcd_components.data.masks import GEOMETRY

#: All ways in which axes can be ordered and directed.
ORIENTATIONS = [
    "".join(pair[sign] for pair, sign in zip(order, signs, strict=True))
    for order in itertools.permutations(("RL", "AP", "SI"))
    for signs in itertools.product((0, 1), repeat=3)
]
SPACING = (1.0, 2.0, 1.5)  # mm along x, y and z, before an image is turned
VALUES = (0, 1, 2, 3, 5)  # of the image's voxels; their places in the list are the labels


def known_case() -> tuple[NDArray[Any], NDArray[Any]]:
    """An image of blocks of 4 voxels a side, in RAS, and the label of each voxel."""
    blocks = np.random.default_rng(0).integers(0, len(VALUES), (5, 4, 3))
    labels = np.kron(blocks, np.ones((4, 4, 4))).astype(np.uint8)[1:, :, 2:]
    return np.array(VALUES, np.float32)[labels], labels


class Nearest:
    """A network that knows by which label each intensity was made: a single convolution of one voxel."""

    def __init__(self, image: NDArray[Any]) -> None:
        inside = image[image != 0]
        places = [0.0, *((value - inside.mean()) / inside.std() for value in VALUES[1:])]
        self.places = torch.tensor(places)[None, :, None, None, None]

    def __call__(self, image: Tensor) -> Tensor:
        return 100 * (2 * image * self.places - self.places**2)  # the square of the distance, less what all share


def segment(path: Path, network: Callable[[Tensor], Tensor], out: Path, spacing: Sequence[float] = SPACING) -> Any:
    """Segment an image by what the bundle's config says."""
    parser = read_configs(BRATS, ["inference"])
    settings = {"sequences": {"t1": "{case}.nii.gz"}, "reference": "t1", "resampled": [], "label_file": ""}
    parser.update({**settings, "spacing": list(spacing), "patch_size": [16, 16, 16], "output_dir": str(out)})
    prepare, window, finish = (parser.get_parsed_content(key) for key in ("preprocessing", "inferer", "postprocessing"))
    item = prepare({"image": [str(path)], "case": "a"})
    finish({**item, "pred": window(item["image"][None], network)[0]})
    return nib.load(out / "a_seg.nii.gz")


def same_place(mask: Any, image: Any) -> bool:
    """Whether shape, affine and the fields of the header are the same, to the last bit."""
    fields = all(np.array_equal(mask.header[field], image.header[field]) for field in GEOMETRY)
    edges = np.array_equal(mask.header["pixdim"][:4], image.header["pixdim"][:4])
    return fields and edges and mask.shape == image.shape[:3] and np.array_equal(mask.affine, image.affine)


def turned(values: NDArray[Any], codes: str, turn: NDArray[Any] | None = None, *, sheared: bool = False) -> Any:
    """An image in another order and direction of axes, the patient where they were, or then turned or sheared."""
    affine = np.diag([*SPACING, 1.0])
    affine[:3, 3] = -20, 11, 7.25
    image = nib.Nifti1Image(values, affine).as_reoriented(
        nib.orientations.ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(codes))
    )
    moved = image.affine if turn is None else turn @ image.affine
    shear = np.eye(4)
    shear[0, 1] = 0.05 * sheared
    return nib.Nifti1Image(np.asarray(image.dataobj), moved @ shear)


IMAGE, LABELS = known_case()
TURN = nib.affines.from_matvec(euler2mat(0.1, 0.05, 0.2), [3, 4, 5])


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_in_all_orientations_the_mask_is_the_known_one_moved_as_the_image(codes: str, tmp_path: Path) -> None:
    image, labels = turned(IMAGE, codes), turned(LABELS, codes)
    nib.save(image, tmp_path / "a.nii.gz")
    mask = segment(tmp_path / "a.nii.gz", Nearest(IMAGE), tmp_path)
    assert np.array_equal(np.asarray(mask.dataobj), np.asarray(labels.dataobj))
    assert same_place(mask, nib.load(tmp_path / "a.nii.gz"))
    assert mask.get_data_dtype() == np.uint8


@pytest.mark.parametrize("codes", ["RAS", "LPS", "PSL", "IRA"])
def test_oblique_images_too(codes: str, tmp_path: Path) -> None:
    nib.save(turned(IMAGE, codes, TURN), tmp_path / "a.nii.gz")
    mask = segment(tmp_path / "a.nii.gz", Nearest(IMAGE), tmp_path)
    assert np.array_equal(np.asarray(mask.dataobj), np.asarray(turned(LABELS, codes).dataobj))
    assert same_place(mask, nib.load(tmp_path / "a.nii.gz"))


HEADERS: dict[str, Callable[[Any], None]] = {
    "sform only": lambda header: header.set_qform(None, 0),
    "qform only": lambda header: header.set_sform(None, 0),
    "no codes": lambda header: (header.set_qform(None, 0), header.set_sform(None, 0))[0],
    "other codes": lambda header: header.set_sform(header.get_sform(), 4),
    "an axis of one behind the third": lambda header: None,
}


@pytest.mark.parametrize("codes", ["RAS", "PSL"])
@pytest.mark.parametrize("name", HEADERS)
def test_whatever_in_the_header_says_where_the_image_lies_says_it_of_the_mask(
    name: str, codes: str, tmp_path: Path
) -> None:
    image = turned(IMAGE, codes, TURN)
    nib.save(image, tmp_path / "first.nii.gz")
    header = nib.load(tmp_path / "first.nii.gz").header
    HEADERS[name](header)
    values = np.asarray(image.dataobj)
    nib.save(nib.Nifti1Image(values[..., None] if "axis" in name else values, None, header), tmp_path / "a.nii.gz")
    mask = segment(tmp_path / "a.nii.gz", Nearest(IMAGE), tmp_path, sorted_edges(tmp_path / "a.nii.gz"))
    assert np.array_equal(np.asarray(mask.dataobj), np.asarray(turned(LABELS, codes).dataobj))
    assert same_place(mask, nib.load(tmp_path / "a.nii.gz"))


def sorted_edges(path: Path) -> list[float]:
    """Edges of the voxels along x, y and z: without codes an image lies along its own axes."""
    image = nib.load(path)
    order = nib.orientations.io_orientation(image.affine)[:, 0].astype(int)
    edges = nib.affines.voxel_sizes(image.affine)
    return [float(edges[list(order).index(axis)]) for axis in range(3)]


@pytest.mark.parametrize("codes", ["RAS", "LIP"])
@pytest.mark.parametrize("spacing", [SPACING, (1.2, 1.2, 1.2)], ids=str)
def test_a_sheared_image_is_resampled_and_its_mask_is_sheared_as_it_is(
    spacing: Sequence[float], codes: str, tmp_path: Path
) -> None:
    """Voxels at the border of two blocks may fall to either, and between labels 1 and 3 lies a 2."""
    nib.save(turned(IMAGE, codes, sheared=True), tmp_path / "a.nii.gz")
    mask = segment(tmp_path / "a.nii.gz", Nearest(IMAGE), tmp_path, spacing)
    assert same_place(mask, nib.load(tmp_path / "a.nii.gz"))
    assert (np.asarray(mask.dataobj) == np.asarray(turned(LABELS, codes).dataobj)).mean() > 0.75


@pytest.mark.parametrize("codes", ["LAS", "PSL", "IRA"])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.7, 1.7, 1.7)], ids=str)
def test_a_resampled_mask_moves_as_its_image(spacing: Sequence[float], codes: str, tmp_path: Path) -> None:
    """Where two labels are as probable, rounding decides: at most one voxel in a thousand."""
    (tmp_path / "moved").mkdir()
    nib.save(turned(IMAGE, "RAS"), tmp_path / "a.nii.gz")
    nib.save(turned(IMAGE, codes), tmp_path / "moved" / "a.nii.gz")
    straight = segment(tmp_path / "a.nii.gz", Nearest(IMAGE), tmp_path, spacing)
    moved = segment(tmp_path / "moved" / "a.nii.gz", Nearest(IMAGE), tmp_path / "moved", spacing)
    expected = np.asarray(turned(np.asarray(straight.dataobj), codes).dataobj)
    assert (np.asarray(moved.dataobj) != expected).mean() < 1e-3
    assert same_place(moved, nib.load(tmp_path / "moved" / "a.nii.gz"))
    assert (np.asarray(straight.dataobj) == LABELS).mean() > 0.6
