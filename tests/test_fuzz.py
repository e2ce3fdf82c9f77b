"""Whatever comes in ends as a result or as one sentence: hypothesis looks for what does not."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import nibabel
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from monai.bundle import ConfigParser
from tiny import BRATS, TINY, config_files
from torch import nn

from dcd_components import cli, errors
from dcd_components.bundle.running import check_settings
from dcd_components.data.case_files import Layout
from dcd_components.data.cases import LoadCased
from dcd_components.data.check.rules import CaseFiles, check_case
from dcd_components.data.datalists import read_datalist
from dcd_components.errors import InputError
from dcd_components.networks.weights import read_weights, save_weights
from dcd_components.tables import read_csv

#: Fixtures are made once for all examples, which each write their file anew.
ONE_FIXTURE = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

#: What a user may write on the command line, and what no user would.
words = st.one_of(
    st.sampled_from(
        [name for names, *_ in cli.COMMANDS for name in names.split()]
        + ["--out", "--dataset_dir", "--labels", "--overlay", "--levels", "--size", "--bundle", "--quick", "--help"]
        + ["a=1", "a=b=c", "--a=1", "--", "-", "", "=", "1", "-1", "$x", "@x", "%x", "a#b", "a::b", "x y", "\n", "é"]
    ),
    st.text(max_size=8),
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None, max_examples=200)
@given(st.lists(words, max_size=8))
@example(["run", "distill", "x", "--dataset_dir", "y", "--overlay"])
def test_a_command_line_is_read_or_refused(line: list[str]) -> None:
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        try:
            cli.parse(line)
        except SystemExit as end:
            status = end.code
        else:
            return
    assert status in (0, 2)
    assert said.getvalue()


PARTS = ["a", "spacing", "0", "::", "#", "train", "handlers", "99", "-1", "_target_", "é"]


@settings(deadline=None, max_examples=100)
@given(st.lists(st.sampled_from(PARTS), max_size=5).map("".join))
def test_a_setting_is_a_key_of_a_config_or_refused(key: str) -> None:
    with contextlib.suppress(InputError):
        check_settings([Path(file) for file in config_files("train_student")], [key])


KEYS = st.sampled_from(["training", "test", "modality", "labels", "reference", "resampled", "description"])
CASE_KEYS = st.sampled_from(["image", "label", "case", "patient", "fold"])


@ONE_FIXTURE
@given(st.dictionaries(KEYS, json_values, max_size=2), st.dictionaries(CASE_KEYS, json_values, max_size=2))
def test_a_data_list_is_read_or_refused(tmp_path: Path, changes: dict[str, Any], of_case: dict[str, Any]) -> None:
    case = {"image": ["a-t1.nii.gz"], "label": "a-seg.nii.gz", "case": "a", "patient": "a", "fold": 0, **of_case}
    content = {"modality": {"0": "t1"}, "labels": {"1": "x"}, "reference": "t1", "resampled": [], "training": [case]}
    (tmp_path / "datalist.json").write_text(json.dumps({**content, **changes}))
    with contextlib.suppress(InputError):
        read_datalist(tmp_path / "datalist.json")


@ONE_FIXTURE
@given(st.one_of(st.binary(max_size=40), st.text(alphabet='case,weights\n"1.\x00é', max_size=40).map(str.encode)))
def test_a_table_is_read_or_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "scores.csv").write_bytes(content)
    with contextlib.suppress(InputError):
        assert read_csv(tmp_path / "scores.csv")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("weights") / "model.pt"
    save_weights(nn.Linear(2, 2).state_dict(), path, {"spacing": [1.0]})
    return path.read_bytes()


@ONE_FIXTURE
@given(st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=4), st.floats(0, 1))
def test_a_damaged_file_of_weights_is_read_or_refused(
    weights: bytes, tmp_path: Path, changes: list[tuple[float, int]], cut: float
) -> None:
    damaged = bytearray(weights)
    for place, value in changes:
        damaged[int(place * len(damaged))] = value
    (tmp_path / "model.pt").write_bytes(damaged[: int(cut * len(damaged)) or None])
    with contextlib.suppress(InputError):
        found = read_weights(nn.Linear(2, 2), tmp_path / "model.pt")
        assert all(isinstance(value, torch.Tensor) for value in found.values())


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("image") / "a.nii"
    values = np.random.default_rng(0).normal(size=(5, 4, 3)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(values, np.diag([2.0, -2, 3, 1])), path)
    return path.read_bytes()


NUMBERS = st.one_of(
    st.integers(-(2**15), 2**15 - 1).map(lambda x: x.to_bytes(2, "little", signed=True)), st.binary(max_size=4)
)


@settings(ONE_FIXTURE, max_examples=300)
@given(st.lists(st.tuples(st.integers(0, 351), NUMBERS), min_size=1, max_size=3), st.booleans())
@example([(40, b"\x03\x00\xff\x7f\xff\x7f\xff\x7f")], True)  # 32767 voxels a side
@example([(108, b"\x00\x00\xc0\x7f")], False)  # voxels that begin at byte NaN
def test_an_image_with_any_header_is_read_or_refused_as_check_refuses_it(
    image: bytes, tmp_path: Path, changes: list[tuple[int, bytes]], compressed: bool
) -> None:
    damaged = bytearray(image)
    for place, number in changes:
        damaged[place : place + len(number)] = number
    path = tmp_path / ("a.nii.gz" if compressed else "b.nii")
    path.write_bytes(gzip.compress(damaged, 1) if compressed else bytes(damaged))
    layout = Layout({"t1": "{case}" + path.name[1:]})
    found = check_case(CaseFiles(str(tmp_path), {"t1": path.name}, "t1", [], {}))
    try:
        loaded = LoadCased(layout)({"image": str(path)})["t1"]
    except InputError:
        assert found.faults
    else:
        assert not found.faults
        assert loaded.isfinite().all()
        assert found.grid is not None
        assert tuple(loaded.shape[1:]) == found.grid.shape


#: Keys that users set, and the part of the config that takes them up.
USED_BY = {
    "spacing": "preprocessing",
    "sequences": "layout",
    "resampled": "layout",
    "labels": "network_def",
    "teacher_widths": "network_def",
    "width_divisor": "network_def",
    "patch_size": "sliding_window",
}


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(sorted(USED_BY)), json_values)
@example("spacing", 2)
@example("teacher_widths", [])
@example("width_divisor", 0)
@example("labels", {})
def test_a_config_builds_or_its_key_is_named(key: str, value: Any) -> None:
    parser = ConfigParser()
    parser.read_config(config_files("inference"))
    parser.update({**{name: TINY[name] for name in ("spacing", "patch_size", "teacher_widths")}, key: value})
    parser["bundle_root"] = str(BRATS)
    try:
        parser.get_parsed_content(USED_BY[key])
    except Exception as error:  # noqa: BLE001 - MONAI wraps what components raise
        said = errors.input_error(error) or errors._config_error(error)
    else:
        return
    assert said
