"""What a program sets for its whole process."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import sys
from pathlib import Path

import pytest

#: Pages of 4 KB that become the process's own while maps of 64 MB are made and freed again, 16384 each.
PROGRAM = """
import resource, sys
import torch
import dcd_components
if sys.argv[1] != "leave":
    dcd_components.set_up_process()
if sys.argv[1] == "measure":
    from dcd_components.benchmarks import timing
    assert 60 < timing.settled_megabytes(lambda: torch.ones(16, 1 << 20)) < 75
for rounds in (20, 10):  # at first there is no place that is large enough with its alignment
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(rounds):
        torch.ones(16, 1 << 20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def new_pages(keep: str, **environment: str) -> int:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GLIBC_TUNABLES", "MALLOC_"))}
    command = [sys.executable, "-c", PROGRAM, keep]
    done = subprocess.run(command, env={**kept, **environment}, capture_output=True, text=True, check=True)
    return int(done.stdout)


HUGE = Path("/sys/kernel/mm/transparent_hugepage/enabled")
usual = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc"
    or resource.getpagesize() != 4096
    or (HUGE.is_file() and "[always]" in HUGE.read_text()),
    reason="for glibc and pages of 4 KB",
)


@usual
def test_freed_memory_is_kept_unless_the_environment_says_how_it_is_allocated() -> None:
    assert new_pages("keep") < 16384
    assert new_pages("leave") > 100_000
    assert new_pages("keep", MALLOC_ARENA_MAX="2") > 100_000
    assert new_pages("keep", GLIBC_TUNABLES="glibc.malloc.arena_max=2") > 100_000


@usual
def test_what_measures_memory_lets_it_be_kept_again() -> None:
    assert new_pages("measure") < 16384


def test_a_program_sets_it_before_torch_is_imported_and_for_those_that_it_starts() -> None:
    program = """
import os, sys
from dcd_components import cli
try:
    cli.main(["--version"])
except SystemExit:
    print("torch" in sys.modules, os.environ.get("GOMP_SPINCOUNT"))
"""
    for given, expected in (
        ({}, "False 1000"),
        ({"GOMP_SPINCOUNT": "5"}, "False 5"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "False None"),
    ):
        environment = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"} | given
        done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
        assert done.stdout.splitlines()[-1] == expected
