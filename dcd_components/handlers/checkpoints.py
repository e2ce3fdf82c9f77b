"""The checkpoint of a training: the best weights of all validations, as inference uses them."""

from __future__ import annotations

import shutil
import tempfile
from collections import OrderedDict
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

from monai.handlers import CheckpointSaver
from torch import Tensor, nn

from dcd_components.errors import InputError

#: Parts of a DynUNet that only training uses; TorchScript cannot script a network that has them.
DEEP_SUPERVISION_HEADS = ("deep_supervision_heads.", ".super_head.")


class BestCheckpoint(CheckpointSaver):  # type: ignore[misc]
    """Write the weights of a network whenever a validation's key metric is the best so far.

    Attached to the validation; acts at ``EPOCH_COMPLETED``, and the file holds what :class:`InferenceWeights` gives.
    The folder is made at once, hours before it is needed. A file that is there already is copied to
    ``<name>-<date and time of its writing>``, so that no training loses what another made.

    Args:
        network: the network that is validated.
        path: of the file.

    Raises:
        InputError: when the folder cannot be made or written to.
    """

    def __init__(self, network: nn.Module, path: str | Path) -> None:
        path = Path(path)
        _prepare(path)
        super().__init__(
            save_dir=str(path.parent),
            save_dict={"model": InferenceWeights(network)},
            save_key_metric=True,
            key_metric_filename=path.name,
        )


def _prepare(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise InputError(f"{path.parent} must be a folder that can be written to: {error}") from error
    if path.is_file():
        written = datetime.fromtimestamp(path.stat().st_mtime, tz=timezone.utc).strftime("%Y%m%dT%H%M%S")
        shutil.copy2(path, path.with_name(f"{path.stem}-{written}{path.suffix}"))


class InferenceWeights:
    """A network as its checkpoint sees it: a flat state dict without what only training uses.

    Args:
        network: the network to publish, in practice the exponential moving average of the trained one.
        without: parts of key names to leave out.
    """

    def __init__(self, network: nn.Module, without: Sequence[str] = DEEP_SUPERVISION_HEADS) -> None:
        self.network = network
        self.without = tuple(without)

    def state_dict(self) -> OrderedDict[str, Tensor]:
        """Return the weights that inference uses."""
        weights = self.network.state_dict()
        return OrderedDict((k, v) for k, v in weights.items() if not any(part in k for part in self.without))
