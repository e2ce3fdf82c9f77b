"""Runs of bundles in one process or, as a program under torchrun, in several; each keeps its weights."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, TypedDict

import ignite.distributed as idist
import torch
from monai.bundle import ConfigWorkflow


class Job(TypedDict):
    """A run: the files of its config, what overrides them, and where to keep what was trained."""

    files: list[str]
    settings: dict[str, Any]
    weights: str | None


def run(job: Job) -> None:
    kind = "train" if job["weights"] else "infer"
    flow = ConfigWorkflow(job["files"], workflow_type=kind, logging_file=False, **job["settings"])
    flow.initialize()
    flow.run()
    if job["weights"]:
        group = flow.parser.get_parsed_content("optimizer").param_groups[0]
        torch.save(group["params"], f"{job['weights']}-{idist.get_rank()}.pt")


def main(path: str) -> None:
    idist.initialize("gloo")
    for job in json.loads(Path(path).read_text()):
        run(job)


if __name__ == "__main__":
    main(sys.argv[1])
