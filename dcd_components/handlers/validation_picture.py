"""What TensorBoard shows of a training beside its figures: how a patient's prediction comes to look like the truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from ignite.engine import Engine, Events
from monai.utils import CommonKeys
from nibabel.orientations import apply_orientation, io_orientation
from numpy.typing import NDArray
from torch import Tensor

from dcd_components.data.nnunet_transforms import AFFINE
from dcd_components.handlers.pictures import CasePicture, case_figure

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class ValidationPicture:
    """Show axial slices of the first case of each validation: its sequences, the truth and the prediction.

    Acts at ``ITERATION_COMPLETED`` of a validation's first iteration, on the post-processed prediction and label, both
    one channel a class or region. The same slices are shown every time: those with most of the truth in each third of
    it, or the middle of each third of the image where nothing is labelled. Images are in RAS, or else the batch holds
    their ``image_affine``, by which they are turned.

    Args:
        writer: where to.
        sequences: names of the image's channels.
        labels: values of the labels by name.
        output_labels: label of each channel of prediction and label; later ones are painted over earlier ones.
    """

    def __init__(
        self,
        writer: SummaryWriter,
        sequences: Sequence[str],
        labels: Mapping[str, int],
        output_labels: Sequence[int],
    ) -> None:
        self.writer = writer
        self.sequences = list(sequences)
        self.labels = dict(labels)
        self.output_labels = list(output_labels)

    def attach(self, engine: Engine) -> None:
        """Register at the engine's events."""
        engine.add_event_handler(Events.ITERATION_COMPLETED(once=1), self)

    def __call__(self, engine: Engine) -> None:
        """Draw and write."""
        item: dict[str, Any] = engine.state.output[0]
        affine = engine.state.batch[0].get(f"{CommonKeys.IMAGE}{AFFINE}")
        keys = (CommonKeys.IMAGE, CommonKeys.LABEL, CommonKeys.PRED)
        image, *masks = (_in_ras(item[key].numpy(force=True), affine) for key in keys)
        truth, prediction = map(self._painted, masks)
        rows = [self._row(image, truth, prediction, part) for part in _thirds(truth, image)]
        self.writer.add_figure("validation", case_figure(rows, self.labels), engine.state.epoch)
        self.writer.flush()

    def _painted(self, masks: NDArray[Any]) -> NDArray[Any]:
        labels = np.zeros(masks.shape[1:], int)
        for label, mask in zip(self.output_labels, masks, strict=True):
            labels[mask > 0] = label
        return labels

    def _row(
        self, image: NDArray[Any], truth: NDArray[Any], prediction: NDArray[Any], part: NDArray[Any]
    ) -> CasePicture:
        sequences = dict(zip(self.sequences, image[..., part], strict=True))
        return CasePicture("", sequences, {"truth": truth[..., part], "prediction": prediction[..., part]})


def _in_ras(volumes: NDArray[Any], affine: Tensor | None) -> NDArray[Any]:
    """Volumes ``(C, D, H, W)`` with the axes in the order and direction of RAS, as nearly as that can be."""
    if affine is None:
        return volumes
    turned: NDArray[Any] = apply_orientation(np.moveaxis(volumes, 0, -1), io_orientation(affine.numpy(force=True)))
    return np.moveaxis(turned, -1, 0)


def _thirds(truth: NDArray[Any], image: NDArray[Any]) -> list[NDArray[Any]]:
    """Axial slices of each third of what is labelled; one of each third of the image where nothing is."""
    (labelled,), (inside,) = np.nonzero(truth.any((0, 1))), np.nonzero(image.any((0, 1, 2)))
    if len(labelled):
        return [part for part in np.array_split(labelled, 3) if len(part)]
    slices = inside if len(inside) else np.arange(truth.shape[-1])
    return [part[[len(part) // 2]] for part in np.array_split(slices, 3) if len(part)]
