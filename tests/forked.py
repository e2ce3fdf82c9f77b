"""Commands, each in a process forked from one that has imported torch and MONAI but done nothing yet.

With tiny patients a command takes less than its imports do. That commands start as programs of their own is tested in
``test_cli.py``, ``release/test_monai_commands.py`` and ``demo/test_demo.py``.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        *("monai.bundle", "monai.networks.nets", "torch._dynamo"),
        *("dcd_components.cli", "dcd_components.bundle.running", "dcd_components.handlers.resume"),
    ]
)


def run_module(module: str, words: Sequence[str], folder: Path) -> tuple[int, str]:
    """Do what ``python -W ignore -m MODULE WORDS`` does in a folder.

    Returns:
        The exit status, and all that was said.
    """
    with tempfile.NamedTemporaryFile("r", encoding="utf-8") as log:
        process = CONTEXT.Process(target=_run_module, args=(module, [*words], str(folder), log.name))
        process.start()
        process.join()
        assert process.exitcode is not None
        return process.exitcode, log.read()


def _run_module(module: str, words: list[str], folder: str, log: str) -> None:
    start_afresh(log)
    warnings.simplefilter("ignore")
    os.chdir(folder)
    sys.path.insert(0, folder)
    sys.argv = [module, *words]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def start_afresh(log: str) -> None:
    """Start processes as a program of its own does, and say all to a file."""
    multiprocessing.set_start_method("fork", force=True)
    for stream in (1, 2):
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
