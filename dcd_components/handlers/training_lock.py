"""A folder that one training at a time writes to."""

from __future__ import annotations

import os
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

NAME = ".lock"


class TrainingLock:
    """Lock of a folder, which the system gives back when the process ends, however it ends.

    It belongs to the process that takes it, not to those that it starts, such as those that load data and may live a
    little longer. Where the system or the file system has no locks, a training goes on without.

    Args:
        folder: of the lock's file, which stays there, empty; made when missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file: int | None = None

    def take(self) -> bool:
        """Take the lock; False if another process has it."""
        if fcntl is None or self._file is not None:
            return True
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self.folder / NAME, os.O_WRONLY | os.O_CREAT, 0o666)
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            self.release()
            return False
        except OSError:
            self.release()
        return True

    def release(self) -> None:
        """Give it back."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
