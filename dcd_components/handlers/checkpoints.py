"""The checkpoint of a training: the best weights of all validations, as inference uses them."""

from __future__ import annotations

import shutil
import tempfile
import uuid
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from torch import Tensor, nn

from dcd_components.distributed import rank
from dcd_components.errors import InputError
from dcd_components.files import whole_file
from dcd_components.handlers.kept_state import keep
from dcd_components.networks.weights import TRAINING_ONLY, read_record, save_weights, without


class BestCheckpoint:
    """Write the weights of a network whenever a validation's key metric is the best so far.

    Attached to the validation, after its metrics; acts at ``EPOCH_COMPLETED`` in the first process, and the file holds
    what :class:`InferenceWeights` gives. The folder is made at once, hours before it is needed. A file that is there
    before the first writing is copied to ``<name>-<date and time of its writing>``, so that no training loses what
    another made. The file appears whole or not at all, and is made anew where it or its folder was moved away.

    Args:
        network: the network that is validated.
        path: of the file.
        record: what the weights' user must know, see :func:`.save_weights`; the epoch is added, and a name of the
            training, drawn at random.

    Raises:
        InputError: when the folder cannot be made or written to, and at a validation, for weights that are not finite.
    """

    def __init__(self, network: nn.Module, path: str | Path, record: Mapping[str, Any] | None = None) -> None:
        self.weights = InferenceWeights(network)
        self.path = Path(path)
        self.record = dict(record or {})
        self._training, self._written = uuid.uuid4().hex, False
        prepare_folder(self.path.parent)

    def attach(self, engine: Engine) -> None:
        """Register at the engine's events."""
        keep(engine, "best", self)
        engine.add_event_handler(Events.STARTED, self._clean)  # not before: another training may be writing
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Write the weights, if this validation is the best."""
        if rank() > 0 or engine.state.best_metric_epoch != engine.state.epoch:
            return
        if not self._written and self.path.is_file() and not self._mine():
            with whole_file(dated(self.path, self.path)) as partial:
                shutil.copy2(self.path, partial)
        record = {**self.record, "epoch": engine.state.epoch, "training": self._training}
        save_weights(self.weights.state_dict(), self.path, record)
        self._written = True

    def _clean(self) -> None:
        if rank() == 0:
            for name in (self.path.name, f"{self.path.stem}-[0-9]*{self.path.suffix}"):  # and of an earlier one's copy
                remove_partial_files(self.path.parent, name)

    def state_dict(self) -> dict[str, Any]:
        """What tells files of this training from those of others."""
        return {"training": self._training}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on as the training that had this state."""
        self._training = state["training"]

    def _mine(self) -> bool:
        try:
            return bool(read_record(self.path).get("training") == self._training)
        except InputError:
            return False


def prepare_folder(folder: Path) -> None:
    """Make a folder for checkpoints, and make sure that it can be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(f"{folder} must be a folder that can be written to: {error}") from error


def remove_partial_files(folder: Path, name: str) -> None:
    """Remove files that :func:`.whole_file` was writing when a training was killed."""
    for partial in folder.glob(f".{32 * '[0-9a-f]'}-{name}"):
        partial.unlink(missing_ok=True)


def dated(path: Path, written: Path) -> Path:
    """A name like that of ``path``, with date and time of the writing of ``written``, that nothing has yet."""
    time = datetime.fromtimestamp(written.stat().st_mtime, tz=timezone.utc).strftime("%Y%m%dT%H%M%S")
    number, named = 1, path.with_name(f"{path.stem}-{time}{path.suffix}")
    while named.exists():  # short trainings may end within a second
        number += 1
        named = path.with_name(f"{path.stem}-{time}-{number}{path.suffix}")
    return named


class InferenceWeights:
    """A network as its checkpoint sees it: a flat state dict without what only training uses.

    Args:
        network: the network to publish, in practice the exponential moving average of the trained one.
        without: parts of key names to leave out.
    """

    def __init__(self, network: nn.Module, without: Sequence[str] = TRAINING_ONLY) -> None:
        self.network = network
        self.without = tuple(without)

    def state_dict(self) -> OrderedDict[str, Tensor]:
        """Return the weights that inference uses."""
        return OrderedDict(without(self.network.state_dict(), self.without))
