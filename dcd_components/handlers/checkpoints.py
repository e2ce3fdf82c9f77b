"""Checkpoints that can be written, and none that is lost."""

from __future__ import annotations

import shutil
import tempfile
from datetime import datetime, timezone
from pathlib import Path

from dcd_components.errors import InputError


def prepare_checkpoint(path: str | Path) -> None:
    """Make sure, before hours of training, that a checkpoint can be written, and that none is lost.

    Makes the folder. A checkpoint that is there already is copied to ``<name>-<date and time of its writing>``.

    Raises:
        InputError: when the folder cannot be made or written to.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise InputError(f"{path.parent} must be a folder that can be written to: {error}") from error
    if path.is_file():
        written = datetime.fromtimestamp(path.stat().st_mtime, tz=timezone.utc).strftime("%Y%m%dT%H%M%S")
        shutil.copy2(path, path.with_name(f"{path.stem}-{written}{path.suffix}"))
