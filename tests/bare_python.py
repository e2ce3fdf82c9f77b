"""Python as it is where nothing but chosen distributions is installed."""

from __future__ import annotations

import importlib.metadata
import os
import shlex
import subprocess
import sys
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


class Python:
    """Python that sees the distributions in a folder, not those of the environment of the tests."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.command = [sys.executable, "-S", "-W", "ignore"]

    def __call__(self, *arguments: str, cwd: Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run ``python``; where it fails, so does the test."""
        return self._run([*self.command, *arguments], cwd, check=check)

    def script(self, text: str, cwd: Path) -> None:
        """Run lines of a shell, in which ``python`` is this one."""
        function = f'python() {{ {shlex.join(self.command)} "$@"; }}'
        self._run(["bash", "-c", f"{function}\nset -ex\n{text}"], cwd, check=True)

    def monai(self, command: str, *, cwd: Path, check: bool = True, **options: Any) -> str:
        """Run a command of ``python -m monai.bundle`` and return what it says."""
        words = [f"--{key}={value}" for key, value in options.items()]
        done = self("-m", "monai.bundle", *command.split(), *words, cwd=cwd, check=check)
        return done.stdout + done.stderr

    def _run(self, command: Sequence[str], cwd: Path, *, check: bool) -> subprocess.CompletedProcess[str]:
        kept = {key: os.environ[key] for key in ("PATH", "HOME", "OMP_NUM_THREADS") if key in os.environ}
        seen = {"PYTHONPATH": str(self.folder), "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(command, cwd=cwd, env={**kept, **seen}, capture_output=True, text=True, check=False)
        assert not check or done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
        return done
