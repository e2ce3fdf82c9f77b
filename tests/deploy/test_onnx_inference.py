"""Masks of ONNX Runtime are those of `monai.bundle run`, from the repository's bundles and from a release."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from monai.bundle import ConfigWorkflow
from nibabel.eulerangles import euler2mat
from tiny import BRATS, ISLES, SEQUENCES, TINY
from trees import save

from dcd_components.bundle.configs import read_configs
from dcd_components.bundle.release.packing import config_texts
from dcd_components.deploy import onnx_export, onnx_inference, runtimes
from dcd_components.errors import InputError

#: What a clinic need not install.
TRAINING = ("matplotlib", "nilearn", "numba", "onnx", "onnxscript", "pandas", "pywt", "scipy", "sklearn", "SimpleITK")


def unpack(bundle: Path, folder: Path) -> Path:
    """A copy of a bundle with an overlay of tiny settings, trained weights' place filled with random ones."""
    copy = Path(shutil.copytree(bundle, folder, ignore=shutil.ignore_patterns("models", "eval", "cache")))
    (copy / "configs" / "tiny.yaml").write_text(
        yaml.safe_dump({key: TINY[key] for key in ("spacing", "patch_size", "teacher_widths")})
    )
    (copy / "models").mkdir()
    torch.manual_seed(0)
    network = read_configs(copy, ["inference", "tiny"]).get_parsed_content("network_def")
    torch.save(network.state_dict(), copy / "models" / "model.pt")
    return copy


@pytest.fixture(scope="module")
def brats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny bundle for glioma with its ONNX file."""
    bundle = unpack(BRATS, tmp_path_factory.mktemp("unpacked") / "brats")
    onnx_export.run(str(bundle), overlays=["tiny"])
    return bundle


@pytest.fixture(scope="module")
def isles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny bundle for stroke with its ONNX file, its inference config one file as in a release."""
    bundle = unpack(ISLES, tmp_path_factory.mktemp("unpacked") / "isles")
    config = config_texts(bundle, ["tiny"])["inference"]
    for file in (bundle / "configs").glob("*.yaml"):
        file.unlink()
    (bundle / "configs" / "inference.yaml").write_text(config)
    onnx_export.run(str(bundle))
    return bundle


def segment(cases: Sequence[Path], bundle: Path, out: Path) -> str:
    return onnx_inference.run(cases, bundle / "models" / "model.onnx", out)


def masks(folder: Path) -> dict[str, nib.Nifti1Image]:
    return {path.name: nib.load(path) for path in sorted(folder.iterdir())}


def run_bundle(bundle: Path, names: Sequence[str], data: Path, out: Path) -> None:
    """What `python -m monai.bundle run` does."""
    files = [str(next((bundle / "configs").glob(f"{name}.*"))) for name in names]
    places = {"bundle_root": str(bundle), "dataset_dir": str(data), "output_dir": str(out)}
    flow = ConfigWorkflow(files, workflow_type="infer", logging_file=False, **places)
    flow.initialize()
    flow.run()


def turn(path: Path) -> None:
    """Store an image with its axes in another order and direction, and oblique, the patient where they were."""
    image = nib.load(path)
    other = image.as_reoriented(nib.orientations.axcodes2ornt("PSL"))
    tilt = nib.affines.from_matvec(euler2mat(0.1, 0.05, 0.2))
    nib.save(nib.Nifti1Image(np.asarray(other.dataobj), tilt @ other.affine), path)


def same(ours: Path, theirs: Path, apart: float = 1e-4) -> None:
    """Masks of the same names and geometry, and no more than a share of the voxels apart: one in 10,000."""
    found, expected = masks(ours), masks(theirs)
    assert found.keys() == expected.keys() != set()
    for name, mask in found.items():
        assert np.array_equal(mask.affine, expected[name].affine)
        assert mask.get_data_dtype() == expected[name].get_data_dtype() == np.uint8
        labels = np.asarray(expected[name].dataobj)
        assert len(np.unique(labels)) > 1
        assert (np.asarray(mask.dataobj) != labels).mean() < apart


def test_masks_are_those_of_the_bundle(brats: Path, patients: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(patients, tmp_path / "data"))
    first = sorted(path for path in data.iterdir() if path.is_dir())[0]
    for path in first.iterdir():
        turn(path)
    run_bundle(brats, ["inference", "tiny"], data, tmp_path / "theirs")
    assert segment([data], brats, tmp_path / "ours") == f"masks in {tmp_path / 'ours'}: 10"
    same(tmp_path / "ours", tmp_path / "theirs")


