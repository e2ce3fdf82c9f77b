"""The commands of the page, with nnU-Net's own programs and ours, each in its environment."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from bare_python import Python
from releases import commands, page
from tiny import ROOT

TRAINERS = Path(__file__).parent / "trainers"
#: nnU-Net's programs share two cores with others; ours run where nnU-Net is not installed, for some iterations.
SHELL = """
dcd() { case "$1 $2" in "run distill") set -- "$@" --quick max_epochs=2 epoch_length=30 val_interval=2;; esac
  python -m dcd_components "$@"; }
nnUNetv2_plan_and_preprocess() { command $FUNCNAME -np 1 -npfp 1 "$@"; }
nnUNetv2_train() { command $FUNCNAME "$@" -device cpu; }
nnUNetv2_predict() { command $FUNCNAME "$@" -device cpu -npp 0 -nps 0; }
nnUNetv2_predict_from_modelfolder() { command $FUNCNAME "$@" -device cpu -npp 1 -nps 1; }
"""
OURS = Python(ROOT, ROOT / ".venv/bin/python")


def page_lines(first: str, last: str) -> list[str]:
    """Commands of the page, from the one that starts with some words to the one that starts with others."""
    lines = [*commands(page("nnunet"))]
    start, stop = (next(i for i, line in enumerate(lines) if line.startswith(one)) for one in (first, last))
    return lines[start : stop + 1]


def run(lines: Sequence[str], folder: Path, places: Mapping[str, Path | str], variables: Mapping[str, str]) -> None:
    """Run commands in a shell, as they are but for words that stand for others."""
    names = rf"\b({'|'.join(places)})\b"
    script = SHELL + re.sub(names, lambda found: str(places[found[0]]), "\n".join(lines))
    programs = ROOT / ".venv-nnunet/bin"
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "nnUNet_"))}
    few = {"nnUNet_def_n_proc": "1", "nnUNet_n_proc_DA": "1", "OMP_NUM_THREADS": "1"}
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    OURS.script(script, folder, {**kept, **few, **variables, "PATH": path})
