import gc
import itertools
import math
import pickle
import weakref
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.inferers import SimpleInferer, SlidingWindowInferer
from scipy import ndimage
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from dcd_components.errors import InputError
from dcd_components.inferers import (
    AutocastInferer,
    EnsembleInferer,
    ForegroundInferer,
    MirrorInferer,
    NnunetInferer,
    cpu_has_bfloat16,
)


class Noting(nn.Module):
    """A convolution that notes in which precision it runs."""

    def __init__(self, convolution: nn.Module | None = None) -> None:
        super().__init__()
        self.convolution = convolution or nn.Conv3d(1, 2, 3, padding=1)
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
    assert network.dtypes == [torch.float32] * native + [inside]  # with gradient, once more to find out, see below
    assert prediction.dtype == torch.float32
    torch.testing.assert_close(prediction, network(x), rtol=0.02, atol=0.02)
    assert not torch.is_autocast_enabled("cpu")


def test_gradient_flows_through_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    set_cpu(monkeypatch, avx512_bf16=True)
    network = Noting()
    AutocastInferer(SimpleInferer())(torch.randn(1, 1, 8, 8, 8), network).sum().backward()
    assert network.convolution.weight.grad is not None
    assert network.convolution.weight.grad.dtype == torch.float32


@pytest.mark.parametrize(
    ("convolution", "size"),
    [
        (nn.Conv3d(1, 2, 3, padding=1), (2, 8, 8)),
        (nn.Conv3d(1, 2, 3, padding=1, stride=2), (4, 8, 1)),
        (nn.Conv3d(1, 2, (5, 1, 1), padding=(2, 0, 0)), (4, 8, 8)),
        (nn.ConvTranspose3d(1, 2, 3, padding=1), (2, 8, 8)),
    ],
    ids=["3", "stride 2", "5", "transposed"],
)
def test_trainings_are_in_float32_where_a_kernel_is_longer_than_the_map(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, convolution: nn.Conv3d, size: Sequence[int]
) -> None:
    """In bfloat16, oneDNN leaves parts of the gradients of these kernels unwritten."""
    set_cpu(monkeypatch, avx512_bf16=True)
    caplog.set_level("INFO")
    network, inferer, x = Noting(convolution), AutocastInferer(SimpleInferer()), torch.randn(2, 1, *size)
    for batch in (x, x[:1], x):
        network.zero_grad()
        inferer(batch, network).square().sum().backward()
    assert network.dtypes == [torch.float32] * 4  # the first of them to find out
    found = convolution.weight.grad
    network.zero_grad()
    network(x).square().sum().backward()
    torch.testing.assert_close(found, convolution.weight.grad)
    assert caplog.messages == [f"training on {list(size)} voxels is in float32, since kernels are longer than maps"]
    with torch.no_grad():
        inferer(x, network)
    assert network.dtypes[-1] == torch.bfloat16
    inferer(torch.randn(2, 1, 8, 8, 8), network)
    assert network.dtypes[-1] == torch.bfloat16


def test_weights_that_are_computed_have_kernels_too(monkeypatch: pytest.MonkeyPatch) -> None:
    set_cpu(monkeypatch, avx512_bf16=True)
    network = Noting(nn.utils.parametrizations.weight_norm(nn.Conv3d(1, 2, 3, padding=1)))
    AutocastInferer(SimpleInferer())(torch.randn(2, 1, 2, 8, 8), network)
    AutocastInferer(SimpleInferer())(torch.randn(2, 1, 8, 8, 8), network)
    assert network.dtypes == [torch.float32, torch.float32, torch.float32, torch.bfloat16]


def test_to_find_out_changes_nothing_of_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    set_cpu(monkeypatch, avx512_bf16=True)
    network = nn.Sequential(nn.Conv3d(1, 2, 3, padding=1), nn.BatchNorm3d(2), nn.Dropout(0.5), nn.BatchNorm3d(2))
    network[3].eval()  # a frozen one
    x, state = torch.randn(2, 1, 8, 8, 8), torch.random.get_rng_state()
    inferer = AutocastInferer(SimpleInferer())
    inferer(x, network)
    once = torch.random.get_rng_state()
    torch.random.set_rng_state(state)
    network(x)
    assert torch.equal(torch.random.get_rng_state(), once)
    assert [int(norm.get_buffer("num_batches_tracked")) for norm in (network[1], network[3])] == [2, 0]
    assert [module.training for module in network] == [True, True, True, False]
    assert not network[0]._forward_hooks
    kept = weakref.ref(network)
    del network
    gc.collect()
    assert kept() is None


