"""MONAI Label's own server as a process, and the commands of the page against it."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from releases import commands, page
from tiny import BRATS, HIPPOCAMPUS, ISLES

ENVIRONMENT = Path(__file__).parents[2] / ".venv-label" / "bin"
BUNDLES = {path.name: path for path in (BRATS, ISLES, HIPPOCAMPUS)}
WAIT_S = 300
#: Nothing is asked of other machines or written outside the test's folders, and other programs keep a core.
QUIET = {"MONAI_LABEL_AUTO_UPDATE_SCORING": "false", "MONAI_LABEL_SESSIONS": "false", "OMP_NUM_THREADS": "1"}


def environment() -> dict[str, str]:
    """Variables under which ``python`` is MONAI Label's, and finds only its own modules."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return kept | QUIET | {"PATH": f"{ENVIRONMENT}{os.pathsep}{os.environ['PATH']}"}


def command(model: str, part: str) -> str:
    """Find the command of the page that has this part, for a bundle."""
    (line,) = [line for line in commands(page("monai_label")) if part in line]
    return line.replace("$NAME", model)


def run(line: str, folder: Path) -> str:
    """Run a command in the server's environment, and return its output."""
    shell = ["bash", "-c", line]
    done = subprocess.run(shell, cwd=folder, env=environment(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{line}\n{done.stdout[-1000:]}{done.stderr[-3000:]}")
    return done.stdout


class Server:
    """A running server.

    Args:
        port: at which it listens.
        folder: where its commands run.
    """

    def __init__(self, port: int, folder: Path) -> None:
        self.port = port
        self.folder = folder

    def call(self, method: str, path: str, body: object = None) -> Any:
        """Send a request with JSON, and return the answer's."""
        data, kind = (None, {}) if body is None else (json.dumps(body).encode(), {"Content-Type": "application/json"})
        request = Request(f"http://127.0.0.1:{self.port}{path}", data=data, method=method, headers=kind)
        with urlopen(request, timeout=WAIT_S) as answer:
            return json.loads(answer.read())

    def ask(self, model: str, part: str, image: str, file: Path) -> str:
        """Run a page's request for another image and file than the page's."""
        line = re.sub(r"image=[^&]+", f"image={image}", command(model, part)).replace(":8000/", f":{self.port}/")
        return run(line.replace("mask.nii.gz", str(file)), self.folder)

    def train(self, model: str, settings: Mapping[str, object]) -> list[str]:
        """Train to the end, and return the status and the last lines of output."""
        self.call("POST", f"/train/{model}", settings)
        return self.wait("/train/")

    def wait(self, path: str) -> list[str]:
        """Wait for the end of a task, and return the status and the last lines of output."""
        deadline = time.monotonic() + WAIT_S
        while (task := self.call("GET", path))["status"] in ("SUBMITTED", "RUNNING"):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{path} is still {task['status']} after {WAIT_S} s")
            time.sleep(0.5)
        return [task["status"], *task["details"]]


def free_port() -> int:
    """Find a port of 127.0.0.1 at which nobody listens."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextmanager
def running(line: str, folder: Path) -> Iterator[Server]:
    """Start a server by its page's command, at a free port, and stop it and its trainings in any case."""
    port, log = free_port(), folder / "server.log"
    shell = ["bash", "-c", "exec " + line.replace("--port 8000", f"--port {port}")]
    with log.open("wb") as output:
        process = subprocess.Popen(
            shell, cwd=folder, env=environment(), stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        server, deadline = Server(port, folder), time.monotonic() + WAIT_S
        while not _answers(server):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{line}\n{log.read_text()[-3000:]}")
            time.sleep(0.5)
        yield server
    finally:
        for sent in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, sent)  # a training is a process of its own, in the same group
            with suppress(subprocess.TimeoutExpired):
                process.wait(20)


def _answers(server: Server) -> bool:
    try:
        server.call("GET", "/info/")
    except OSError:
        return False
    return True
