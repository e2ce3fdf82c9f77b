"""Command line: `python -m dcd_components COMMAND`; `--help` after a command lists its options."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Sequence
from typing import cast

import fire

from dcd_components import errors
from dcd_components.errors import InputError

#: Where each command is. Only its module is imported: what it needs, another need not have installed.
COMMANDS = {
    "phantom": "cli.phantom",
    "datalist": "cli.datalist",
    "new_bundle": "cli.new_bundle",
    "check": "__main__.check",
    "demo": "demo.demo.run",
    "benchmark": "benchmarks.benchmark.run",
    "benchmark_data": "benchmarks.data.run",
    "pack": "bundle.release.packing.run",
    "export": "deploy.onnx_export.run",
    "segment": "deploy.onnx_inference.run",
}


def check(dataset_list: str, dataset_dir: str, out: str | None = None, workers: int | None = None) -> None:
    """Read every case of a data list and say what would break a training; exit status 1 if anything does.

    Args:
        dataset_list: the data list.
        dataset_dir: folder that its paths start from.
        out: CSV file, one row a case; next to the list by default. A run that was stopped goes on from it.
        workers: processes; all cores by default.
    """
    from dcd_components import cli
    from dcd_components.data.check import runner

    print((report := runner.run(str(dataset_list), cli.folder_of(dataset_dir), out, workers)).summary)
    sys.exit(1 if report.faults else 0)


def command(name: str) -> Callable[..., str | None]:
    """Find the function of a command."""
    module, _, function = COMMANDS[name].rpartition(".")
    return cast("Callable[..., str | None]", getattr(importlib.import_module(f"dcd_components.{module}"), function))


def check_options(arguments: Sequence[str]) -> None:
    """Refuse an option that the command does not have: Fire would do the work first and complain after."""
    if arguments[0] not in COMMANDS:
        raise InputError(f"unknown command {arguments[0]}; choose {', '.join(COMMANDS)}")
    known = inspect.signature(command(arguments[0])).parameters
    for word in arguments[1:]:
        name = word.split("=")[0].removeprefix("--").replace("-", "_")
        if word.startswith("--") and name not in known and name not in ("help", ""):
            options = ", ".join(f"--{option}" for option in known)
            raise InputError(f"{arguments[0]} has no option --{name}; it has {options}")


if __name__ == "__main__":
    errors.plain_errors()
    if sys.argv[1:] in ([], ["-h"], ["--help"]):
        print(f"{__doc__}\nCOMMAND: {', '.join(COMMANDS)}")
    else:
        check_options(sys.argv[1:])
        fire.Fire({sys.argv[1]: command(sys.argv[1])}, name="dcd_components")