def test_masks_of_openvino_differ_by_its_rounding(
    brats: Path, patients: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    first = sorted(path for path in patients.iterdir() if path.is_dir())[0]
    segment([first], brats, tmp_path / "exact")
    model = brats / "models" / "model.onnx"
    loaded: list[Path] = []

    def load(path: Path) -> runtimes.Runtime:
        loaded.append(path)
        return runtimes.load_openvino(path)

    monkeypatch.setattr(onnx_inference, "load_openvino", load)
    onnx_inference.run([first], model, tmp_path / "fast", runtime="openvino")
    assert loaded == [model]
    same(tmp_path / "fast", tmp_path / "exact", apart=0.03)  # of weights as drawn, which decide nothing clearly
    (mask,) = (tmp_path / "fast").iterdir()
    before = mask.stat().st_mtime_ns
    onnx_inference.run([first], model, tmp_path / "fast", runtime="openvino")
    assert mask.stat().st_mtime_ns == before  # known as its own
    onnx_inference.run([first], model, tmp_path / "fast")
    assert mask.stat().st_mtime_ns > before  # not taken for one of the other runtime


def test_masks_of_a_release_whose_images_have_grids_of_their_own(isles: Path, strokes: Path, tmp_path: Path) -> None:
    run_bundle(isles, ["inference"], strokes, tmp_path / "theirs")
    segment([strokes], isles, tmp_path / "ours")
    same(tmp_path / "ours", tmp_path / "theirs")


def test_a_case_is_named_by_any_of_its_files_and_counts_once(brats: Path, patients: Path, tmp_path: Path) -> None:
    first, second, *_ = sorted(patients.glob("*/*-t2f.nii.gz"))
    segment([first, first.with_name(first.name.replace("t2f", "t1c")), second.parent], brats, tmp_path)
    assert list(masks(tmp_path)) == [path.name.replace("-t2f", "_seg") for path in (first, second)]


def test_a_case_may_be_one_4d_file(brats: Path, patients: Path, tmp_path: Path) -> None:
    first = sorted(patients.glob("*/*-t1n.nii.gz"))[0]
    images = [nib.load(first.with_name(first.name.replace("t1n", name))) for name in SEQUENCES]
    voxels = np.stack([image.get_fdata(dtype=np.float32) for image in images], -1)
    nib.save(nib.Nifti1Image(voxels, images[0].affine), tmp_path / "patient.nii.gz")
    segment([tmp_path / "patient.nii.gz", first], brats, tmp_path / "out")
    one, other = (np.asarray(mask.dataobj) for mask in masks(tmp_path / "out").values())
    assert np.array_equal(one, other)
    assert list(masks(tmp_path / "out"))[1] == "patient_seg.nii.gz"


def test_signs_that_configs_give_a_meaning_may_be_in_paths(brats: Path, patients: Path, tmp_path: Path) -> None:
    first = sorted(patients.glob("*/*-t1n.nii.gz"))[0].parent
    folder, out = tmp_path / "a#1 @b %c::d [x]", tmp_path / "#2 @e"
    shutil.copytree(first, folder / first.name)
    segment([folder, folder / first.name / f"{first.name}-t1n.nii.gz"], brats, out)
    assert list(masks(out)) == [f"{first.name}_seg.nii.gz"]


def test_a_file_of_others_is_not_replaced(brats: Path, patients: Path, tmp_path: Path) -> None:
    first = sorted(path for path in patients.iterdir() if path.is_dir())[0]
    mask = tmp_path / f"{first.name}_seg.nii.gz"
    mask.write_text("corrected by hand")
    with pytest.raises(ValueError, match=f"{mask}: bears no mark of this project .+, and is not replaced"):
        segment([patients], brats, tmp_path)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["corrected by hand"]


def test_a_run_that_was_killed_goes_on(brats: Path, patients: Path, tmp_path: Path) -> None:
    first, second = sorted(path for path in patients.iterdir() if path.is_dir())[:2]
    segment([first], brats, tmp_path)
    (kept,) = tmp_path.iterdir()
    written = kept.stat().st_mtime_ns
    assert segment([first, second], brats, tmp_path) == f"masks in {tmp_path}: 2"
    assert len(masks(tmp_path)) == 2
    assert kept.stat().st_mtime_ns == written


def test_weights_that_were_trained_on_after_the_export_are_noticed(brats: Path, patients: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(brats, tmp_path / "bundle"))
    weights = torch.load(bundle / "models" / "model.pt", weights_only=True)
    torch.save({name: value + 1 for name, value in weights.items()}, bundle / "models" / "model.pt")
    with pytest.raises(
        InputError, match=r"model.onnx is of other weights than .*model.pt: write it anew with dcd export$"
    ):
        segment([patients], bundle, tmp_path / "out")
    (bundle / "models" / "model.pt").unlink()
    first = sorted(path for path in patients.iterdir() if path.is_dir())[0]
    segment([first], bundle, tmp_path / "out")


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ("nowhere", "nowhere: missing$"),
        ("empty", "^no file below .*empty fits {case}-t1n.nii.gz, "),
        ("other.nii.gz", "^.*other.nii.gz: is 3D, shape 2x3x4, expected the name of a sequence, or 4D with t1n, t1c, "),
    ],
)
def test_cases_that_are_none(case: str, expected: str, brats: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    save(tmp_path / "other.nii.gz")
    given = tmp_path / case if (tmp_path / case).exists() else Path(case)
    with pytest.raises(InputError, match=expected):
        segment([given], brats, tmp_path / "out")
    with pytest.raises(ValueError, match="name the cases: a file of each, or a folder"):
        segment([], brats, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_good_cases_are_done_and_the_others_named_at_the_end(brats: Path, patients: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(patients, tmp_path / "data"))
    lost, cut, *_ = sorted(data.glob("*/*-t2w.nii.gz"))
    lost.unlink()
    cut.write_bytes(cut.read_bytes()[:1000])
    said = rf"^2 of the cases could not be segmented: {cut}: .+; {lost.parent.name}: .*{lost.name}: missing$"
    with pytest.raises(InputError, match=said):
        segment([data], brats, tmp_path / "out")
    assert len(masks(tmp_path / "out")) == 8


def test_a_model_that_is_none_or_not_of_its_bundle(brats: Path, isles: Path, patients: Path, tmp_path: Path) -> None:
    models = tmp_path / "bundle" / "models"
    shutil.copytree(isles / "configs", tmp_path / "bundle" / "configs")
    models.mkdir()
    file = shutil.copy(brats / "models" / "model.onnx", tmp_path)
    with pytest.raises(InputError, match=r"model.onnx must lie in the folder models of its bundle"):
        onnx_inference.run([patients], file, tmp_path / "out")
    with pytest.raises(InputError, match=r"no model at .*nothing.onnx"):
        onnx_inference.run([patients], "nothing.onnx", tmp_path / "out")
    (models / "model.onnx").write_bytes(b"weights")
    with pytest.raises(ValueError, match=r"model.onnx must be an ONNX file"):
        segment([patients], tmp_path / "bundle", tmp_path / "out")
    shutil.copytree(isles / "configs", tmp_path / "other" / "configs")
    (tmp_path / "other" / "models").mkdir()
    shutil.copy(brats / "configs" / "tiny.yaml", tmp_path / "other" / "configs")
    shutil.copy(file, tmp_path / "other" / "models")
    with pytest.raises(
        ValueError, match=r"4 channels in and 5 out, the bundle at .*other has 3 sequences and 2 outputs"
    ):
        segment([patients], tmp_path / "other", tmp_path / "out")


def command(bundle: Path, blocked: Sequence[str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m dcd_components segment` where some packages cannot be imported."""
    program = (
        f"import runpy, sys; sys.modules.update(dict.fromkeys({list(blocked)!r}));"
        "runpy.run_module('dcd_components', run_name='__main__', alter_sys=True)"
    )
    words = ["segment", *arguments, "--model", str(bundle / "models" / "model.onnx")]
    return subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=False)


def test_the_command_runs_without_what_trainings_need(brats: Path, patients: Path, tmp_path: Path) -> None:
    first, second = sorted(path for path in patients.iterdir() if path.is_dir())[:2]
    done = command(brats, TRAINING, str(first), str(second), "--out", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"masks in {tmp_path / 'out'}: 2"
    assert "2/2" in done.stderr
    segment([first, second], brats, tmp_path / "here")
    for name, mask in masks(tmp_path / "here").items():
        assert np.array_equal(np.asarray(mask.dataobj), np.asarray(nib.load(tmp_path / "out" / name).dataobj))


def test_an_unknown_runtime_is_refused(brats: Path, patients: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"runtime must be one of onnxruntime, openvino, got tensorrt"):
        onnx_inference.run([patients], brats / "models" / "model.onnx", tmp_path, runtime="tensorrt")


def test_the_command_says_that_openvino_must_be_installed(brats: Path, patients: Path, tmp_path: Path) -> None:
    done = command(brats, ["openvino"], str(patients), "--out", str(tmp_path / "out"), "--runtime", "openvino")
    assert done.returncode == 1
    assert done.stderr.strip() == "error: openvino must be installed: pip install openvino"


def test_the_command_says_what_to_install(brats: Path, patients: Path, tmp_path: Path) -> None:
    done = command(brats, ["onnxruntime"], str(patients), "--out", str(tmp_path / "out"))
    assert done.returncode == 1
    assert done.stderr.strip() == "error: onnxruntime must be installed: pip install onnxruntime"
