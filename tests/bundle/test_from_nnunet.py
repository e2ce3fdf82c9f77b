"""A bundle from a result folder of nnU-Net: what it says, and what is refused with nothing written."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from result_folders import FLAT, LABELS, PAINTED, REAL, REGIONS, edited, needs_real, raw_data, small
from tiny import ROOT

from dcd_components.bundle.configs import read_configs
from dcd_components.bundle.nnunet.importing import bundle_from_nnunet
from dcd_components.commands import datalist, from_nnunet
from dcd_components.errors import InputError
from dcd_components.inferers import EnsembleInferer, NnunetInferer
from dcd_components.networks.nnunet import read_checkpoint
from dcd_components.networks.weights import read_record, weights_digest
from dcd_components.tables import read_csv

CASES = [f"case{number:02}" for number in range(6)]
SPLITS = [{"train": [case for case in CASES if case not in CASES[k::3]], "val": CASES[k::3]} for k in range(3)]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small result folder with labels."""
    return small(tmp_path_factory.mktemp("results") / "labels")


@pytest.fixture(scope="session")
def regions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One with regions."""
    return small(tmp_path_factory.mktemp("results") / "regions", labels=REGIONS)


def made(source: Path, parent: Path, **options: Any) -> Path:
    from_nnunet(source, "mine", out=parent, **options)
    return parent / "mine"


def settings(bundle: Path, name: str = "inference") -> Any:
    return yaml.safe_load((bundle / "configs" / f"{name}.yaml").read_text())


def metadata(bundle: Path) -> Any:
    return json.loads((bundle / "configs" / "metadata.json").read_text())


def written(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_the_plans_stand_in_the_configs(folder: Path, tmp_path: Path) -> None:
    task = settings(made(folder, tmp_path))
    assert task["sequences"] == {name: f"{{case}}_{n:04}.nii.gz" for n, name in enumerate(("t1n", "t1c", "t2w", "t2f"))}
    assert task["labels"] == {"NETC": 1, "SNFH": 2, "ET": 3, "RC": 4}
    assert (task["spacing"], task["patch_size"], task["transpose"]) == ([4.0] * 3, [16] * 3, [0, 1, 2])
    assert (task["teacher_widths"], task["strides"]) == ([16, 16, 32], [[1, 1, 1], [2, 2, 2], [2, 2, 2]])
    assert (task["painted"], task["region_labels"], task["mirror_axes"]) == (None, {}, [0, 1, 2])
    assert (task["masked"], task["intensities"]) == ([False] * 4, {})
    assert task["reader"] == "SimpleITKIO"


def test_regions_stand_in_the_order_of_the_outputs(regions: Path, tmp_path: Path) -> None:
    bundle = made(regions, tmp_path)
    named = {"whole_tumour": [1, 2, 3], "tumour_core": [1, 3], "enhancing": [3], "cavity": [4]}
    assert settings(bundle)["region_labels"] == settings(bundle, "evaluate")["regions"] == named
    assert [*settings(bundle)["region_labels"]] == [*named]
    assert settings(bundle)["painted"] == PAINTED
    assert settings(bundle)["labels"] == {"label_1": 1, "label_2": 2, "enhancing": 3, "cavity": 4}
    pred = metadata(bundle)["network_data_format"]["outputs"]["pred"]
    assert pred["channel_def"] == dict(zip("0123", named, strict=True))
    key_metric = read_configs(bundle, ["train_student"])["validate::key_metric::val_mean_dice"]
    assert key_metric["include_background"]  # the first region is no background


@pytest.mark.parametrize("kind", ["PlainConvUNet", "ResidualEncoderUNet"])
def test_the_teacher_is_nnunet_s_network(kind: str, tmp_path: Path) -> None:
    source = small(tmp_path / "source", kind)
    bundle = made(source, tmp_path)
    parser = read_configs(bundle, ["inference", "teacher"])
    teacher = parser.get_parsed_content("network_def")
    assert type(teacher).__name__ == kind
    weights = torch.load(path := parser.get_parsed_content("ckpt_path"), weights_only=True)
    theirs = read_checkpoint(source / "fold_0" / "checkpoint_final.pth")["network_weights"]
    assert weights.keys() == theirs.keys() == teacher.state_dict().keys()
    assert all(torch.equal(one, theirs[name]) for name, one in weights.items())
    assert read_record(path)["labels"] == settings(bundle)["labels"]
    assert Path(path).stat().st_size < 1.2 * sum(one.nbytes for one in dict.fromkeys(teacher.parameters())) + 2e5


def test_the_student_is_monai_s_network_in_a_quarter_of_the_widths(folder: Path, tmp_path: Path) -> None:
    network = read_configs(made(folder, tmp_path), ["inference"]).get_parsed_content("network_def")
    assert type(network).__module__.partition(".")[0] == "monai"
    assert list(network.filters) == [8, 8, 8]
    assert not network.deep_supervision


def test_thick_slices_have_kernels_of_their_own(tmp_path: Path) -> None:
    bundle = made(small(tmp_path / "flat", **FLAT), tmp_path)
    network = read_configs(bundle, ["inference"]).get_parsed_content("network_def")
    assert type(network).__name__ == "NnunetUNet"
    assert network.upsamples[1].conv_block.conv1.conv.kernel_size == (1, 3, 3)
    assert metadata(bundle)["network_data_format"]["inputs"]["image"]["spatial_shape"] == ["4*n", "8*n", "8*n"]


def test_windows_are_nnunet_s_alone(folder: Path, tmp_path: Path) -> None:
    bundle = made(folder, tmp_path)
    assert not (bundle / "configs" / "long_windows.yaml").exists()
    assert (bundle / "configs" / "mirror.yaml").exists()


def test_older_plans(folder: Path, tmp_path: Path) -> None:
    """Of before 2.3, with `modality` instead of `channel_names`, as nnU-Net reads them too."""

    def plans(content: Any) -> None:
        found = content["configurations"]["3d_fullres"]
        arguments = found.pop("architecture")["arch_kwargs"]
        found |= {"UNet_class_name": "PlainConvUNet", "UNet_base_num_features": 16, "unet_max_num_features": 32}
        found |= {"n_conv_per_stage_encoder": [2, 2, 2], "n_conv_per_stage_decoder": [2, 2]}
        found |= {"pool_op_kernel_sizes": arguments["strides"], "conv_kernel_sizes": arguments["kernel_sizes"]}

    def dataset(content: Any) -> None:
        content["modality"] = content.pop("channel_names")

    with pytest.raises(InputError, match=r"checkpoint_final.pth does not fit PlainConvUNet: encoder.stages.1"):
        made(edited(folder, tmp_path / "old", plans=plans, dataset=dataset), tmp_path)  # 16, 32, 32 channels
    current, older = small(tmp_path / "new", features_per_stage=[16, 32, 32]), tmp_path / "older"
    bundle = made(edited(current, older, plans=plans, dataset=dataset), tmp_path)
    assert settings(bundle)["teacher_widths"] == [16, 32, 32]


@pytest.mark.parametrize("older", [False, True], ids=["current plans", "older plans"])
def test_ct_and_a_single_channel(older: bool, tmp_path: Path) -> None:
    from result_folders import dataset, network, plans, write

    content = plans(channels=1)
    content["configurations"]["3d_fullres"]["normalization_schemes"] = ["CTNormalization"]
    if older:
        content["foreground_intensity_properties_by_modality"] = content.pop(
            "foreground_intensity_properties_per_channel"
        )
    content["transpose_forward"], content["transpose_backward"] = [2, 0, 1], [1, 2, 0]
    source = write(tmp_path / "ct", content, dataset({"background": 0, "liver": 1}, ("CT",)), network(1, 2))
    bundle = made(source, tmp_path)
    task = settings(bundle)
    expected = {"mean": 90.0, "std": 25.0, "percentile_00_5": 20.0, "percentile_99_5": 130.0}
    assert (task["intensities"], task["transpose"]) == ({"0": expected}, [2, 0, 1])
    plan = read_configs(bundle, ["inference"]).get_parsed_content("plan")
    assert (plan.axes, plan.normalization, plan.intensities) == ((0, 2, 1), ["CTNormalization"], {"0": expected})
    assert metadata(bundle)["network_data_format"]["inputs"]["image"]["modality"] == "CT"
    assert "axes x z y of the file" in (bundle / "docs" / "README.md").read_text()


@pytest.mark.parametrize(
    ("labels", "channels", "expected", "sequences"),
    [
        ({"the core": 1, "rim, old": 2}, ["T1 (Gd)", "b"], {"the_core": 1, "rim_old": 2}, ["T1_Gd", "b"]),
        ({"2nd": 2, "1st": 1}, ["0", "1"], {"label_1": 1, "label_2": 2}, ["channel_0", "channel_1"]),
        ({"a b": 2, "a_b": 1}, ["x", "x"], {"label_1": 1, "label_2": 2}, ["channel_0", "channel_1"]),
        ({"null": 1, "x#y": 2}, ["image", "fold"], {"null": 1, "x_y": 2}, ["channel_0", "channel_1"]),
        ({"Läsion": 1, "$@": 2}, ["label", "%"], {"L_sion": 1, "label_2": 2}, ["channel_0", "channel_1"]),
    ],
)
def test_names_that_configs_cannot_hold(
    labels: dict[str, int], channels: list[str], expected: Any, sequences: list[str], tmp_path: Path
) -> None:
    from result_folders import dataset, network, plans, write

    data = dataset({"background": 0, **labels}, tuple(channels))
    bundle = made(write(tmp_path / "named", plans(channels=2), data, network(2, 3)), tmp_path)
    task = settings(bundle)
    assert task["labels"] == expected
    assert list(task["sequences"]) == sequences
    assert settings(bundle, "evaluate")["regions"] == {name: [value] for name, value in expected.items()}
    assert read_configs(bundle, ["inference"]).get_parsed_content("trained_on")["labels"] == expected


def test_regions_and_labels_of_one_name(regions: Path, tmp_path: Path) -> None:
    """A region called as a label that no region is alone would be."""

    def dataset(content: Any) -> None:
        content["labels"] = {"background": 0, "all": [1, 2, 3, 4], "core": [1, 2], "label_1": 3, "cavity": [4]}

    bundle = made(edited(regions, tmp_path / "named", dataset=dataset), tmp_path)
    assert settings(bundle)["labels"] == {f"label_{value}": value for value in (1, 2, 3, 4)}
    assert settings(bundle)["region_labels"] == {"all": [1, 2, 3, 4], "core": [1, 2], "label_1": [3], "cavity": [4]}


# -- words


def test_the_page_and_the_metadata_speak_of_nnunet(folder: Path, tmp_path: Path) -> None:
    bundle = made(folder, tmp_path)
    page, told = (bundle / "docs" / "README.md").read_text(), metadata(bundle)
    assert not [word for word in ("RAS", "residual", "non-zero", "train_teacher", "run teacher") if word in page]
    assert "axes z y x of the file" in page
    quick = (bundle / "configs" / "quick.yaml").read_text()
    assert not [word for word in ("minutes", "small", "narrow") if word in page.partition("## Commands")[2] + quick]
    commands = [line.strip() for line in page.splitlines() if line.startswith("    dcd")]
    assert [line.split()[1] for line in commands] == ["datalist", "check", *["run"] * 6, "to_nnunet"]
    assert "residual" not in told["description"]
    assert told["changelog"] == {"0.1.0": "made by dcd from_nnunet"}
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    pinned = dict(line.split("#")[0].strip().split("==") for line in lines if "==" in line)
    versions = told["required_packages_version"]
    assert versions == {name: pinned[name] for name in versions}
    assert "scipy" in versions
    assert max(map(len, page.splitlines())) <= 120


def test_lines_are_no_longer_than_in_other_bundles(regions: Path, tmp_path: Path) -> None:
    for path in (made(regions, tmp_path) / "configs").glob("*.yaml"):
        assert max(map(len, path.read_text().splitlines())) <= 125, path.name


@pytest.mark.parametrize("fold", ["all", "2"])
def test_what_the_teacher_has_seen_is_not_scored(fold: str, folder: Path, tmp_path: Path) -> None:
    source = edited(folder, tmp_path / "several")
    (source / "fold_0").rename(source / f"fold_{fold}")
    bundle = made(source, tmp_path)
    training, page = settings(bundle, "train_student"), (bundle / "docs" / "README.md").read_text()
    assert (training["test_folds"], training["val_folds"]) == (([0], [1]) if fold == "all" else ([2], [3]))
    assert settings(bundle, "evaluate")["test_folds"] == training["test_folds"]
    assert ("It was trained on all cases" in page) == (fold == "all")


# -- splits


def test_folds_are_those_of_the_teacher(folder: Path, patients: Path, tmp_path: Path) -> None:
    data = raw_data(patients, tmp_path / "raw")
    cases = sorted(path.name.removesuffix(".nii.gz") for path in (data / "labelsTr").iterdir())
    folds = [cases[:3], cases[3:5], cases[5:]]
    content = [{"train": sorted({*cases} - {*val}), "val": val} for val in folds]
    source = edited(folder, tmp_path / "several")
    (source / "fold_0").rename(source / "fold_2")
    bundle = made(source, tmp_path, fold="2", splits=written(tmp_path / "splits_final.json", content))
    training = settings(bundle, "train_student")
    assert training["patients"] == "$@bundle_root + '/docs/patients.csv'"
    assert (training["test_folds"], training["val_folds"]) == ([2], [0])
    assert "datalist DIR --bundle . --skip_incomplete\n" in (bundle / "docs" / "README.md").read_text()
    datalist(data, bundle=bundle)
    listed = json.loads((data / "datalist.json").read_text())["training"]
    assert {one["case"]: one["fold"] for one in listed} == {case: k for k, val in enumerate(folds) for case in val}


def test_without_them_folds_are_those_that_nnunet_makes(folder: Path, patients: Path, tmp_path: Path) -> None:
    bundle = made(folder, tmp_path)
    assert settings(bundle, "train_student")["patients"] is None
    assert "datalist DIR --bundle . --nnunet_folds --skip_incomplete\n" in (bundle / "docs" / "README.md").read_text()
    datalist(raw_data(patients, tmp_path / "raw"), bundle=bundle, nnunet_folds=True)


@pytest.mark.parametrize("fold", ["0", "1"])
def test_of_a_split_that_is_none_of_a_cross_validation_the_training_is_divided(
    fold: str, folder: Path, tmp_path: Path
) -> None:
    train, val = [f"P{n}-{visit}" for n in range(5) for visit in "01"], ["P8-0", "P4-2"]
    source = edited(folder, tmp_path / "one")
    (source / "fold_0").rename(source / f"fold_{fold}")
    content = [{"train": train, "val": val}, {"train": train, "val": val}]
    splits = written(tmp_path / "splits_final.json", content)
    said = from_nnunet(source, "mine", out=tmp_path, fold=fold, splits=splits, patient_regex="(.+)-")
    others = ", ".join(str(one) for one in range(5) if one != int(fold))
    assert f"of at least 3 folds: what its fold {fold} trained on is divided into folds {others}\n" in said
    bundle = tmp_path / "mine"
    folds = {row["case"]: int(row["fold"]) for row in read_csv(bundle / "docs" / "patients.csv", text=None)}
    assert {case for case, one in folds.items() if one == int(fold)} == {*val}
    assert {folds[case] for case in train} == {0, 1, 2, 3, 4} - {int(fold)}
    assert all(folds[f"P{n}-0"] == folds[f"P{n}-1"] for n in range(5))
    training = settings(bundle, "train_student")
    assert training["test_folds"] == [int(fold)]
    assert {*training["val_folds"]} < {*folds.values()} - {int(fold)}


def test_a_teacher_of_all_cases_needs_a_cross_validation(folder: Path, tmp_path: Path) -> None:
    source = edited(folder, tmp_path / "source")
    (source / "fold_0").rename(source / "fold_all")
    splits = written(tmp_path / "splits_final.json", SPLITS[:2])
    refused(source, tmp_path, "splits_final.json must have every case in the validation of one fold", splits=splits)


def test_patients_of_several_cases_are_named_though_nnunet_s_folds_tear_them(
    folder: Path, patients: Path, tmp_path: Path
) -> None:
    """So that intervals over patients are of patients, and the list says that its folds leak."""
    data = raw_data(patients, tmp_path / "raw")
    cases = sorted(path.name.removesuffix(".nii.gz") for path in (data / "labelsTr").iterdir())
    folds = [cases[::3], cases[1::3], cases[2::3]]
    splits = written(tmp_path / "s.json", [{"train": sorted({*cases} - {*val}), "val": val} for val in folds])
    bundle = made(folder, tmp_path, splits=splits, patient_regex=r"(.+\d{4})")  # ten cases a patient
    said = datalist(data, bundle=bundle)
    listed = json.loads((data / "datalist.json").read_text())["training"]
    assert len({one["patient"] for one in listed}) < len(listed)
    assert "patients have cases in several folds" in said
    table = tmp_path / "table.csv"
    table.write_text("case,patient\n" + "".join(f"{case},P{n // 2}\n" for n, case in enumerate(cases)))
    from_nnunet(folder, "tabled", out=tmp_path, splits=splits, patients=table)
    named = read_csv(tmp_path / "tabled" / "docs" / "patients.csv", text=None)
    assert {row["case"]: row["patient"] for row in named} == {case: f"P{n // 2}" for n, case in enumerate(cases)}
    assert str(tmp_path) not in "".join(path.read_text() for path in (tmp_path / "tabled" / "configs").iterdir())
    table.write_text("case,patient\nothers,P\n")
    for options, said in (
        ({"patient_regex": "(x)"}, r"s.json: .*: no patient in its name by '\(x\)'"),
        ({"patients": table}, r"s.json: .*: not in .*table.csv"),
    ):
        with pytest.raises(InputError, match=said):
            from_nnunet(folder, "other", out=tmp_path, splits=splits, **options)
    for unfit in ({}, {"splits": splits, "patient_regex": "(.+)"}):
        with pytest.raises(InputError, match=r"^--patients needs --splits and no --patient_regex"):
            from_nnunet(folder, "other", out=tmp_path, patients=table, **unfit)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("no json", "must be a splits_final.json of nnU-Net: "),
        ({"a": 1}, "must be a splits_final.json of nnU-Net: "),
        ([{"val": ["a"]}], "must be a splits_final.json of nnU-Net: "),
        ([], "has no fold 0, of which the teacher is"),
        ([{"train": ["a"], "val": ["b"]}], "must have at least 2 patients in the training of fold 0"),
        (
            [{"train": ["a", "c"], "val": []}],
            "must have cases in the validation of fold 0 that are not in its training",
        ),
        (
            [{"train": CASES, "val": []}, *SPLITS],
            "must have cases in the validation of fold 0 that are not in its training",
        ),
        (
            [{"train": ["a", "b"], "val": ["b"]}],
            "must have cases in the validation of fold 0 that are not in its train",
        ),
    ],
    ids=lambda value: str(value)[:30],
)
def test_faulty_splits_are_refused(content: Any, expected: str, folder: Path, tmp_path: Path) -> None:
    refused(folder, tmp_path, expected, splits=written(tmp_path / "splits_final.json", content))


def test_a_teacher_of_another_split_is_refused(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, source := tmp_path / "source")
    (source / "fold_0").rename(source / "fold_7")
    splits = written(tmp_path / "splits_final.json", SPLITS)
    refused(source, tmp_path, "splits_final.json has no fold 7, of which the teacher is", splits=splits)


# -- what is refused


def refused(source: Path, parent: Path, expected: str, **options: Any) -> None:
    """In one sentence, with nothing left behind."""
    before = sorted(parent.rglob("*"))
    with pytest.raises(InputError) as caught:
        made(source, parent, **options)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(caught.value).count("mine") == expected.count("mine")  # not the place where it is built
    assert sorted(parent.rglob("*")) == before


def change(**values: Any) -> Any:
    """Of the plans or their configuration; None takes a key out."""

    def plans(content: Any) -> None:
        for key, value in values.items():
            place = content if key in content else content["configurations"]["3d_fullres"]
            place[key] = value
            if value is None:
                del place[key]

    return plans


CASCADE = "is a stage of a cascade, expected a network that needs images alone"
RESAMPLED = "no_resampling_data_or_seg_to_shape"


@pytest.mark.parametrize(
    ("plans", "expected"),
    [
        ({"patch_size": [16, 16]}, "configuration 3d_fullres is of 2D patches, expected 3D"),
        ({"previous_stage": "3d_lowres"}, f"configuration 3d_fullres {CASCADE}"),
        ({"preprocessor_name": "CTPreprocessor"}, "preprocessor_name is 'CTPreprocessor', expected 'DefaultPrep"),
        ({"image_reader_writer": "NaturalImage2DIO"}, "images are .nii.gz read by NaturalImage2DIO, expected .nii.gz"),
        ({"resampling_fn_data": RESAMPLED}, f"resampling_fn_data is '{RESAMPLED}', expected 'resample_data_or_seg"),
        ({"normalization_schemes": ["Mine"] * 4}, "normalization scheme Mine, expected one of ZScoreNormalization"),
        ({"normalization_schemes": []}, "normalization_schemes are of 0 channels, dataset.json has 4"),
        ({"use_mask_for_norm": [True]}, "masked must say yes or no for 4 channels"),
        ({"spacing": None}, "plans.json and dataset.json are not as nnU-Net v2 writes them: KeyError('spacing')"),
        ({"spacing": [1, 1]}, "spacing must be three positive"),
        ({"patch_size": [18, 16, 16]}, "patch_size must be a multiple of 4"),
        ({"configurations": {"2d": {}}}, "plans.json has no configuration 3d_fullres, only 2d"),
        ({"configurations": []}, "plans.json has no configuration 3d_fullres"),
        ({"transpose_forward": [0, 1, 1]}, "transpose must be an order of 0, 1 and 2"),
        ({"label_manager": "Mine"}, "label_manager is Mine, expected LabelManager"),
        ({"architecture": {"network_class_name": "a.Mine", "arch_kwargs": {}}}, "the network must be PlainConvUNet or"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else "",
)
def test_plans_that_are_not_written_here(plans: dict[str, Any], expected: str, folder: Path, tmp_path: Path) -> None:
    refused(edited(folder, tmp_path / "source", plans=change(**plans)), tmp_path, expected)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"file_ending": ".png"}, "images are .png read by SimpleITKIO, expected .nii.gz"),
        ({"labels": {**LABELS, "ignore": 5}}, "dataset.json has a label to ignore, with which no student can be train"),
        ({"labels": {"background": 0, "a": 1, "b": 3}}, "labels must be 0, 1, 2 and so on, got [1, 3]"),
        ({"labels": {"background": 0, "a": 1, "b": 2}}, "checkpoint_final.pth does not fit PlainConvUNet"),
        ({"labels": REGIONS}, "regions_class_order"),
        ({"labels": REGIONS, "regions_class_order": [1]}, "regions_class_order must have a label for each of whole_tu"),
        ({"labels": REGIONS, "regions_class_order": [9, 1, 3, 4]}, "regions_class_order must be among 1, 2, 3, 4"),
        ({"labels": {"background": 0}}, "dataset.json has no label but the background"),
        ({"labels": [1]}, "are not as nnU-Net v2 writes them"),
        ({"channel_names": {"0": "a"}}, "normalization_schemes are of 4 channels, dataset.json has 1"),
        ({"channel_names": {"1": "a"}}, "are not as nnU-Net v2 writes them: KeyError('0')"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else "",
)
def test_data_sets_that_are_not_written_here(data: dict[str, Any], expected: str, folder: Path, tmp_path: Path) -> None:
    refused(edited(folder, tmp_path / "source", dataset=lambda content: content.update(data)), tmp_path, expected)


def test_kernels_that_are_no_list(folder: Path, tmp_path: Path) -> None:
    def one_kernel(content: Any) -> None:
        content["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]["kernel_sizes"] = 3

    source = edited(folder, tmp_path / "source", plans=one_kernel)
    refused(source, tmp_path, "kernel_sizes of plans.json must have one for each stage, got 3")


@pytest.mark.parametrize("name", ["plans.json", "dataset.json"])
def test_files_that_are_missing_or_no_json(name: str, folder: Path, tmp_path: Path) -> None:
    source = edited(folder, tmp_path / "source")
    (source / name).write_text("{")
    refused(source, tmp_path, name)
    (source / name).unlink()
    refused(source, tmp_path, f"{name}: missing, expected the result folder of an nnU-Net v2 training")


def test_folds_without_a_checkpoint(folder: Path, tmp_path: Path) -> None:
    source = edited(folder, tmp_path / "source")
    refused(source, tmp_path, "has no checkpoint_final.pth in fold_3", fold="3")
    (source / "fold_0" / "checkpoint_final.pth").rename(source / "fold_0" / "checkpoint_best.pth")
    made(source, tmp_path)
    (source / "fold_0" / "checkpoint_best.pth").unlink()
    shutil.rmtree(tmp_path / "mine")
    refused(source, tmp_path, "has no checkpoint_final.pth in fold_0")


@pytest.mark.parametrize(
    ("others", "taken"),
    [(["fold_10", "fold_2"], "fold_2"), (["fold_10", "fold_all"], "fold_10"), (["fold_all"], "fold_all")],
)
def test_the_first_fold_that_has_a_checkpoint(others: list[str], taken: str, folder: Path, tmp_path: Path) -> None:
    """By number, and that of all cases last; not one whose training has just begun."""
    source = edited(folder, tmp_path / "source")
    for name in others:
        shutil.copytree(source / "fold_0", source / name)
    (source / "fold_0" / "checkpoint_final.pth").unlink()
    _, (teacher,), _ = bundle_from_nnunet(source, "mine", tmp_path)
    assert teacher.path.parent.name == taken
    shutil.rmtree(tmp_path / "mine")
    refused(source, tmp_path, f"has no checkpoint_final.pth in fold_0, only in {', '.join(sorted(others))}", fold="0")


def test_a_checkpoint_is_chosen_by_its_name(folder: Path, tmp_path: Path) -> None:
    source = edited(folder, tmp_path / "source")
    shutil.copyfile(source / "fold_0" / "checkpoint_final.pth", source / "fold_0" / "checkpoint_best.pth")
    assert "fold_0/checkpoint_best.pth;" in from_nnunet(source, "best", checkpoint="checkpoint_best.pth", out=tmp_path)
    assert "fold_0/checkpoint_final.pth;" in from_nnunet(source, "final", out=tmp_path)
    refused(source, tmp_path, "has no checkpoint_latest.pth in fold_0", checkpoint="checkpoint_latest.pth")


def test_a_trainer_that_may_build_another_network_is_named(folder: Path, tmp_path: Path) -> None:
    source = edited(folder, tmp_path / "source")
    checkpoint(source, trainer_name="nnUNetTrainer")
    assert "trained by" not in from_nnunet(source, "usual", out=tmp_path)
    checkpoint(source, trainer_name="nnUNetTrainerGELU")
    assert from_nnunet(source, "other", out=tmp_path).startswith("trained by nnUNetTrainerGELU, whose code is not")


def checkpoint(source: Path, **changes: Any) -> None:
    path = source / "fold_0" / "checkpoint_final.pth"
    torch.save(read_checkpoint(path) | changes, path)


def test_weights_that_do_not_fit_and_checkpoints_of_others(folder: Path, tmp_path: Path) -> None:
    source = edited(folder, tmp_path / "source")
    weights = read_checkpoint(source / "fold_0" / "checkpoint_final.pth")["network_weights"]
    name = "encoder.stages.0.0.convs.0.conv.weight"
    checkpoint(source, network_weights={name: weights[name]})
    refused(source, tmp_path, f"{source}/fold_0/checkpoint_final.pth does not fit PlainConvUNet: lacks encoder")
    checkpoint(source, network_weights={**weights, name: weights[name] * float("nan")})
    refused(source, tmp_path, f"{source}/fold_0/checkpoint_final.pth must hold finite weights, but {name} holds NaN")
    for arguments in ({}, [1], {"configuration": "3d_cascade_fullres"}):
        checkpoint(source, network_weights=weights, init_args=arguments)
        refused(source, tmp_path, "cascade" if "configuration" in arguments else "not as nnU-Net v2 writes them")
    checkpoint(source, init_args={"configuration": "2d"})
    refused(source, tmp_path, "configuration 2d is of 2D patches, expected 3D")


def test_a_folder_that_is_taken(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(InputError, match=r"mine exists: choose another name"):
        made(folder, tmp_path)
    assert not any((tmp_path / "mine").iterdir())


def test_without_the_package_of_the_teacher_a_sentence_says_what_to_install(folder: Path, tmp_path: Path) -> None:
    text = (
        "import sys; sys.modules['dynamic_network_architectures'] = None; from dcd_components.cli import main; main()"
    )
    command = [sys.executable, "-W", "ignore", "-c", text, "from_nnunet", str(folder), "mine", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "pip install --no-deps dynamic-network-architectures" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert not any(tmp_path.iterdir())


@needs_real
@pytest.mark.parametrize("name", ["plain", "residual", "regions", "student_by_hand", "old_2.2.1_numpy1"])
def test_result_folders_of_nnunet(name: str, tmp_path: Path) -> None:
    bundle = made(REAL / "models" / name, tmp_path)
    task = settings(bundle)
    assert task["spacing"] == [2.0, 2.0, 2.0]
    assert task["masked"] == [name == "regions"] * 4
    assert (task["painted"] is not None) == (name == "regions")
    assert read_record(bundle / "models" / "teacher" / "model.pt")["spacing"] == [2.0, 2.0, 2.0]


# -- several teachers


def test_networks_of_several_folds_are_teachers(folder: Path, tmp_path: Path) -> None:
    source = edited(folder, tmp_path / "several")
    shutil.copytree(source / "fold_0", source / "fold_3")
    bundle = made(source, tmp_path, fold=["3", "0"])
    assert {path.name for path in (bundle / "models" / "teacher").iterdir()} == {"model.pt", "fold_0.pt"}
    assert settings(bundle, "train_student")["test_folds"] == [3]
    assert "It and its further teachers were trained on all cases" in (bundle / "docs" / "README.md").read_text()
    distiller = read_configs(bundle, ["distill", "quick"]).get_parsed_content("distiller")
    assert len(distiller.distillers) == 2
    several = read_configs(bundle, ["inference", "teacher"]).get_parsed_content("evaluator::inferer")
    assert isinstance(several, EnsembleInferer)
    assert len(several.further) == 1
    one = read_configs(bundle, ["inference", "teacher"])
    one["further_teachers"] = []
    assert one.get_parsed_content("weights_mark") == weights_digest(bundle / "models" / "teacher" / "model.pt")
    assert read_configs(bundle, ["inference"]).get_parsed_content("evaluator::inferer").__class__ is NnunetInferer
    (tmp_path / "other").mkdir()
    refused(source, tmp_path / "other", "folds must be different ones, got 0, 0", fold=["0", "0"])
