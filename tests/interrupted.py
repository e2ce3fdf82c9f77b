"""Trainings that are killed, stopped or disturbed at a chosen moment, each in a process forked from a clean one."""

from __future__ import annotations

import io
import logging
import multiprocessing
import os
import signal
import sys
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.bundle import ConfigWorkflow

#: Where a fault strikes, and at which of its kind, counted from 1; and the signal, or 0 for half a file and SIGKILL.
Fault = tuple[str, int, int]


def start(files: list[str], settings: dict[str, Any], log: Path, fault: Fault | None = None) -> ForkServerProcess:
    """Start a training; what it says goes to ``log``."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["interrupted", "monai.networks.nets", "dcd_components.handlers.resume"])
    process = context.Process(target=run, args=(files, settings, str(log), fault))
    process.start()
    return process


def run(files: list[str], settings: dict[str, Any], log: str, fault: Fault | None) -> None:
    for stream in (1, 2):
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    logging.basicConfig(level=logging.INFO)
    torch.set_num_threads(1)
    flow = ConfigWorkflow(files, workflow_type="train", logging_file=False, **settings)
    flow.initialize()
    if fault is not None:
        strike(flow, *fault)
    flow.run()
    sys.exit(0)


def strike(flow: ConfigWorkflow, where: str, number: int, kind: int) -> None:
    if where == "write":
        kill_while_writing(number)
        return
    name = {"iteration": "train::trainer", "case": "validate::evaluator"}[where]
    engine: Engine = flow.parser.get_parsed_content(name)
    count = 0

    def send() -> None:
        nonlocal count
        count += 1
        if count == number:
            os.kill(os.getpid(), kind)

    engine.add_event_handler(Events.ITERATION_STARTED, send)


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
