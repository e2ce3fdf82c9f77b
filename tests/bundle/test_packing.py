"""What a release holds, that its bytes are those of its inputs alone, and what is refused."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from forked import run_module
from monai.bundle import ConfigParser
from releases import OVERLAYS, only_teacher_large, trained, write_overlay
from tiny import BRATS, HIPPOCAMPUS, ISLES, TINY

from dcd_components.bundle.configs import ARCHITECTURES
from dcd_components.bundle.release import archives, packing
from dcd_components.bundle.release.metadata import mean_scores
from dcd_components.bundle.release.packing import config_texts, json_configs, merged, pack
from dcd_components.errors import InputError
from dcd_components.metrics.lesions import size_bins
from dcd_components.networks.weights import read_record, read_safely, save_weights, weights_digest
from dcd_components.tables import read_csv, write_csv

REGIONS = {"ET": [3], "RC": [4], "TC": [1, 3]}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return trained(BRATS, tmp_path / "here")


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave TorchScript, which takes seconds, to the tests that look at it."""
    monkeypatch.setattr(packing, "scripted", lambda *_: b"")
    monkeypatch.setattr(packing, "refuse_personal_paths", _of_texts(archives.refuse_personal_paths))


def _of_texts(check: Callable[..., None]) -> Callable[..., None]:
    return lambda files, places: check({k: v for k, v in files.items() if not k.endswith(".ts")}, places)


