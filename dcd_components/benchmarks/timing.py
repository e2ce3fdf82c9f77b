"""Time and memory of alternatives, measured in turns in one process."""

from __future__ import annotations

import ctypes
import gc
import math
import os
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median

import torch
from tqdm import tqdm

from dcd_components.inferers import cpu_has_bfloat16
from dcd_components.process import own_pages

Step = Callable[[], object]
#: Where Linux resets the peak of a process's memory.
PEAK = Path("/proc/self/clear_refs")


def seconds(
    steps: Mapping[str, Step], repeats: int, least: float = 0.0, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Median time of each step, all of them run once in every round, after a first round that does not count.

    Args:
        steps: what to time, by name.
        repeats: rounds; a step that takes longer than ``least`` seconds is timed in the first three alone.
        least: see ``repeats``; 0 for no such limit.
        clock: what is measured: the time that passes, or with ``time.process_time`` that of the cores.
    """
    times: dict[str, list[float]] = {name: [] for name in steps}
    for number in tqdm(range(repeats + 1), unit="round", leave=False):
        for name, step in steps.items():
            slow = least and times[name] and median(times[name]) > least
            if number == 0 or not slow or number <= 3:
                _synchronize()
                start = clock()
                step()
                _synchronize()
                times[name] += [clock() - start] if number else []
    return {name: median(taken) for name, taken in times.items()}


def extra_megabytes(step: Step) -> float:
    """Largest memory that a step needs above what is held before it; NaN where the system does not tell."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        step()
        return (torch.cuda.max_memory_allocated() - held) / 1e6
    if not os.access(PEAK, os.W_OK):
        return math.nan
    ctypes.CDLL(None).malloc_trim(0)  # what was freed before must not serve the step
    PEAK.write_text("5")  # resets the peak
    before = _status("VmRSS")
    step()
    return _status("VmHWM") - before


def settled_megabytes(step: Step, repeats: int = 5) -> float:
    """Median of :func:`extra_megabytes`, after a first step, which loads and compiles and does not count."""
    step()
    with own_pages():
        return median(extra_megabytes(step) for _ in range(repeats))


def machine(threads: int | None = None) -> str:
    """Processor, whether it has bfloat16, and threads in use (by default here), or graphics card; version of torch."""
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    names = [line.split(": ")[1] for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    precision = "with bfloat16" if cpu_has_bfloat16() else "without bfloat16"
    return f"{name} {precision}, {threads or torch.get_num_threads()} threads, torch {torch.__version__}"


def _status(key: str) -> float:
    """Megabytes that the system reports of this process."""
    return next(int(line.split()[1]) / 1e3 for line in _lines("/proc/self/status") if line.startswith(key))


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).is_file() else []


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
