from collections.abc import Sequence
from typing import Any

import pytest
import torch
from monai.inferers import SimpleInferer
from torch import Tensor, nn

from dcd_components.inferers import AutocastInferer, MirrorInferer, cpu_has_bfloat16


class Noting(nn.Module):
    """A convolution that notes in which precision it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv3d(1, 2, 3, padding=1)
        self.dtypes: list[torch.dtype] = []

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.convolution(x)
        self.dtypes.append(logits.dtype)
        return logits


def set_cpu(monkeypatch: pytest.MonkeyPatch, **capabilities: bool) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, **capabilities}, raising=False)


@pytest.mark.parametrize("capability", ["avx512_bf16", "amx_bf16", "sve_bf16", "bf16"])
def test_a_cpu_has_bfloat16_if_one_of_its_units_has(monkeypatch: pytest.MonkeyPatch, capability: str) -> None:
    set_cpu(monkeypatch)
    assert not cpu_has_bfloat16()
    set_cpu(monkeypatch, **{capability: False})
    assert not cpu_has_bfloat16()
    set_cpu(monkeypatch, **{capability: True})
    assert cpu_has_bfloat16()


@pytest.mark.parametrize(
    ("native", "inside"),
    [pytest.param(True, torch.bfloat16, id="bf16 CPU"), pytest.param(False, torch.float32, id="other CPU")],
)
def test_predictions_are_float32_and_autocast_is_on_only_where_it_pays(
    monkeypatch: pytest.MonkeyPatch, native: bool, inside: torch.dtype
) -> None:
    set_cpu(monkeypatch, avx512_bf16=native)
    network, x = Noting(), torch.randn(1, 1, 8, 8, 8)
    prediction = AutocastInferer(SimpleInferer())(x, network)
    assert network.dtypes == [inside]
    assert prediction.dtype == torch.float32
    torch.testing.assert_close(prediction, network(x), rtol=0.02, atol=0.02)
    assert not torch.is_autocast_enabled("cpu")


def test_gradient_flows_through_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    set_cpu(monkeypatch, avx512_bf16=True)
    network = Noting()
    AutocastInferer(SimpleInferer())(torch.randn(1, 1, 8, 8, 8), network).sum().backward()
    assert network.convolution.weight.grad is not None
    assert network.convolution.weight.grad.dtype == torch.float32


def test_off_the_cpu_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    set_cpu(monkeypatch, avx512_bf16=True)
    network = Noting().to("meta", torch.float16)
    prediction = AutocastInferer(SimpleInferer())(
        torch.zeros(1, 1, 8, 8, 8, device="meta", dtype=torch.float16), network
    )
    assert network.dtypes == [torch.float16]
    assert prediction.dtype == torch.float16


def test_a_list_of_heads_comes_back_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    set_cpu(monkeypatch)
    heads = [torch.zeros(1), torch.ones(1)]
    assert AutocastInferer(SimpleInferer())(torch.zeros(1), lambda x: heads) is heads


X = torch.randn(1, 2, 4, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_mirroring_changes_nothing_for_a_symmetric_network() -> None:
    network = nn.AvgPool3d(3, 1, 1)
    torch.testing.assert_close(MirrorInferer(SimpleInferer())(X, network), network(X))


@pytest.mark.parametrize(
    ("axes", "calls"), [((0, 1, 2), 8), ((0, 2), 4), ((1,), 2), ((), 1)], ids=lambda value: str(value)
)
def test_mirrored_predictions_of_all_combinations_are_averaged(axes: Sequence[int], calls: int) -> None:
    inputs: list[Tensor] = []
    ramp = torch.arange(X[0, 0].numel(), dtype=X.dtype).reshape(X.shape[2:])

    def network(x: Tensor) -> Tensor:
        inputs.append(x)
        return x * ramp

    prediction = MirrorInferer(SimpleInferer(), axes)(X, network)
    assert len({tuple(x.flatten().tolist()) for x in inputs}) == len(inputs) == calls
    for axis in axes:
        ramp = (ramp + ramp.flip(axis)) / 2
    torch.testing.assert_close(prediction, X * ramp)


def test_further_arguments_reach_the_network() -> None:
    def network(x: Tensor, factor: float, *, offset: float) -> Tensor:
        return factor * x + offset

    torch.testing.assert_close(MirrorInferer(SimpleInferer(), [0])(X, network, 3.0, offset=1.0), 3 * X + 1)
    torch.testing.assert_close(AutocastInferer(SimpleInferer())(X, network, 3.0, offset=1.0), (3 * X + 1).float())


@pytest.mark.parametrize("axes", [(3,), (-1,), (0, 4)], ids=str)
def test_an_axis_that_is_not_spatial_is_refused(axes: Any) -> None:
    with pytest.raises(ValueError, match="axes must be among 0, 1 and 2, each at most once, got"):
        MirrorInferer(SimpleInferer(), axes)