def contents(release: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(release) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def metadata_of(bundle: Path, **changes: Any) -> None:
    path = bundle / "configs" / "metadata.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# -- what is packed


def test_two_folders_give_the_same_bytes(tmp_path: Path) -> None:
    (tmp_path / "there" / "deeper").mkdir(parents=True)
    releases = []
    for place in (tmp_path / "here", tmp_path / "there" / "deeper"):
        bundle = trained(BRATS, place)
        (bundle / "docs" / "link.md").symlink_to("README.md")
        releases.append(pack(bundle, place / "out", overlays=OVERLAYS, teacher=True))
    files, others = map(contents, releases)
    assert [name for name in files if files[name] != others.get(name)] == []
    assert releases[0].read_bytes() == releases[1].read_bytes()
    assert files["docs/link.md"] == files["docs/README.md"]
    here = str(tmp_path).encode()
    assert not [name for name, data in files.items() if here in data or b"site-packages" in data]
    home = str(Path.home()).encode()
    with zipfile.ZipFile(io.BytesIO(files["models/model.ts"])) as compiled:
        assert not [name for name in compiled.namelist() if name.endswith(".debug_pkl") or home in compiled.read(name)]


@pytest.mark.usefixtures("uncompiled")
def test_a_release_has_everything_below_one_folder(bundle: Path, tmp_path: Path) -> None:
    (bundle / "docs" / ".DS_Store").write_bytes(b"left by a file manager")
    release = pack(bundle, tmp_path / "out", overlays=OVERLAYS, teacher=True)
    version = json.loads((bundle / "configs" / "metadata.json").read_text())["version"]
    assert release == tmp_path / "out" / f"brats_gli_dcd_v{version}.zip"
    assert list(release.parent.iterdir()) == [release]
    with zipfile.ZipFile(release) as archive:
        entries = archive.infolist()
    assert [entry.filename for entry in entries] == sorted(entry.filename for entry in entries)
    assert {entry.external_attr >> 16 for entry in entries} == {0o100644}  # plain files, no links
    names = set(contents(release))
    assert {"LICENSE", "SHA256SUMS", "docs/README.md", "docs/data_license.txt", "configs/logging.conf"} < names
    assert {"models/model.pt", "models/model.ts", "models/teacher/model.pt"} < names
    configs = {name.removeprefix("configs/") for name in names if name.startswith("configs/")}
    named = {f"{name}.yaml" for name in (*packing.WORKFLOWS, *packing.OVERLAYS)}
    asked_for = {"inference.json", "train.json", "evaluate.json", "multi_gpu_train.json", "metadata.json"}
    assert configs == {*named, *asked_for, "logging.conf"}
    package = {name for name in names if name.startswith("dcd_components/")}
    assert {"dcd_components/__init__.py", "dcd_components/losses/wavelet_detail.py"} < package
    assert not [name for name in package if name.split("/")[1] in ("benchmarks", "demo", "simulation")]
    assert all(re.fullmatch(r"dcd_components/(\w+/)*\w+\.py", name) for name in package)
    assert not any(part.startswith(".") for name in names for part in name.split("/"))


@pytest.mark.usefixtures("uncompiled")
def test_sha256sum_accepts_an_unpacked_release(bundle: Path, tmp_path: Path) -> None:
    shutil.unpack_archive(pack(bundle, tmp_path / "out", overlays=OVERLAYS), tmp_path)
    check = ["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"]
    unpacked = tmp_path / bundle.name
    assert subprocess.run(check, cwd=unpacked, check=False).returncode == 0
    listed = {line.split("  ")[1] for line in (unpacked / "SHA256SUMS").read_text().splitlines()}
    there = {path.relative_to(unpacked).as_posix() for path in unpacked.rglob("*") if path.is_file()}
    assert listed == there - {"SHA256SUMS"}
    with (unpacked / "docs" / "README.md").open("a") as page:
        page.write(" ")
    assert subprocess.run(check, cwd=unpacked, check=False, capture_output=True).returncode == 1


@pytest.mark.usefixtures("uncompiled")
def test_weights_are_a_flat_state_dict_equal_to_those_trained(bundle: Path, tmp_path: Path) -> None:
    files = contents(pack(bundle, tmp_path / "out", overlays=OVERLAYS))
    packed = torch.load(io.BytesIO(files["models/model.pt"]), weights_only=True)
    weights = torch.load(bundle / "models" / "model.pt", weights_only=True)
    assert isinstance(packed, dict)
    assert list(packed) == list(weights)
    assert all(torch.equal(packed[key], weights[key]) and packed[key].is_contiguous() for key in weights)
    assert "models/teacher/model.pt" not in files


@pytest.mark.usefixtures("uncompiled")
def test_a_tensor_with_two_names_is_packed_once_and_in_one_layout(bundle: Path, tmp_path: Path) -> None:
    first = contents(pack(bundle, tmp_path / "out", overlays=OVERLAYS))["models/model.pt"]
    weights = torch.load(path := bundle / "models" / "model.pt", weights_only=True)
    torch.save({key: value.clone(memory_format=torch.preserve_format) for key, value in weights.items()}, path)
    apart = path.stat().st_size
    last = {
        key: value.contiguous(memory_format=torch.channels_last_3d) for key, value in weights.items() if value.ndim == 5
    }
    torch.save({**weights, **last}, path)
    assert contents(pack(bundle, tmp_path / "again", overlays=OVERLAYS))["models/model.pt"] == first
    assert len(first) < 0.7 * apart


@pytest.mark.usefixtures("uncompiled")
def test_without_the_teacher_a_release_trains_the_student_alone(bundle: Path, tmp_path: Path) -> None:
    files = contents(pack(bundle, tmp_path / "out", overlays=OVERLAYS))
    assert json.loads(files["configs/train.json"]) == merged(files["configs/train_student.yaml"].decode())
    assert "distiller" not in json.loads(files["configs/train.json"])


@pytest.mark.usefixtures("uncompiled")
def test_further_teachers_are_packed_too(bundle: Path, tmp_path: Path) -> None:
    folder, overlays = bundle / "models" / "teacher", [*OVERLAYS, "several"]
    shutil.copy(folder / "model.pt", folder / "fold_1.pt")
    shutil.copy(folder / "model.pt", tmp_path / "fold_2.pt")
    several = (
        (ARCHITECTURES / "several_teachers.yaml").read_text().replace("further_teachers: []", "further_teachers: {}")
    )
    overlay = bundle / "configs" / "several.yaml"
    overlay.write_text(several.replace("{}", "[$@bundle_root + '/models/teacher/fold_1.pt']", 1))
    files = contents(pack(bundle, tmp_path / "out", overlays=overlays, teacher=True))
    assert files["models/teacher/fold_1.pt"] == files["models/teacher/model.pt"]
    assert "models/teacher/fold_1.pt" not in contents(pack(bundle, tmp_path / "alone", overlays=overlays))
    overlay.write_text(several.replace("{}", f"[{tmp_path}/fold_2.pt]", 1))
    with pytest.raises(InputError, match=r"says further_teachers: .*/fold_2.pt, which must lie in .*brats_gli_dcd$"):
        pack(bundle, tmp_path / "again", overlays=overlays, teacher=True)


@pytest.mark.usefixtures("uncompiled")
def test_a_release_with_several_teachers_is_distilled_from(bundle: Path, patients: Path, tmp_path: Path) -> None:
    folder = bundle / "models" / "teacher"
    weights = torch.load(folder / "model.pt", weights_only=True)
    torch.save({name: value + 0.1 for name, value in weights.items()}, folder / "fold_1.pt")
    several = (ARCHITECTURES / "several_teachers.yaml").read_text()
    several = several.replace("further_teachers: []", "further_teachers: [$@bundle_root + '/models/teacher/fold_1.pt']")
    (bundle / "configs" / "several.yaml").write_text(several)
    release = pack(bundle, tmp_path / "out", overlays=[*OVERLAYS, "several"], teacher=True)
    zipfile.ZipFile(release).extractall(tmp_path / "release")
    place = tmp_path / "release" / BRATS.name
    long = {name: TINY[name] for name in ("max_epochs", "epoch_length", "val_interval", "num_workers")}
    words = [f"--{name}={value}" for name, value in long.items()]
    command = ["run", "training", "--config_file", "configs/distill.yaml", "--dataset_dir", str(patients), *words]
    status, said = run_module("monai.bundle", [*command, "--ckpt_path", str(tmp_path / "student.pt")], place)
    assert status == 0, said[-3000:]
    assert len(read_csv(tmp_path / "student_training.csv")) == TINY["max_epochs"]
    (checkpoint,) = (tmp_path / "student_checkpoints").glob("*.pt")
    settings = read_safely(checkpoint)["settings"]
    assert settings["further_teachers"] == [weights_digest(folder / "fold_1.pt")]
    assert len(settings["distillation"]["teachers"]) == 2


# -- metadata


@pytest.mark.usefixtures("uncompiled")
def test_versions_are_those_installed(bundle: Path, tmp_path: Path) -> None:
    metadata_of(bundle, monai_version="0.1", pytorch_version="0.2+cpu", eval_metrics={"mean_dice": 0.99})
    packed = json.loads(contents(pack(bundle, tmp_path / "out", overlays=OVERLAYS))["configs/metadata.json"])
    assert packed["pytorch_version"] == torch.__version__.partition("+")[0]
    versions = {**packed["required_packages_version"], **packed["training_packages_version"]}
    versions |= {key: packed[f"{key}_version"] for key in ("monai", "numpy")}
    assert {"nibabel", "pytorch-ignite", "PyWavelets"} < set(versions)
    assert all(re.fullmatch(r"\d+(\.\d+)+", version) for version in versions.values())
    assert "eval_metrics" not in packed


def scores_file(path: Path, **changes: Any) -> Path:
    """Scores of two cases, the second without RC."""
    score = {"dice": 0.5, "hd95_mm": 4.0, "nsd_1mm": 0.25}
    row = {"case": "BraTS-GLI-00001-000", "weights": "0123456789ab"} | {
        f"{key}_{name}": value for name in REGIONS for key, value in score.items()
    }
    lesions = ("lesions", "small_lesions", *(f"lesions_{name}" for name in size_bins()))
    row |= {**{f"{tp}{name}": 1 for tp in ("", "tp_") for name in lesions}, "seconds": 0.5}
    absent = {"dice_ET": 0.7, "dice_RC": float("nan"), "hd95_mm_RC": float("nan"), "nsd_1mm_RC": float("nan")}
    write_csv([row | changes, row | absent | changes], path)
    return path


def test_measured_scores_go_into_the_metadata(tmp_path: Path) -> None:
    means = mean_scores(scores_file(tmp_path / "scores.csv"), REGIONS, "0123456789ab")
    assert means["cases"] == 2
    assert (means["dice_ET"], means["dice_RC"], means["mean_dice"], means["dice_TC"]) == (0.6, 0.5, 0.55, 0.6 - 0.1)
    assert means["mean_hd95_mm"] == 4.0


@pytest.mark.usefixtures("uncompiled")
def test_a_release_says_its_scores(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TINY, "regions", REGIONS)
    write_overlay(bundle, TINY)
    weights = weights_digest(bundle / "models" / "model.pt")
    scores = scores_file(tmp_path / "scores.csv", weights=weights)
    packed = pack(bundle, tmp_path / "out", overlays=OVERLAYS, scores=scores)
    metrics = json.loads(contents(packed)["configs/metadata.json"])["eval_metrics"]
    assert metrics == mean_scores(scores, REGIONS, weights)


@pytest.mark.usefixtures("uncompiled")
def test_scores_of_other_weights_are_refused(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TINY, "regions", REGIONS)
    write_overlay(bundle, TINY)
    teacher = weights_digest(bundle / "models" / "teacher" / "model.pt")
    scores = scores_file(tmp_path / "scores.csv", weights=teacher)
    with pytest.raises(InputError, match=f"scores.csv has the scores of other weights, {teacher}, not of "):
        pack(bundle, tmp_path / "out", overlays=OVERLAYS, scores=scores)
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("uncompiled")
def test_weights_are_packed_flat_with_their_record(bundle: Path, tmp_path: Path) -> None:
    path = bundle / "models" / "model.pt"
    weights = {f"module.{key}": value for key, value in torch.load(path, weights_only=True).items()}
    save_weights(weights, path, {"spacing": [4.0, 4.0, 4.0]})
    (tmp_path / "packed.pt").write_bytes(contents(pack(bundle, tmp_path / "out", overlays=OVERLAYS))["models/model.pt"])
    assert read_record(tmp_path / "packed.pt") == {"spacing": [4.0, 4.0, 4.0]}
    assert weights_digest(tmp_path / "packed.pt") == weights_digest(path)
    assert "module." not in next(iter(torch.load(tmp_path / "packed.pt", weights_only=True)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "must be a CSV file, but there is none"),
        (
            "epoch,loss\n1,0.5\n",
            "must be the scores.csv of this bundle's evaluation, but lacks case, weights, dice_ET, ",
        ),
        ({"dice_ET": 1.5}, "must hold scores, but dice_ET of case BraTS-GLI-00001-000 is none"),
        ({"nsd_1mm_TC": "good"}, "must hold numbers in column 'nsd_1mm_TC', got 'good'"),
        ({"hd95_mm_ET": -1.0}, "must hold scores, but hd95_mm_ET"),
        ({"small_lesions": "many"}, "must hold numbers in column 'small_lesions', got 'many'"),
    ],
)
def test_scores_that_are_none_are_refused(content: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    if isinstance(content, dict):
        scores_file(path, **content)
    elif content:
        path.write_text(content)
    with pytest.raises(ValueError, match=f"scores.csv {re.escape(message)}"):
        mean_scores(path, REGIONS, "0123456789ab")


# -- what is refused


def listed(path: Path) -> None:
    torch.save([*torch.load(path, weights_only=True).values()], path)


def of_another_network(path: Path) -> None:
    weights = torch.load(path, weights_only=True)
    torch.save({f"other.{key}": value for key, value in weights.items()}, path)


def with_heads(path: Path) -> None:
    weights = torch.load(path, weights_only=True)
    torch.save({**weights, "deep_supervision_heads.0.conv.conv.weight": torch.zeros(1)}, path)


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("model", ["models/model.pt", "models/teacher/model.pt"])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (Path.unlink, "no weights at .*model.pt: a release needs them"),
        (listed, "must hold a state dict"),
        (of_another_network, "does not fit DynUNet: lacks"),
        (with_heads, "does not fit DynUNet: has unknown deep_supervision_heads.0"),
        (lambda path: path.write_bytes(b"weights"), "not a file of weights that torch can read safely"),
    ],
    ids=["missing", "list", "other keys", "heads", "no weights"],
)
def test_weights_that_do_not_fit_are_refused(
    damage: Callable[[Path], None], message: str, model: str, bundle: Path, tmp_path: Path
) -> None:
    damage(bundle / model)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        pack(bundle, tmp_path / "out", overlays=OVERLAYS, teacher=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("uncompiled")
def test_weights_trained_with_an_overlay_do_not_fit_without(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not fit DynUNet"):
        pack(bundle, tmp_path / "out")


@pytest.mark.usefixtures("uncompiled")
def test_a_version_without_a_word_in_the_changelog_is_refused(bundle: Path, tmp_path: Path) -> None:
    metadata_of(bundle, version="9.9.9")
    with pytest.raises(ValueError, match=r"metadata.json must say in its changelog what is new in its version 9.9.9"):
        pack(bundle, tmp_path / "out", overlays=OVERLAYS)


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize(("text", "message"), [("{", "cannot be read"), ("[]", "must hold an object, got list")])
def test_broken_metadata_are_refused(text: str, message: str, bundle: Path, tmp_path: Path) -> None:
    (bundle / "configs" / "metadata.json").write_text(text)
    with pytest.raises(ValueError, match=f"metadata.json {message}"):
        pack(bundle, tmp_path / "out", overlays=OVERLAYS)


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("name", ["LICENSE", "docs/data_license.txt"])
def test_a_release_without_licences_is_refused(name: str, bundle: Path, tmp_path: Path) -> None:
    (bundle / name).unlink()
    with pytest.raises(ValueError, match=f"must have {name} to be published"):
        pack(bundle, tmp_path / "out", overlays=OVERLAYS)


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("path", ["/home/someone/data", "/Users/someone/data", "C:\\Users\\someone", "HERE/models"])
def test_a_text_that_names_a_place_on_this_machine_is_refused(path: str, bundle: Path, tmp_path: Path) -> None:
    path = path.replace("HERE", str(bundle))
    with (bundle / "docs" / "README.md").open("a") as page:
        page.write(f"Data are at\n{path}.\n")
    line = (bundle / "docs" / "README.md").read_text().count("\n")
    with pytest.raises(ValueError, match=f"docs/README.md, line {line}, names a place on this machine: "):
        pack(bundle, tmp_path / "out", overlays=OVERLAYS)


@pytest.mark.usefixtures("uncompiled")
def test_a_config_that_names_a_place_on_this_machine_is_refused(bundle: Path, tmp_path: Path) -> None:
    write_overlay(bundle, {**TINY, "reference": "/home/someone/brats"})
    with pytest.raises(ValueError, match=r"configs/\w+.yaml, line \d+, names a place on this machine: /home/someone"):
        pack(bundle, tmp_path / "out", overlays=OVERLAYS)
    write_overlay(bundle, {**TINY, "dataset_dir": "/mnt/brats"})
    with pytest.raises(ValueError, match=r"inference.yaml would say dataset_dir: /mnt/brats, a place on this machine"):
        pack(bundle, tmp_path / "out", overlays=OVERLAYS)


def test_so_are_weights_but_not_for_what_their_numbers_look_like() -> None:
    torch.save({"numbers": torch.frombuffer(bytearray(b"/home/someone/is"), dtype=torch.float32)}, file := io.BytesIO())
    archives.refuse_personal_paths({"models/model.pt": file.getvalue()}, [])
    torch.save({"/home/someone": torch.zeros(1)}, file := io.BytesIO())
    with pytest.raises(ValueError, match=r"models/model.pt \(archive/data.pkl\) names a place on this machine"):
        archives.refuse_personal_paths({"models/model.pt": file.getvalue()}, [])


@pytest.mark.usefixtures("uncompiled")
def test_no_release_is_lost_and_none_is_left_half_written(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    release = pack(bundle, out, overlays=OVERLAYS)
    before = release.read_bytes()
    with pytest.raises(ValueError, match=r"is there already: raise the version in metadata\.json"):
        pack(bundle, out, overlays=OVERLAYS)
    assert release.read_bytes() == before
    release.unlink()

    def full_disk(*_: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "writestr", full_disk)
    with pytest.raises(OSError, match="No space left"):
        pack(bundle, out, overlays=OVERLAYS)
    assert list(out.iterdir()) == []


@pytest.mark.usefixtures("uncompiled")
def test_a_name_in_which_monai_reads_a_version_is_refused(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="may not hold _v"):
        pack(bundle.rename(bundle.with_name("brats_vessels")), tmp_path / "out", overlays=OVERLAYS)


@pytest.mark.usefixtures("uncompiled")
def test_an_overlay_that_is_not_there_is_named(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no config qiuck: it has .*quick, "):
        pack(bundle, tmp_path / "out", overlays=["qiuck"])


# -- large files


@pytest.mark.usefixtures("uncompiled")
def test_large_weights_lie_beside_the_zip(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "LARGE", only_teacher_large(bundle))
    options: dict[str, Any] = {"overlays": OVERLAYS, "teacher": True}
    with pytest.raises(ValueError, match=r"models/teacher/model.pt must be published beside the zip: .* with --url"):
        pack(bundle, tmp_path / "out", **options)
    release = pack(bundle, tmp_path / "out", **options, url="https://example.org/files/")
    files = contents(release)
    (listed,) = yaml.safe_load(files["large_files.yml"])["large_files"]
    large = release.with_name(listed["url"].removeprefix("https://example.org/files/"))
    assert large.name == f"{release.stem}_teacher_model.pt"
    assert (listed["path"], listed["hash_type"]) == ("models/teacher/model.pt", "sha256")
    assert listed["hash_val"] == archives.sha256(large.read_bytes())
    assert b"teacher/model.pt" not in files["SHA256SUMS"]
    release.unlink()
    with pytest.raises(ValueError, match=f"{large.name} is there already"):
        pack(bundle, tmp_path / "out", **options, url="https://example.org/files/")


# -- configs


@pytest.mark.parametrize("source", [BRATS, ISLES, HIPPOCAMPUS], ids=["brats", "isles", "hippocampus"])
def test_a_packed_config_is_what_monai_makes_of_the_list(source: Path, tmp_path: Path) -> None:
    """A key for which a config has no place is left out, but nothing else, and the order is of no account."""
    bundle = trained(source, tmp_path)
    (quick := bundle / "configs" / "quick.yaml").write_text(quick.read_text() + "unknown: 1\n")
    texts = config_texts(bundle, ["quick", *OVERLAYS])
    for name in packing.WORKFLOWS:
        files = [bundle / "configs" / f"{one}.yaml" for one in (name, "quick", *OVERLAYS)]
        whole = ConfigParser.load_config_files([str(file) for file in files])
        packed = merged(texts[name])
        assert all(packed[key] == whole[key] for key in packed)
        left_out = set(whole) - set(packed)
        assert "unknown" in left_out
        assert not left_out & set(ConfigParser.load_config_file(str(files[0])))
        assert (name == "inference") == ("max_epochs" in left_out)


def test_an_overlay_that_adds_where_a_config_adds_is_refused(tmp_path: Path) -> None:
    bundle = trained(BRATS, tmp_path)
    with pytest.raises(InputError, match=r"both add to train::handlers: leave the overlay out$"):
        config_texts(bundle, ["tensorboard"])


def test_an_overlay_is_packed_where_it_has_a_place(tmp_path: Path) -> None:
    texts = config_texts(trained(ISLES, tmp_path), ["register", *OVERLAYS])
    for name in packing.WORKFLOWS:
        registered = merged(texts[name])["spatial"]["transforms"][2]
        assert registered["_target_"] == "dcd_components.RigidRegistrationd"


def test_json_configs_are_whole(tmp_path: Path) -> None:
    bundle = trained(BRATS, tmp_path)
    texts = config_texts(bundle, OVERLAYS)
    configs = json_configs(texts, teacher=True)
    assert configs["inference"] == merged(texts["inference"])
    assert configs["train"] == merged(texts["distill"])
    assert configs["evaluate"] == merged(texts["inference"], texts["evaluate"])
    assert configs["multi_gpu_train"] == yaml.safe_load(texts["multi_gpu"])
    assert json_configs(texts, teacher=False)["train"] == merged(texts["train_student"])
