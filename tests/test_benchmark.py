from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from dcd_components import benchmark, loss_benchmark, step_benchmark, timing
from dcd_components.published_loss import PublishedLoss
from dcd_components.reporting import read_csv


def test_steps_are_run_in_turns_and_slow_ones_three_times() -> None:
    calls: list[str] = []
    steps = {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}
    found = timing.seconds(steps, repeats=5, least=1e-12)
    assert "".join(calls) == "ab" * 4
    assert set(found) == {"a", "b"}
    assert all(value > 0 for value in found.values())


def test_extra_memory_is_what_a_step_holds_at_most() -> None:
    def step() -> None:
        torch.ones(25_000_000)

    found = timing.extra_megabytes(step)
    assert math.isnan(found) or found == pytest.approx(100, rel=0.1)


def test_the_published_transform_does_not_invert_itself_and_ours_is_another_number() -> None:
    """As the audit of the released code found; the row is for timing alone."""
    loss = PublishedLoss(2, 2, levels=1)
    x = torch.randn(1, 2, 16, 16, 16)
    bands = torch.nn.functional.conv3d(x.flatten(0, 1)[:, None], loss.analysis, stride=2, padding=loss.padding)
    back = torch.nn.functional.conv_transpose3d(bands, loss.synthesis, stride=2, padding=loss.padding)
    assert back.shape == (2, 1, 16, 16, 16)
    assert (back[:, 0] - x[0]).norm() > x.norm()
    assert loss(x, torch.zeros_like(x)) > 0


def test_the_benchmark_writes_tables_and_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss_benchmark, "WIDTHS", (8, 16))
    monkeypatch.setattr(step_benchmark, "CASES", ((16, 1, (8, 16, 16)),))
    text = benchmark.run(str(tmp_path / "out"), sizes=(16,), levels=(1, 2), repeats=1)
    rows = read_csv(tmp_path / "out" / "loss.csv")
    assert {row["loss"] for row in rows} >= {loss_benchmark.OURS, loss_benchmark.PUBLISHED}
    assert {row["stages"] for row in rows} == {"all", "first"}
    assert [row["step"] for row in read_csv(tmp_path / "out" / "step.csv")] == [
        step_benchmark.STUDENT,
        step_benchmark.ENCODER,
        step_benchmark.OURS,
        step_benchmark.PUBLISHED,
    ]
    assert (tmp_path / "out" / "benchmark.png").stat().st_size > 10_000
    assert text == (tmp_path / "out" / "benchmark.md").read_text()
    with pytest.raises(ValueError, match="exists: name a new folder"):
        benchmark.run(str(tmp_path / "out"))
