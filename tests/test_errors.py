import os
import subprocess
import sys
from pathlib import Path

import forked
import pytest

from dcd_components import errors
from dcd_components.errors import root_cause

PROGRAM = """
from errors import InputError, plain_errors
plain_errors()
try:
    try:
        {statement}
    except Exception as inner:
        raise RuntimeError("Failed to evaluate the expression") from inner
except Exception as outer:
    raise RuntimeError("Failed to instantiate") from outer
"""
CONFIG = """
from monai.bundle import ConfigParser
from dcd_components.errors import plain_errors
plain_errors()
ConfigParser({config}).get_parsed_content({key!r})
"""
LOADER = """
from torch.utils.data import DataLoader
from errors import InputError, plain_errors
class Cases(list):
    def __getitem__(self, index):
        try:
            raise InputError("case 7 has no t1c")
        except InputError as error:
            raise RuntimeError("applying transform") from error
plain_errors()
list(DataLoader(Cases([1]), num_workers=1))
"""
#: As if the package of nnU-Net's networks were not installed.
NNUNET = "dynamic_network_architectures"
HIDDEN = f"""
import sys
class Hidden:
    def find_spec(self, name, *others):
        if name.startswith({NNUNET!r}):
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Hidden())
"""


def program(text: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program that sees errors.py alone, without the package, which is quicker."""
    variables = {**os.environ, **environment}
    folder = Path(errors.__file__).parent
    command = [sys.executable, "-c", text]
    return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False)


def run(statement: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program that wraps what ``statement`` raises twice."""
    return program(PROGRAM.format(statement=statement), **environment)


def read(folder: Path, config: dict[str, object], key: str) -> subprocess.CompletedProcess[str]:
    """Run a program that builds what a key of a config says."""
    (folder / "reads.py").write_text(CONFIG.format(config=config, key=key))
    return forked.run("reads", [], folder)


def test_a_wrapped_error_of_our_own_checks_ends_the_program_with_one_line() -> None:
    result = run("raise InputError('levels must be at least 1')")
    assert (result.returncode, result.stdout, result.stderr) == (1, "", "error: levels must be at least 1\n")


def test_the_cause_of_an_input_error_is_not_what_is_printed() -> None:
    result = run("raise InputError('no config is called quik') from KeyError('quik')")
    assert result.stderr == "error: no config is called quik\n"


def test_the_environment_keeps_every_traceback() -> None:
    result = run("raise InputError('levels must be at least 1')", DCD_TRACEBACK="1")
    assert result.returncode == 1
    assert "errors.InputError: levels must be at least 1" in result.stderr
    assert result.stderr.endswith("RuntimeError: Failed to instantiate\n")


def test_an_input_error_of_a_process_that_loads_data_is_one_line_too() -> None:
    result = program(LOADER)
    assert (result.returncode, result.stderr) == (1, "error: case 7 has no t1c\n")


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


@pytest.mark.parametrize(
    ("statement", "line"),
    [
        pytest.param("{}['epochs']", "KeyError: 'epochs'", id="key"),
        pytest.param("int('2.5')", "ValueError: invalid literal for int() with base 10: '2.5'", id="value"),
        pytest.param(
            "open('/no/such')", "FileNotFoundError: [Errno 2] No such file or directory: '/no/such'", id="file"
        ),
        pytest.param("import no_such", "ModuleNotFoundError: No module named 'no_such'", id="module"),
    ],
)
def test_every_other_error_keeps_its_traceback(statement: str, line: str) -> None:
    result = run(statement)
    assert result.returncode == 1
    assert result.stderr.startswith("Traceback (most recent call last)")
    assert f"\n{line}\n" in result.stderr
    assert result.stderr.endswith("RuntimeError: Failed to instantiate\n")
    assert "error: " not in result.stderr


@pytest.mark.parametrize(
    ("config", "key", "sentence"),
    [
        pytest.param(
            {"train": {"optimizer": {"_target_": "torch.optim.SGD", "params": [], "rl": 0.1}}},
            "train",
            "config key train::optimizer: TypeError: SGD.__init__() got an unexpected keyword argument 'rl'",
            id="argument",
        ),
        pytest.param(
            {"network": {"_target_": "UNett"}, "device": "cpu"},
            "network",
            "config key network: ModuleNotFoundError: Cannot locate class or function path: 'UNett'.",
            id="target",
        ),
        pytest.param(
            {"run": "$@size * 2", "size": "$1 / 0"},
            "run",
            "config key size: ZeroDivisionError: division by zero",
            id="$",
        ),
        pytest.param(
            {"network": "@netwrk_def", "network_def": 1},
            "network",
            "config key network: no config has @netwrk_def; network_def is near",
            id="reference",
        ),
        pytest.param({"network": "@q"}, "network", "config key network: no config has @q", id="far reference"),
        pytest.param(
            {"evaluate": 1}, "evaluates", "config key evaluates: no config has it; evaluate is near", id="no key"
        ),
    ],
)
def test_an_error_in_a_config_ends_with_the_key_and_the_cause(
    config: dict[str, object], key: str, sentence: str, tmp_path: Path
) -> None:
    result = read(tmp_path, config, key)
    assert result.returncode == 1
    assert "Traceback (most recent call last)" in result.stderr
    assert result.stderr.endswith(f"\nerror: {sentence}\n")


def test_a_network_of_nnunet_without_its_package_says_how_to_install_it() -> None:
    config = {"network": {"_target_": f"{NNUNET}.architectures.unet.PlainConvUNet"}}
    result = program(HIDDEN + CONFIG.format(config=config, key="network"))
    said = "is not installed: pip install --no-deps dynamic-network-architectures"
    assert (result.returncode, result.stderr) == (1, f"error: {NNUNET}, nnU-Net's networks, {said}\n")


def test_an_interrupted_program_names_no_key() -> None:
    result = program(CONFIG.format(config={"run": "$__import__('signal').raise_signal(2)"}, key="run"))
    assert result.stderr.endswith("KeyboardInterrupt\n")


def test_root_cause_follows_causes_and_contexts() -> None:
    first, second, third = ValueError("first"), KeyError("second"), RuntimeError("third")
    second.__context__, third.__cause__ = first, second
    assert root_cause(third) is root_cause(second) is root_cause(first) is first


def test_raise_from_none_starts_a_chain() -> None:
    error = ValueError("unknown wavelet")
    error.__context__, error.__suppress_context__ = KeyError("db99"), True
    assert root_cause(error) is error


def test_a_number_that_yaml_took_for_text_is_named(tmp_path: Path) -> None:
    config: dict[str, object] = {
        "rate": "1e-4",
        "name": "1e",
        "power": {"_target_": "math.sqrt", "_args_": ["@rate"]},
        "a": "$1 + @rate",
    }
    result = read(tmp_path, config, "a")
    last = result.stderr.splitlines()[-1]
    assert last.startswith("error: config key a: TypeError: unsupported operand")
    assert last.endswith("; rate is the text '1e-4' to YAML, a number needs a point: 1.0e-4")


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("raise MemoryError", "(MemoryError)"),
        ("import numpy; numpy.empty((1 << 20, 1 << 20, 1 << 10))", "(Unable to allocate 8.00 PiB for an array"),
        ("import torch; torch.empty(1 << 60)", "(can't allocate memory: you tried to allocate"),
        ("import torch; raise torch.OutOfMemoryError('CUDA out of memory. Tried 20 GiB.')", "(CUDA out of memory)"),
    ],
)
def test_memory_that_runs_out_names_the_settings_to_lower(statement: str, said: str) -> None:
    result = run(statement)
    assert result.returncode == 1
    assert result.stderr.startswith("error: memory ran out: lower batch_size, patch_size or num_workers")
    assert said in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("death", ["os.kill(os.getpid(), 9)", "os._exit(3)"], ids=["killed", "gone"])
def test_a_process_for_data_that_dies_ends_the_program(death: str) -> None:
    result = program("import os\n" + LOADER.replace('raise InputError("case 7 has no t1c")', death))
    assert result.returncode == 1
    assert result.stderr.startswith("error: a process that loads data died, for want of memory perhaps: lower num_")
    assert result.stderr.count("\n") == 1
