"""The result folder of an nnU-Net v2 training: what its plans and its data set say, in current and older forms."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

from dcd_components.bundle.new_bundles import TAKEN
from dcd_components.bundle.task_checks import check_task
from dcd_components.data.case_files import RESERVED
from dcd_components.data.nnunet_plan import SCHEMES, STATISTICS, NnunetPlan
from dcd_components.errors import InputError
from dcd_components.files import read_json
from dcd_components.networks.nnunet import architecture, read_checkpoint

CHECKPOINTS = ("checkpoint_final.pth", "checkpoint_best.pth")
TRAINER = "nnUNetTrainer"
#: What plans say of steps that are written here, and the only values of it that are.
KNOWN = {
    "preprocessor_name": "DefaultPreprocessor",
    **{f"resampling_fn_{what}": "resample_data_or_seg_to_shape" for what in ("data", "seg", "probabilities")},
    "resampling_fn_data_kwargs": {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None},
    "resampling_fn_seg_kwargs": {"is_seg": True, "order": 1, "order_z": 0, "force_separate_z": None},
    "resampling_fn_probabilities_kwargs": {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None},
}
LABEL_MANAGER = "LabelManager"
READERS = ("SimpleITKIO", "NibabelIO")
BACKGROUND, IGNORED = "background", "ignore"
ENDING = ".nii.gz"


@dataclass(frozen=True)
class ResultFolder:
    """A network that nnU-Net has trained, and what it needs.

    Args:
        folder: with ``plans.json``, ``dataset.json`` and a folder for each fold.
        dataset: content of ``dataset.json``.
        plans: content of ``plans.json``.
        configuration: of the plans, with what it inherits.
        name: of the configuration.
        path: of the fold's checkpoint.
        checkpoint: its content, without weights and optimizer.
    """

    folder: Path
    dataset: Mapping[str, Any]
    plans: Mapping[str, Any]
    configuration: Mapping[str, Any]
    name: str
    path: Path
    checkpoint: Mapping[str, Any]

    @property
    def fold(self) -> int | None:
        """Whose cases the network has not seen; None for a network of all cases."""
        number = self.path.parent.name.removeprefix("fold_")
        return int(number) if number.isdecimal() else None

    @property
    def remarks(self) -> list[str]:
        """What to mind of a network whose trainer is another class than nnU-Net's usual one."""
        trainer = self.checkpoint["trainer_name"]
        if trainer == TRAINER:
            return []
        return [
            f"trained by {trainer}, whose code is not read: if it changes the network as plans.json does not say, such "
            "as by another activation, masks differ from nnU-Net's. Compare one"
        ]

    @property
    def channels(self) -> list[str]:
        """Names of the channels, in their order, as names that configs can hold."""
        named = self.dataset.get("channel_names") or self.dataset.get("modality") or {}
        return _words([str(named[str(number)]) for number in range(len(named))], "channel", range(len(named)))

    @property
    def outputs(self) -> dict[str, list[int]]:
        """Labels that each output of the network stands for, by its name, in their order; without the background."""
        named = [(name, value) for name, value in self.dataset["labels"].items() if name != IGNORED]
        found = [(name, [*map(int, value)] if isinstance(value, list) else [int(value)]) for name, value in named]
        found = [(name, values) for name, values in found if {*values} != {0}]
        names, values = [name for name, _ in found], [several for _, several in found]
        regions = self.has_regions
        numbers = range(1, len(names) + 1) if regions else [one for several in values for one in several]
        return dict(zip(_words(names, "region" if regions else "label", numbers), values, strict=True))

    @property
    def has_regions(self) -> bool:
        """Whether outputs are regions of several labels, which may overlap."""
        return any(isinstance(value, list) and len(value) > 1 for value in self.dataset["labels"].values())

    @property
    def labels(self) -> dict[str, int]:
        """Values of the labels by name; of one that only regions of several name, by its number."""
        single = {values[0]: name for name, values in self.outputs.items() if len(values) == 1}
        values = sorted({value for several in self.outputs.values() for value in several})
        words = _words([single.get(value, f"label_{value}") for value in values], "label", values)
        return dict(zip(words, values, strict=True))

    @property
    def painted(self) -> list[int] | None:
        """Label that each region paints in the mask."""
        return [int(label) for label in self.dataset["regions_class_order"]] if self.has_regions else None

    @property
    def intensities(self) -> dict[str, dict[str, float]]:
        """Statistics of the channels that are normalised as CT."""
        # The second is of older plans.
        named = (f"foreground_intensity_properties_{by}" for by in ("per_channel", "by_modality"))
        known: Mapping[str, Any] = next((self.plans[name] for name in named if name in self.plans), {})
        schemes = enumerate(self.configuration["normalization_schemes"])
        return {
            str(channel): {key: float(known[str(channel)][key]) for key in STATISTICS}
            for channel, scheme in schemes
            if scheme == "CTNormalization"
        }

    @cached_property
    def network(self) -> tuple[str, dict[str, Any]]:
        """Name and arguments of the network, see :func:`.architecture`."""
        return architecture(self.configuration)


