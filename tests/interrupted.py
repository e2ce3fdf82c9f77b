"""Trainings that are killed, stopped or disturbed at a chosen moment, each in a process forked from a clean one."""

from __future__ import annotations

import io
import logging
import os
import resource
import shutil
import signal
import sys
from collections.abc import Mapping
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import torch
from forked import CONTEXT, start_afresh
from ignite.engine import Engine, Events
from monai.bundle import ConfigWorkflow

#: Where a fault strikes, at which of its kind, counted from 1, and what it does: a signal to this process, or if it is
#: negative to all of the training; or a name in ``strike``.
Fault = tuple[str, int, Any]


def start(
    files: list[str],
    settings: dict[str, Any],
    log: Path,
    fault: Fault | None = None,
    environment: Mapping[str, str] | None = None,
) -> ForkServerProcess:
    """Start a training; what it says goes to ``log``."""
    process = CONTEXT.Process(target=run, args=(files, settings, str(log), fault, dict(environment or {})))
    process.start()
    return process


def run(
    files: list[str], settings: dict[str, Any], log: str, fault: Fault | None, environment: Mapping[str, str]
) -> None:
    os.setsid()
    os.environ.update(environment)
    start_afresh(log)
    logging.basicConfig(level=logging.INFO)
    torch.set_num_threads(1)
    flow = ConfigWorkflow(files, workflow_type="train", logging_file=False, **settings)
    flow.initialize()
    if fault is not None:
        strike(flow, *fault)
    flow.run()
    sys.exit(0)


def strike(flow: ConfigWorkflow, where: str, number: int, what: Any) -> None:
    if where == "write":
        kill_while_writing(number)
        return
    name = {"iteration": "train::trainer", "case": "validate::evaluator"}[where]
    engine: Engine = flow.parser.get_parsed_content(name)
    count = 0

    def act() -> None:
        nonlocal count
        count += 1
        if count != number:
            return
        if isinstance(what, int):
            os.kill(os.getpid(), what) if what > 0 else os.killpg(0, -what)
        else:
            {"kill a worker": kill_worker, "fill the disk": fill_disk, "NaN": spoil, "vanish": vanish}[what](engine)

    engine.add_event_handler(Events.ITERATION_STARTED, act)


def kill_worker(engine: Any) -> None:
    for worker in engine.state.dataloader._iterator._workers:
        os.kill(worker.pid, signal.SIGKILL)


def fill_disk(engine: Any) -> None:
    """No file can grow to the size of a checkpoint."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))


def spoil(engine: Any) -> None:
    engine.state.batch["image"].fill_(float("nan"))


def vanish(engine: Any) -> None:
    """Remove the data, and what was made of them."""
    dataset = engine.state.dataloader.dataset
    for item in dataset.data:
        Path(item["image"][0]).unlink()
    shutil.rmtree(dataset.cache_dir)


def kill_while_writing(number: int) -> None:
    """Kill this process when half of a checkpoint is written."""
    save: Any = torch.save
    count = 0

    def half(content: Any, file: Any) -> None:
        nonlocal count
        if "own" not in content:
            save(content, file)
            return
        count += 1
        save(content, whole := io.BytesIO())
        file.write(whole.getvalue()[: len(whole.getvalue()) // 2 if count == number else None])
        file.flush()
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)

    torch.save = half  # type: ignore[assignment]
