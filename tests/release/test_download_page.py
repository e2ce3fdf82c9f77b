"""The page on downloads, run as it stands, by Python with what the page installs."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from bare_python import Python, link_distributions
from releases import OVERLAYS, trained
from releases import page as text_of
from tiny import BRATS

from dcd_components.tables import read_csv


@pytest.fixture
def page() -> str:
    return text_of("download")


def pinned(page: str) -> dict[str, str]:
    """What the page installs."""
    return dict(re.findall(r"([\w-]+)==([\w.]+)", page))


def commands(text: str) -> str:
    found = [line.strip() for line in text.splitlines() if line.startswith("    ")]
    return "\n".join(line for line in found if not line.startswith("pip "))


def with_places(text: str, **places: object) -> str:
    for name, place in places.items():
        text = re.sub(rf"\b{name}\b", str(place), text)
    return text


def test_the_page_installs_what_the_metadata_say(page: str, release: Path) -> None:
    metadata = json.loads((release / "configs" / "metadata.json").read_text())
    first, second = page.split("## Train your own")
    run = {"torch": metadata["pytorch_version"], "monai": metadata["monai_version"], "numpy": metadata["numpy_version"]}
    assert pinned(first) == run | metadata["required_packages_version"]
    assert pinned(second) == metadata["training_packages_version"]


def test_the_page_runs(release_zip: Path, patients: Path, page: str, server: str, tmp_path: Path) -> None:
    python = Python(link_distributions(pinned(page), tmp_path / "packages"))
    copied = shutil.copytree(patients, tmp_path / "data")  # a data list is written into it
    bundle = tmp_path / BRATS.name
    places = {"URL": f"{server}/{release_zip.name}", "DIR": copied, "OUT": tmp_path / "out", "BUNDLE": bundle}
    use, publish = page.split("## Publish your own")
    python.script(with_places(commands(use), **places), cwd=tmp_path)
    assert (tmp_path / "out" / "model.ts").is_file()
    assert len(list((tmp_path / "out").glob("*_seg.nii.gz"))) == 10
    assert len(list((bundle / "models").glob("model-*.pt"))) == 1
    assert {path.parent.name for path in (tmp_path / "out").rglob("scores.csv")} == {"teacher", "mirror"}
    scores = bundle / "eval" / "scores.csv"
    assert len(read_csv(scores)) == 2
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    python("-c", code, cwd=tmp_path)

    own = trained(BRATS, tmp_path / "own")
    (own / "eval").mkdir()
    shutil.copyfile(scores, own / "eval" / "scores.csv")
    shutil.copyfile(bundle / "models" / "model.pt", own / "models" / "model.pt")  # whose scores they are
    command = shlex.split(with_places(commands(publish), DIR=tmp_path / "published"))
    command = [sys.executable, *command[1:], "--overlay", *OVERLAYS]
    done = subprocess.run(command, cwd=own, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()) == tmp_path / "published" / release_zip.name