def test_the_pickle_of_an_inferer_says_nothing_of_what_it_was_called_with(monkeypatch: pytest.MonkeyPatch) -> None:
    """By it, masks of the same settings are known again."""
    set_cpu(monkeypatch, avx512_bf16=True)
    inferer = AutocastInferer(SimpleInferer())
    before = pickle.dumps(inferer)
    inferer(torch.randn(2, 1, 2, 8, 8), network := Noting())
    assert pickle.dumps(inferer) == before
    again = pickle.loads(before)
    again(torch.randn(2, 1, 2, 8, 8), network)
    assert network.dtypes == [torch.float32] * 4


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


def test_predictions_of_several_networks_are_averaged() -> None:
    several = [nn.Conv3d(2, 3, 1).double() for _ in range(3)]
    found = EnsembleInferer(MirrorInferer(SimpleInferer()), several[1:])(X, several[0])
    torch.testing.assert_close(found, torch.stack([one(X) for one in several]).mean(0))
    torch.testing.assert_close(EnsembleInferer(SimpleInferer(), [])(X, several[0]), several[0](X))


def test_their_sum_is_in_the_precision_of_the_inferer() -> None:
    """As nnU-Net's, in half precision."""
    values = 2048.0, 1.0, 1.0
    networks = [lambda x, value=value: torch.full_like(x, value).half() for value in values]
    found = EnsembleInferer(SimpleInferer(), networks[1:])(X, networks[0])
    assert found.dtype == torch.half
    assert (found == (torch.tensor(2048.0).half() / 3)).all()


def test_further_arguments_reach_the_network() -> None:
    def network(x: Tensor, factor: float, *, offset: float) -> Tensor:
        return factor * x + offset

    torch.testing.assert_close(MirrorInferer(SimpleInferer(), [0])(X, network, 3.0, offset=1.0), 3 * X + 1)
    torch.testing.assert_close(AutocastInferer(SimpleInferer())(X, network, 3.0, offset=1.0), (3 * X + 1).float())
    ensemble = EnsembleInferer(SimpleInferer(), [network])
    torch.testing.assert_close(ensemble(X, network, 3.0, offset=1.0), 3 * X + 1)


@pytest.mark.parametrize("axes", [(3,), (-1,), (0, 4)], ids=str)
def test_an_axis_that_is_not_spatial_is_refused(axes: Any) -> None:
    with pytest.raises(ValueError, match="axes must be among 0, 1 and 2, each at most once, got"):
        MirrorInferer(SimpleInferer(), axes)


# -- windows over the foreground


@pytest.fixture
def brain() -> Tensor:
    """Two images of two channels whose voxels other than 0 lie in a box of 9 x 7 x 10 voxels, from 4, 0 and 3 on."""
    image = torch.zeros(2, 2, 15, 12, 14)
    values = torch.randn(2, 2, 9, 7, 10, generator=torch.Generator().manual_seed(3))
    image[0, 0, 4:10, 0:7, 3:13], image[1, 1, 6:13, 2:5, 6:9] = values[0, 0, :6], values[1, 1, :7, 2:5, 3:6]
    return image


def test_windows_lie_over_the_foreground_and_beyond_is_background(brain: Tensor, convolution: nn.Module) -> None:
    options: dict[str, Any] = {"roi_size": (6, 6, 6), "overlap": 0.5, "mode": "gaussian"}
    made = ForegroundInferer(**options)(MetaTensor(brain), convolution)
    assert type(made) is Tensor
    assert made.shape == (2, 3, 15, 12, 14)
    inside: Any = (..., slice(4, 13), slice(0, 7), slice(3, 13))
    torch.testing.assert_close(made[inside], SlidingWindowInferer(**options)(brain[inside], convolution))
    beyond = torch.ones(15, 12, 14, dtype=torch.bool)
    beyond[inside] = False
    assert (made[:, :, beyond].softmax(1)[:, 0] > 1 - 1e-6).all()


