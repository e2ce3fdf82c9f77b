"""Ignite handler that scores each case of an evaluation and tells the means."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from monai.data.utils import affine_to_spacing
from monai.engines.utils import IterationEvents
from monai.utils import CommonKeys

from dcd_components.handlers.training_log import clock
from dcd_components.metrics.case_scores import case_scores, check_tolerances, nsd_name
from dcd_components.metrics.summary import summarise
from dcd_components.networks.stage_recorder import unwrap
from dcd_components.networks.weights import state_digest
from dcd_components.tables import write_csv


class CaseScores:
    """Score every case of an evaluation, write one row a case into a CSV file, and log the means.

    Acts at ``ITERATION_COMPLETED``, on the post-processed predictions and labels and on the ``case`` of each item. At
    ``EPOCH_COMPLETED`` the means go to ``state.metrics``, where handlers that are listed later find them; rank 0 logs
    them and writes the rows of all processes. Next to the scores of :func:`.case_scores`, a row has the case's name,
    the seconds of its inference, and the digest of the network's weights, see :func:`.weights_digest`.

    Args:
        path: CSV file to write.
        regions: labels that make up each region; regions of a single label enter the mean over labels.
        lesion_labels: labels whose connected components are lesions; none where the labels are organs.
        nsd_tolerances_mm: distances up to which a surface voxel counts as matched, one NSD for each; the log shows the
            first.

    Raises:
        InputError: for tolerances as in :func:`.check_tolerances`.
    """

    def __init__(
        self,
        path: str | Path,
        regions: Mapping[str, Sequence[int]],
        lesion_labels: Sequence[int],
        nsd_tolerances_mm: Sequence[float],
    ) -> None:
        check_tolerances(nsd_tolerances_mm)
        self.path = Path(path)
        self.regions = {name: list(values) for name, values in regions.items()}
        self.lesion_labels = list(lesion_labels)
        self.nsd_tolerances_mm = list(nsd_tolerances_mm)
        self._rows: list[dict[str, Any]] = []
        self._times: list[float] = []

    def attach(self, engine: Engine) -> None:
        """Register at the engine's events."""
        engine.add_event_handler(Events.STARTED, self._begin)
        engine.add_event_handler(Events.ITERATION_STARTED, self._clock)
        engine.add_event_handler(IterationEvents.FORWARD_COMPLETED, self._clock)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._write)

    def _begin(self, engine: Engine) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._rows.clear()
        self._start = time.monotonic()

    def _clock(self, engine: Engine) -> None:
        self._times = [*self._times[-1:], time.monotonic()]

    def __call__(self, engine: Any) -> None:
        """Score the cases of this iteration."""
        seconds = (self._times[-1] - self._times[0]) / len(engine.state.output)
        for item, case in zip(engine.state.output, engine.state.batch, strict=True):
            pred, label = item[CommonKeys.PRED], item[CommonKeys.LABEL]
            spacing_mm = affine_to_spacing(label.affine)
            scores = case_scores(pred, label, spacing_mm, self.regions, self.lesion_labels, self.nsd_tolerances_mm)
            self._rows.append({"case": case["case"], **scores, "seconds": round(seconds, 4)})
        done, total = engine.state.iteration, engine.state.epoch_length
        left = (time.monotonic() - self._start) / done * (total - done)
        engine.logger.info(f"case {done}/{total}: {self._rows[-1]['case']}; {clock(left)} left")

    def _write(self, engine: Any) -> None:
        weights = state_digest(unwrap(engine.network).state_dict())
        rows = [{**row, "weights": weights} for row in sorted(self._gather(), key=lambda row: str(row["case"]))]
        labels = [name for name, values in self.regions.items() if len(values) == 1]
        means = summarise(rows, labels)
        # NaN, the mean of nothing, would win or lose every comparison of checkpoints.
        engine.state.metrics.update({name: mean for name, mean in means.items() if not math.isnan(mean)})
        if idist.get_rank() == 0:
            write_csv(rows, self.path)
            text = means_as_text(means, self.nsd_tolerances_mm[0], lesions=bool(self.lesion_labels))
            engine.logger.info(f"means of {len(rows)} cases: {text}; each case in {self.path}")

    def _gather(self) -> list[dict[str, Any]]:
        """Rows of all processes, each case once: where cases are fewer than processes, each scores them all."""
        if idist.get_world_size() == 1:
            return self._rows
        gathered: list[list[dict[str, Any]]] = [[] for _ in range(idist.get_world_size())]
        torch.distributed.all_gather_object(gathered, self._rows)
        return list({row["case"]: row for rows in gathered for row in rows}.values())


def means_as_text(means: Mapping[str, float], nsd_tolerance_mm: float, *, lesions: bool = True) -> str:
    """Write the means that tell most, of those that :func:`.summarise` returns, with their units."""
    shown = {
        "mean_dice": "mean Dice {:.3f}",
        "mean_hd95_mm": "HD95 {:.1f} mm",
        f"mean_{nsd_name(nsd_tolerance_mm)}": f"NSD {{:.3f}} at {nsd_tolerance_mm:g} mm",
        "lesion_f1": "lesion F1 {:.3f}",
        "small_lesion_recall": "small-lesion recall {:.3f}",
        "fp_lesions": "{:.1f} FP lesions per case",
    }
    return ", ".join(text.format(means[name]) for name, text in shown.items() if lesions or "lesion" not in name)
