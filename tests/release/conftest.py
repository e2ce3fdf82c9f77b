"""Releases of tiny bundles, made once; a test that writes into one copies it first."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from releases import OVERLAYS, trained
from tiny import BRATS, HIPPOCAMPUS, ISLES

from dcd_components.bundle.release.packing import pack


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the releases, as a server has them."""
    return tmp_path_factory.mktemp("published")


def release_of(source: Path, published: Path, parent: Path) -> Path:
    return pack(trained(source, parent), published, overlays=OVERLAYS, teacher=True)


def unpacked(release: Path, parent: Path) -> Path:
    shutil.unpack_archive(release, parent)
    return parent / release.name.partition("_v")[0]


@pytest.fixture(scope="session")
def release_zip(published: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Release of the glioma bundle: a tiny student and its teacher, with random weights."""
    return release_of(BRATS, published, tmp_path_factory.mktemp("bundles"))


@pytest.fixture(scope="session")
def release(release_zip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, unpacked."""
    return unpacked(release_zip, tmp_path_factory.mktemp("releases"))


@pytest.fixture(scope="session")
def stroke_zip(published: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Release of the stroke bundle."""
    return release_of(ISLES, published, tmp_path_factory.mktemp("bundles"))


@pytest.fixture(scope="session")
def stroke_release(stroke_zip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, unpacked."""
    return unpacked(stroke_zip, tmp_path_factory.mktemp("releases"))


@pytest.fixture(scope="session")
def hippocampus_zip(published: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Release of the bundle for the hippocampus."""
    return release_of(HIPPOCAMPUS, published, tmp_path_factory.mktemp("bundles"))


@pytest.fixture(scope="session")
def hippocampus_release(hippocampus_zip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, unpacked."""
    return unpacked(hippocampus_zip, tmp_path_factory.mktemp("releases"))


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="session")
def server(published: Path) -> Iterator[str]:
    """Address under which the releases are to be had, on this machine alone."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(published))) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
