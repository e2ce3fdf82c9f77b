"""A release's files as one zip: the same bytes for the same files, checksums inside, and no personal paths."""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from dcd_components.errors import InputError

#: Files above this are not part of a zip; the model zoo refuses them.
LARGE = 25_000_000
#: Homes of users, on any machine.
HOMES = rb"(?<![\w.])/(?:home|Users)/[\w.-]+|[A-Za-z]:\\+Users\\+[\w.-]+"


def write_zip(path: Path, folder: str, files: Mapping[str, bytes]) -> None:
    """Write files below a folder of a zip, sorted, all with the same time and mode, and ``SHA256SUMS`` with them."""
    files = {**files, "SHA256SUMS": checksums(files)}
    with zipfile.ZipFile(path, "x", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(f"{folder}/{name}", date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type, entry.create_system, entry.external_attr = zipfile.ZIP_DEFLATED, 3, 0o100644 << 16
            archive.writestr(entry, files[name])


def checksums(files: Mapping[str, bytes]) -> bytes:
    """Lines that ``sha256sum --check`` reads."""
    return "".join(f"{sha256(files[name])}  {name}\n" for name in sorted(files)).encode()


def sha256(data: bytes) -> str:
    """Hash of a file's bytes."""
    return hashlib.sha256(data).hexdigest()


def split_large(files: Mapping[str, bytes], prefix: str, url: str | None) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Take out the files that are too large for a zip, and list them in its ``large_files.yml``.

    Args:
        files: by their paths in the bundle.
        prefix: of the names under which the large files are published.
        url: where that is.

    Returns:
        The files of the zip, and the large files by the names under which to publish them.

    Raises:
        InputError: when there are large files but no URL.
    """
    large = {
        path: f"{prefix}_{path.removeprefix('models/').replace('/', '_')}" for path in files if too_large(files[path])
    }
    if not large:
        return dict(files), {}
    if url is None:
        raise InputError(f"{', '.join(large)} must be published beside the zip: say below which address with --url")
    listed = [
        {"path": path, "url": f"{url.rstrip('/')}/{name}", "hash_type": "sha256", "hash_val": sha256(files[path])}
        for path, name in large.items()
    ]
    text = yaml.safe_dump({"large_files": listed}, sort_keys=False, width=1000)
    small = {path: data for path, data in files.items() if path not in large}
    return {**small, "large_files.yml": text.encode()}, {name: files[path] for path, name in large.items()}


def too_large(data: bytes) -> bool:
    """Whether a file is too large for a zip."""
    return len(data) > LARGE


def refuse_personal_paths(files: Mapping[str, bytes], places: Sequence[Path]) -> None:
    """Make sure that no file tells of the machine on which it was made.

    Args:
        files: by the names that an error says; of weights, all but the numbers is looked at.
        places: folders of this machine that no file may name.

    Raises:
        InputError: which says the file and, of a text, the line.
    """
    named = [str(place).encode() for place in places if len(place.parts) > 1]
    expression = re.compile(b"|".join([HOMES, *(rb"(?<![\w.])" + re.escape(name) + rb"(?!\w)" for name in named)]))
    for name, data in files.items():
        for record, text in _texts(name, data).items():
            if found := expression.search(text):
                line = f", line {1 + text[: found.start()].count(bytes([10]))}," if record == name else ""
                raise InputError(f"{record}{line} names a place on this machine: {found[0].decode(errors='replace')}")


def _texts(name: str, data: bytes) -> dict[str, bytes]:
    """The parts of a file that may hold paths."""
    if Path(name).suffix not in (".pt", ".ts"):
        return {name: data}
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        records = [record for record in archive.namelist() if not re.search(r"/(data|constants)/\d+$", record)]
        return {f"{name} ({record})": archive.read(record) for record in records}
