"""A new bundle: what its options say, what data say, and what is refused with nothing written."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import forked
import nibabel
import numpy as np
import pytest
import yaml
from monai.bundle import ConfigParser
from tiny import BRATS, BUNDLES

from dcd_components.bundle import new_bundles, templates
from dcd_components.bundle.configs import bundle_settings
from dcd_components.commands import new_bundle
from dcd_components.data.case_files import candidates, make_layout

CONFIGS = ("inference", "train_teacher", "train_student", "distill", "evaluate")


def made(tmp_path: Path, channels: Any = ("Flair", "T1c"), labels: Any = ("core", "rim"), **options: Any) -> Path:
    new_bundle("mine", channels, labels, **options, out=str(tmp_path))
    return tmp_path / "mine"


def config(bundle: Path, name: str) -> Any:
    return yaml.safe_load((bundle / "configs" / f"{name}.yaml").read_text())


def task(bundle: Path) -> Any:
    return config(bundle, "inference")


def metadata(bundle: Path) -> Any:
    return json.loads((bundle / "configs" / "metadata.json").read_text())


def save(path: Path, shape: tuple[int, ...], affine: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(np.zeros(shape, np.uint8), None)
    image.header.set_sform(np.asarray(affine, float), code=1)
    nibabel.save(image, path)


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """Three cases of two channels; the first axis of their voxels runs from head to foot."""
    for number, (shape, mm) in enumerate([((60, 200, 90), 2.04), ((64, 240, 92), 2.02), ((70, 250, 99), 7.0)]):
        affine = [[0, 0, 1.5, 0], [0, 0.46, 0, 0], [-mm, 0, 0, 0], [0, 0, 0, 1]]
        for name in ("Flair", "T1c", "seg"):
            save(tmp_path / "scans" / f"case{number}" / f"case{number}-{name}.nii.gz", shape, affine)
    return tmp_path / "scans"


def test_a_bundle_has_all_files_and_no_link(tmp_path: Path) -> None:
    bundle = made(tmp_path)
    common = {f"configs/{path.name}" for path in (BUNDLES / "common" / "overlays").iterdir()}
    own = {"LICENSE", "configs/metadata.json", "docs/README.md", "docs/data_license.txt"}
    own |= {f"configs/{name}.yaml" for name in CONFIGS}
    written = {path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()}
    assert written == common | own | {"models/.gitkeep"}
    assert not any(path.is_symlink() for path in bundle.rglob("*"))
    assert os.stat(bundle).st_mode == os.stat(bundle / "docs").st_mode
    assert all((bundle / path).read_text() == (BRATS / path).read_text() for path in common | {"LICENSE"})


def test_a_task_stands_in_the_words_of_the_others(tmp_path: Path) -> None:
    configs = made(tmp_path) / "configs"
    block = (configs / "inference.yaml").read_text().split("# Paths of")[1].split("# ==== from")[0]
    expected = """\
 a case's files, in the order of the network's channels; {case} stands for its name.
sequences: {Flair: "{case}-Flair.nii.gz", T1c: "{case}-T1c.nii.gz"}
label_file: "{case}-seg.nii.gz"
reference: Flair  # names a case; its mask lies on this grid
resampled: []  # sequences on grids of their own
labels: {core: 1, rim: 2}
spacing: [1.0, 1.0, 1.0]  # mm, after reorientation to RAS
patch_size: [128, 128, 128]
teacher_widths: [32, 64, 128, 256, 320, 320]
width_divisor: 4  # the student's widths are the teacher's by this

"""
    assert block == expected
    first, *_ = (configs / "inference.yaml").read_text().splitlines()
    assert first == "# Segment core and rim in Flair and T1c."
    training = (configs / "train_student.yaml").read_text()
    assert '\npatient_regex: "(.+)"  # in a case\'s name; all cases' in training
    scores = """
