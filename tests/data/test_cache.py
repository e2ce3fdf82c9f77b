from __future__ import annotations

import errno
import importlib
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import (
    Compose,
    CropForegroundd,
    Lambdad,
    RandFlipd,
    RandGaussianNoised,
    ScaleIntensityRanged,
    Spacingd,
)

from dcd_components.data import cache
from dcd_components.data.cache import DiskCache, transforms_hash, value_hash
from dcd_components.data.samplers import Draw
from dcd_components.errors import InputError, root_cause


def scale(factor: float) -> Compose:
    return Compose([ScaleIntensityRanged("image", 0, 1, 0, factor), RandFlipd("image", prob=1.0, spatial_axis=0)])


def items(count: int = 3) -> list[dict[str, Any]]:
    return [{"image": np.full((1, 4, 4, 4), index, np.float32), "case": f"case {index}"} for index in range(count)]


CALLS: list[float] = []


def count(image: Any) -> Any:
    CALLS.append(float(image.max()))
    return image


def fail(_: Any) -> Any:
    raise ValueError("no such image")


def load_first(paths: str | list[str]) -> Any:
    return np.load(paths if isinstance(paths, str) else paths[0])


def give_a_generator(_: Any) -> Any:
    return (one for one in [1])


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
    with pytest.raises(RuntimeError, match="applying transform"):
        DiskCache(items(1), Compose([Lambdad("image", fail)]), tmp_path)[0]
    cached = DiskCache(items(1), Compose([Lambdad("image", give_a_generator)]), tmp_path)
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
import operator, re
from functools import partial
import numpy as np, torch
from monai.transforms import *
chain = [Spacingd(["a", "b"], pixdim=[1, 2, 3]), ToTensord("a", dtype=torch.float16), CastToTyped("a", dtype=np.uint8),
         NormalizeIntensityd("a", subtrahend=np.arange(3)), Lambdad("a", partial(re.sub, "a", "b")),
         Lambdad("a", partial(operator.contains, {"b", "a", "c"})), LoadImaged("a")]
