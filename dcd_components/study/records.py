"""What is kept of a run: by what it is known again, and whether it has ended."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from dcd_components.bundle.running import workflow_files
from dcd_components.data.datalists import read_datalist
from dcd_components.errors import InputError
from dcd_components.files import read_json
from dcd_components.study.plan import Run, Study

#: What a record must hold, for the report.
KEYS = ("settings", "cases", "weights", "course", "parameters", "gmac", "machine", "commits")


def settings_of(study: Study, run: Run) -> dict[str, Any]:
    """What a study says of a run: settings by key, and the overlays with digests of what they say."""
    files = {path.stem: path for path in workflow_files(run.workflow, study.bundle, run.training)}
    overlays = {name: _digest(yaml.safe_load(files[name].read_text(encoding="utf-8"))) for name in run.training}
    said = {"bundle": study.bundle.name, "workflow": run.workflow, "overlays": overlays, **run.settings}
    said |= {"drawn_folds": run.drawn_folds} if run.drawn_folds else {}  # older records do not have it
    return dict(json.loads(json.dumps(said)))


def edited_overlays(study: Study, run: Run, record: Mapping[str, Any]) -> list[str]:
    """Overlays that say something else now than when a run was made; what else was changed, the commits tell."""
    now = settings_of(study, run)["overlays"]
    return [name for name, digest in record["settings"]["overlays"].items() if now[name] != digest]


def cases_digest(datalist: Path) -> str:
    """Digest of the cases of a data list and of their folds."""
    return _digest([[case["case"], case["patient"], case["fold"]] for case in read_datalist(datalist).cases])


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def read_record(study: Study, run: Run, cases: str | None = None) -> dict[str, Any] | None:
    """Record of a run that has ended; None for one that has not.

    Args:
        study: that it belongs to.
        run: whose record is read.
        cases: digest of the data list that it must be of; any by default.

    Raises:
        InputError: for a file that is no record, and one of other settings, overlays or cases than the study's; see
            :func:`difference`.
    """
    path = study.results / f"{run.name}.json"
    if not path.is_file() or not path.with_suffix(".csv").is_file():
        return None
    record = read_json(path)
    if missing := [key for key in KEYS if key not in record]:
        raise InputError(f"{path} is no record of a run, it lacks {missing[0]}: take it away")
    now = {**settings_of(study, run), **({"cases": cases} if cases else {})}
    then = {**record["settings"], **({"cases": record["cases"]} if cases else {})}
    if other := difference(then, now):
        raise InputError(f"{path} was run with {other}: take it and {run.name}.csv away, or call the method otherwise")
    return record


def list_runs(study: Study) -> str:
    """A line for each run: its number, its method, its seed, and whether it has ended."""
    width = max(len(run.method) for run in study.runs)
    lines = [f"index  {'method':{width}}  seed"]
    for index, run in enumerate(study.runs):
        state = "missing" if read_record(study, run) is None else "ended"
        lines.append(f"{index:>5}  {run.method:{width}}  {run.seed:>4}  {state}")
    return "\n".join(lines)


def difference(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Say what is another setting than before; nothing where none is.

    Overlays are compared by name: like the bundle's configs they may be edited without being another method.
    """
    before, after = _named(then), _named(now)
    keys = sorted(key for key in {*before, *after} if before.get(key) != after.get(key))
    return f"another {keys[0]}, {before.get(keys[0])}, than is said now, {after.get(keys[0])}" if keys else ""


def _named(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {**settings, "overlays": [*settings["overlays"]]} if "overlays" in settings else dict(settings)
