"""Packed bundles in MONAI Label's own server: masks, what is refused, and training."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from label.conftest import SHARED, WHOLE
from label.server import BUNDLES, Server, command, run
from monai.bundle import ConfigParser

from dcd_components.tables import read_csv

Cases = dict[str, dict[str, dict[str, Path]]]
LABELS = {"brats_gli_dcd": {"netc": 1, "snfh": 2, "et": 3, "rc": 4}, "isles22_dcd": {"lesion": 1}}
LABELS["hippocampus_dcd"] = {"anterior": 1, "posterior": 2}
every_model = pytest.mark.parametrize("model", SHARED)  # whose cases have several sequences


def files(cases: Cases, model: str) -> list[str]:
    """Ids of the images of a bundle's first case, and of its sequences on one grid."""
    case, paths = next(iter(cases[model].items()))
    ids = [path.name.removesuffix(".nii.gz") for sequence, path in paths.items() if sequence != "label"]
    return ids + [one.replace(case, SHARED[model]) for one in ids]


def voxels(path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.asarray(nibabel.load(path).dataobj)


@pytest.fixture(scope="session")
def expected(
    cases: Cases, releases: Path, studies: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, Path]]:
    """What ``python -m monai.bundle run`` makes of the releases before any training, by model and case."""
    masks = {}
    for model in SHARED:
        folder, one = tmp_path_factory.mktemp("masks"), [files(cases, model)[0], files(cases, model)[-1], WHOLE[model]]
        (folder / "list.json").write_text(json.dumps({"test": [{"image": f"{name}.nii.gz"} for name in one]}))
        bundle = releases / model
        where = [f"--config_file={bundle}/configs/inference.yaml", f"--bundle_root={bundle}", f"--output_dir={folder}"]
        what = [f"--datalist={folder}/list.json", f"--dataset_dir={studies}"]
        subprocess.run([sys.executable, "-W", "ignore", "-m", "monai.bundle", "run", *where, *what], check=True)
        masks[model] = {path.name.removesuffix("_seg.nii.gz"): path for path in folder.glob("*_seg.nii.gz")}
        assert set(masks[model]) == {next(iter(cases[model])), SHARED[model], WHOLE[model]}
    return masks


def test_only_a_release_brings_dcd_components(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="No module named 'dcd_components'"):
        run("python -c 'import dcd_components'", tmp_path)


def test_clients_are_told_of_all_models(server: Server) -> None:
    info = server.call("GET", "/info/")
    assert {name: model["labels"] for name, model in info["models"].items()} == LABELS
    assert set(info["trainers"]) == set(BUNDLES)
    assert info["models"]["brats_gli_dcd"]["config"]["model_filename"][0] == "model.pt"


@every_model
def test_any_file_of_a_case_gives_the_mask_of_a_run(
    model: str, server: Server, cases: Cases, expected: dict[str, dict[str, Path]], studies: Path, tmp_path: Path
) -> None:
    reference = {"brats_gli_dcd": "-t1n", "isles22_dcd": "_dwi"}[model]
    for image in files(cases, model):
        server.ask(model, "&output=image", image, tmp_path / "mask.nii.gz")
        case = next(name for name in expected[model] if image.startswith(name))
        mask, scan = nibabel.load(tmp_path / "mask.nii.gz"), nibabel.load(studies / f"{case}{reference}.nii.gz")
        assert np.array_equal(voxels(tmp_path / "mask.nii.gz"), voxels(expected[model][case]))
        assert mask.shape == scan.shape
        assert np.allclose(mask.affine, scan.affine, atol=1e-4)
        assert mask.get_data_dtype() == np.uint8
        assert voxels(tmp_path / "mask.nii.gz").any()