regions: {core: [1], rim: [2]}  # one label: in the mean over labels
lesion_labels: [1, 2]  # their connected components are counted as lesions
nsd_tolerances_mm: [1.0, 0.5, 2.0]  # one NSD for each, the first in log and tables
"""
    assert scores in (configs / "evaluate.yaml").read_text()


def test_the_bundle_of_brats_comes_out_again(tmp_path: Path) -> None:
    """All of its configs but the regions and lesions that only it can know."""
    theirs = task(BRATS)
    patient_regex = config(BRATS, "train_student")["patient_regex"]
    bundle = made(tmp_path, [*theirs["sequences"]], theirs["labels"], patient_regex=patient_regex)
    for name in CONFIGS:
        known = {key: config(BRATS, name)[key] for key in ("regions", "lesion_labels") if name == "evaluate"}
        assert {**config(bundle, name), **known} == config(BRATS, name)
        assert list(config(bundle, name)) == list(config(BRATS, name))
    told = {"changelog", "version", "name", "task", "description", "data_source", "image_classes", "pred_classes"}
    ours, others = ({k: v for k, v in metadata(one).items() if k not in told} for one in (bundle, BRATS))
    assert json.dumps(ours).upper() == json.dumps(others).upper()
    assert list(metadata(bundle)) == list(metadata(BRATS))


def test_all_options(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "sequences": {"NO": ["anat/{case}_o'ne.nii", "{case} 1.nii"], "adc": "{case}: adc.nii"},
        "label_file": ["{case}_msk.nii", "{case}_MSK.nii"],
        "patient_regex": r"(sub-'\d+')_\"x\": .*$",
        "resampled": ["NO"],
        "spacing": [0.9, 1, 3],
        "patch_size": [96, 112, 40],
    }
    labels = {f"a_label_of_a_rather_long_name_{value}": value for value in (7, 2, 9, 4)} | {"null": 1}
    bundle = made(tmp_path, ["adc", "NO"], labels, **options)
    settings = task(bundle)
    assert settings["sequences"] == {"adc": "{case}: adc.nii", "NO": options["sequences"]["NO"]}
    assert [*settings["sequences"]] == ["adc", "NO"]
    assert settings["labels"] == labels
    assert config(bundle, "evaluate")["regions"] == {name: [value] for name, value in labels.items()}
    assert config(bundle, "evaluate")["lesion_labels"] == [1, 2, 4, 7, 9]
    assert {key: settings[key] for key in ("resampled", "spacing", "patch_size")} == {
        key: options[key] for key in ("resampled", "spacing", "patch_size")
    }
    training = config(bundle, "train_student")
    assert {key: training[key] for key in ("label_file", "patient_regex")} == {
        key: options[key] for key in ("label_file", "patient_regex")
    }
    assert settings["reference"] == "adc"
    assert settings["teacher_widths"] == [32, 64, 128, 256]
    texts = [(bundle / "configs" / f"{name}.yaml").read_text() for name in CONFIGS]
    assert max(len(line) for text in texts for line in text.splitlines()) <= 175  # with the comment behind a setting
    pred = metadata(bundle)["network_data_format"]["outputs"]["pred"]
    assert pred["num_channels"] == len(pred["channel_def"]) == 10
    assert (pred["channel_def"]["1"], pred["channel_def"]["3"]) == ("null", "unused")
    assert pred["spatial_shape"] == ["16*n"] * 3
    assert make_layout(bundle_settings(bundle)).patient_regex == options["patient_regex"]


def test_monai_reads_the_patterns_as_they_are(tmp_path: Path) -> None:
    parser = ConfigParser(ConfigParser.load_config_file(made(tmp_path) / "configs" / "inference.yaml"))
    layout = parser.get_parsed_content("layout")
    assert candidates("DIR/a/a-Flair.nii.gz", layout.sequences, "T1c") == ["DIR/a/a-T1c.nii.gz"]


@pytest.mark.parametrize(
    ("patch_size", "widths"),
    [
        ([128, 128, 128], [32, 64, 128, 256, 320, 320]),
        ([112, 112, 80], [32, 64, 128, 256, 320]),
        ([64, 64, 64], [32, 64, 128, 256, 320]),
        ([128, 128, 32], [32, 64, 128, 256]),
        ([16, 64, 64], [32, 64, 128]),
        ([256, 256, 256], [32, 64, 128, 256, 320, 320]),
        ([144, 160, 192], [32, 64, 128, 256, 320]),
        ([100, 128, 128], [32, 64, 128]),
    ],
    ids=str,
)
def test_the_teacher_has_the_stages_that_the_patch_can_take(
    patch_size: list[int], widths: list[int], tmp_path: Path
) -> None:
    assert task(made(tmp_path, patch_size=patch_size))["teacher_widths"] == widths


def test_spacing_and_patch_follow_the_data_in_ras(scans: Path, tmp_path: Path) -> None:
    """Medians of 1.5, 0.46 and 2.04 mm, and of 138, 110.4 and 129.28 mm."""
    settings = task(made(tmp_path, dataset_dir=str(scans)))
    assert settings["spacing"] == [1.5, 0.5, 2.0]
    assert settings["patch_size"] == [80, 128, 64]
    assert settings["teacher_widths"] == [32, 64, 128, 256, 320]


def test_what_is_given_goes_before_the_data(scans: Path, tmp_path: Path) -> None:
    settings = task(made(tmp_path, dataset_dir=str(scans), spacing=[6, 3, 1]))
    assert (settings["spacing"], settings["patch_size"]) == ([6.0, 3.0, 1.0], [32, 32, 128])
    new_bundle("other", ["Flair", "T1c"], "core", dataset_dir=str(scans), patch_size=[48, 48, 48], out=str(tmp_path))
    settings = task(tmp_path / "other")
    assert (settings["spacing"], settings["patch_size"]) == ([1.5, 0.5, 2.0], [48, 48, 48])


def test_at_most_fifty_headers_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(101):
        for name in ("a", "b", "seg"):
            (tmp_path / f"{number:03}-{name}.nii.gz").touch()
    read = []

    def grid(path: Path) -> list[list[float]]:
        read.append(path.name)
        return [[1, 1, 1], [64, 64, 64]]

    monkeypatch.setattr(new_bundles, "_grid", grid)
    new_bundle("mine", ["a", "b"], "core", dataset_dir=str(tmp_path), out=str(tmp_path))
    assert read == [f"{number:03}-a.nii.gz" for number in range(0, 101, 3)]


LABELS = "values of labels must be different whole numbers from 1 to 255"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"name": "glioma_v2"}, "a bundle's name may not hold _v"),
        ({"name": "my-bundle"}, "a bundle's name must be a letter, then letters, digits or _, got 'my-bundle'"),
        ({"name": "../mine"}, "a bundle's name must be a letter"),
        ({"out": "nowhere"}, "no folder nowhere to put mine into"),
        ({"channels": []}, "name at least one channel, such as channels \"['a','b']\", got []"),
        ({"channels": ["a", "a"]}, "two channels are called a"),
        ({"channels": ["a", "1b"]}, "the name of a channel must be a letter, then letters, digits, _ or -, got '1b'"),
        ({"channels": ["a", "image"]}, "no sequence may be called image"),
        ({"channels": ["a", "label"]}, "no sequence may be called label"),
        ({"channels": ["a", "pred"]}, "no sequence may be called pred"),
        ({"channels": ["a", "fold"]}, "no channel may be called fold"),
        ({"labels": {"core": 0}}, LABELS),
        ({"labels": {"core": 1, "rim": 1}}, LABELS),
        ({"labels": {"core": 1.5}}, LABELS),
        ({"labels": {"core": 256}}, LABELS),
        ({"labels": {"core": True}}, LABELS),
        ({"labels": ["core", "core"]}, "two labels are called core"),
        ({"labels": 3}, "name at least one label"),
        ({"labels": {}}, "name at least one label"),
        ({"labels": ["the core"]}, "the name of a label must be a letter"),
        ({"sequences": {"a": "{case}.nii"}}, "sequences must give each of a, b a pattern, got a"),
        ({"sequences": {"a": "{case}.nii", "b": "b.nii"}}, "the pattern 'b.nii' must hold {case}"),
        ({"sequences": {"a": "{case}.nii", "b": "{case}.nii"}}, "the pattern '{case}.nii' is there twice"),
        ({"sequences": {"a": "{case}#1.nii", "b": "{case}.nii"}}, "a pattern may hold none of # * ? [ ]"),
        ({"sequences": {"a": "{case}*.nii", "b": "{case}.nii"}}, "a pattern may hold none of # * ? [ ]"),
        ({"sequences": "{case}.nii"}, "sequences must give at least one sequence its pattern"),
        ({"label_file": "seg.nii"}, "the pattern 'seg.nii' must hold {case}"),
        ({"label_file": []}, "label_file must be a pattern"),
        ({"resampled": ["c"]}, "c is not among the sequences a, b"),
        ({"resampled": ["a"]}, "a cannot be resampled: it is the reference"),
        ({"patient_regex": "(.+"}, "patient_regex must be a regular expression, got '(.+'"),
        ({"patient_regex": ".+"}, "patient_regex must have a group"),
        ({"spacing": [1, 1]}, "spacing must be three positive numbers"),
        ({"spacing": [1, 1, -1]}, "spacing must be three positive numbers"),
        ({"spacing": 1}, "spacing must be three positive numbers"),
        ({"spacing": [1, 1, float("nan")]}, "spacing must be three positive numbers"),
        ({"patch_size": 96}, "patch_size must be three positive whole numbers, got "),
        ({"patch_size": [96, 96]}, "patch_size must be three positive whole numbers, got "),
        ({"patch_size": [96, 96, 0]}, "patch_size must be three positive whole numbers, got "),
        ({"patch_size": [96, 96, 64.5]}, "patch_size must be three positive whole numbers, got "),
        ({"patch_size": "abc"}, "patch_size must be three positive whole numbers, got "),
        ({"patch_size": [96, 96, 90]}, "patch_size must be multiples of 4 from 16"),
        ({"patch_size": [8, 96, 96]}, "patch_size must be multiples of 4 from 16"),
        ({"dataset_dir": "nowhere"}, "no folder nowhere"),
        ({"dataset_dir": "unlabelled"}, "no complete case below unlabelled: one: no label"),
        ({"dataset_dir": "broken"}, "broken/one-a.nii.gz cannot be read"),
        ({"dataset_dir": "moving"}, "moving/one-a.nii.gz must be one volume"),
        ({"dataset_dir": "flat"}, "flat/one-a.nii.gz must be one volume"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else "",
)
def test_bad_input_is_one_sentence_and_nothing_is_written(
    options: dict[str, Any], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("unlabelled", "broken", "moving", "flat"):
        for name in ("a", "b", "seg")[: 2 if folder == "unlabelled" else 3]:
            affine = np.diag([1, 1, 0, 1]) if folder == "flat" else np.eye(4)
            save(Path(folder) / f"one-{name}.nii.gz", (4, 4, 4, 2) if folder == "moving" else (4, 4, 4), affine)
    Path("broken/one-a.nii.gz").write_bytes(b"no image")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises((ValueError, OSError)) as caught:
        new_bundle(**{"name": "mine", "channels": ["a", "b"], "labels": ["core"], **options})
    assert str(caught.value).startswith(expected)
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_an_existing_folder_is_kept(tmp_path: Path) -> None:
    bundle = made(tmp_path)
    (bundle / "docs" / "README.md").write_text("mine")
    with pytest.raises(ValueError, match=r"mine exists: choose another name"):
        made(tmp_path)
    assert (bundle / "docs" / "README.md").read_text() == "mine"


def test_a_failure_on_the_way_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> str:
        raise OSError("disk full")

    monkeypatch.setattr(templates, "_readme", fail)
    with pytest.raises(OSError, match="disk full"):
        made(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_without_the_repository_s_bundles_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(new_bundles, "BUNDLES", tmp_path / "bundles")
    with pytest.raises(ValueError, match=r"needs those at .*bundles: run this command in a clone of the repository"):
        made(tmp_path)


def test_the_command_line(tmp_path: Path) -> None:
    words = ["new_bundle", "mine", "--channels", "Flair", "T1c", "--labels", "core=1", "rim=4"]
    words += ["--patch_size", "96", "96", "64"]
    done = forked.run("dcd_components", words, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("mine: patches of 96 x 96 x 64 voxels of 1.0 x 1.0 x 1.0 mm")
    assert task(tmp_path / "mine")["labels"] == {"core": 1, "rim": 4}
    done = forked.run("dcd_components", words, tmp_path)
    assert done.returncode == 1
    assert done.stderr.strip() == "error: mine exists: choose another name, or another parent folder with --out"
