"""The trained student that comes with the repository: it is what its metadata, its page and its study say."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import forked
import nibabel
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from tiny import HIPPOCAMPUS, ROOT

from dcd_components.bundle.release.metadata import mean_scores
from dcd_components.commands import export
from dcd_components.networks.weights import load_frozen, read_record, weights_digest
from dcd_components.study.results import TEXT
from dcd_components.tables import read_csv

WEIGHTS = HIPPOCAMPUS / "models" / "model.pt"
METADATA = json.loads((HIPPOCAMPUS / "configs" / "metadata.json").read_text())
STUDY = ROOT / "studies" / "hippocampus_release"
RUN = "started_dcd-0"
DATA = Path(os.environ.get("DCD_DATA", Path(__file__).parents[3] / "shared" / "data")) / "hippocampus"
REGIONS = {"anterior": [1], "posterior": [2]}
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"no real patients at {DATA}; set DCD_DATA")


def test_the_weights_are_small_and_fit_the_bundle_s_network_strictly() -> None:
    assert WEIGHTS.stat().st_size < 2e6
    parser = ConfigParser()
    parser.read_config(str(HIPPOCAMPUS / "configs" / "inference.yaml"))
    network = load_frozen(parser.get_parsed_content("network_def"), WEIGHTS)
    assert sum(x.numel() for x in network.parameters()) == pytest.approx(0.35e6, rel=0.02)
    assert read_record(WEIGHTS)["labels"] == {"anterior": 1, "posterior": 2}
    assert network(torch.zeros(1, 1, 40, 56, 40)).shape == (1, 3, 40, 56, 40)


def test_they_are_those_of_the_study_and_so_are_the_scores_in_the_metadata() -> None:
    record = json.loads((STUDY / f"{RUN}.json").read_text())
    assert record["weights"] == weights_digest(WEIGHTS)
    assert METADATA["eval_metrics"] == mean_scores(STUDY / f"{RUN}.csv", REGIONS, record["weights"])
    assert {row["fold"] for row in patients() if row["case"] in cases()} == {"0"}  # those of the test fold alone


def patients() -> list[dict[str, str]]:
    lines = (HIPPOCAMPUS / "docs" / "patients.csv").read_text().splitlines()
    return [dict(zip(lines[0].split(","), line.split(","), strict=True)) for line in lines[1:]]


def cases() -> set[str]:
    return {str(row["case"]) for row in read_csv(STUDY / f"{RUN}.csv", TEXT)}


def test_the_page_has_the_scores_of_the_study() -> None:
    page = (HIPPOCAMPUS / "docs" / "README.md").read_text()
    for run in ("teacher-0", "plain-0", "dcd-0", "started-0", RUN):
        means = mean_scores(STUDY / f"{run}.csv", REGIONS, json.loads((STUDY / f"{run}.json").read_text())["weights"])
        figures = [f"{means[name]:.3f}" for name in ("dice_anterior", "dice_posterior", "mean_dice", "mean_nsd_1mm")]
        assert re.search(r" \| ".join(map(re.escape, figures)), page), f"{run}: {figures}"


@needs_data
def test_a_newcomer_s_command_gives_the_scores_that_are_published(tmp_path: Path) -> None:
    words = ["run", "evaluate", str(HIPPOCAMPUS), "--dataset_dir", str(DATA)]
    places = [f"datalist={ROOT / 'data_lists' / 'hippocampus.json'}", f"output_dir={tmp_path / 'out'}"]
    done = forked.run("dcd_components", [*words, *places], ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    published = {row["case"]: row for row in read_csv(STUDY / f"{RUN}.csv", TEXT)}
    found = {row["case"]: row for row in read_csv(tmp_path / "out" / "scores.csv")}
    assert found.keys() == published.keys()
    for name in ("dice_anterior", "dice_posterior"):
        ours, theirs = (np.array([float(rows[case][name]) for case in published]) for rows in (found, published))
        np.testing.assert_allclose(ours, theirs, atol=0.02)  # another processor rounds otherwise
        assert abs(ours.mean() - theirs.mean()) < 0.001


@needs_data
def test_in_int8_it_is_as_good(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    pytest.importorskip("nncf")
    bundle = Path(shutil.copytree(HIPPOCAMPUS, tmp_path / "bundle"))
    said = export(bundle, dataset_dir=DATA, datalist=ROOT / "data_lists" / "hippocampus.json")
    found = re.search(r"20 cases of the validation (\S+) in floating point, (\S+) in int8; one case loses (\S+)$", said)
    assert found
    assert float(found[1]) > 0.85
    assert float(found[2]) > float(found[1]) - 0.003
    assert float(found[3]) < 0.02


@needs_data
def test_the_readme_s_second_command_segments_a_real_image(tmp_path: Path) -> None:
    """As it stands there, on one case of the test fold."""
    (line,) = re.findall(r"^    dcd (run segment bundles/hippocampus_dcd .*)$", (ROOT / "README.md").read_text(), re.M)
    case = min(cases())
    image = tmp_path / "Task04_Hippocampus" / "imagesTr" / f"{case}.nii.gz"
    image.parent.mkdir(parents=True)
    shutil.copyfile(DATA / "imagesTr" / image.name, image)
    words = line.replace("DATA", str(tmp_path)).replace("MASKS", str(tmp_path / "out")).split()
    done = forked.run("dcd_components", words, ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    found, label = (
        np.asarray(nibabel.load(path).dataobj)
        for path in (tmp_path / "out" / f"{case}_seg.nii.gz", DATA / "labelsTr" / image.name)
    )
    assert set(np.unique(found)) == {0, 1, 2}
    assert 2 * ((found > 0) & (label > 0)).sum() / ((found > 0).sum() + (label > 0).sum()) > 0.8
