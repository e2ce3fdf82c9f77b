"""What the benchmark of inference measures: which bundle, patches, cases and weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from torch import Tensor

from dcd_components.bundle.configs import read_configs
from dcd_components.deploy import runtimes
from dcd_components.deploy.calibration import PATCHES
from dcd_components.errors import InputError

#: Settings of the student alone, and how its overlays' names end.
STUDENT_KEYS, STUDENT_OVERLAY = frozenset({"widths", "network_def"}), "_student"
#: Share of the axes of a case that the brain takes: in a scan of BraTS 2023, 140 x 190 x 137 of 240 x 240 x 155 voxels.
BRAIN = (0.58, 0.79, 0.88)


@dataclass(frozen=True)
class Setting:
    """What is measured.

    Args:
        bundle: folder of the bundle.
        overlays: its configs on top of ``inference``, by name, such as ``quick``.
        settings: of its configs: ``patch_size``; ``ckpt_path``, the student's weights; ``dataset_dir`` and what else
            says which cases train and which are held out.
        case_size: voxels of a whole case along the axes.
    """

    bundle: Path
    overlays: Sequence[str] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    case_size: Sequence[int] = (240, 240, 155)

    def __post_init__(self) -> None:
        """Raise a ``InputError`` for cases without weights, whose Dice would say nothing."""
        if "dataset_dir" in self.settings and not self.scored:
            raise InputError("Dice wants trained weights: name them with ckpt_path, or leave out dataset_dir")

    @property
    def scored(self) -> bool:
        """Whether there are weights and cases, for Dice."""
        return {"ckpt_path", "dataset_dir"} <= self.settings.keys()

    @property
    def has_long_windows(self) -> bool:
        """Whether the bundle has that overlay; one with nnU-Net's windows has not."""
        return any((self.bundle / "configs").glob("long_windows.*"))

    def parser(self, *configs: str) -> ConfigParser:
        """Configs of the bundle, by name, with the overlays and settings, on the CPU."""
        parser = read_configs(self.bundle, (*configs, *self.overlays))
        parser.update({"device": "$torch.device('cpu')", **self.settings})
        return parser

    def teacher(self, *configs: str) -> ConfigParser:
        """The same of the teacher's inference, with further configs: without what changes the student alone."""
        overlays = [name for name in self.overlays if not name.endswith(STUDENT_OVERLAY)]
        settings = {key: value for key, value in self.settings.items() if key.partition("::")[0] not in STUDENT_KEYS}
        return replace(self, overlays=overlays, settings=settings).parser("inference", "teacher", *configs)

    def note(self) -> str:
        """The patch, the case, what is left out and what int8 was calibrated on, as sentences."""
        patch = " x ".join(map(str, self.parser("inference").get_parsed_content("patch_size")))
        lacking = {name for one in runtimes.NEEDS for name in runtimes.missing_packages(one)}
        absent = f" Left out, since not installed: what needs {', '.join(sorted(lacking))}." if lacking else ""
        if self.scored:
            data = f"int8 is calibrated on {PATCHES} patches of training cases; Dice is the student's on held-out ones."
        else:
            data = "int8 is calibrated on noise, so it counts for time alone; Dice was not measured."
        size = " x ".join(map(str, self.case_size))
        box = " x ".join(f"{share:.0%}" for share in BRAIN)
        case = f"a case of {size} voxels with a brain of {box}, in at most three rounds, one where it takes a minute"
        return f"Patches of {patch}, {case}; on the CPU. {data}{absent}"


def brain(channels: int, size: Sequence[int]) -> Tensor:
    """Noise within an ellipsoid amid a case, and 0 beyond: ``(1, channels, *size)``."""
    axes = [torch.linspace(-1 / share, 1 / share, length) for share, length in zip(BRAIN, size, strict=True)]
    inside = sum(axis.square() for axis in torch.meshgrid(*axes, indexing="ij")) <= 1
    return torch.randn(1, channels, *size) * inside
