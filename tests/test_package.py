"""The wheel: what is in it, and what its command does where there is no repository."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
Dcd = Callable[..., subprocess.CompletedProcess[str]]


def run(*words: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([*map(str, words)], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the package, since building leaves files beside it."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT / "dcd_components", source / "dcd_components", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, source, cwd=source)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def dcd(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Dcd:
    """The command of the wheel in an environment of its own, which sees the packages of this one, and a folder."""
    folder = tmp_path_factory.mktemp("elsewhere")
    run(sys.executable, "-m", "venv", folder / "venv", cwd=folder)
    binaries = folder / "venv" / ("Scripts" if sys.platform == "win32" else "bin")
    run(binaries / "python", "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel, cwd=folder)
    site = run(binaries / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).stdout
    (Path(site.strip()) / "packages.pth").write_text(sysconfig.get_path("purelib") + "\n")
    where = run(binaries / "python", "-c", "import dcd_components; print(dcd_components.__file__)", cwd=folder).stdout
    assert Path(where.strip()).is_relative_to(folder), "the environment must see the wheel, not the repository"

    def command(*words: str | Path) -> subprocess.CompletedProcess[str]:
        line = [str(binaries / "dcd"), *map(str, words)]
        return subprocess.run(line, cwd=folder, capture_output=True, text=True, check=False)

    return command


def test_the_wheel_has_the_package_its_types_its_licence_and_its_command(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {"dcd_components/py.typed", "dcd_components/cli.py"} < set(names)
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"dcd_components"}
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    points = next(name for name in names if name.endswith("entry_points.txt"))
    assert b"dcd = dcd_components.cli:main" in zipfile.ZipFile(wheel).read(points)


def test_the_command_of_the_wheel_has_help_and_a_version(dcd: Dcd, wheel: Path) -> None:
    assert "datalist" in dcd("--help").stdout
    assert dcd("--version").stdout.split() == ["dcd", wheel.name.split("-")[1]]


def test_a_data_set_is_listed_and_checked_without_a_repository(dcd: Dcd, tmp_path: Path) -> None:
    noise = np.random.default_rng(0)
    for name in ("a-t1c", "a-seg", "b-t1c", "b-seg"):
        voxels = noise.integers(0, 2 if "seg" in name else 255, (12, 12, 12), dtype=np.uint8)
        nib.save(nib.Nifti1Image(voxels, np.eye(4)), tmp_path / f"{name}.nii.gz")
    naming = ("--sequences", "t1c={case}-t1c.nii.gz", "--label_file", "{case}-seg.nii.gz", "--labels", "core=1")
    done = dcd("datalist", tmp_path, *naming, "--folds", "2")
    assert done.stdout == f"2 cases of 2 patients in {tmp_path / 'datalist.json'}\n", done.stderr
    done = dcd("check", tmp_path / "datalist.json", "--dataset_dir", tmp_path, "--workers", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "datalist_check.csv").is_file()


def test_the_loss_is_measured_without_a_repository(dcd: Dcd, tmp_path: Path) -> None:
    words = ("--sizes", "8", "--levels", "1", "--repeats", "1", "--out", tmp_path / "out")
    done = dcd("benchmark", "loss", *words)
    assert done.returncode == 0, done.stderr
    assert "| " in done.stdout
    assert (tmp_path / "out" / "loss.csv").is_file()


@pytest.mark.parametrize(
    ("words", "need"),
    [
        (("phantom", "brats_gli", "--out", "new", "--cases", "1"), "phantom works in the repository only"),
        (("demo", "--out", "new"), "run it in a clone of the repository"),
    ],
)
def test_what_needs_the_repository_says_so(dcd: Dcd, words: tuple[str, ...], need: str) -> None:
    done = dcd(*words)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert need in done.stderr
    assert done.stderr.count("\n") == 1