def read_result_folder(folder: Path, fold: int | str | None = None, checkpoint: str | None = None) -> ResultFolder:
    """Read a result folder, the one that nnU-Net calls ``TRAINER__PLANS__CONFIGURATION``.

    Args:
        folder: the result folder.
        fold: whose network is read; ``all`` for that of all cases; the first one by default.
        checkpoint: name of its file; the final one by default, or else the best.

    Raises:
        InputError: for what is missing, and what of nnU-Net is not written here: networks for slices, cascades, other
            preprocessors, readers, resamplings and networks, and labels to ignore.
    """
    for name in ("plans.json", "dataset.json"):
        if not (folder / name).is_file():
            raise InputError(f"{folder / name}: missing, expected the result folder of an nnU-Net v2 training")
    plans, dataset = (read_json(folder / name) for name in ("plans.json", "dataset.json"))
    content = read_checkpoint(path := _checkpoint(folder, fold, (checkpoint,) if checkpoint else CHECKPOINTS))
    kept = {key: value for key, value in content.items() if key not in ("network_weights", "optimizer_state")}
    try:
        name = str(content["init_args"]["configuration"])
        found = ResultFolder(folder, dataset, plans, _configuration(plans, name), name, path, kept)
        if wrong := next(chain(_other_steps(found), _other_labels(found)), None):
            raise InputError(wrong)
        _check_numbers(found)
    except InputError as error:
        raise InputError(f"{folder}: {error}") from None
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        said = "plans.json and dataset.json are not as nnU-Net v2 writes them"
        raise InputError(f"{folder}: {said}: {error!r}") from None
    return found


def _checkpoint(folder: Path, fold: int | str | None, names: Sequence[str]) -> Path:
    """The first of these that a fold has; by default of the first fold that has one, that of all cases last."""
    there = {path.parent.name: path for name in reversed(names) for path in folder.glob(f"fold_*/{name}")}
    if fold is None and there:
        return there[min(there, key=lambda name: (not name[5:].isdecimal(), len(name), name))]  # 2 is before 10
    if (wanted := f"fold_{0 if fold is None else fold}") not in there:
        others = f", only in {', '.join(sorted(there))}" if there else ""
        raise InputError(f"{folder} has no {names[0]} in {wanted}{others}")
    return there[wanted]


def _configuration(plans: Mapping[str, Any], name: str) -> dict[str, Any]:
    several = plans["configurations"]
    if name not in several:
        raise InputError(f"plans.json has no configuration {name}, only {', '.join(several)}")
    own = dict(several[name])
    return _configuration(plans, own["inherits_from"]) | own if "inherits_from" in own else own


def _other_steps(found: ResultFolder) -> Iterator[str]:
    """Steps of nnU-Net that are not written here."""
    configuration, axes = found.configuration, len(found.configuration["patch_size"])
    if axes != 3:
        yield f"configuration {found.name} is of {axes}D patches, expected 3D"
    if configuration.get("previous_stage"):
        yield f"configuration {found.name} is a stage of a cascade, expected a network that needs images alone"
    if found.plans["image_reader_writer"] not in READERS or found.dataset["file_ending"] != ENDING:
        said = f"{found.dataset['file_ending']} read by {found.plans['image_reader_writer']}"
        yield f"images are {said}, expected {ENDING} read by {' or '.join(READERS)}"
    if (manager := found.plans.get("label_manager", LABEL_MANAGER)) != LABEL_MANAGER:
        yield f"label_manager is {manager}, expected {LABEL_MANAGER}"
    for key, value in KNOWN.items():
        if configuration[key] != value:
            yield f"{key} is {configuration[key]!r}, expected {value!r}"
    if unknown := [scheme for scheme in configuration["normalization_schemes"] if scheme not in SCHEMES]:
        yield f"normalization scheme {unknown[0]}, expected one of {', '.join(SCHEMES)}"
    if (number := len(configuration["normalization_schemes"])) != len(found.channels):
        yield f"normalization_schemes are of {number} channels, dataset.json has {len(found.channels)}"


def _other_labels(found: ResultFolder) -> Iterator[str]:
    """Labels with which no student can be trained, and regions that cannot be painted."""
    if IGNORED in found.dataset["labels"]:
        yield "dataset.json has a label to ignore, with which no student can be trained yet"
    values = [*found.labels.values()]
    if values != [*range(1, len(values) + 1)]:
        yield f"labels must be 0, 1, 2 and so on, got {values}"
    if not values:
        yield "dataset.json has no label but the background"
    if found.has_regions and len(found.painted or []) != len(found.outputs):
        yield f"regions_class_order must have a label for each of {', '.join(found.outputs)}"
    if not {*(found.painted or [])} <= {*values}:
        yield f"regions_class_order must be among {', '.join(map(str, values))}, got {found.painted}"


def _check_numbers(found: ResultFolder) -> None:
    """Refuse what no network has been trained with."""
    configuration, (_, arguments) = found.configuration, found.network
    spacing, schemes = configuration["spacing"], configuration["normalization_schemes"]
    masked, order = configuration["use_mask_for_norm"], found.plans["transpose_forward"]
    NnunetPlan(spacing, schemes, masked, found.intensities, order, found.painted)
    for key in ("kernel_sizes", "strides"):
        if not isinstance(arguments[key], list):
            raise InputError(f"{key} of plans.json must have one for each stage, got {arguments[key]}")
    for key, value in arguments.items():
        wanted = arguments["n_stages"] - key.endswith("_decoder")
        if isinstance(value, Sequence) and len(value) != wanted:
            raise InputError(f"{key} of plans.json must be of {wanted} stages, got {value}")
    check_task(
        spacing, configuration["patch_size"], arguments["strides"], arguments["features_per_stage"], found.labels
    )


def _words(names: Sequence[str], kind: str, numbers: Sequence[int]) -> list[str]:
    """Names as words of letters, digits, _ and -, all different and none that a case uses for something else.

    Those that cannot be are numbered; all are where two would be the same.
    """
    words = [re.sub(r"[^A-Za-z0-9_-]+", "_", name).strip("_") for name in names]
    fits = [bool(re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", word)) and word not in {*RESERVED, *TAKEN} for word in words]
    numbered = [f"{kind}_{number}" for number in numbers]
    several = [word if fit else number for word, fit, number in zip(words, fits, numbered, strict=True)]
    return several if len({*several}) == len(several) else numbered
