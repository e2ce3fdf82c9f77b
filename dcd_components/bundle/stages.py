"""Which stages of a bundle's two networks can be compared, as a table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate
from torch import nn

from dcd_components.bundle.configs import read_configs
from dcd_components.networks.stage_pairs import StageMap, encoder_stages, stage_maps


def stages_of(bundle: Path, overlays: Sequence[str] = ()) -> str:
    """List the maps of student and teacher, by a pass without values and so without weights, and propose pairs.

    Args:
        bundle: its folder.
        overlays: names of configs that lie over the distillation.

    Returns:
        A table of each network's modules, with the number of the pair that ``stages: auto`` makes of an encoder's
        stage, or a dash where the other has none of its size; and the pairs.
    """
    parser = read_configs(bundle, ["distill", *overlays])
    student, teacher = (parser.get_parsed_content(key) for key in ("network_def", "teacher_def"))
    shape = [len(parser["sequences"]), *parser.get_parsed_content("patch_size")]
    maps = [stage_maps(network, shape) for network in (student, teacher)]
    ours, theirs = map(encoder_stages, maps)
    shared = [size for size in ours if size in theirs]
    parts = [
        _table(role, network, shape, several, shared)
        for role, network, several in zip(("student", "teacher"), (student, teacher), maps, strict=True)
    ]
    for key, stages in (("stages", ours), ("teacher_stages", theirs)):
        parts.append(f"{key}: [{', '.join(stages[size].path for size in shared)}]")
    return "\n\n".join(parts)


def _table(role: str, network: nn.Module, shape: Sequence[int], maps: Sequence[StageMap], shared: Sequence[Any]) -> str:
    last = {stage.path: size for size, stage in encoder_stages(maps).items()}
    rows = [
        (
            one.path,
            one.channels,
            _times(one.size),
            "" if one.path not in last else shared.index(one.size) + 1 if one.size in shared else "-",
        )
        for one in maps
    ]
    head = f"{role}: {type(network).__name__}, for images of {_times(shape)}"
    return f"{head}\n{tabulate(rows, ['module', 'channels', 'size', 'pair'], tablefmt='simple')}"


def _times(sizes: Sequence[int]) -> str:
    return "x".join(map(str, sizes))
