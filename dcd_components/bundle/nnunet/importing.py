"""A bundle whose teacher is a network that nnU-Net has trained, and whose student has nnU-Net's steps.

``dcd from_nnunet`` calls :func:`bundle_from_nnunet`.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from dcd_components.bundle.configs import read_configs
from dcd_components.bundle.new_bundles import free_folder, plan_layout
from dcd_components.bundle.nnunet.result_folder import ENDING, ResultFolder, read_result_folder
from dcd_components.bundle.templates import PATIENTS, Nnunet, Task, write_files
from dcd_components.data.case_files import CASE, Layout, unnamed
from dcd_components.data.datalists import patient_folds
from dcd_components.errors import InputError
from dcd_components.networks.nnunet import ARCHITECTURES, PLACE, numbers_allowed
from dcd_components.networks.weights import read_weights, save_weights

#: Arguments of the network as configs write them, beside those of the plans.
ARGUMENTS = {
    "conv_op": "$torch.nn.Conv3d",
    "conv_bias": True,
    "norm_op": "$torch.nn.InstanceNorm3d",
    "norm_op_kwargs": {"eps": 1e-5, "affine": True},
    "nonlin": "$torch.nn.LeakyReLU",
    "nonlin_kwargs": {"inplace": True},
}
TEACHER = "models/teacher/model.pt"
FEWEST = 3  # folds: to train, to choose the checkpoint, to score
FOLDS = 5  # where one split is divided further


def bundle_from_nnunet(
    result_folder: Path,
    name: str,
    parent: Path,
    folds: Sequence[int | str] = (),
    splits: Path | None = None,
    patient_regex: str | None = None,
    patients: Path | None = None,
    checkpoint: str | None = None,
) -> tuple[Path, list[ResultFolder], list[str]]:
    """Write a bundle, or nothing.

    Args:
        result_folder: of the teacher, which nnU-Net calls ``TRAINER__PLANS__CONFIGURATION``.
        name: of the bundle.
        parent: folder for it.
        folds: of the teachers, see :func:`.read_result_folder`; the first one's alone by default.
        splits: nnU-Net's ``splits_final.json``, so that the folds are those of the teacher's training.
        patient_regex: whose first group is the patient in a case's name; by default each case is one.
        patients: table that names the patient of each case of the splits instead, see :func:`.read_patients`.
        checkpoint: its file's name, see :func:`.read_result_folder`.

    Returns:
        The bundle's folder, what was read of each teacher, and remarks for who reads the bundle.

    Raises:
        InputError: for a folder that is taken, a result folder of what is not written here, and weights that do not
            fit.
    """
    import_module(PLACE)  # or it ends here, with what to install
    folder = free_folder(name, parent)
    chosen: list[int | str | None] = [*folds] or [None]
    result, *further = teachers = [read_result_folder(result_folder, fold, checkpoint) for fold in chosen]
    if len({one.path for one in teachers}) < len(teachers):
        raise InputError(f"folds must be different ones, got {', '.join(map(str, folds))}")
    if patients and (patient_regex or not splits):
        raise InputError("--patients needs --splits and no --patient_regex; without splits, give it to dcd datalist")
    layout = _layout(result, patient_regex=patient_regex, patients=patients)
    table, remarks = _folds(splits, result.fold, layout) if splits else ({}, [])
    with TemporaryDirectory(prefix=f".{name}-", dir=parent) as hidden:
        built = Path(hidden) / name
        write_files(built, task_of(result, layout, max(table.values(), default=None), further))
        _write_teacher(built, result, TEACHER)
        for one in further:
            _write_teacher(built, one, _further(one))
        if table:
            _write_table(built, table, layout)
        built.rename(folder)
    return folder, teachers, [*result.remarks, *remarks]


def task_of(
    result: ResultFolder, layout: Layout, last_fold: int | None = None, further: Sequence[ResultFolder] = ()
) -> Task:
    """What the bundle of a result folder segments, and how.

    Args:
        result: the result folder.
        layout: of its files.
        last_fold: of ``splits_final.json``, where it is known.
        further: the same of other folds, whose networks are teachers too.
    """
    configuration, (kind, arguments) = result.configuration, result.network
    outputs, kernels = result.outputs, _by_axis(arguments["kernel_sizes"])
    spacing, patch_size = [*map(float, configuration["spacing"])], [*map(int, configuration["patch_size"])]
    plan = {
        "transpose": [*result.plans["transpose_forward"]],
        "spacing": spacing,
        "patch_size": patch_size,
        "normalization": [*configuration["normalization_schemes"]],
        "masked": [bool(one) for one in configuration["use_mask_for_norm"]],
        "intensities": result.intensities,
        "painted": result.painted,
        "region_labels": outputs if result.has_regions else {},
        "strides": _by_axis(arguments["strides"]),
        "kernel_size": kernels,
        "student_class": "DynUNet" if len({*map(tuple, kernels)}) == 1 else "dcd_components.NnunetUNet",
        "reader": result.plans["image_reader_writer"],
        "mirror_axes": [*(result.checkpoint.get("inference_allowed_mirroring_axes") or ())],
    }
    count = len(outputs) if result.has_regions else 1 + len(outputs)
    teacher = {
        "_target_": ARCHITECTURES[kind],
        "input_channels": len(result.channels),
        "num_classes": count,
        **arguments,
        **ARGUMENTS,
    }
    places = [*map(_further, further)]
    nnunet = Nnunet(plan, teacher, arguments["features_per_stage"], outputs, result.fold, last_fold, places)
    return Task(layout, spacing, patch_size, nnunet)


def _layout(result: ResultFolder, **patients: Any) -> Layout:
    """Files as nnU-Net names them, in a raw data set or a folder of images alone."""
    sequences = {name: f"{CASE}_{channel:04d}{ENDING}" for channel, name in enumerate(result.channels)}
    label_file = f"labelsTr/{CASE}{ENDING}"
    return plan_layout(result.channels, result.labels, sequences=sequences, label_file=label_file, **patients)


def _by_axis(values: Sequence[int | Sequence[int]]) -> list[list[int]]:
    return [[one] * 3 if isinstance(one, int) else [*one] for one in values]


def _further(result: ResultFolder) -> str:
    """Place of the weights of a further teacher in a bundle."""
    return f"models/teacher/{result.path.parent.name}.pt"


def _write_teacher(bundle: Path, result: ResultFolder, place: str) -> None:
    """Write the weights, which must fit the network of the bundle's config."""
    parser = read_configs(bundle, ["inference", "teacher"])
    with numbers_allowed():
        weights = read_weights(parser.get_parsed_content("teacher_def"), result.path)
    path = bundle / place
    path.parent.mkdir(exist_ok=True)
    save_weights(weights, path, parser.get_parsed_content("trained_on"))


