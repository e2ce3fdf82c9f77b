from __future__ import annotations

from typing import Any

import nibabel as nib
import pytest
import torch
from ignite.engine import Engine
from matplotlib.figure import Figure
from monai.data import MetaTensor
from scipy.spatial.transform import Rotation
from torch import Tensor

from dcd_components.handlers import validation_picture
from dcd_components.handlers.pictures import CasePicture, case_figure
from dcd_components.handlers.validation_picture import ValidationPicture


class Writer:
    """Keeps what is written."""

    def __init__(self) -> None:
        self.figures: list[tuple[str, Figure, int]] = []

    def add_figure(self, tag: str, figure: Figure, step: int) -> None:
        self.figures.append((tag, figure, step))

    def flush(self) -> None:
        pass


def one_hot(label: Tensor) -> MetaTensor:
    return MetaTensor(torch.nn.functional.one_hot(label, 3).movedim(-1, 0).float())


def validate(
    writer: Any, label: Tensor, runs: int = 1, image: Tensor | None = None, **others: Any
) -> list[list[CasePicture]]:
    """Rows of the pictures of several validations, of two cases each; others are in the batches."""
    image = torch.rand(2, *label.shape) if image is None else image
    outputs = [
        [{"image": MetaTensor(image), "label": one_hot(label), "pred": one_hot(label.flip(0))}],
        [{"image": MetaTensor(image * 0), "label": one_hot(label * 0), "pred": one_hot(label)}],
    ]
    engine = Engine(lambda engine, batch: outputs[(engine.state.iteration - 1) % 2])
    ValidationPicture(writer, ["t1", "t2"], {"core": 1, "rim": 2}, [0, 1, 2]).attach(engine)
    drawn: list[list[CasePicture]] = []

    def draw(cases: list[CasePicture], labels: dict[str, int]) -> Figure:
        drawn.append(cases)
        return case_figure(cases, labels)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(validation_picture, "case_figure", draw)
        for epoch in range(runs):  # as MONAI's evaluators do it
            engine.state.epoch, engine.state.iteration, engine.state.max_epochs = epoch, 0, epoch + 1
            engine.run([[others], [others]], max_epochs=epoch + 1)
    return drawn


@pytest.fixture
def label() -> Tensor:
    label = torch.zeros(6, 6, 12, dtype=torch.long)
    label[1:3, 1:3, 2:8] = 1
    label[1, 1, 4] = 2
    return label


def test_each_validation_shows_its_first_case_once(label: Tensor) -> None:
    writer = Writer()
    pictures = validate(writer, label, runs=2)
    assert [(tag, step) for tag, _, step in writer.figures] == [("validation", 1), ("validation", 2)]
    assert len(writer.figures[0][1].axes) == 3 * 4
    for rows in pictures:
        assert [row.masks["truth"].sum((0, 1)).tolist() for row in rows] == [[4, 4], [5, 4], [4, 4]]
        for row in rows:
            assert list(row.sequences) == ["t1", "t2"]
            assert (row.masks["prediction"] == row.masks["truth"][::-1]).all()


@pytest.mark.parametrize("codes", ["LPS", "SPL", "ARI"])
def test_slices_are_axial_whatever_the_axes_of_the_network_are(codes: str, label: Tensor) -> None:
    """As of a network of nnU-Net, to which an oblique image comes with its axes in another order."""
    image = torch.rand(2, *label.shape)
    (expected,) = validate(Writer(), label, image=image)
    ras, theirs = (nib.orientations.axcodes2ornt(one) for one in ("RAS", codes))
    turn = nib.orientations.ornt_transform(ras, theirs)
    affine = nib.orientations.inv_ornt_aff(turn, label.shape)
    affine[:3, :3] = Rotation.from_euler("xyz", [10, -15, 20], degrees=True).as_matrix() @ affine[:3, :3]

    def turned(volume: Tensor) -> Tensor:
        return torch.from_numpy(nib.orientations.apply_orientation(volume.numpy(), turn).copy())

    volumes = torch.stack([turned(one) for one in image])
    (rows,) = validate(Writer(), turned(label), image=volumes, image_affine=torch.from_numpy(affine))
    assert len(rows) == len(expected) == 3
    for row, other in zip(rows, expected, strict=True):
        assert all((row.sequences[name] == other.sequences[name]).all() for name in ("t1", "t2"))
        assert (row.masks["truth"] == other.masks["truth"]).all()


def test_a_case_without_labels_is_shown_too(label: Tensor) -> None:
    image = torch.zeros(2, *label.shape)
    image[..., 3:9] = 1
    for shown, slices in ((image, [4, 6, 8]), (image * 0, [2, 6, 10])):
        (rows,) = validate(Writer(), label * 0, image=shown * torch.arange(12))
        assert [row.masks["truth"].shape[-1] for row in rows] == [1, 1, 1]
        assert not shown.any() or [row.sequences["t1"].max() for row in rows] == slices


def test_a_label_in_one_slice_gives_one_row(label: Tensor) -> None:
    label[..., 3:] = 0
    (rows,) = validate(Writer(), label)
    assert [row.masks["truth"].shape for row in rows] == [(6, 6, 1)]


def test_regions_are_painted_in_their_order() -> None:
    whole, core = torch.zeros(6, 6, 12, dtype=torch.bool), torch.zeros(6, 6, 12, dtype=torch.bool)
    whole[1:4, 1:4, 2:8], core[1:3, 1:3, 2:8] = True, True
    writer: Any = Writer()
    picture = ValidationPicture(writer, ["t1"], {"oedema": 2, "core": 1}, [2, 1])
    painted = picture._painted(torch.stack([whole, core]).numpy())
    assert (painted == 2 * (whole & ~core).numpy() + core.numpy()).all()
