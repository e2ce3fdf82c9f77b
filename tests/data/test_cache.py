from __future__ import annotations

import importlib
import multiprocessing
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, CropForegroundd, Lambdad, RandFlipd, ScaleIntensityRanged, Spacingd

from dcd_components.data.cache import DiskCache, fingerprint


def scale(factor: float) -> Compose:
    return Compose([ScaleIntensityRanged("image", 0, 1, 0, factor), RandFlipd("image", prob=1.0, spatial_axis=0)])


def items(count: int = 3) -> list[dict[str, Any]]:
    return [{"image": np.full((1, 4, 4, 4), index, np.float32), "case": f"case {index}"} for index in range(count)]


CALLS: list[float] = []


def count(image: Any) -> Any:
    CALLS.append(float(image.max()))
    return image


@pytest.fixture
def counted() -> Compose:
    CALLS.clear()
    return Compose([Lambdad("image", count)])


def test_each_item_is_transformed_once_for_all_epochs_and_trainings(counted: Compose, tmp_path: Path) -> None:
    for _ in range(2):
        cached = DiskCache(items(), counted, tmp_path)
        assert [cached[index]["case"] for index in (0, 1, 2, 1)] == ["case 0", "case 1", "case 2", "case 1"]
    assert CALLS == [0, 1, 2]


def test_random_transforms_are_not_cached(tmp_path: Path) -> None:
    ramp = torch.arange(4.0).reshape(1, 4, 1, 1).expand(1, 4, 4, 4)
    cached = DiskCache([{"image": ramp}], scale(2.0), tmp_path)
    for _ in range(2):
        assert torch.equal(torch.as_tensor(cached[0]["image"]), 2 * ramp.flip(1))
    (file,) = tmp_path.iterdir()
    assert torch.equal(torch.load(file, weights_only=True)["image"], 2 * ramp)


def test_what_is_read_may_be_written_to_without_changing_the_cache(counted: Compose, tmp_path: Path) -> None:
    cached = DiskCache(items(1), counted, tmp_path)
    cached[0]["image"] += 5
    assert cached[0]["image"].max() == 0


@pytest.mark.parametrize("change", ["setting", "item", "order", "version"])
def test_a_change_of_a_transform_an_item_or_monai_is_a_new_file(
    change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = DiskCache(items(1), scale(2.0), tmp_path)[0]["image"].max()
    data, transform = items(1), scale(2.0)
    if change == "setting":
        transform = scale(3.0)
    elif change == "item":
        data[0]["stamp"] = "written later"
    elif change == "order":
        transform = Compose([ScaleIntensityRanged("image", 0, 1, 0, 1), *scale(2.0).transforms])
    else:
        monkeypatch.setattr("monai.__version__", "99")
    DiskCache(data, transform, tmp_path)[0]
    assert old == 0
    assert len(list(tmp_path.iterdir())) == 2


def test_a_damaged_file_is_made_anew(counted: Compose, tmp_path: Path) -> None:
    cached = DiskCache(items(1), counted, tmp_path)
    assert cached[0]["case"] == "case 0"
    (file,) = tmp_path.iterdir()
    for content in (b"", file.read_bytes()[:200], file.read_bytes().replace(b"image", b"\xff\xfe\xfdge")):
        file.write_bytes(content)
        with pytest.warns(UserWarning, match="is damaged and made anew"):
            assert cached[0]["case"] == "case 0"
    assert len(CALLS) == 4


def test_a_failing_transform_leaves_nothing_behind(tmp_path: Path) -> None:
    def fail(_: Any) -> Any:
        raise ValueError("no such image")

    with pytest.raises(RuntimeError, match="applying transform"):
        DiskCache(items(1), Compose([Lambdad("image", fail)]), tmp_path)[0]
    cached = DiskCache([{"image": object()}], Compose([Lambdad("image", lambda _: (one for one in [1]))]), tmp_path)
    with pytest.raises(TypeError, match="generator"):
        cached[0]
    assert list(tmp_path.iterdir()) == []


def read_all(folder: Path, _: int) -> float:
    data = [{"image": np.full((1, 32, 32, 32), index, np.float32)} for index in range(6)]
    cached = DiskCache(data, scale(2.0), folder)
    return sum(float(cached[index]["image"].mean()) for index in range(6))


def test_processes_that_fill_one_cache_together_read_the_same(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert pool.map(partial(read_all, tmp_path), range(4)) == [30.0] * 4
    assert len(list(tmp_path.iterdir())) == 6


TRANSFORMS = """
from functools import partial
import numpy as np, torch, re
from monai.transforms import *
chain = [Spacingd(["a", "b"], pixdim=[1, 2, 3]), Lambdad("a", lambda x, s={"b", "a", "c"}: [y for y in x if y in s]),
         ToTensord("a", dtype=torch.float16), NormalizeIntensityd("a", subtrahend=np.arange(3)),
         Lambdad("a", partial(re.sub, "a", "b")), CastToTyped("a", dtype=np.uint8)]
"""


def test_a_fingerprint_is_the_same_in_every_process() -> None:
    code = TRANSFORMS + "from dcd_components.data.cache import fingerprint; print(fingerprint(chain).decode())"
    command = [sys.executable, "-W", "ignore", "-c", code]
    prints = {subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(2)}
    names: dict[str, Any] = {}
    exec(TRANSFORMS, names)
    assert prints == {fingerprint(names["chain"]).decode() + "\n"}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 1.0),
        (True, 1),
        ("1", 1),
        ([1, [2]], [[1], 2]),
        ([[1], 2], [[1, 2]]),
        ({"a": 1}, {"a": 2}),
        ({"a": None}, {}),
        (np.zeros(4), np.zeros((2, 2))),
        (torch.zeros(2), torch.zeros(2, dtype=torch.float64)),
        (torch.float16, torch.float32),
        (lambda x: x + 1, lambda x: x + 2),
        (lambda x, a=1: x, lambda x, a=2: x),
        (partial(max, 1), partial(max, 2)),
        (partial(max, 1), partial(min, 1)),
        (len, max),
        (str.upper, str.lower),
        (Path("a"), Path("b")),
        (re.compile("a"), re.compile("b")),
        (slice(1), slice(2)),
        (Spacingd("a", pixdim=1.0), Spacingd("a", pixdim=2.0)),
        (Spacingd("a", pixdim=1.0, mode="nearest"), Spacingd("a", pixdim=1.0, mode="bilinear")),
        (Lambdad("a", lambda x: x), Lambdad("b", lambda x: x)),
    ],
)
def test_different_values_have_different_fingerprints(one: Any, other: Any) -> None:
    assert fingerprint(one) != fingerprint(other)
    assert fingerprint(one) == fingerprint(one)