def _folds(splits: Path, fold: int | None, layout: Layout) -> tuple[dict[str, int], list[str]]:
    """Fold by case: the one whose validation it is in, of a cross-validation; of other splits as :func:`_parted` says.

    Args:
        splits: nnU-Net's ``splits_final.json``.
        fold: of the teacher; None for one of all cases.
        layout: by which a case's name says its patient.
    """
    try:
        content = json.loads(splits.read_text(encoding="utf-8"))
        parts = [([str(case) for case in split["train"]], [str(case) for case in split["val"]]) for split in content]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{splits} must be a splits_final.json of nnU-Net: {error!r}") from None
    if fold is not None and fold >= len(parts):
        raise InputError(f"{splits} has no fold {fold}, of which the teacher is")
    cases = {case for part in parts for several in part for case in several}
    if nameless := sorted(case for case in cases if not layout.patient_of(case)):
        raise InputError(f"{splits}: {nameless[0]}: {unnamed(layout)}")
    folds = {case: number for number, (_, val) in enumerate(parts) for case in val}
    once = len(folds) == sum(len(val) for _, val in parts) and all(val for _, val in parts)
    if once and {*folds} == cases and len(parts) >= FEWEST:
        return folds, []
    if fold is None:
        said = f"must have every case in the validation of one fold, and at least {FEWEST} folds"
        raise InputError(f"{splits} {said}, where the teacher was trained on all cases")
    parted = _parted(splits, fold, *parts[fold], layout)
    others = ", ".join(map(str, sorted({*parted.values()} - {fold})))
    said = f"is no cross-validation of at least {FEWEST} folds: what its fold {fold} trained on is divided into folds"
    return parted, [f"{splits} {said} {others}"]


def _parted(splits: Path, fold: int, train: Sequence[str], val: Sequence[str], layout: Layout) -> dict[str, int]:
    """Fold by case of one split alone: that of the split for its validation, others of whole patients for the rest."""
    if not val or {*train} & {*val}:
        raise InputError(f"{splits} must have cases in the validation of fold {fold} that are not in its training")
    patients = [{"patient": layout.patient_of(case)} for case in train]
    number = min(FOLDS - 1, len({one["patient"] for one in patients}))
    if number < FEWEST - 1:
        raise InputError(f"{splits} must have at least {FEWEST - 1} patients in the training of fold {fold}")
    others = [other for other in range(FOLDS) if other != fold]
    assigned = [others[one] for one in patient_folds(patients, number, seed=0)]
    return {**dict.fromkeys(val, fold), **dict(zip(train, assigned, strict=True))}


def _write_table(bundle: Path, folds: Mapping[str, int], layout: Layout) -> None:
    with (bundle / PATIENTS).open("w", encoding="utf-8", newline="") as file:
        rows: list[Sequence[Any]] = [(case, layout.patient_of(case), fold) for case, fold in folds.items()]
        csv.writer(file, lineterminator="\n").writerows([("case", "patient", "fold"), *rows])
