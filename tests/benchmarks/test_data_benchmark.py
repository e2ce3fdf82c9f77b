from __future__ import annotations

from pathlib import Path
from typing import Any

from tiny import BRATS

from dcd_components.benchmarks import data as data_benchmark
from dcd_components.tables import read_csv


def test_each_kind_of_data_set_is_timed_in_turns(patients: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"spacing": [4.0, 4.0, 4.0], "patch_size": [16, 16, 16], "teacher_widths": [16, 16, 32]}
    settings |= {"dataset_dir": str(patients), "epoch_length": 2, "num_workers": 0}
    text = data_benchmark.measure(BRATS, tmp_path / "out", 2, settings)
    rows = read_csv(tmp_path / "out" / "data.csv", text=["dataset"])
    assert [row["dataset"] for row in rows] == 3 * list(data_benchmark.DATASETS)
    assert all(0 < float(row["waiting"]) < float(row["seconds"]) for row in rows)
    assert [float(row["gigabytes"]) > 0 for row in rows] == 3 * [False, True, True]
    assert text in (tmp_path / "out" / "data.md").read_text()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["data.csv", "data.md"]
