import subprocess
import sys
from pathlib import Path

import pytest

from dcd_components import errors
from dcd_components.errors import root_cause

PROGRAM = """
from errors import plain_errors
plain_errors()
try:
    try:
        {statement}
    except Exception as inner:
        raise RuntimeError("Failed to evaluate the expression") from inner
except Exception as outer:
    raise RuntimeError("Failed to instantiate") from outer
"""


def run(statement: str) -> subprocess.CompletedProcess[str]:
    """Run a program that wraps what ``statement`` raises twice; errors.py alone is imported, which is quicker."""
    command = [sys.executable, "-c", PROGRAM.format(statement=statement)]
    return subprocess.run(command, cwd=Path(errors.__file__).parent, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("statement", "line"),
    [
        pytest.param("raise ValueError('levels must be at least 1')", "error: levels must be at least 1", id="value"),
        pytest.param("import nibabel; nibabel.load('/dev/null')", "error: Empty file: '/dev/null'", id="image"),
        pytest.param("open('/no/such')", "error: [Errno 2] No such file or directory: '/no/such'", id="file"),
    ],
)
def test_a_wrapped_error_about_input_ends_the_program_with_one_line(statement: str, line: str) -> None:
    result = run(statement)
    assert (result.returncode, result.stdout, result.stderr) == (1, "", line + "\n")


def test_a_process_that_has_lost_another_says_so() -> None:
    result = run("raise RuntimeError('[gloo/transport/tcp/pair.cc:553] Connection closed by peer')")
    assert result.returncode == 1
    assert result.stderr.startswith("error: another process was lost, look for its own message: [gloo")
    assert "Traceback" not in result.stderr


def test_processes_that_cannot_find_each_other_say_why() -> None:
    result = run(
        "raise RuntimeError('[enforce fail at gloo/transport/tcp/device.cc] Unable to find address for: eth7')"
    )
    assert "Traceback" in result.stderr
    assert "another process" not in result.stderr


def test_another_error_keeps_its_traceback() -> None:
    result = run("{}['epochs']")
    assert result.returncode == 1
    assert "Traceback (most recent call last)" in result.stderr
    assert "KeyError: 'epochs'" in result.stderr
    assert result.stderr.endswith("RuntimeError: Failed to instantiate\n")
    assert "error: " not in result.stderr


def test_root_cause_follows_causes_and_contexts() -> None:
    first, second, third = ValueError("first"), KeyError("second"), RuntimeError("third")
    second.__context__, third.__cause__ = first, second
    assert root_cause(third) is root_cause(second) is root_cause(first) is first


def test_raise_from_none_starts_a_chain() -> None:
    error = ValueError("unknown wavelet")
    error.__context__, error.__suppress_context__ = KeyError("db99"), True
    assert root_cause(error) is error