@pytest.mark.parametrize("value", [0.0, 1.0], ids=["nothing but zeros", "no zeros"])
def test_an_image_without_a_box_is_taken_whole(value: float, convolution: nn.Module) -> None:
    image = torch.full((1, 2, 9, 8, 7), value)
    options: dict[str, Any] = {"roi_size": (6, 6, 6), "overlap": 0.5, "mode": "gaussian"}
    torch.testing.assert_close(
        ForegroundInferer(**options)(image, convolution), SlidingWindowInferer(**options)(image, convolution)
    )


@pytest.mark.parametrize(
    ("options", "size"),
    [
        pytest.param({}, (8, 8, 4), id="not stretched"),
        pytest.param({"stretch": 0.25}, (9, 8, 4), id="where a quarter longer is enough"),
        pytest.param({"stretch": 0.25, "k_divisible": (5, 1, 2)}, (10, 8, 4), id="to a multiple"),
        pytest.param({"stretch": 0.1, "k_divisible": (5, 1, 2)}, (8, 8, 4), id="the multiple is too long"),
        pytest.param({"stretch": math.inf, "k_divisible": 4}, (12, 8, 12), id="one pass"),
    ],
)
def test_windows_are_stretched_where_they_cover_the_box(
    options: dict[str, Any], size: tuple[int, ...], brain: Tensor
) -> None:
    seen = []

    def network(x: Tensor) -> Tensor:
        seen.append(tuple(x.shape[2:]))
        return torch.cat([x, x], 1)

    made = ForegroundInferer((8, 8, 4), overlap=0.5, **options)(brain, network)
    assert set(seen) == {size}
    torch.testing.assert_close(made[:, 2:, 4:13, 0:7, 3:13], brain[:, :, 4:13, 0:7, 3:13])


def test_windows_that_come_alone_go_to_onednn() -> None:
    network, image = nn.Conv3d(1, 2, 3, padding=1).requires_grad_(False), torch.rand(1, 1, 8, 8, 8)
    with profile(activities=[ProfilerActivity.CPU]) as alone:
        expected = network(image)
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        found = ForegroundInferer((8, 8, 8))(image, network)
    torch.testing.assert_close(found, expected)
    unfolds = [any("slow_conv3d" in event.key for event in one.key_averages()) for one in (alone, profiled)]
    assert unfolds == [True, False]


def test_one_pass_is_a_window_of_the_size_of_the_box(brain: Tensor, convolution: nn.Module) -> None:
    # Zeros lie on both sides, as around a patch of the training, for a network learns on which side they are.
    one_pass, inside = ForegroundInferer((12, 4, 8), stretch=math.inf, k_divisible=4), brain[..., 4:13, 0:7, 3:13]
    made = one_pass(brain, convolution)[..., 4:13, 0:7, 3:13]
    padded = torch.nn.functional.pad(inside, (1, 1, 0, 1, 1, 2))
    torch.testing.assert_close(made, convolution(padded)[..., 1:10, 0:7, 1:11])
    half = one_pass(brain, lambda x: convolution(x).bfloat16())
    assert half.dtype == torch.float32
    torch.testing.assert_close(half[..., 4:13, 0:7, 3:13], made, rtol=0.01, atol=0.01)


@pytest.mark.parametrize(
    "options",
    [
        {"roi_size": (9, 9, 12), "sw_batch_size": 1},
        {"roi_size": (6, 0, 6)},
        {"roi_size": (6, None, 6)},
        {"roi_size": 6, "padding_mode": "replicate"},
        {"roi_size": (8, 8, 4), "cache_roi_weight_map": True},
    ],
    ids=["one window", "0", "None", "one size", "with its map"],
)
def test_what_monai_s_windows_take_is_taken(options: dict[str, Any], brain: Tensor, convolution: nn.Module) -> None:
    options = {"overlap": 0.5, "mode": "gaussian", **options}
    inside: Any = (..., slice(4, 13), slice(0, 7), slice(3, 13))
    batches: list[int] = []

    def network(x: Tensor) -> Tensor:
        batches.append(len(x))
        result: Tensor = convolution(x)
        return result

    made = ForegroundInferer(**options)(brain, network, device="cpu")
    torch.testing.assert_close(made[inside], SlidingWindowInferer(**options)(brain[inside], convolution))
    assert max(batches) == 1
    whole = {**options, "cache_roi_weight_map": False}
    stretched = ForegroundInferer(**options, stretch=0.25)(brain, convolution)
    torch.testing.assert_close(stretched, ForegroundInferer(**whole, stretch=0.25)(brain, convolution))


