"""Public data: downloaded, or asked for in one sentence. No test needs a network."""

from __future__ import annotations

import hashlib
import tarfile
from pathlib import Path

import pytest
from monai.apps import DecathlonDataset
from trees import touch

from dcd_components import cli
from dcd_components.errors import InputError

TASK = "Task04_Hippocampus"
FILES = ["imagesTr/hippocampus_001.nii.gz", "labelsTr/hippocampus_001.nii.gz"]


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What MONAI takes for the data set, at an address on this machine."""
    touch(tmp_path / TASK, FILES)
    path = tmp_path / f"{TASK}.tar"
    with tarfile.open(path, "w") as tar:
        tar.add(tmp_path / TASK, arcname=TASK)
    monkeypatch.setitem(DecathlonDataset.resource, TASK, path.as_uri())
    monkeypatch.setitem(DecathlonDataset.md5, TASK, hashlib.md5(path.read_bytes()).hexdigest())
    return path


def test_it_is_downloaded_once(archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "data"
    cli.main(["download_data", "hippocampus", "--out", str(out)])
    assert capsys.readouterr().out.splitlines()[-1] == str(out / TASK)
    assert all((out / TASK / name).is_file() for name in FILES)
    assert sorted(path.name for path in out.iterdir()) == [TASK, archive.name]
    archive.unlink()
    cli.main(["download_data", "hippocampus", "--out", str(out)])


def test_an_archive_that_was_put_there_is_enough(archive: Path, tmp_path: Path) -> None:
    (out := tmp_path / "data").mkdir()
    archive.rename(out / archive.name)
    cli.main(["download_data", "hippocampus", "--out", str(out)])
    assert (out / TASK / FILES[0]).is_file()


def test_without_a_network_it_says_what_to_fetch_and_where_to_put_it(archive: Path, tmp_path: Path) -> None:
    archive.unlink()
    out = tmp_path / "data"
    with pytest.raises(InputError, match=rf"^{TASK}.tar cannot be downloaded from .*: put it into {out} and start"):
        cli.main(["download_data", "hippocampus", "--out", str(out)])
    assert not [*out.iterdir()]


def test_another_archive_is_refused(archive: Path, tmp_path: Path) -> None:
    (out := tmp_path / "data").mkdir()
    (out / archive.name).write_bytes(archive.read_bytes()[:1000])
    with pytest.raises(InputError, match=f"{archive.name} is not the archive that MONAI knows: delete it"):
        cli.main(["download_data", "hippocampus", "--out", str(out)])
    assert [path.name for path in out.iterdir()] == [archive.name]


def test_a_disk_that_is_full_is_named_and_leaves_the_archive_alone(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dcd_components.data.downloads.extractall", full)
    out = tmp_path / "data"
    with pytest.raises(InputError, match=rf"{archive.name} cannot be unpacked into {out}: .*No space left on device"):
        cli.main(["download_data", "hippocampus", "--out", str(out)])
    assert [path.name for path in out.iterdir()] == [archive.name]
