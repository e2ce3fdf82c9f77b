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
from dcd_components.data.case_files import CASE, Layout
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
FEWEST = 3  # folds


def bundle_from_nnunet(
    result_folder: Path, name: str, parent: Path, folds: Sequence[int | str] = (), splits: Path | None = None
) -> tuple[Path, list[Path]]:
    """Write a bundle, or nothing.

    Args:
        result_folder: of the teacher, which nnU-Net calls ``TRAINER__PLANS__CONFIGURATION``.
        name: of the bundle.
        parent: folder for it.
        folds: of the teachers, see :func:`.read_result_folder`; the first one's alone by default.
        splits: nnU-Net's ``splits_final.json``, so that the folds are those of the teacher's training.

    Returns:
        The bundle's folder, and the teachers' checkpoints.

    Raises:
        InputError: for a folder that is taken, a result folder of what is not written here, and weights that do not
            fit.
    """
    import_module(PLACE)  # or it ends here, with what to install
    folder = free_folder(name, parent)
    chosen: list[int | str | None] = [*folds] or [None]
    result, *further = [read_result_folder(result_folder, fold) for fold in chosen]
    if len({one.path for one in (result, *further)}) <= len(further):
        raise InputError(f"folds must be different ones, got {', '.join(map(str, folds))}")
    table = _folds(splits, result) if splits else {}
    with TemporaryDirectory(prefix=f".{name}-", dir=parent) as hidden:
        built = Path(hidden) / name
        write_files(built, task_of(result, max(table.values(), default=None), further))
        _write_teacher(built, result, TEACHER)
        for one in further:
            _write_teacher(built, one, _further(one))
        if table:
            _write_table(built, table)
        built.rename(folder)
    return folder, [one.path for one in (result, *further)]


def task_of(result: ResultFolder, last_fold: int | None = None, further: Sequence[ResultFolder] = ()) -> Task:
    """What the bundle of a result folder segments, and how.

    Args:
        result: the result folder.
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
    return Task(_layout(result), spacing, patch_size, nnunet)


def _layout(result: ResultFolder) -> Layout:
    """Files as nnU-Net names them, in a raw data set or a folder of images alone."""
    sequences = {name: f"{CASE}_{channel:04d}{ENDING}" for channel, name in enumerate(result.channels)}
    return plan_layout(result.channels, result.labels, sequences=sequences, label_file=f"labelsTr/{CASE}{ENDING}")


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


def _folds(splits: Path, result: ResultFolder) -> dict[str, int]:
    """Fold by case: the one whose validation it is in."""
    try:
        content = json.loads(splits.read_text(encoding="utf-8"))
        tested = [(str(case), fold) for fold, split in enumerate(content) for case in split["val"]]
        cases = {str(case) for split in content for case in (*split["train"], *split["val"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{splits} must be a splits_final.json of nnU-Net: {error!r}") from None
    folds = dict(tested)
    if len(folds) < len(tested) or {*folds} != cases:
        raise InputError(f"{splits} must have every case in the validation of one fold")
    if len({*folds.values()}) < FEWEST:
        raise InputError(f"{splits} must have at least {FEWEST} folds: to train, to choose the checkpoint, to score")
    if result.fold is not None and result.fold not in folds.values():
        raise InputError(f"{splits} has no fold {result.fold}, of which the teacher is")
    return folds


def _write_table(bundle: Path, folds: Mapping[str, int]) -> None:
    with (bundle / PATIENTS).open("w", encoding="utf-8", newline="") as file:
        rows: list[Sequence[Any]] = [("case", "patient", "fold"), *((case, case, fold) for case, fold in folds.items())]
        csv.writer(file, lineterminator="\n").writerows(rows)
