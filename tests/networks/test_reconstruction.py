"""Convolutions that are fitted to what a wider network gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dcd_components.networks import reconstruction
from dcd_components.networks.reconstruction import Fitted, fit_convolutions

KEPT = torch.tensor([0, 3])
KINDS: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
    "strided": (nn.Conv3d, {"kernel_size": 3, "stride": 2, "padding": 1}),
    "mirrored at borders": (nn.Conv3d, {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"}),
    "dilated": (nn.Conv3d, {"kernel_size": 2, "dilation": 2}),
    "transposed": (nn.ConvTranspose3d, {"kernel_size": 2, "stride": 2}),
    "transposed, overlapping": (nn.ConvTranspose3d, {"kernel_size": 3, "stride": 2, "padding": 1}),
    "of images": (nn.Conv2d, {"kernel_size": 3, "padding": 1}),
}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def call(image: Tensor, network: nn.Module) -> object:
    return network(image)


def images(dimensions: int = 3, count: int = 3) -> list[Tensor]:
    return [torch.randn(2, 3, *[6] * dimensions, dtype=torch.float64) + 1 for _ in range(count)]


def distance(student: nn.Module, teacher: nn.Module, batches: Sequence[Tensor], kept: Tensor = KEPT) -> Tensor:
    return torch.stack([(student(x) - teacher(x)[:, kept]).square().mean() for x in batches]).mean()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bias", [True, False])
def test_no_other_kernel_is_nearer(kind: str, bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradient of the squared distance, by autograd, vanishes at what the normal equations find."""
    monkeypatch.setattr(reconstruction, "RIDGE", 0.0)
    made, settings = KINDS[kind]
    teacher, student = made(3, 5, **settings).double(), made(3, 2, bias=bias, **settings).double()
    batches = images(2 if made is nn.Conv2d else 3)
    fit_convolutions(student, teacher, batches, {"": Fitted(KEPT, shifts=bias)}, call)
    weights = [*student.parameters()]
    assert len(weights) == 1 + bias
    with torch.enable_grad():
        gradients = torch.autograd.grad(distance(student, teacher, batches), weights)
    assert all(gradient.abs().max() < 1e-9 for gradient in gradients)


def test_what_a_norm_takes_away_need_not_be_fitted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconstruction, "RIDGE", 0.0)
    teacher, student = nn.Conv3d(3, 5, 1).double(), nn.Conv3d(3, 2, 1, bias=False).double()
    nn.init.constant_(teacher.get_parameter("bias"), 7)
    fit_convolutions(student, teacher, images(), {"": Fitted(KEPT, shifts=True)}, call)
    torch.testing.assert_close(student.weight, teacher.weight[KEPT])


def test_what_few_voxels_do_not_tell_stays() -> None:
    """A direction in which nothing varies keeps its weights, where equations without a ridge have no solution."""
    teacher, student = nn.Conv3d(3, 5, 1).double(), nn.Conv3d(3, 2, 1).double()
    before = student.weight.detach().clone()
    batches = [x * torch.tensor([1.0, 1.0, 0.0]).view(1, 3, 1, 1, 1) for x in images()]
    fit_convolutions(student, teacher, batches, {"": Fitted(KEPT, shifts=True)}, call)
    assert torch.equal(student.weight[:, 2], before[:, 2])
    torch.testing.assert_close(student.weight[:, :2], teacher.weight[KEPT][:, :2], rtol=0, atol=0.01)


def test_a_layer_is_fitted_to_what_those_before_it_give_then(monkeypatch: pytest.MonkeyPatch) -> None:
    def layers(width: int) -> nn.Sequential:
        first = [nn.Conv3d(3, width, 3, padding=1), nn.BatchNorm3d(width), nn.ReLU()]
        return nn.Sequential(*first, nn.Conv3d(width, 2, 3, padding=1)).double()

    monkeypatch.setattr(reconstruction, "RIDGE", 0.0)
    teacher, student, whole = layers(5).eval(), layers(2), torch.arange(2)
    before = {name: x.clone() for name, x in student.state_dict().items()}
    batches = images()
    fit_convolutions(student, teacher, batches, {"0": Fitted(KEPT, True), "3": Fitted(whole, True)}, call)
    assert all(module.training for module in student.modules())
    changed = {name for name, x in student.state_dict().items() if not torch.equal(x, before[name])}
    assert changed == {"0.weight", "0.bias", "3.weight", "3.bias"}  # and no statistics of the norm
    with torch.enable_grad():
        last = distance(student.eval(), teacher, batches, whole)
        gradients = torch.autograd.grad(last, [student.get_parameter("3.weight"), student.get_parameter("3.bias")])
    assert all(gradient.abs().max() < 1e-9 for gradient in gradients)


def test_a_convolution_that_is_used_twice_stays() -> None:
    class Twice(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.once, self.twice = nn.Conv3d(3, width, 1), nn.Conv3d(width, width, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.twice(self.twice(self.once(x)))  # type: ignore[no-any-return]

    teacher, student = Twice(5).double(), Twice(2).double()
    before = {name: x.clone() for name, x in student.state_dict().items()}
    fit_convolutions(student, teacher, images(), dict.fromkeys(("once", "twice"), Fitted(KEPT, True)), call)
    changed = {name for name, x in student.state_dict().items() if not torch.equal(x, before[name])}
    assert changed == {"once.weight", "once.bias"}
