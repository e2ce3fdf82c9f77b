"""What processes share, each of them in turn; tests/bundles/test_two_processes.py has them at once."""

import pickle

import pytest
import torch
import torch.distributed as dist

from dcd_components.data.samplers import DistributedReplacementSampler, Draw, case_sampler
from dcd_components.distributed import all_reduce_mean, all_reduce_sum

Pairs = list[tuple[int, int]]


def pretend(monkeypatch: pytest.MonkeyPatch, rank: int, processes: int) -> None:
    """Be one of several processes, whose tensors are all the same."""
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_rank", lambda: rank)
    monkeypatch.setattr(dist, "get_world_size", lambda: processes)
    monkeypatch.setattr(dist, "get_backend", lambda: "gloo")
    monkeypatch.setattr(dist, "all_reduce", lambda x: x.mul_(processes))


def drawn(sampler: DistributedReplacementSampler, epoch: int) -> Pairs:
    sampler.set_epoch(epoch)
    return [(int(draw), draw.seed) for draw in sampler]


def test_the_batches_of_all_processes_are_those_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    data, per_step, steps = range(7), 2, 5
    one = DistributedReplacementSampler(data, num_samples=3 * per_step * steps, seed=4)
    expected = [drawn(one, epoch) for epoch in (1, 2)]
    shares: list[list[Pairs]] = []
    for rank in range(3):
        pretend(monkeypatch, rank, 3)
        order = DistributedReplacementSampler(data, num_samples=per_step * steps, seed=4)
        assert len(order) == per_step * steps
        shares.append([drawn(order, epoch) for epoch in (1, 2)])
    for epoch in range(2):
        for step in range(steps):
            part = slice(step * per_step, (step + 1) * per_step)
            together = [pair for share in shares for pair in share[epoch][part]]
            assert sorted(together) == sorted(expected[epoch][3 * part.start : 3 * part.stop])


def test_all_items_are_drawn_equally_often_and_no_seed_twice() -> None:
    sampler = DistributedReplacementSampler(range(5), num_samples=1000, seed=0)
    pairs = [pair for epoch in range(1, 6) for pair in drawn(sampler, epoch)]
    counts = torch.bincount(torch.tensor([index for index, _ in pairs]), minlength=5)
    assert (counts - 1000).abs().max() < 120  # four standard deviations
    assert len({seed for _, seed in pairs}) > 4990  # of 2^32


@pytest.mark.parametrize("change", [{"seed": 1}, {"epoch": 2}])
def test_another_seed_or_epoch_is_another_order(change: dict[str, int]) -> None:
    def order(seed: int = 0, epoch: int = 1) -> Pairs:
        return drawn(DistributedReplacementSampler(range(9), num_samples=20, seed=seed), epoch)

    assert order() == order()
    assert order() != order(**change)


def test_a_pass_can_begin_in_the_midst_of_an_epoch_and_the_next_is_whole_again() -> None:
    sampler = DistributedReplacementSampler(range(9), num_samples=6, seed=0)
    whole = drawn(sampler, 3)
    sampler.start = 4
    assert drawn(sampler, 3) == whole[4:]
    assert drawn(sampler, 3) == whole
    assert len(sampler) == 6


def test_a_draw_keeps_its_seed_on_its_way_to_another_process() -> None:
    draw = pickle.loads(pickle.dumps(Draw(3, seed=7)))
    assert (draw, draw.seed) == (3, 7)


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
