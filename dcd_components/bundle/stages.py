"""Which stages of a bundle's two networks can be compared, as a table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tabulate import tabulate
from torch import nn

from dcd_components.bundle.configs import read_configs
from dcd_components.networks.stage_pairs import StageMap, encoder_pairs, encoder_stages, stage_maps


def stages_of(bundle: Path, overlays: Sequence[str] = ()) -> str:
    """List the maps of student and teacher, by a pass without values and so without weights, and propose pairs.

    Args:
        bundle: its folder.
        overlays: names of configs that lie over the distillation.

    Returns:
        A table of each network's modules, with the number of the pair that ``stages: auto`` makes of an encoder's
        stage, or a dash where the other has none for it; and the pairs.
    """
    parser = read_configs(bundle, ["distill", *overlays])
    student, teacher = (parser.get_parsed_content(key) for key in ("network_def", "teacher_def"))
    shape = [len(parser["sequences"]), *parser.get_parsed_content("patch_size")]
    maps = [stage_maps(network, shape) for network in (student, teacher)]
    pairs = encoder_pairs(*maps)
    of_both = [[pair[k].path for pair in pairs] for k in range(2)]
    parts = [
        _table(role, network, shape, several, paths)
        for role, network, several, paths in zip(("student", "teacher"), (student, teacher), maps, of_both, strict=True)
    ]
    if not pairs:
        parts.append("no stages of the two encoders are of one size: name them by stages and teacher_stages")
    for key, paths in zip(("stages", "teacher_stages"), of_both, strict=True):
        parts += [f"{key}: [{', '.join(paths)}]"] if pairs else []
    return "\n\n".join(parts)


def _table(role: str, network: nn.Module, shape: Sequence[int], maps: Sequence[StageMap], paired: Sequence[str]) -> str:
    last = {stage.path for stage in encoder_stages(maps).values()}
    rows = [
        (
            one.path,
            one.channels,
            _times(one.size),
            paired.index(one.path) + 1 if one.path in paired else "-" if one.path in last else "",
        )
        for one in maps
    ]
    head = f"{role}: {type(network).__name__}, for images of {_times(shape)}"
    return f"{head}\n{tabulate(rows, ['module', 'channels', 'size', 'pair'], tablefmt='simple')}"


def _times(sizes: Sequence[int]) -> str:
    return "x".join(map(str, sizes))
