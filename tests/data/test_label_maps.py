"""Label maps on the grid of the input are those of MONAI's inverse transforms, in slabs of any size."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd, Orientationd, Spacingd
from nibabel.eulerangles import euler2mat
from nibabel.orientations import aff2axcodes
from numpy.typing import NDArray
from torch import Tensor

from dcd_components.data.label_maps import LabelMapd, label_map, slabs


def grid(codes: Sequence[str], spacing: Sequence[float], *, oblique: bool = False) -> NDArray[Any]:
    """An affine whose axes point where the codes say, roughly where oblique."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, code in enumerate(codes):
        row = next(n for n, pair in enumerate(("LR", "PA", "IS")) if code in pair)
        affine[row, axis] = spacing[axis] * (1 if code in "RAS" else -1)
    if oblique:
        affine[:3, :3] = euler2mat(0.1, 0.05, 0.2) @ affine[:3, :3]
    affine[:3, 3] = 3.5, -20, 11
    assert aff2axcodes(affine) == tuple(codes)
    return affine


def logits_on_the_network_s_grid(
    affine: NDArray[Any], spacing: Sequence[float], classes: int = 4
) -> tuple[Compose, dict[str, Any]]:
    """What a bundle's transforms make of an image, and smooth logits on its grid."""
    spatial = Compose(
        [
            Orientationd(keys="image", axcodes="RAS", labels=None),
            Spacingd(keys="image", pixdim=spacing, mode="bilinear"),
        ]
    )
    shape = (11, 14, 9)
    meta = {"original_affine": affine, "spatial_shape": np.array(shape), "case": "a"}
    item = spatial({"image": MetaTensor(torch.rand(1, *shape), affine=torch.as_tensor(affine), meta=meta)})
    size = item["image"].shape[1:]
    noise = torch.randn(1, classes, 5, 5, 5, generator=torch.Generator().manual_seed(0))
    return spatial, {**item, "pred": torch.nn.functional.interpolate(noise, [*size], mode="trilinear")[0]}


GRIDS = {
    "same voxels": (("R", "A", "S"), (1.0, 2.0, 1.5), False),
    "other order": (("P", "S", "L"), (1.0, 2.0, 1.5), False),
    "oblique": (("A", "L", "I"), (1.0, 2.0, 1.5), True),
}


@pytest.mark.parametrize("spacing", [(1.5, 1.5, 1.5), (0.6, 3.0, 1.0)], ids=str)
@pytest.mark.parametrize("name", GRIDS)
def test_label_maps_are_those_of_monai(name: str, spacing: Sequence[float]) -> None:
    codes, edges, oblique = GRIDS[name]
    spatial, item = logits_on_the_network_s_grid(grid(codes, edges, oblique=oblique), spacing)
    invert = Invertd(keys="pred", transform=spatial, orig_keys="image", nearest_interp=False)
    expected = invert({**item, "pred": MetaTensor(item["pred"].softmax(0))})["pred"]
    found = LabelMapd("pred", "image")(item)["pred"]
    assert found.dtype == torch.uint8
    assert found.shape == (1, *expected.shape[1:])
    assert torch.equal(found[0].as_tensor(), expected.argmax(0).as_tensor().to(torch.uint8))
    assert torch.equal(found.affine, torch.as_tensor(grid(codes, edges, oblique=oblique)))
    torch.testing.assert_close(found.affine, expected.affine)
    assert found.meta["case"] == "a"


@pytest.mark.parametrize("spacing", [(1.0, 2.0, 1.5), (1.5, 1.5, 1.5)], ids=["reordered", "resampled"])
@pytest.mark.parametrize("slab", [1, 50, 700])
def test_the_size_of_the_slabs_changes_nothing(slab: int, spacing: Sequence[float]) -> None:
    affine = grid(("R", "P", "S"), (1.0, 2.0, 1.5))
    _, item = logits_on_the_network_s_grid(affine, spacing)
    given = item["pred"], np.asarray(item["image"].affine), affine, (11, 14, 9)
    assert torch.equal(label_map(*given, slab=slab), label_map(*given))


def test_slabs_cover_a_grid_once_along_its_longest_axis() -> None:
    seen = torch.zeros(5, 12, 3, dtype=torch.int)
    parts = list(slabs(seen.shape, voxels=180, slab=40))
    for part in parts:
        seen[part] += 1
        assert seen[part].numel() <= 40
    assert (seen == 1).all()
    assert [part[1] for part in parts] == [slice(n, n + 2) for n in range(0, 12, 2)]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
def test_where_only_axes_differ_no_voxel_is_interpolated(order: Sequence[int]) -> None:
    """Not even where the largest logits are equal but for rounding."""
    logits = torch.randn(3, 4, 5, 6, generator=torch.Generator().manual_seed(1)) * 1e-6
    for signs in itertools.product((False, True), repeat=3):
        flips = [axis for axis in range(3) if signs[axis]]
        matrix = np.zeros((4, 4))
        matrix[3, 3] = 1
        shape = [logits.shape[1 + axis] for axis in order]
        for axis, of in enumerate(order):
            matrix[of, axis] = -1 if axis in flips else 1
            matrix[of, 3] = shape[axis] - 1 if axis in flips else 0
        expected: Tensor = logits.argmax(0).permute(*order).flip(flips)
        assert torch.equal(label_map(logits, np.eye(4), matrix, shape), expected.to(torch.uint8))


def test_beyond_the_border_a_label_is_that_of_the_border() -> None:
    logits = torch.tensor([[1.0, 0.0], [0.0, 1.0]])[:, :, None, None].expand(2, 2, 3, 3)
    wider = np.eye(4)
    wider[0, 3] = -2
    assert label_map(logits, np.eye(4), wider, (6, 3, 3))[:, 0, 0].tolist() == [0, 0, 0, 1, 1, 1]


def test_many_classes_take_more_bits() -> None:
    logits = torch.zeros(300, 2, 2, 2)
    logits[280] = 1
    labels = label_map(logits, np.eye(4), np.eye(4), (2, 2, 2))
    assert labels.dtype == torch.int32
    assert set(labels.flatten().tolist()) == {280}
