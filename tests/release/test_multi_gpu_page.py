"""The page on several GPUs: its commands for a release as written, with one CPU process a node or two on one node."""

from __future__ import annotations

import ast
import re
import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from monai.bundle import ConfigParser
from releases import page
from tiny import BRATS

from dcd_components.tables import read_csv

PAGE = page("multi_gpu")
COMMANDS = re.findall(r"^    (torchrun .*)$", PAGE, re.MULTILINE)
NODES = "--nnodes 2 --nproc_per_node 4 --rdzv_id dcd --rdzv_backend c10d --rdzv_endpoint HOST:29500"


def start(command: str, release: Path, data: Path, **changes: str) -> subprocess.Popen[str]:
    for old, new in {"torchrun": "-m torch.distributed.run", "DIR": str(data), **changes}.items():
        assert old in command
        command = command.replace(old, new)
    words = [sys.executable, "-W", "ignore", *shlex.split(command)]
    return subprocess.Popen(words, cwd=release, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait(process: subprocess.Popen[str]) -> None:
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said[-4000:]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def test_two_nodes_train_and_two_processes_evaluate(release: Path, patients: Path, tmp_path: Path) -> None:
    nodes = [Path(shutil.copytree(release, tmp_path / name / release.name)) for name in ("first", "second")]
    (command,) = (line for line in COMMANDS if "--nnodes" in line)
    here = {"--nproc_per_node 4": "--nproc_per_node 1", "HOST:29500": f"127.0.0.1:{free_port()}"}
    for process in [start(command, node, patients, **here) for node in nodes]:
        wait(process)
    (trained,) = (node for node in nodes if (node / "models" / "model_training.csv").is_file())
    (evaluate,) = (line for line in COMMANDS if "evaluate.yaml" in line)
    wait(start(evaluate, trained, patients, **{"--nproc_per_node 4": "--standalone --nproc_per_node 2"}))
    assert len(read_csv(trained / "eval" / "scores.csv")) == 2


def test_one_node_runs_what_several_run() -> None:
    one, several = (line for line in COMMANDS if "distill.yaml" in line)
    assert several == one.replace("--nproc_per_node 4", NODES)


@pytest.mark.parametrize("command", COMMANDS)
def test_its_commands_name_existing_files_and_keys(command: str) -> None:
    words = shlex.split(command)
    files = [BRATS / name for name in ast.literal_eval(words[words.index("--config_file") + 1])]
    options = {word.removeprefix("--") for word in words[words.index("run") :] if word.startswith("--")}
    assert options - set(ConfigParser.load_config_files([str(file) for file in files])) == {"config_file"}
    assert files[-1].stem == "multi_gpu"
