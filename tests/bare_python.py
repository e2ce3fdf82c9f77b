"""Python as it is where nothing but chosen distributions is installed."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shlex
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

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


#: Imports MONAI once, which takes longer than most commands do, and does each in a process forked from itself.
PARENT = r"""
import json, os, runpy, sys
import monai.bundle
for line in sys.stdin:
    words, folder, log = json.loads(line)
    if child := os.fork():
        print(os.waitpid(child, 0)[1], flush=True)
        continue
    os.chdir(folder)
    for stream, path in enumerate((os.devnull, log, log)):
        os.dup2(os.open(path, os.O_RDWR | os.O_APPEND), stream)
    sys.argv, sys.path[0] = ["monai.bundle", *words], folder
    runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)
    break
"""


class Python:
    """Python that sees the distributions in a folder, not those of the environment of the tests."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.command = [sys.executable, "-S", "-W", "ignore"]
        self._parent: subprocess.Popen[str] | None = None

    def __call__(self, *arguments: str, cwd: Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run ``python``; where it fails, so does the test."""
        return self._run([*self.command, *arguments], cwd, check=check)

    def script(self, text: str, cwd: Path) -> None:
        """Run lines of a shell, in which ``python`` is this one."""
        function = f'python() {{ {shlex.join(self.command)} "$@"; }}'
        self._run(["bash", "-c", f"{function}\nset -ex\n{text}"], cwd, check=True)

    def monai(self, command: str, *, cwd: Path, check: bool = True, **options: Any) -> str:
        """Do what a command of ``python -m monai.bundle`` does and return what it says."""
        words = [f"--{key}={value}" for key, value in options.items()]
        with tempfile.NamedTemporaryFile("r", encoding="utf-8") as log:
            asked = json.dumps([[*command.split(), *words], str(cwd), log.name])
            status, said = self._tell(asked), log.read()
        assert not check or status == 0, said[-6000:]
        return said

    def _tell(self, line: str) -> int:
        if self._parent is None:
            command = [*self.command, "-c", PARENT]
            pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
            self._parent = subprocess.Popen(command, cwd=self.folder, env=self._environment(), **pipes)
            weakref.finalize(self, self._parent.communicate)  # closes its input, with which it ends
        assert self._parent.stdin
        assert self._parent.stdout
        print(line, file=self._parent.stdin, flush=True)
        status = self._parent.stdout.readline()
        assert status, "with these distributions alone, monai.bundle cannot be imported"
        return int(status)

    def _run(self, command: Sequence[str], cwd: Path, *, check: bool) -> subprocess.CompletedProcess[str]:
        environment = self._environment()
        done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
        assert not check or done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
        return done

    def _environment(self) -> dict[str, str]:
        kept = {key: os.environ[key] for key in ("PATH", "HOME", "OMP_NUM_THREADS") if key in os.environ}
        return {**kept, "PYTHONPATH": str(self.folder), "PYTHONDONTWRITEBYTECODE": "1"}
