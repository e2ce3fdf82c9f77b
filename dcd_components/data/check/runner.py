"""Check every case of a data list, in processes, into a table from which an interrupted run goes on."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from functools import partial
from hashlib import blake2b
from os.path import normpath
from pathlib import Path

from tqdm import tqdm

from dcd_components.data.case_files import IMAGE, LABEL, Case, shown
from dcd_components.data.check.rules import RULES, CaseFiles, Finding, check_case, check_listing
from dcd_components.data.check.table import (
    CONTENTS,
    COPIES,
    LEAKS,
    SEPARATOR,
    UNKNOWN,
    VOXELS,
    Row,
    Table,
    list_faults,
    read_rows,
    summarise,
)
from dcd_components.data.datalists import DataList, read_datalist
from dcd_components.data.grids import times
from dcd_components.errors import InputError


@dataclass(frozen=True)
class Report:
    """What a run found: a row for each case as in the table, the number of faults, and a text for the terminal."""

    rows: Sequence[Row]
    faults: int
    summary: str


@dataclass(frozen=True)
class Task:
    """A case, its files, what its listing says of it, and a digest of all that its row depends on."""

    case: Case
    files: CaseFiles
    listing: Finding
    digest: str


def check_datalist(
    datalist: str | Path, dataset_dir: str | Path, out: str | Path | None = None, workers: int | None = None
) -> Report:
    """Read every file of every case of a data list, and say what is wrong with which.

    A case is in the table as soon as it is read. The next run reads only the cases that are not there, or whose entry,
    layout, file sizes or times of writing have changed. Scripts call this below ``if __name__ == "__main__"``, since
    two or more workers are new processes.

    Args:
        datalist: file that ``dcd datalist`` wrote.
        dataset_dir: folder that its paths start from.
        out: table to write, or to go on with; by default beside the data list, its name ending in ``_check.csv``.
        workers: processes, each of which holds one case; one per core by default.

    Raises:
        InputError: when the list or a folder is missing.
        InputError: when a worker dies, as for want of memory.
        InputError: for an unfit list, one without cases, no worker, or a table that is none of this check.
    """
    listed, root = read_datalist(datalist), Path(dataset_dir)
    path = Path(out) if out else Path(datalist).with_name(f"{Path(datalist).stem}_check.csv")
    workers = os.cpu_count() or 1 if workers is None else workers
    if workers < 1:
        raise InputError(f"workers must be at least 1, got {workers}")
    if not listed.cases:
        raise InputError(f"{datalist} lists no case")
    for folder, purpose in ((root, "that holds the cases"), (path.parent, "for the table")):
        if not folder.is_dir():
            raise InputError(f"no folder {folder} {purpose}")
    known = {row["digest"]: row for row in read_rows(path) if "digest" in row}
    tasks = _tasks(listed, root)
    table = Table(path, listed.labels, [row for digest, row in known.items() if digest in tasks])
    _check_all([task for digest, task in tasks.items() if digest not in known], workers, table.add)
    _compare_cases(table.rows, tasks)
    table.write()
    labelled = sum(LABEL in task.case for task in tasks.values())
    return Report(table.filled(), len(list_faults(table.rows)), summarise(table, labelled))


def _tasks(listed: DataList, root: Path) -> dict[str, Task]:
    """What is to be done, by digest; an entry that is repeated as it is comes once."""
    tasks = {}
    for case, listing in zip(listed.cases, check_listing(listed.cases), strict=True):
        paths = dict(zip(listed.sequences, case[IMAGE], strict=True))
        if LABEL in case:
            paths[LABEL] = case[LABEL]
        files = CaseFiles(str(root), paths, listed.reference, listed.resampled, listed.labels)
        stamps = [_stamp(root / file) for file in paths.values()]
        content = json.dumps([RULES, case, asdict(files), listing.faults, listing.warnings, stamps])
        digest = blake2b(content.encode(), digest_size=8).hexdigest()
        tasks[digest] = Task(case, files, listing, digest)
    return tasks


def _stamp(path: Path) -> tuple[int, int] | None:
    """Size and time of writing."""
    return (path.stat().st_size, path.stat().st_mtime_ns) if path.exists() else None


def _check_all(tasks: Sequence[Task], workers: int, add: Callable[[Row], None]) -> None:
    """Check cases in as many processes as there are workers, and hand on each row as it comes."""
    progress = partial(tqdm, total=len(tasks), desc="checked cases", unit="case")
    if min(workers, len(tasks)) <= 1:
        for task in progress(tasks) if tasks else ():
            add(_check(task))
        return
    # Ctrl-C reaches the workers too, and has to end them: Python's own handler would only fail the case in work.
    context, fatal = multiprocessing.get_context("spawn"), (signal.SIGINT, signal.SIG_DFL)
    with ProcessPoolExecutor(min(workers, len(tasks)), context, signal.signal, fatal) as pool:
        try:
            for future in progress(as_completed([pool.submit(_check, task) for task in tasks])):
                add(future.result())
        except BrokenProcessPool:
            advice = "go on with the same command and fewer --workers"
            raise InputError(f"a worker died, maybe for want of memory: {advice}") from None
        finally:
            pool.shutdown(cancel_futures=True)


def _check(task: Task) -> Row:
    """Row of a case, without its empty cells."""
    found, case = check_case(task.files), task.case
    row = {
        **{key: str(case[key]) for key in ("case", "patient", "fold")},
        "shape": times(found.grid.shape) if found.grid else "",
        "spacing_mm": times(found.grid.spacing_mm) if found.grid and found.grid.placed else "",
        **{VOXELS + name: str(number) for name, number in found.voxels.items()},
        "warnings": SEPARATOR.join(task.listing.warnings + found.warnings),
        "faults": SEPARATOR.join(task.listing.faults + found.faults),
        CONTENTS: " ".join(found.contents.get(key, UNKNOWN) for key in task.files.paths if key != LABEL),
        "digest": task.digest,
    }
    return {key: text for key, text in row.items() if text}


def _compare_cases(rows: Sequence[Row], tasks: Mapping[str, Task]) -> None:
    """Say of each image whether another case has the same: a fault where their folds differ, else a warning.

    An image that a list names twice is a fault of the list, and is left out.
    """
    holders = defaultdict[str, list[tuple[Case, str]]](list)
    for row in sorted(rows, key=lambda row: row["case"]):
        for content, case, path in _contents(row, tasks):
            holders[content].append((case, path))
    for row in rows:
        found = defaultdict[str, list[str]](list)
        for content, case, path in _contents(row, tasks):
            others = [(other, same) for other, same in holders[content] if _differ(case, path, other, same)]
            if others:
                other, same = next((one for one in others if one[0]["fold"] != case["fold"]), others[0])
                text = f"{shown(path)}: has the same voxels as {shown(same)} of fold {other['fold']}"
                found[COPIES if other["fold"] == case["fold"] else LEAKS].append(text)
        for cell in (COPIES, LEAKS):
            row.pop(cell, None)
        row.update({cell: SEPARATOR.join(texts) for cell, texts in found.items()})


def _contents(row: Row, tasks: Mapping[str, Task]) -> list[tuple[str, Case, str]]:
    """Digest, case and path of each image of a row that could be read."""
    case = tasks[row["digest"]].case
    contents = zip(row[CONTENTS].split(), case[IMAGE], strict=True)
    return [(content, case, path) for content, path in contents if content != UNKNOWN]


def _differ(case: Case, path: str, other: Case, same: str) -> bool:
    return bool(case["case"] != other["case"] and normpath(path) != normpath(same))