@every_model
def test_a_4d_file_is_a_case_too(
    model: str, server: Server, expected: dict[str, dict[str, Path]], studies: Path, tmp_path: Path
) -> None:
    server.ask(model, "&output=image", WHOLE[model], tmp_path / "mask.nii.gz")
    assert np.array_equal(voxels(tmp_path / "mask.nii.gz"), voxels(expected[model][SHARED[model]]))
    assert np.array_equal(voxels(tmp_path / "mask.nii.gz"), voxels(expected[model][WHOLE[model]]))
    mask, scan = nibabel.load(tmp_path / "mask.nii.gz"), nibabel.load(studies / f"{WHOLE[model]}.nii.gz")
    assert np.allclose(mask.affine, scan.affine, atol=1e-4)
    shutil.copy(studies / f"{WHOLE[model]}.nii.gz", server.folder / "case.nii.gz")
    server.ask(model, "file=@case.nii.gz", "", tmp_path / "uploaded.nii.gz")
    assert np.array_equal(voxels(tmp_path / "mask.nii.gz"), voxels(tmp_path / "uploaded.nii.gz"))


def test_a_case_of_one_sequence_has_any_name(server: Server, cases: Cases, releases: Path, tmp_path: Path) -> None:
    """The server has its files in one folder, not in the Decathlon's imagesTr."""
    case, paths = next(iter(cases["hippocampus_dcd"].items()))
    bundle = releases / "hippocampus_dcd"
    where = [f"--config_file={bundle}/configs/inference.yaml", f"--bundle_root={bundle}", f"--output_dir={tmp_path}"]
    words = [*where, f"--dataset_dir={paths['t1'].parents[1]}"]
    subprocess.run([sys.executable, "-W", "ignore", "-m", "monai.bundle", "run", *words], check=True)
    server.ask("hippocampus_dcd", "&output=image", case, tmp_path / "mask.nii.gz")
    assert np.array_equal(voxels(tmp_path / "mask.nii.gz"), voxels(tmp_path / f"{case}_seg.nii.gz"))
    assert voxels(tmp_path / "mask.nii.gz").any()


@pytest.fixture
def broken(cases: Cases, studies: Path, tmp_path: Path) -> Path:
    """Images that no model can segment."""
    scan = nibabel.load(studies / f"{WHOLE['brats_gli_dcd']}.nii.gz")
    nibabel.save(scan.slicer[..., 0], tmp_path / "single.nii.gz")
    nibabel.save(scan.slicer[..., :2], tmp_path / "pair.nii.gz")
    nibabel.save(scan.slicer[..., 0], tmp_path / "lonely-t2w.nii.gz")
    torn = np.asarray(scan.dataobj, np.float32)
    torn[20, 20, 20, 1] = np.nan
    nibabel.save(nibabel.Nifti1Image(torn, scan.affine), tmp_path / "torn.nii.gz")
    case = next(iter(cases["brats_gli_dcd"]))
    for name in ("t1n", "t1c", "t2w", "t2f"):
        image = nibabel.load(studies / f"{case}-{name}.nii.gz")
        affine = image.affine + np.eye(4, k=3) * (name == "t1c")
        nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj), affine), tmp_path / f"moved-{name}.nii.gz")
    return tmp_path


CALLED = "expected the name of a sequence, or 4D with t1n, t1c, t2w, t2f"


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ("single", f"FOLDER/single.nii.gz: is 3D, shape 40x46x40, {CALLED}"),
        ("pair", f"FOLDER/pair.nii.gz: is 4D, shape 40x46x40x2, {CALLED}"),
        ("torn", "FOLDER/torn.nii.gz: t1c: 1 NaN and 0 Inf among 73600 voxels"),
        ("lonely-t2w", "; ".join(f"FOLDER/lonely-{name}.nii.gz: missing" for name in ("t1n", "t1c", "t2f"))),
        ("moved-t2w", "FOLDER/moved-t1c.nii.gz: another origin or rotation than t1n: moves a corner by 1 mm"),
    ],
)
def test_a_client_reads_in_a_sentence_why_an_image_is_refused(
    image: str, expected: str, server: Server, broken: Path
) -> None:
    server.ask("brats_gli_dcd", "&output=image", f"{broken}/{image}.nii.gz", broken / "answer.json")
    answer = json.loads((broken / "answer.json").read_text())
    assert answer["detail"].startswith(expected.replace("FOLDER", str(broken)))


