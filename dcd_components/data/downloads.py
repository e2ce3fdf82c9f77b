"""Data sets that everybody may have, by MONAI's own download."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from monai.apps import DecathlonDataset
from monai.apps.utils import HashCheckError, download_url, extractall

from dcd_components.errors import InputError

#: Tasks of the Medical Segmentation Decathlon, by the name that a bundle has for them.
DECATHLON = {"hippocampus": "Task04_Hippocampus"}


def download(name: str, out: Path) -> Path:
    """Download a data set and unpack it, whole or not at all, unless it is there.

    Args:
        name: key of ``DECATHLON``.
        out: folder for the archive and the data set's folder. An archive that is there is not downloaded.

    Returns:
        The data set's folder.

    Raises:
        InputError: where it cannot be had, with what to fetch and where to put it, and for another archive.
    """
    task = DECATHLON[name]
    folder, archive, address = out / task, out / f"{task}.tar", DecathlonDataset.resource[task]
    if folder.is_dir():
        return folder
    out.mkdir(parents=True, exist_ok=True)
    try:
        download_url(address, archive, DecathlonDataset.md5[task], "md5")
    except HashCheckError:
        raise InputError(f"{archive} is not the archive that MONAI knows: delete it, and start again") from None
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"{task}.tar cannot be downloaded from {address} ({error}): put it into {out} and start again, "
            f"or unpack it anywhere and use its folder {task}"
        ) from None
    try:
        with TemporaryDirectory(prefix=".", dir=out) as hidden:
            extractall(archive, hidden, file_type="tar", has_base=False)
            (Path(hidden) / task).rename(folder)
    except OSError as error:
        raise InputError(f"{archive} cannot be unpacked into {out}: {error}") from None
    return folder
