"""How much of a teacher's detail its students have: features with known answers, and a second, plain definition."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pywt
import torch
import yaml
from numpy.typing import NDArray
from tiny import HIPPOCAMPUS
from torch import Tensor, nn

from dcd_components.study import detail
from dcd_components.study.detail import measure_detail
from dcd_components.study.plan import read_study
from dcd_components.wavelets.transform import DIRECTIONAL_BANDS

HAAR = {"wavelet": "haar", "levels": 2, "mode": "periodization"}
Shares = dict[str, list[float]]


class Mixing(nn.Module):
    """A network whose only stage is a mixing of the channels of its image."""

    def __init__(self, matrix: NDArray[Any]) -> None:
        super().__init__()
        self.stage = nn.Conv3d(matrix.shape[1], matrix.shape[0], 1, bias=False)
        self.stage.weight.data[:] = torch.as_tensor(matrix)[..., None, None, None]

    def forward(self, x: Tensor) -> Tensor:
        mixed: Tensor = self.stage(x)
        return mixed


def noise(seed: int, channels: int = 8, size: Sequence[int] = (16, 16, 16), count: int = 3) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(1, channels, *size, generator=generator) for _ in range(count)]


def measured(
    student: NDArray[Any], teacher: NDArray[Any], fitting: Sequence[Tensor], testing: Sequence[Tensor], **rule: Any
) -> dict[str, Any]:
    """What is found of a student; both networks mix the channels of the same images."""
    networks = [Mixing(matrix).eval() for matrix in (student, teacher)]
    found = measure_detail({"one": networks[0]}, networks[1], ["stage"], fitting, testing, **{**HAAR, **rule})
    assert not any(module._forward_hooks for network in networks for module in network.modules())
    of_stage: dict[str, Any] = found["one"]["stage"]
    return of_stage


def values(shares: Shares) -> list[float]:
    return [value for several in shares.values() for value in several]


@pytest.mark.parametrize("wavelet", ["haar", "db4"])
def test_a_mixing_of_the_teachers_channels_has_all_of_its_detail(wavelet: str) -> None:
    teacher = np.eye(4, 8)
    student = np.random.default_rng(0).normal(size=(6, 4)) @ teacher
    found = measured(student, teacher, noise(1), noise(2), wavelet=wavelet)
    levels = {"haar": 2, "db4": 1}[wavelet]  # of db4, so small a map supports one
    assert found["explained"] == {"aaa": [1.0], "directional": [1.0] * levels, "ddd": [1.0] * levels}
    assert set(found["most"].values()) == {1.0}


def test_half_of_the_teachers_channels_have_half_of_it() -> None:
    found = measured(np.eye(2, 8), np.eye(4, 8), noise(1), noise(2))
    assert values(found["explained"]) == pytest.approx([0.5] * 5, abs=0.05)
    assert all(0.5 < most < 0.6 for most in found["most"].values())


def test_independent_features_have_nothing_of_it_however_many_channels() -> None:
    images = [noise(seed, 60) for seed in (1, 2)]
    found = measured(np.eye(56, 60), np.eye(4, 60, 56), *images)["explained"]
    assert found["directional"] == pytest.approx([0, 0], abs=0.05)
    assert max(values(found)) < 0
    fitted_on_itself = measured(np.eye(56, 60), np.eye(4, 60, 56), images[0], images[0])["explained"]
    assert fitted_on_itself["aaa"][0] > 0.2  # which is why it is tested on other images


def test_what_is_shared_in_the_approximation_alone_is_no_detail() -> None:
    def images(seed: int) -> list[Tensor]:
        coarse = [nn.functional.interpolate(x, scale_factor=4.0) for x in noise(seed, 4, (4, 4, 4), 8)]
        return [torch.cat([x, *noise(seed + number, 8, count=1)], 1) for number, x in enumerate(coarse, 100)]

    student, teacher = (np.hstack([np.eye(4), 0.2 * np.eye(4, 8, place)]) for place in (0, 4))
    found = measured(student, teacher, images(1), images(1000))
    assert found["explained"]["aaa"] == pytest.approx([1], abs=0.05)
    assert found["explained"]["directional"] == pytest.approx([0, 0], abs=0.05)
    assert sum(values(found["energy"]["teacher"])) == pytest.approx(1, abs=1e-3)
    assert [of["aaa"][0] for of in found["energy"].values()] == pytest.approx([0.96, 0.96], abs=0.02)


@pytest.mark.parametrize(("wavelet", "levels"), [("haar", 3), ("db2", 2)])
def test_it_is_what_pywavelets_and_least_squares_say(wavelet: str, levels: int) -> None:
    """Features of an image that is coarse in some channels and fine in others, so that the levels differ."""
    generator = np.random.default_rng(0)
    student, teacher = generator.normal(size=(3, 8)), generator.normal(size=(5, 8))
    size, sets = (16, 24, 16), []
    for seed in (1, 2):
        images = noise(seed, 8, size)
        for image in images:
            image[:, :4] = nn.functional.interpolate(nn.functional.avg_pool3d(image[:, :4], 4), scale_factor=4.0) * 9
            image += 5
        sets.append(images)
    found = measured(student, teacher, *sets, wavelet=wavelet, levels=levels)

    def coefficients(matrix: NDArray[Any], images: Sequence[Tensor], bands: Sequence[str], level: int) -> Any:
        """One row a coefficient, one column a channel."""
        rows = []
        for image in images:
            x = np.einsum("ci,idhw->cdhw", matrix, image[0].double().numpy())
            x -= x.mean((1, 2, 3), keepdims=True)
            parts = pywt.wavedecn(x, wavelet, HAAR["mode"], levels, axes=(1, 2, 3))
            of_level = {"aaa": parts[0], **parts[-1 - level]}
            rows += [of_level[band].reshape(len(matrix), -1).T for band in bands]
        return np.concatenate(rows)

    for group, bands in {"aaa": ["aaa"], "directional": DIRECTIONAL_BANDS, "ddd": ["ddd"]}.items():
        places = [levels - 1] if group == "aaa" else range(levels)
        pairs = [[coefficients(m, sets[0], bands, level) for m in (student, teacher)] for level in places]
        scaled = [[x / np.linalg.norm(t) for x in (s, t)] for s, t in pairs]
        ours, theirs = (np.concatenate([pair[one] for pair in scaled]) for one in (0, 1))
        best = np.linalg.lstsq(ours, theirs, rcond=None)[0]
        pairs = [[coefficients(m, sets[1], bands, level) for m in (student, teacher)] for level in places]
        expected = [1 - np.linalg.norm(s @ best - t) ** 2 / np.linalg.norm(t) ** 2 for s, t in pairs]
        assert found["explained"][group] == pytest.approx(expected, abs=1e-4)
        singular = np.linalg.svd(np.concatenate([t / np.linalg.norm(t) for _, t in pairs]), compute_uv=False)
        assert found["most"][group] == pytest.approx((singular[:3] ** 2).sum() / len(pairs), abs=1e-4)
        energies = [np.linalg.norm(t) ** 2 for _, t in pairs]
        assert np.divide(found["energy"]["teacher"][group], energies).std() < 1e-3 / np.mean(energies)


def test_a_stage_of_one_plane_has_no_detail_along_it() -> None:
    plane = (1, 16, 16)
    found = measured(np.eye(4, 8), np.eye(4, 8), noise(1, size=plane), noise(2, size=plane))
    assert found["explained"] == {"aaa": [1.0], "directional": [1.0, 1.0], "ddd": [0.0, 0.0]}


def test_networks_without_features_share_nothing() -> None:
    nothing, something = np.zeros((3, 8)), np.eye(3, 8)
    for student, teacher in ((nothing, something), (something, nothing)):
        found = measured(student, teacher, noise(1), noise(2))
        assert set(values(found["explained"])) == {0.0}
        assert min(values(found["energy"]["teacher"])) >= 0


def test_all_methods_are_measured_alike_on_cases_that_are_not_tested(tmp_path: Path) -> None:
    path = tmp_path / "small.yaml"
    methods = {"plain": {"workflow": "student"}, "haar": {"settings": {"wavelet": "haar", "max_epochs": 1}}}
    settings = {"spacing": [2.0, 2.0, 2.0], "test_folds": [1]}
    content = {
        "bundle": str(HIPPOCAMPUS),
        "overlays": ["quick"],
        "seeds": [0],
        "methods": methods,
        "settings": settings,
    }
    path.write_text(yaml.safe_dump(content))
    study = read_study(path)
    for run in study.runs:
        parser = detail._configs(study, run)
        assert parser.get_parsed_content("wavelet") == "db4"
        assert parser.get_parsed_content("spacing") == settings["spacing"]
        assert not parser.get_parsed_content("architecture").keywords["deep_supervision"]
        assert detail._folds(parser) == ((None, [1, 1]), ([1],))  # the validation is tested: fitted on the training's
        parser["test_folds"] = [0]
        assert detail._folds(parser) == (([1],), ([0],))
