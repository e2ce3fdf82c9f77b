"""Python as it is in another environment, mostly one where nothing but chosen distributions is installed."""

from __future__ import annotations

import importlib.metadata
import os
import shlex
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import IO, Any

from packaging.requirements import Requirement


def installed(distributions: Iterable[str]) -> dict[str, str]:
    """Distributions, and those that they need, by version."""
    found: dict[str, str] = {}
    left = list(distributions)
    while left:
        name = left.pop().lower().replace("_", "-")
        if name not in found:
            found[name] = importlib.metadata.version(name)
            needed = map(Requirement, importlib.metadata.requires(name) or [])
            left += [one.name for one in needed if one.marker is None or one.marker.evaluate({"extra": ""})]
    return found


def link_distributions(distributions: Iterable[str], folder: Path) -> Path:
    """Make a folder that has these distributions, and those that they need, and nothing else."""
    folder.mkdir()
    for name in installed(distributions):
        distribution = importlib.metadata.distribution(name)
        tops = {Path(file).parts[0] for file in distribution.files or []}
        for top in tops - {"..", "__pycache__"}:
            if not (folder / top).exists():
                (folder / top).symlink_to(Path(str(distribution.locate_file(top))))
    return folder


#: Imports MONAI once, which takes longer than most commands do, and does each in a process forked from itself. Each is
#: a line: folder, log, module and words, with the character 1F between them; the answer is its exit status.
PARENT = r"""
import os, runpy, sys
import monai.bundle
for line in sys.stdin:
    folder, log, module, *words = line[:-1].split("\x1f")
    if child := os.fork():
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        continue
    os.chdir(folder)
    for stream, path in enumerate((os.devnull, log, log)):
        os.dup2(os.open(path, os.O_RDWR | os.O_APPEND), stream)
    sys.argv, sys.path[0] = [module, *words], folder
    runpy.run_module(module, run_name="__main__", alter_sys=True)
    break
"""
#: ``python -m`` in a shell that has the ends of the parent's pipes.
PYTHON = r"""
python() {{
    [ "$1" = -m ] || return 1
    local IFS=$'\x1f' status; shift
    echo "$PWD$IFS"{log}"$IFS$*" >&{asked} && read -r status <&{answered} && [ "$status" = 0 ]
}}
set -ex
"""


class Python:
    """Python that sees what is in a folder, and not the environment of the tests.

    Args:
        folder: distributions.
        program: that of an environment with further ones, else none are seen.
    """

    def __init__(self, folder: Path, program: Path | None = None) -> None:
        self.folder = folder
        self.command = [*([str(program)] if program else [sys.executable, "-S"]), "-W", "ignore"]

    def __call__(self, *arguments: str, cwd: Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run ``python``; where it fails, so does the test."""
        command, environment = [*self.command, *arguments], self._environment()
        done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
        assert not check or done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
        return done

    def script(self, text: str, cwd: Path, environment: Mapping[str, str] | None = None) -> None:
        """Run lines of a shell, in which ``python -m`` is that of this one, and other programs see an environment."""
        ends = (self._asked.fileno(), self._answered.fileno())
        with tempfile.NamedTemporaryFile("r", encoding="utf-8") as log:
            lines = PYTHON.format(log=shlex.quote(log.name), asked=ends[0], answered=ends[1]) + text
            shell: dict[str, Any] = {"cwd": cwd, "env": environment, "pass_fds": ends}
            done = subprocess.run(["bash", "-c", lines], **shell, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:] + log.read()[-4000:]

    def monai(self, command: str, *, cwd: Path, check: bool = True, **options: Any) -> str:
        """Do what a command of ``python -m monai.bundle`` does and return what it says."""
        words = [*command.split(), *(f"--{key}={value}" for key, value in options.items())]
        with tempfile.NamedTemporaryFile("r", encoding="utf-8") as log:
            print(str(cwd), log.name, "monai.bundle", *words, sep="\x1f", file=self._asked, flush=True)
            status, said = self._answered.readline(), log.read()
        assert status, "with these distributions alone, monai.bundle cannot be imported"
        assert not check or status == "0\n", said[-6000:]
        return said

    @cached_property
    def _parent(self) -> subprocess.Popen[str]:
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        parent = subprocess.Popen([*self.command, "-c", PARENT], cwd=self.folder, env=self._environment(), **pipes)
        weakref.finalize(self, parent.communicate)  # closes its input, with which it ends
        return parent

    @property
    def _asked(self) -> IO[str]:
        assert self._parent.stdin
        return self._parent.stdin

    @property
    def _answered(self) -> IO[str]:
        assert self._parent.stdout
        return self._parent.stdout

    def _environment(self) -> dict[str, str]:
        kept = {key: os.environ[key] for key in ("PATH", "HOME", "OMP_NUM_THREADS") if key in os.environ}
        return {**kept, "PYTHONPATH": str(self.folder), "PYTHONDONTWRITEBYTECODE": "1"}