@pytest.mark.parametrize("stretch", [0.0, math.inf], ids=["windows", "one pass"])
@pytest.mark.parametrize(
    ("network", "got"),
    [(lambda x: (x, x), "a tuple"), (lambda x: x[..., ::2], r"\(2, 2, 9, 7, [56]\)")],
    ids=["several", "another size"],
)
def test_a_network_returns_one_tensor_of_its_input_s_size(
    network: Any, got: str, stretch: float, brain: Tensor
) -> None:
    with pytest.raises(InputError, match=f"one tensor of the size of its input, got {got}"):
        ForegroundInferer((9, 7, 5), stretch=stretch)(brain, network)


def test_a_scan_takes_fewer_windows() -> None:
    image, calls = torch.zeros(1, 1, 240, 240, 155), []
    image[..., 50:190, 25:215, 10:147] = 1
    stretched = partial(ForegroundInferer, stretch=0.25, k_divisible=32)
    for kind in (SlidingWindowInferer, ForegroundInferer, stretched):
        calls.append(0)

        def network(x: Tensor) -> Tensor:
            calls[-1] += 1
            return x

        kind((128, 128, 128), overlap=0.5)(image, network)
    assert calls == [18, 8, 2]


# -- the windows of nnU-Net

PATCH = (8, 6, 4)


