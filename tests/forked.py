"""Commands, each in a process forked from one that has imported torch and MONAI but done nothing yet.

With tiny patients a command takes less than its imports do. That commands start as programs of their own is tested in
``test_cli.py`` and ``bundles/test_bad_input.py``.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import runpy
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from subprocess import CompletedProcess

PACKAGE = "dcd_components"
TIMEOUT = 600  # seconds
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
        return _status(module, words, folder, {}, log.name, log.name), log.read()


def run(module: str, words: Sequence[str], folder: Path, **environment: str) -> CompletedProcess[str]:
    """The same, with further variables of the environment, and what was said to each stream by itself."""
    with (
        tempfile.NamedTemporaryFile("r", encoding="utf-8") as out,
        tempfile.NamedTemporaryFile("r", encoding="utf-8") as err,
    ):
        status = _status(module, words, folder, environment, out.name, err.name)
        return CompletedProcess([module, *words], status, out.read(), err.read())


def _status(module: str, words: Sequence[str], folder: Path, environment: dict[str, str], *logs: str) -> int:
    arguments = (module, [*words], str(folder.absolute()), environment, *logs)
    process = CONTEXT.Process(target=_run_module, args=arguments)
    process.start()
    process.join(TIMEOUT)
    process.kill()  # a command that goes on for ever
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def _run_module(module: str, words: list[str], folder: str, environment: dict[str, str], *logs: str) -> None:
    start_afresh(*logs)
    faulthandler.dump_traceback_later(TIMEOUT - 5)  # says where a command hangs
    os.environ.update(environment)
    warnings.simplefilter("ignore")
    os.chdir(folder)
    sys.path.insert(0, folder)
    if Path(PACKAGE).is_dir():  # that of a release
        for name in [name for name in sys.modules if name.partition(".")[0] == PACKAGE]:
            del sys.modules[name]
    sys.argv = [module, *words]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except Exception:  # noqa: BLE001 - multiprocessing would report all in its own way, and none by the hook
        sys.excepthook(*sys.exc_info())
        sys.exit(1)


def start_afresh(out: str, err: str | None = None) -> None:
    """Start processes as a program of its own does, and say all to a file, or to one for each stream."""
    multiprocessing.set_start_method("fork", force=True)
    for stream, log in enumerate((out, err or out), start=1):
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
