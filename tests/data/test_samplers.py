"""What processes share, each of them in turn; tests/bundles/test_two_processes.py has them at once."""

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from dcd_components.data.samplers import DistributedReplacementSampler, case_sampler
from dcd_components.distributed import all_reduce_mean, all_reduce_sum


def pretend(monkeypatch: pytest.MonkeyPatch, rank: int, processes: int) -> None:
    """Be one of several processes, whose tensors are all the same."""
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_rank", lambda: rank)
    monkeypatch.setattr(dist, "get_world_size", lambda: processes)
    monkeypatch.setattr(dist, "get_backend", lambda: "gloo")
    monkeypatch.setattr(dist, "all_reduce", lambda x: x.mul_(processes))


def test_the_batches_of_all_processes_are_those_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    data, per_step, steps = range(7), 2, 5
    one = DistributedReplacementSampler(data, num_samples=3 * per_step * steps, seed=4)
    expected = [torch.tensor(list(one)).view(steps, -1) for _ in range(2)]
    assert not torch.equal(expected[0], expected[1])
    shares: list[list[Tensor]] = []
    for rank in range(3):
        pretend(monkeypatch, rank, 3)
        order = DistributedReplacementSampler(data, num_samples=per_step * steps, seed=4)
        assert len(order) == per_step * steps
        shares.append([torch.tensor(list(order)).view(steps, per_step) for _ in range(2)])
    for epoch in range(2):
        together = torch.cat([share[epoch] for share in shares], dim=1)
        assert torch.equal(together.sort(1).values, expected[epoch].sort(1).values)


@pytest.mark.parametrize(("cases", "shares"), [(5, [[0, 2, 4], [1, 3]]), (2, [[0], [1]])], ids=["odd", "one each"])
def test_each_case_is_scored_by_one_process(
    cases: int, shares: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for rank, share in enumerate(shares):
        pretend(monkeypatch, rank, len(shares))
        sampler = case_sampler(range(cases))
        assert sampler is not None
        assert list(sampler) == share


def test_cases_that_are_too_few_to_share_are_scored_by_all(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, 1, 3)
    assert case_sampler(range(2)) is None


def test_a_sum_over_processes_has_the_gradient_that_averaging_makes_right(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    assert all_reduce_sum(x) is x
    assert all_reduce_mean(x) is x
    pretend(monkeypatch, 0, 3)
    torch.testing.assert_close(all_reduce_sum(x), 3 * x)
    torch.testing.assert_close(all_reduce_mean(x), x)
    (gradient,) = torch.autograd.grad(all_reduce_sum(x).square().sum(), x)
    torch.testing.assert_close(gradient, 2 * 3 * x * 3)  # of (x + others)^2, times the number of processes
    assert not all_reduce_sum(x.detach()).requires_grad