def plain_windows(image: Tensor, network: Any, axes: Sequence[int], step: float = 0.5) -> Tensor:
    """The definition: evenly spread windows, a Gaussian, sums in half precision, one window at a time."""
    impulse = np.zeros(PATCH)
    impulse[4, 3, 2] = 1
    weights = ndimage.gaussian_filter(impulse, [one / 8 for one in PATCH], 0, mode="constant", cval=0)
    weights = (10 * weights / weights.max()).astype(np.float16)
    weights[weights == 0] = weights[weights != 0].min()
    gaussian = torch.from_numpy(weights)
    low = [(max(patch, size) - size) // 2 for patch, size in zip(PATCH, image.shape[1:], strict=True)]
    whole = torch.zeros(len(image), *(max(*pair) for pair in zip(PATCH, image.shape[1:], strict=True)))
    inner: Any = (..., *(slice(one, one + size) for one, size in zip(low, image.shape[1:], strict=True)))
    whole[inner] = image
    starts = []
    for size, patch in zip(whole.shape[1:], PATCH, strict=True):
        steps = int(np.ceil((size - patch) / (patch * step))) + 1
        starts.append([int(np.round((size - patch) / max(steps - 1, 1) * k)) for k in range(steps)])
    several = [[axis for axis, on in zip(axes, bits, strict=True) if on] for bits in np.ndindex(*[2] * len(axes))]
    sums, total = torch.zeros(()), torch.zeros(whole.shape[1:], dtype=torch.half)
    for corner in itertools.product(*starts):
        window: Any = (..., *(slice(one, one + size) for one, size in zip(corner, PATCH, strict=True)))
        part = whole[window][None]
        flips = [[axis + 2 for axis in one] for one in sorted(several, key=len)]
        mirrored = [network(part.flip(one)).flip(one) for one in flips]
        logits = (sum(mirrored[1:], mirrored[0]) / len(flips))[0]
        if not sums.ndim:
            sums = torch.zeros(len(logits), *whole.shape[1:], dtype=torch.half)
        sums[window] = (sums[window].float() + logits * gaussian).half()
        total[window] += gaussian
    divided: Tensor = (sums / total)[inner]
    return divided


@pytest.fixture
def convolution() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Conv3d(2, 3, 3, padding=1).requires_grad_(False)


@pytest.mark.parametrize("size", [(8, 6, 4), (13, 6, 9), (17, 7, 5), (5, 3, 4), (9, 3, 11)], ids=str)
@pytest.mark.parametrize("axes", [(), (0, 1, 2), (1,)], ids=str)
def test_nnunet_s_windows(size: tuple[int, ...], axes: tuple[int, ...], convolution: nn.Module) -> None:
    image = torch.randn(2, 2, *size, generator=torch.Generator().manual_seed(1))
    made = NnunetInferer(PATCH, axes)(image, convolution)
    assert made.shape == (2, 3, *size)
    assert made.dtype == torch.half
    expected = torch.stack([plain_windows(one, convolution, axes) for one in image])
    assert made.isfinite().all()
    assert (made - expected).abs().max() <= 2**-9
    assert (made == expected).float().mean() > 0.99  # not so of sums in float32


@pytest.mark.parametrize("fast", [True, False])
def test_small_convolutions_in_nnunet_s_windows_are_onednn_s_if_they_may_round_otherwise(fast: bool) -> None:
    image, convolution = torch.randn(1, 1, *PATCH), nn.Conv3d(1, 8, 3, padding=1).requires_grad_(False)
    inferer = NnunetInferer(PATCH, fast=fast)
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        made = inferer(image, convolution)
    assert any("slow_conv3d" in event.key for event in profiled.key_averages()) != fast
    torch.testing.assert_close(made, NnunetInferer(PATCH)(image, convolution), rtol=2e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("size", "starts"),
    [(8, [0]), (9, [0, 1]), (12, [0, 4]), (13, [0, 2, 5]), (17, [0, 3, 6, 9]), (5, [0])],
)
def test_windows_are_evenly_spread(size: int, starts: list[int]) -> None:
    """MONAI's would be 0, 4 and 5 of 13 voxels."""
    seen: list[int] = []
    places = torch.arange(max(size, 1.0)).view(-1, 1, 1).expand(-1, 8, 8)[None, None]

    def network(patch: Tensor) -> Tensor:
        seen.append(int(patch[0, 0, -1, 0, 0]) - 7 if size >= 8 else 0)
        return patch

    NnunetInferer((8, 8, 8))(places, network)
    assert seen == starts


def test_less_overlap_takes_fewer_windows() -> None:
    calls: list[Tensor] = []

    def network(x: Tensor) -> Tensor:
        calls.append(x)
        return x

    NnunetInferer((8, 8, 8), overlap=0.25)(torch.zeros(1, 1, 20, 8, 8), network)
    assert len(calls) == 3  # 4 with a half


def test_meta_data_do_not_reach_the_network(convolution: nn.Module) -> None:
    kinds = []

    def network(x: Tensor) -> Any:
        kinds.append(type(x))
        return convolution(x)

    image = torch.randn(1, 2, *PATCH)
    made = NnunetInferer(PATCH)(MetaTensor(image), network)
    assert kinds == [Tensor]
    assert type(made) is Tensor
    assert torch.equal(made, NnunetInferer(PATCH)(image, convolution))


def test_no_gradient_is_kept_for_whole_images(convolution: nn.Module) -> None:
    with torch.no_grad():
        assert not NnunetInferer(PATCH)(torch.ones(1, 2, 9, 9, 9), convolution).requires_grad


def test_windows_take_further_arguments() -> None:
    made = NnunetInferer(PATCH)(
        torch.ones(1, 1, *PATCH), lambda x, factor, *, offset: factor * x + offset, 3.0, offset=1
    )
    assert (made == 4).all()


def test_windows_must_be_of_three_axes_and_overlap() -> None:
    for patch in ((8, 8), (8, 8, 0), (8, 8, 8.5)):
        with pytest.raises(InputError, match=r"patch_size must be three positive whole numbers, got "):
            NnunetInferer(patch)  # type: ignore[arg-type]
    for overlap in (-0.1, 1, float("nan")):
        with pytest.raises(InputError, match=r"overlap must be at least 0 and less than 1, got "):
            NnunetInferer(PATCH, overlap=overlap)