def as_a_client_sends_it(config: dict[str, object]) -> dict[str, object]:
    """All settings of a training that the server offers, the first where there is a choice, for one epoch."""
    chosen = {key: value[0] if isinstance(value, list) else value for key, value in config.items()}
    return {**chosen, "max_epochs": 1}


@pytest.fixture
def labelled(model: str, server: Server, cases: Cases) -> Iterator[list[str]]:
    """Images with a label, one of each case; the datastore has no others, since a training takes them all."""
    images = [next(iter(paths.values())).name.removesuffix(".nii.gz") for paths in cases[model].values()]
    for image, paths in zip(images, cases[model].values(), strict=True):
        server.ask(model, "/datastore/label", image, paths["label"])
    yield images
    for image in images:
        server.call("DELETE", f"/datastore/label?id={image}&tag=final")


@every_model
@pytest.mark.usefixtures("labelled")
def test_training_changes_the_weights_and_the_next_mask(
    model: str, server: Server, releases: Path, expected: dict[str, dict[str, Path]], tmp_path: Path
) -> None:
    weights = releases / model / "models" / "model.pt"
    before = torch.load(weights, weights_only=True)
    offered = server.call("GET", "/info/")["trainers"][model]["config"]
    status, *output = server.train(model, as_a_client_sends_it(offered))
    assert status == "DONE", "\n".join(output)

    after = torch.load(weights, weights_only=True)
    config = ConfigParser.load_config_file(releases / model / "configs" / "inference.json")
    ConfigParser(config).get_parsed_content("network_def").load_state_dict(after)
    assert any(not torch.equal(before[name], after[name]) for name in before)
    (kept,) = weights.parent.glob("model-*.pt")
    assert all(torch.equal(before[name], weight) for name, weight in torch.load(kept, weights_only=True).items())
    (row,) = read_csv(weights.with_name("model_training.csv"))
    assert row["iteration"] == 2
    assert ("distillation_loss" in row) == (model == "brats_gli_dcd")  # whose release has its teacher
    server.ask(model, "&output=image", WHOLE[model], tmp_path / "mask.nii.gz")
    assert not np.array_equal(voxels(tmp_path / "mask.nii.gz"), voxels(expected[model][WHOLE[model]]))


def test_images_without_a_label_are_segmented_at_once(server: Server, studies: Path) -> None:
    """As many as asked for, in the order of their names, of which a glioma's is the first."""
    command_of_all = command("brats_gli_dcd", "/batch/infer/").replace("false}", 'false, "max_batch_size": 1}')
    run(command_of_all.replace(":8000/", f":{server.port}/"), server.folder)
    assert server.wait("/batch/infer/")[0] == "DONE"
    assert len(list((studies / "labels" / "original").glob("BraTS-*.nii.gz"))) == 1


@pytest.mark.parametrize("model", ["isles22_dcd"])
@pytest.mark.usefixtures("labelled")
def test_a_training_that_cannot_be_ends_in_a_sentence(server: Server, model: str) -> None:
    """The labelled images are the other bundle's."""
    status, *output = server.train("brats_gli_dcd", {"max_epochs": 1, "val_split": 0.5})
    assert status == "ERROR"
    assert CALLED in output[-1]


@pytest.mark.parametrize("model", ["brats_gli_dcd"])
def test_each_file_is_an_image_of_its_own_to_label(server: Server, labelled: list[str], model: str) -> None:
    """As the page says: the other sequences of a labelled case are proposed like those of any other case."""
    first = server.call("POST", "/activelearning/first", {})["id"]
    assert first not in labelled
    assert first.rsplit("-", 1)[0] == labelled[0].rsplit("-", 1)[0]
