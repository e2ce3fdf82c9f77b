"""What an iteration of a training costs: the trainings that the configs describe, run in turns in one process."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser

from dcd_components.benchmarks import timing
from dcd_components.handlers.student_start import StudentStart

#: Epochs so many that neither the last one comes, nor one that validates; not more, for checkpoints hold the weights of
#: the distillation in each of them.
NEVER = 1000


class Training:
    """A training of a bundle that runs an epoch whenever it is told to.

    Args:
        configs: files, the later over the earlier.
        settings: over the files, by key.
    """

    def __init__(self, configs: Sequence[str], **settings: Any) -> None:
        parser = ConfigParser()
        parser.read_config(list(configs))
        parser.update(settings)
        self.trainer = parser.get_parsed_content("train::trainer")
        self.trainer.logger.setLevel("ERROR")
        self._handlers = parser.get_parsed_content("train::handlers")
        self._batches = parser.get_parsed_content("train::dataloader")

    def start(self) -> None:
        """Give a student that starts from its teacher its first weights."""
        for handler in self._handlers:
            if isinstance(handler, StudentStart) and handler.init == "teacher":
                handler.start(self._batches, epochs=1)

    def epoch(self) -> None:
        """Run one more epoch."""
        self.trainer.state.max_epochs = self.trainer.state.epoch + 1
        self.trainer.run()


def seconds(
    configs: Mapping[str, Sequence[str]],
    rounds: int,
    iterations: int = 10,
    own: Mapping[str, Mapping[str, Any]] | None = None,
    **settings: Any,
) -> dict[str, float]:
    """Time an iteration of several trainings: data, augmentation, networks, losses and optimizer.

    What counts is the time of all cores, or on a GPU the time that passes. Together with the turns this leaves the
    ratio of two trainings about as it is beside other programs: at a load of 9 on two cores the ratio of single turns
    varied from 0.8 to 1.3 by the time of the cores, and from 0.6 to 1.7 by the time that passed.

    Args:
        configs: files of each training, by its name.
        rounds: turns of which the median is taken.
        iterations: of a turn.
        own: settings of single trainings, by name and key, over the others.
        settings: of all trainings, by key, over the files.

    Returns:
        Seconds an iteration, by name.
    """
    with _trainings(configs, own, settings, epoch_length=iterations) as trainings:
        turns = timing.seconds({name: one.epoch for name, one in trainings.items()}, rounds, clock=_clock())
    return {name: taken / iterations for name, taken in turns.items()}


def start_seconds(
    configs: Mapping[str, Sequence[str]],
    own: Mapping[str, Mapping[str, Any]] | None = None,
    **settings: Any,
) -> dict[str, float]:
    """Time what students that start from their teachers take before their first iteration; next to nothing for others.

    Args:
        configs: files of each training, by its name.
        own: settings of single trainings, by name and key, over the others.
        settings: of all trainings, by key, over the files.

    Returns:
        Median seconds of three starts after a first one, by name.
    """
    with _trainings(configs, own, settings) as trainings:
        return timing.seconds({name: one.start for name, one in trainings.items()}, 3, clock=_clock())


@contextmanager
def _trainings(
    configs: Mapping[str, Sequence[str]],
    own: Mapping[str, Mapping[str, Any]] | None,
    settings: Mapping[str, Any],
    **fixed: Any,
) -> Iterator[dict[str, Training]]:
    with tempfile.TemporaryDirectory() as folder:
        places = {"ckpt_path": str(Path(folder, "model.pt")), "log_path": str(Path(folder, "training.csv"))}
        fixed |= {"max_epochs": NEVER, "val_interval": NEVER, **places}
        fixed["num_workers"] = 0  # the time of other processes would not count
        each = {name: {**settings, **(own or {}).get(name, {}), **fixed} for name in configs}
        yield {name: Training(files, **each[name]) for name, files in configs.items()}


def _clock() -> Callable[[], float]:
    return time.perf_counter if torch.cuda.is_available() else time.process_time
