"""Labels that the teacher of a run draws of cases that count as unlabelled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from dcd_components.bundle.configs import READING, read_configs
from dcd_components.data.case_files import LABEL
from dcd_components.data.datalists import read_datalist, write_datalist
from dcd_components.data.masks import mask_path
from dcd_components.errors import InputError
from dcd_components.study.plan import TEACHER, Run, Study


def draw_labels(
    study: Study, run: Run, dataset_dir: Path, datalist: Path, folder: Path, teacher: Path, call: Callable[..., None]
) -> Path:
    """Have the teacher segment the cases of ``run.drawn_folds``, and list all cases, these with its masks as labels.

    Labels that these cases may have are not looked at. A case whose mask is there already is not segmented again.

    Args:
        study: that the run belongs to.
        run: a student's.
        dataset_dir: folder of the patients.
        datalist: their list.
        folder: for the list and the masks.
        teacher: its weights.
        call: runs a workflow with overlays and settings.

    Returns:
        Path of the new list.

    Raises:
        InputError: for a fold without a case, and where the workflow fails.
    """
    listed = read_datalist(datalist)
    unlabelled = [{**case} for case in listed.cases if case["fold"] in run.drawn_folds]
    if empty := set(run.drawn_folds) - {case["fold"] for case in unlabelled}:
        raise InputError(f"{datalist} has no case in fold {', '.join(map(str, sorted(empty)))}, to be drawn")
    for case in unlabelled:
        case.pop(LABEL, None)
    masks, listing, drawn = (folder.absolute() / name for name in ("drawn", "unlabelled.json", "datalist.json"))
    for path in (listing, drawn):
        path.unlink(missing_ok=True)
    write_datalist(replace(listed, cases=unlabelled), listing)
    overlays = next(one.evaluation for one in study.runs if one.method == TEACHER and one.seed == run.seed)
    with READING:
        known = read_configs(study.bundle, ["inference", *overlays]).get()
    kept = {key: value for key, value in run.settings.items() if key.partition("::")[0] in known}
    paths = {"dataset_dir": dataset_dir, "datalist": listing, "ckpt_path": teacher, "output_dir": masks}
    call("segment", overlays, {**kept, **{name: path.absolute() for name, path in paths.items()}})
    labelled = [{**case, LABEL: str(mask_path(masks, case["case"]))} for case in unlabelled]
    others = [case for case in listed.cases if case["fold"] not in run.drawn_folds]
    write_datalist(replace(listed, cases=[*others, *labelled]), drawn)
    return drawn