def test_a_fingerprint_ends_in_circles() -> None:
    circle: list[Any] = [1]
    circle.append(circle)
    assert fingerprint(circle) == fingerprint(circle)


def test_a_transform_keeps_its_fingerprint_when_it_is_used() -> None:
    chain = Compose(
        [Spacingd("image", pixdim=2.0), CropForegroundd("image", source_key="image"), Lambdad("image", count)]
    )
    before = fingerprint(chain)
    chain({"image": MetaTensor(torch.ones(1, 4, 4, 4), affine=torch.eye(4))})
    assert fingerprint(chain) == before


def test_what_cannot_be_told_apart_is_refused() -> None:
    with pytest.raises(TypeError, match="generator"):
        fingerprint(one for one in [1])


def test_the_text_of_a_transform_s_module_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    prints = []
    for change in ("x + 1", "x + 2"):
        name = f"changing_{change[-1]}"
        (tmp_path / f"{name}.py").write_text(f"class Add:\n    def __call__(self, x):\n        return {change}\n")
        module = importlib.import_module(name)
        module.Add.__qualname__ = "Add"
        prints.append(fingerprint(module.Add()))
    assert prints[0] != prints[1]


def test_other_items_leave_the_files_of_the_first(counted: Compose, tmp_path: Path) -> None:
    cached = DiskCache(items(2), counted, tmp_path)
    assert [cached[index]["case"] for index in (0, 1)] == ["case 0", "case 1"]
    cached.set_data(items(3)[2:])
    assert cached[0]["case"] == "case 2"
    assert len(list(tmp_path.iterdir())) == 3


def test_closures_count() -> None:
    def adder(number: int) -> Any:
        return lambda x: x + number

    assert fingerprint(adder(1)) == fingerprint(adder(1))
    assert fingerprint(adder(1)) != fingerprint(adder(2))


def test_a_file_that_is_written_anew_is_read_anew(tmp_path: Path) -> None:
    """As a label is that somebody corrects between two trainings."""
    file = tmp_path / "label.npy"
    read = Compose([Lambdad("label", np.load)])
    for value in (1, 2):
        np.save(file, np.full(3, value))
        os.utime(file, ns=(value, value))
        assert DiskCache([{"label": str(file)}], read, tmp_path / "cache")[0]["label"].max() == value
