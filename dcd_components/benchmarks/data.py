"""How much of a training's time is spent waiting for data, with and without the cache on disk."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from ignite.engine import Engine, Events
from tqdm import tqdm

from dcd_components.benchmarks import timing
from dcd_components.benchmarks.training import Training
from dcd_components.data.datalists import read_datalist
from dcd_components.tables import markdown_table, write_csv

DATASETS: dict[str, dict[str, Any]] = {
    "no cache": {"_target_": "Dataset"},
    "MONAI's PersistentDataset": {"_target_": "PersistentDataset", "cache_dir": "@cache_dir"},
    "DiskCache": {"_target_": "dcd_components.DiskCache", "cache_dir": "@cache_dir"},
}
COLUMNS = {
    "dataset": ("Data from", ""),
    "epoch": ("Epoch", ""),
    "seconds": ("Seconds per iteration", ".2f"),
    "waiting": ("of which waiting for data", ".2f"),
    "share": ("Share", ".0%"),
    "gigabytes": ("On disk, GB per case", ".3f"),
}


def measure(bundle: Path, out: Path, repeats: int, settings: Mapping[str, Any]) -> str:
    """Train a bundle's plain student on three kinds of data set, in turns, and time it.

    Args:
        bundle: folder of the bundle.
        out: new folder for ``data.csv``, ``data.md`` and the caches, which are deleted at the end.
        repeats: epochs of each kind, the first apart, since it fills the cache.
        settings: of the bundle, among them ``dataset_dir``, ``epoch_length`` and ``num_workers``.

    Returns:
        A table in Markdown: medians over the repeats, with the machine.
    """
    rows: list[dict[str, Any]] = []
    (out / "caches").mkdir(parents=True)
    trainings = {name: _TimedTraining(bundle, name, out / "caches" / name, settings) for name in DATASETS}
    with tqdm(total=(1 + repeats) * len(trainings), unit="epoch") as progress:
        for epoch in range(1 + repeats):
            for name, training in trainings.items():
                rows.append({"dataset": name, "repeat": epoch, **training.epoch()})
                progress.update()
    shutil.rmtree(out / "caches")
    write_csv(rows, out / "data.csv")
    setting = f"Medians of {repeats} epochs of {settings['epoch_length']} iterations after the first"
    processes = f"{settings['num_workers']} loading processes; {timing.machine()}"
    text = f"{markdown_table(_summarise(rows), COLUMNS)}\n\n{setting}; {processes}.\n"
    (out / "data.md").write_text(text)
    return text


class _TimedTraining:
    """A training of the plain student that can be run an epoch at a time, with a clock on its data."""

    def __init__(self, bundle: Path, name: str, cache: Path, settings: Mapping[str, Any]) -> None:
        self.cache = cache
        self.waits: list[float] = []
        configs = [str(bundle / "configs" / "train_student.yaml")]
        folds = sorted({case["fold"] for case in read_datalist(Path(settings["dataset_dir"], "datalist.json")).cases})
        places = {key: f"@{key}" for key in ("datalist", "dataset_dir", "layout")}
        cases = {"_target_": "dcd_components.labelled_cases", **places, "folds": folds}
        training = {
            "train::dataset": {**DATASETS[name], "data": cases, "transform": "@train::preprocessing"},
            "train::handlers": [],
            "cache_dir": str(cache),
        }
        self.training = Training(configs, **settings, **training)
        self.training.trainer.add_event_handler(Events.GET_BATCH_STARTED, self._start)
        self.training.trainer.add_event_handler(Events.GET_BATCH_COMPLETED, self._stop)

    def _start(self, engine: Engine) -> None:
        self._since = time.perf_counter()

    def _stop(self, engine: Engine) -> None:
        self.waits.append(time.perf_counter() - self._since)

    def epoch(self) -> dict[str, float]:
        """Seconds of one more epoch, an iteration, and those spent waiting."""
        self.waits.clear()
        start = time.perf_counter()
        self.training.epoch()
        count, seconds = len(self.waits), time.perf_counter() - start
        files = [path.stat().st_size for path in self.cache.glob("*.pt")]
        size = sum(files) / len(files) / 1e9 if files else 0.0
        return {"seconds": seconds / count, "waiting": sum(self.waits) / count, "gigabytes": size}


def _summarise(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Median over the epochs of each kind, the first epoch apart."""
    table = []
    for name in DATASETS:
        for epoch, later in (("first", False), ("later", True)):
            chosen = [row for row in rows if row["dataset"] == name and (row["repeat"] > 0) == later]
            figures = {key: median(row[key] for row in chosen) for key in ("seconds", "waiting", "gigabytes")}
            share = median(row["waiting"] / row["seconds"] for row in chosen)
            table.append({"dataset": name, "epoch": epoch, **figures, "share": share})
    return table
