from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import yaml
from result_folders import dataset, network, plans, write
from study_files import write_study
from tiny import BRATS, ROOT

from dcd_components import cli
from dcd_components.commands import from_nnunet
from dcd_components.errors import InputError
from dcd_components.study.costs import read_costs
from dcd_components.study.plan import read_study
from dcd_components.study.records import read_record

CONTENT = {
    "bundle": str(BRATS),
    "overlays": ["quick"],
    "seeds": [3, 4],
    "settings": {"batch_size": 2},
    "teacher": {"max_epochs": 5},
    "students": {"max_epochs": 7},
    "methods": {
        "plain": {"workflow": "student"},
        "dcd": None,
        "levels": {"settings": {"levels": 1, "max_epochs": 9}, "overlays": ["cwd"]},
    },
}


def written(folder: Path, **changes: object) -> Path:
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump({**CONTENT, **changes}, sort_keys=False))
    return path


def test_every_seed_has_its_teacher_and_every_method(tmp_path: Path) -> None:
    study = read_study(written(tmp_path))
    names = ["teacher", "plain", "dcd", "levels"]
    assert [run.name for run in study.runs] == [f"{name}-{seed}" for seed in (3, 4) for name in names]
    assert (study.methods, study.results) == (names[1:], tmp_path / "small")
    teacher, plain, dcd, levels = study.runs[:4]
    assert [run.workflow for run in study.runs[:4]] == ["teacher", "student", "distill", "distill"]
    assert teacher.settings == {"batch_size": 2, "max_epochs": 5}
    assert plain.settings == dcd.settings == {"batch_size": 2, "max_epochs": 7}
    assert levels.settings == {"batch_size": 2, "max_epochs": 9, "levels": 1}
    assert (levels.training, levels.evaluation) == (["quick", "cwd"], ["quick"])
    assert teacher.evaluation == ["teacher", "quick"]


def test_a_student_of_another_network_is_evaluated_as_it_was_trained(tmp_path: Path) -> None:
    shallow = {"network": "shallow_student", "overlays": ["cwd"]}
    run = read_study(written(tmp_path, methods={"shallow": shallow})).runs[1]
    assert run.training == ["shallow_student", "quick", "cwd"]
    assert run.evaluation == ["shallow_student", "quick"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seeds": []}, r"seeds must be whole numbers, \[0, 1, 2\], got \[\]"),
        ({"seeds": 3}, "seeds must be whole numbers"),
        ({"methods": {}}, "methods must be a mapping"),
        ({"method": {}}, "must have the keys bundle, seeds, methods, and only keys of .*, got .*method$"),
        ({"methods": {"a": {"epochs": 3}}}, "must have only keys of workflow, .*, got epochs"),
        ({"methods": {"a": {"workflow": "teacher"}}}, "the workflow of a must be student or distill, got teacher"),
        ({"methods": {"a": {"settings": {"level": 3}}}}, "a: no config has the key level; the nearest is levels"),
        (
            {"methods": {"a": {"overlays": ["fast"]}}},
            "a method's overlay, which trains alone, must be one of attention, .*, got fast",
        ),
        ({"methods": {"a": {"overlays": ["quick"]}}}, "a method's overlay, .* must be one of attention, .*, got quick"),
        (
            {"methods": {"a": {"network": "swin_unetr_teacher"}}},
            "the network of a must be one of mednext_student, .*, got swin_unetr_teacher",
        ),
        ({"overlays": ["fast"]}, "teacher: the bundle .* has no config fast"),
        ({"overlays": "quick"}, "overlays must be a list of names, got 'quick'"),
        ({"seeds": [0, 0]}, r"seeds must be different, got \[0, 0\]"),
        ({"methods": {"teacher": None}}, "the name of a method must be a letter, .*, got 'teacher'"),
        ({"methods": {"../x": None}}, "the name of a method must be a letter, .*, got '../x'"),
        ({"methods": {1: None}}, "the name of a method must be a letter, .*, got 1"),
        ({"settings": [1]}, r"settings must be a mapping, got \[1\]"),
        ({"teacher": 32}, "teacher must be a mapping, got 32"),
        ({"methods": {"a": {"settings": 5}}}, "a must be a mapping, got 5"),
        ({"methods": {"a": {"drawn_folds": 5}}}, r"the drawn_folds of a must be whole numbers, \[5, 6\], got 5"),
        ({"bundle": 3}, "bundle must be a folder, from that of the study, got 3"),
        ({"bundle": "nowhere"}, "has no config train_teacher: there is no folder configs"),
    ],
)
def test_a_study_that_is_none_is_refused(changes: dict[str, object], said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said):
        read_study(written(tmp_path, **changes))


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no study at .*none.yaml"):
        read_study(tmp_path / "none.yaml")
    (tmp_path / "torn.yaml").write_text("a: [")
    with pytest.raises(InputError, match=r"torn.yaml cannot be read: while parsing"):
        read_study(tmp_path / "torn.yaml")


@pytest.mark.parametrize("path", sorted((ROOT / "studies").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_studies_of_the_repository_fit_their_bundles_and_what_was_run_of_them_can_be_read(
    path: Path, tmp_path: Path
) -> None:
    if path.stem == "hippocampus_nnunet":  # whose teacher is too large for the repository
        path = _with_bundle(path, tmp_path)
    study = read_study(path)
    assert len(study.runs) > 1
    found = {run.name for run in study.runs if read_record(study, run)}
    there = {file.stem for file in study.results.glob("*.json")} - {"costs"}
    assert found == {name for name in there if (study.results / f"{name}.csv").is_file()}
    read_costs(study)


def _with_bundle(path: Path, folder: Path) -> Path:
    """A study with the bundle of an nnU-Net for the same task, of random weights."""
    trained, labels = network(1, 3), {"background": 0, "anterior": 1, "posterior": 2}
    result = write(folder / "results", plans(channels=1), dataset(labels, ("MRI",)), trained)
    from_nnunet(result, path.stem, out=folder)
    if path.with_suffix("").is_dir():
        shutil.copytree(path.with_suffix(""), folder / "studies" / path.stem)
    (folder / "studies").mkdir(exist_ok=True)
    return Path(shutil.copy(path, folder / "studies"))


def test_a_study_lists_its_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_study(tmp_path, {"plain": None, "dcd_logits": None}, [3, 14], missing=("dcd_logits-3", "teacher-14"))
    cli.main(["study", str(path), "--list"])
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["index", "method", "seed"],
        ["0", "teacher", "3", "ended"],
        ["1", "plain", "3", "ended"],
        ["2", "dcd_logits", "3", "missing"],
        ["3", "teacher", "14", "missing"],
        ["4", "plain", "14", "ended"],
        ["5", "dcd_logits", "14", "ended"],
    ]
    with pytest.raises(InputError, match="a study needs --dataset_dir and --work, unless its runs are only listed"):
        cli.main(["study", str(path), "--work", "work"])


def test_the_study_that_the_page_shows_is_one(tmp_path: Path) -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "studies.md").read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "shown.yaml").write_text(text.replace("../my_tumours", str(BRATS)))
    assert read_study(tmp_path / "shown.yaml").methods == ["plain", "plain_longer", "dcd", "started"]
