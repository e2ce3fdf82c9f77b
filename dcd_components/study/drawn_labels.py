"""Labels that the teacher of a run draws of cases that count as unlabelled."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from monai.bundle import ConfigParser

from dcd_components.bundle.configs import READING, read_configs
from dcd_components.bundle.running import workflow_files
from dcd_components.data.case_files import LABEL
from dcd_components.data.datalists import read_datalist, write_datalist
from dcd_components.data.masks import mask_path
from dcd_components.errors import InputError
from dcd_components.study.plan import Run, Study

if TYPE_CHECKING:
    from dcd_components.study.runner import Places


def draw_labels(study: Study, run: Run, places: Places, folder: Path, teacher: Path, call: Callable[..., None]) -> Path:
    """Have the teacher segment the cases of ``run.drawn_folds``, and list all cases, these with its masks as labels.

    Labels that these cases may have are not looked at. A case whose mask is there already is not segmented again.

    Args:
        study: that the run belongs to.
        run: a student's.
        places: of the patients and their list.
        folder: for the new list and the masks.
        teacher: weights of the seed's teacher.
        call: runs a workflow with overlays and settings.

    Returns:
        Path of the new list.

    Raises:
        InputError: for folds that the student is not trained on, that are held out, that its teacher has been trained
            on, or that have no case, and where the workflow fails.
    """
    _check_folds(study, run)
    listed = read_datalist(places.datalist)
    unlabelled = [{**case} for case in listed.cases if case["fold"] in run.drawn_folds]
    if empty := set(run.drawn_folds) - {case["fold"] for case in unlabelled}:
        raise InputError(f"{places.datalist} has no case in fold {_named(empty)}, of which masks are to be drawn")
    for case in unlabelled:
        case.pop(LABEL, None)
    masks, listing, drawn = (folder.absolute() / name for name in ("drawn", "unlabelled.json", "datalist.json"))
    for path in (listing, drawn):
        path.unlink(missing_ok=True)
    write_datalist(replace(listed, cases=unlabelled), listing)
    drawing = study.teacher_of(run)
    with READING:
        known = read_configs(study.bundle, ["inference", *drawing.evaluation]).get()
    kept = {key: value for key, value in drawing.settings.items() if key.partition("::")[0] in known}
    paths = {"dataset_dir": places.dataset_dir, "datalist": listing, "ckpt_path": teacher, "output_dir": masks}
    call("segment", drawing.evaluation, {**kept, **{name: path.absolute() for name, path in paths.items()}})
    labelled = [{**case, LABEL: str(mask_path(masks, case["case"]))} for case in unlabelled]
    others = [case for case in listed.cases if case["fold"] not in run.drawn_folds]
    write_datalist(replace(listed, cases=[*others, *labelled]), drawn)
    return drawn


def _check_folds(study: Study, run: Run) -> None:
    drawn, said = set(run.drawn_folds), f"the drawn_folds of {run.method}"
    trained, held_out = _folds(study, run)
    if trained is not None and (others := drawn - set(trained)):
        raise InputError(f"{said} must be among its train_folds, {sorted(trained)}: {_named(others)} is not")
    if others := drawn & held_out:
        raise InputError(f"{said} must not be among its val_folds and test_folds: {_named(others)} is")
    drawing = study.teacher_of(run)
    if drawing.is_given:
        return
    trained, held_out = _folds(study, drawing)
    if seen := drawn & set(trained) if trained is not None else drawn - held_out:
        raise InputError(f"{said} must be unknown to its teacher, whose train_folds have {_named(seen)}")


def _folds(study: Study, run: Run) -> tuple[list[int] | None, set[int]]:
    """Folds that a run is trained on, None for all others, and those that are held out."""
    with READING:
        parser = ConfigParser()
        parser.read_config([str(file) for file in workflow_files(run.workflow, study.bundle, run.training)])
        parser.update({**run.settings, "seed": run.seed})
        trained, *held_out = (parser.get_parsed_content(f"{kind}_folds") for kind in ("train", "val", "test"))
    return trained, {fold for folds in held_out for fold in folds}


def _named(folds: Collection[int]) -> str:
    return ", ".join(map(str, sorted(folds)))
