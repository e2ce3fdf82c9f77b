from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from typing import Any

import pytest
from monai.data import Dataset
from torch.utils.data import DataLoader

from dcd_components.data.workers import outlive_signals


def check(method: str) -> None:
    data, options = Dataset([{"item": 0}] * 100), {"num_workers": 1, "multiprocessing_context": method}
    batches: Any = iter(DataLoader(data, worker_init_fn=outlive_signals, **options))  # type: ignore[arg-type]
    next(batches)
    (worker,) = batches._workers
    other = multiprocessing.get_context("fork").Process(target=os.kill, args=(worker.pid, signal.SIGTERM))
    other.start()
    other.join()
    worker.join(0.2)
    assert worker.is_alive()
    worker.terminate()
    worker.join(10)
    assert worker.exitcode == 0


@pytest.mark.skipif(not hasattr(signal, "sigwaitinfo"), reason="the system does not tell who sent a signal")
@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_a_process_that_loads_data_ends_by_the_sigterm_of_its_training_alone(method: str) -> None:
    # In a process of its own: what other tests have loaded may start threads in a fork, which take the signal.
    words = [sys.executable, "-W", "ignore", __file__, method]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


if __name__ == "__main__":
    check(sys.argv[1])
