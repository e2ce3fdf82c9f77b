"""Ignite handler that has every case of a training looked at before the first epoch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ignite.engine import Engine, Events

from dcd_components.data.cache import DiskCache
from dcd_components.data.cases import shortened
from dcd_components.distributed import CpuGroup
from dcd_components.errors import InputError


class PreparedCases:
    """Fill the caches of a training at ``STARTED``, so that no case can end it hours later.

    What is on the disk already is not made again. Each process of a training makes its share. Data sets that are no
    :class:`.DiskCache` are left alone.

    Args:
        validator: MONAI's evaluator, by whose cases the best weights are chosen; they have a ``label``.
        num_workers: processes that make cases at the same time.

    Raises:
        InputError: with what is wrong with all cases, and for a validation in which no voxel is labelled.
    """

    def __init__(self, validator: Any, num_workers: int = 0) -> None:
        self.validator = validator
        self.num_workers = num_workers

    def attach(self, engine: Engine) -> None:
        """Register at the engine's events."""
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Make what is missing."""
        cases = self.validator.data_loader.dataset
        found: list[str] = []
        for name, data in (("training", engine.state.dataloader.dataset), ("validation", cases)):
            if isinstance(data, DiskCache):
                found += data.fill(self.num_workers, f"{name} cases")
        faults = [fault for several in CpuGroup().gather(found) for fault in several]
        if faults:
            raise InputError(shortened([*dict.fromkeys(faults)]))
        indices = range(len(cases)) if isinstance(cases, DiskCache) else []
        if indices and not any(_labelled(cases[index]) for index in indices):
            raise InputError(
                f"none of the {len(cases)} cases of the validation has a labelled voxel, by which weights could be "
                "told better than others: choose other val_folds"
            )


def _labelled(item: Mapping[str, object]) -> bool:
    return bool(item["label"].any()) if "label" in item else True  # type: ignore[attr-defined]
