"""Convolutions of small images on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch
from monai.data import MetaTensor
from torch import nn
from torch.profiler import ProfilerActivity, profile

from dcd_components.networks.onednn import by_onednn

NETWORK = nn.Sequential(
    nn.Conv3d(2, 8, 3, padding=1),
    nn.Conv3d(8, 8, (1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1), bias=False),
    nn.Conv3d(8, 8, 3, padding=2, dilation=2, groups=4),
    nn.ConvTranspose3d(8, 4, 2, 2),
    nn.Conv3d(4, 3, 1),
).requires_grad_(False)
IMAGE = torch.randn(1, 2, 10, 12, 14)


@pytest.mark.parametrize("image", [IMAGE, MetaTensor(IMAGE)], ids=["tensor", "MetaTensor"])
def test_the_result_is_the_same_by_onednn(image: torch.Tensor) -> None:
    expected = NETWORK(image)
    with by_onednn(image):
        found = NETWORK(image)
    assert type(found) is type(image)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_nothing_is_unfolded_but_convolutions_of_one_voxel(mode: Callable[[], AbstractContextManager[None]]) -> None:
    with mode(), by_onednn(IMAGE), profile(activities=[ProfilerActivity.CPU]) as profiled:
        NETWORK[:3](IMAGE)
    names = {event.key for event in profiled.key_averages()}
    assert "aten::mkldnn_convolution" in names
    assert not [name for name in names if "slow_conv3d" in name]


def test_nothing_changes_under_autocast() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        expected = NETWORK(IMAGE)
        with by_onednn(IMAGE):
            assert torch.equal(NETWORK(IMAGE), expected)
