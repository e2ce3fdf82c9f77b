from typing import cast

import pytest
import torch
from torch import Tensor, nn

from dcd_components.networks.stage_recorder import StageRecorder, unwrap


class Counting(nn.Module):
    """Pass its input on and count how often."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv3d(1, 2, 3, padding=1)
        self.downsamples = nn.ModuleList([nn.Conv3d(2, 3, 2, 2), nn.Conv3d(3, 4, 2, 2)])
        self.decoder = Counting()
        self.unused = nn.Identity()
        self.alias = self.downsamples[0]

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for stage in self.downsamples:
            x = stage(x)
        decoded: Tensor = self.decoder(x)
        return decoded


def hooks(network: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in network.modules())


@pytest.fixture
def network() -> Network:
    torch.manual_seed(0)
    return Network().double()


X = torch.randn(1, 1, 8, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("stop", [False, True], ids=["whole pass", "stopped"])
def test_maps_come_in_the_order_of_the_stages(network: Network, stop: bool) -> None:
    first = network.downsamples[0](network.stem(X))
    recorder = StageRecorder(network, ["downsamples.1", "stem", "downsamples.0"], stop=stop)
    if stop:
        maps = recorder.features(lambda net: net(X))
    else:
        with recorder:
            network(X)
            maps = recorder.pop()
    for recorded, expected in zip(maps, [network.downsamples[1](first), network.stem(X), first], strict=True):
        assert torch.equal(recorded, expected)


def test_output_is_the_same_with_and_without_recorder(network: Network) -> None:
    plain = network(X)
    with StageRecorder(network, ["stem", "downsamples.1"]):
        recorded = network(X)
    assert torch.equal(recorded, plain)
    assert torch.equal(network(X), plain)


def test_recorded_maps_carry_gradient_to_the_network(network: Network) -> None:
    with StageRecorder(network, ["stem"]) as recorder:
        network(X)
        recorder.pop()[0].sum().backward()  # type: ignore[no-untyped-call]
    assert network.stem.weight.grad is not None


def test_a_stopped_pass_does_not_reach_the_decoder(network: Network) -> None:
    StageRecorder(network, ["stem", "downsamples.0"], stop=True).features(lambda net: net(X))
    assert network.decoder.calls == 0


def test_features_carry_no_gradient_and_leave_no_hook(network: Network) -> None:
    recorder = StageRecorder(network, ["stem", "downsamples.0"], stop=True)
    assert not any(stage.requires_grad for stage in recorder.features(lambda net: net(X)))
    assert hooks(network) == 0
    assert network(X).requires_grad


def test_pass_stops_at_the_last_stage_reached_not_the_last_named(network: Network) -> None:
    maps = StageRecorder(network, ["downsamples.1", "stem"], stop=True).features(lambda net: net(X))
    assert [stage.shape[1] for stage in maps] == [4, 2]
    assert network.decoder.calls == 0


def test_hooks_live_as_long_as_the_block(network: Network) -> None:
    with StageRecorder(network, ["stem", "downsamples.0"]):
        assert hooks(network) == 2
    assert hooks(network) == 0


def test_entering_twice_does_not_double_the_hooks(network: Network) -> None:
    with StageRecorder(network, ["stem"]) as recorder, recorder:
        assert hooks(network) == 1
    assert hooks(network) == 0


def test_open_and_close_do_without_a_block_and_may_be_called_twice(network: Network) -> None:
    recorder = StageRecorder(network, ["stem", "downsamples.0"])
    recorder.open()
    recorder.open()
    assert hooks(network) == 2
    network(X)
    recorder.close()
    recorder.close()
    assert hooks(network) == 0
    with pytest.raises(RuntimeError, match=r"no features recorded for stem, downsamples\.0"):
        recorder.pop()


def test_a_network_is_unwrapped_without_a_look_at_the_compiler(network: Network) -> None:
    assert unwrap(network) is network
    with torch._dynamo.config.patch(skip_nnmodule_hook_guards=True):
        assert unwrap(cast(nn.Module, torch.compile(network))) is network
        assert torch._dynamo.config.skip_nnmodule_hook_guards


def test_hooks_are_gone_after_an_exception(network: Network) -> None:
    recorder = StageRecorder(network, ["stem"], stop=True)
    with pytest.raises(RuntimeError, match="expected input"):
        recorder.features(lambda net: net(X[:, [0, 0]]))
    assert hooks(network) == 0


def test_passes_without_gradient_leave_nothing_behind(network: Network) -> None:
    with StageRecorder(network, ["stem"]) as recorder:
        network(X)
        recorder.pop()
        with torch.no_grad():
            network(X)
        with pytest.raises(RuntimeError, match="no features recorded for stem"):
            recorder.pop()


def test_maps_are_handed_over_once(network: Network) -> None:
    with StageRecorder(network, ["stem"]) as recorder:
        network(X)
        recorder.pop()
        with pytest.raises(
            RuntimeError,
            match="for stem: run the network, with gradient, after the recorder is opened",
        ):
            recorder.pop()


@pytest.mark.parametrize("stop", [False, True], ids=["whole pass", "stopped"])
def test_a_stage_that_is_not_reached_is_named(network: Network, stop: bool) -> None:
    with StageRecorder(network, ["stem", "unused"], stop=stop) as recorder:
        network(X)
        with pytest.raises(RuntimeError, match="no features recorded for unused:"):
            recorder.pop()


def test_a_second_name_of_a_shared_module_is_a_stage_too(network: Network) -> None:
    maps = StageRecorder(network, ["alias"], stop=True).features(lambda net: net(X))
    assert torch.equal(maps[0], network.downsamples[0](network.stem(X)))


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        pytest.param(
            "downsample.0", "Network has no stage 'downsample.0'; did you mean downsamples.0 or", id="misspelt"
        ),
        pytest.param("qqq", "no stage 'qqq'; did you mean stem or downsamples or decoder or unused", id="far from all"),
        pytest.param("", "Network has no stage ''", id="the network itself"),
        pytest.param("downsamples.2", "did you mean downsamples.[01]", id="past the end"),
    ],
)
def test_an_unknown_path_is_refused_with_suggestions(network: Network, stage: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StageRecorder(network, ["stem", stage])


def test_no_stage_at_all_is_refused(network: Network) -> None:
    with pytest.raises(ValueError, match="stages must name at least one sub-module, got none"):
        StageRecorder(network, [])