"""


def test_transforms_have_the_same_hash_in_every_process() -> None:
    code = TRANSFORMS + "from dcd_components.data.cache import transforms_hash; print(transforms_hash(chain).decode())"
    command = [sys.executable, "-W", "ignore", "-c", code]
    hashes = {
        subprocess.run(
            command, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONHASHSEED": seed}
        ).stdout
        for seed in ("1", "2")
    }
    names: dict[str, Any] = {}
    exec(TRANSFORMS, names)
    assert hashes == {transforms_hash(names["chain"]).decode() + "\n"}


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
        ({1, 2}, [1, 2]),
        ({1}, frozenset({1})),
        (np.zeros(4), np.zeros((2, 2))),
        (torch.zeros(2), torch.ones(2)),
        (torch.zeros(2), torch.zeros(2, dtype=torch.float64)),
        (torch.float16, torch.float32),
        (partial(max, 1), partial(max, 2)),
        (partial(max, 1), partial(min, 1)),
        (len, max),
        (str.upper, str.lower),
        (Path("a"), Path("b")),
        (re.compile("a"), re.compile("b")),
        (slice(1), slice(2)),
        (Spacingd("a", pixdim=1.0), Spacingd("a", pixdim=2.0)),
        (Spacingd("a", pixdim=1.0, mode="nearest"), Spacingd("a", pixdim=1.0, mode="bilinear")),
        (Lambdad("a", count), Lambdad("b", count)),
        (Lambdad("a", count), Lambdad("a", fail)),
    ],
)
def test_different_values_have_different_hashes(one: Any, other: Any) -> None:
    assert value_hash(one) != value_hash(other)
    assert value_hash(one) == value_hash(one)
    assert transforms_hash([one]) != transforms_hash([other])


def test_equal_values_have_equal_hashes_whichever_of_their_parts_are_one_object() -> None:
    text = "".join(["ima", "ge"])
    assert value_hash([text, text]) == value_hash([text, "".join(["im", "age"])])
    assert value_hash({"b", "a", "c"}) == value_hash({"c", "a", "b"})
    assert value_hash(torch.ones(3)) == value_hash(torch.ones(3))


def test_a_transform_keeps_its_hash_when_it_is_used() -> None:
    chain = [Spacingd("image", pixdim=2.0), CropForegroundd("image", source_key="image"), Lambdad("image", count)]
    before = transforms_hash(chain)
    Compose(chain)({"image": MetaTensor(torch.ones(1, 4, 4, 4), affine=torch.eye(4))})
    assert transforms_hash(chain) == before


@pytest.mark.parametrize("function", [lambda image: image, threading.local()])
def test_a_transform_that_cannot_be_pickled_is_named(function: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Lambdad must be made of named functions and plain settings to be cached: "):
        DiskCache(items(1), Compose([Lambdad("image", function)]), tmp_path)


def test_a_circle_is_refused() -> None:
    circle: list[Any] = [1]
    circle.append(circle)
    with pytest.raises(InputError, match=r"list must be made of .* plain settings to be cached"):
        value_hash(circle)


def test_the_text_of_a_transform_s_module_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    file, hashes = tmp_path / "my_transforms.py", []
    for change in ("x + 1", "x + 2"):
        file.write_text(f"class Add:\n    def __call__(self, x):\n        return {change}\n")
        hashes.append(transforms_hash([importlib.import_module("my_transforms").Add()]))
    assert hashes[0] != hashes[1]


def test_a_change_of_the_package_that_loads_cases_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = transforms_hash([])
    (tmp_path / "cases.py").write_text("changed")
    monkeypatch.setattr(cache, "__file__", str(tmp_path / "cache.py"))
    assert transforms_hash([]) != before


def test_other_items_leave_the_files_of_the_first(counted: Compose, tmp_path: Path) -> None:
    cached = DiskCache(items(2), counted, tmp_path)
    assert [cached[index]["case"] for index in (0, 1)] == ["case 0", "case 1"]
    cached.set_data(items(3)[2:])
    assert cached[0]["case"] == "case 2"
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("listed", [False, True])
def test_a_file_that_is_written_anew_is_read_anew(listed: bool, tmp_path: Path) -> None:
    """As a label is that somebody corrects between two trainings."""
    file = tmp_path / "label.npy"
    read = Compose([Lambdad("label", load_first)])
    for value in (1, 2):
        np.save(file, np.full(3, value))
        os.utime(file, ns=(value, value))
        item = {"label": [str(file)] if listed else str(file)}
        assert DiskCache([item], read, tmp_path / "cache")[0]["label"].max() == value


def test_a_draw_decides_all_that_is_random_whatever_was_drawn_before(tmp_path: Path) -> None:
    flip = Compose([RandFlipd("image", prob=0.5, spatial_axis=0), RandGaussianNoised("image", prob=0.5)])
    cached = DiskCache([{"image": np.arange(8, dtype=np.float32).reshape(1, 2, 2, 2)}] * 2, flip, tmp_path)

    def made(seed: int, index: int = 0) -> torch.Tensor:
        return torch.as_tensor(cached[Draw(index, seed)]["image"]).clone()

    first = [made(seed) for seed in range(8)]
    assert len({tuple(one.flatten().tolist()) for one in first}) > 4
    assert not all(torch.equal(torch.as_tensor(cached[0]["image"]), first[0]) for _ in range(8))
    assert all(torch.equal(made(seed, seed % 2), one) for seed, one in reversed([*enumerate(first)]))


def refuse_odd(image: Any) -> Any:
    if image.max() % 2:
        raise InputError(f"case {int(image.max())}: odd")
    return image


def fail_at_two(image: Any) -> Any:
    if image.max() == 2:
        raise KeyError("of ours")
    return image


def end_process(image: Any) -> Any:
    os.kill(os.getpid(), signal.SIGKILL)
    return image


@pytest.mark.parametrize("num_workers", [0, 2])
def test_all_files_are_made_at_once_and_all_faults_told(num_workers: int, tmp_path: Path) -> None:
    cached = DiskCache(items(5), Compose([Lambdad("image", refuse_odd)]), tmp_path)
    assert cached.fill(num_workers) == ["case 1: odd", "case 3: odd"]
    assert len([*tmp_path.iterdir()]) == 3
    assert cached[4]["case"] == "case 4"


def test_what_is_there_is_not_made_again(counted: Compose, tmp_path: Path) -> None:
    state = torch.get_rng_state()
    for _ in range(2):
        assert DiskCache(items(), counted, tmp_path).fill() == []
    assert CALLS == [0, 1, 2]
    assert torch.equal(torch.get_rng_state(), state)


def test_each_process_makes_its_share(counted: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "world_size", lambda: 2)
    monkeypatch.setattr(cache, "rank", lambda: 1)
    DiskCache(items(5), counted, tmp_path).fill()
    assert CALLS == [1, 3]


def test_an_error_that_is_not_of_the_input_keeps_its_traceback_and_has_the_item(tmp_path: Path) -> None:
    cached = DiskCache(items(3), Compose([Lambdad("image", fail_at_two)]), tmp_path)
    with pytest.raises(RuntimeError, match=r"item 2 cannot be made: case 2") as caught:
        cached.fill()
    assert "of ours" in str(root_cause(caught.value))


def test_a_process_that_is_killed_while_it_makes_an_item_ends_the_filling(tmp_path: Path) -> None:
    cached = DiskCache(items(2), Compose([Lambdad("image", end_process)]), tmp_path)
    with pytest.raises(RuntimeError, match=r"DataLoader worker \(pid.* (is killed by signal|exited unexpectedly)"):
        cached.fill(num_workers=1)


def test_a_full_disk_is_one_sentence_and_no_fault_of_a_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"\.pt cannot be written: No space left on device"):
        DiskCache(items(1), Compose([Lambdad("image", count)]), tmp_path).fill()
    assert list(tmp_path.iterdir()) == []
