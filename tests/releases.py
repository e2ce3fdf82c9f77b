"""Tiny bundles, ready to be packed."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from monai.bundle import ConfigParser
from tiny import ROOT, TINY

from dcd_components.bundle.release.packing import config_texts, merged

#: Overlay of the bundles that :func:`trained` makes.
OVERLAYS = ("tiny",)
#: Pages of the documents that are run in releases.
DOCS = ROOT / "docs"


def trained(source: Path, parent: Path) -> Path:
    """Copy a bundle, with an overlay that makes it tiny, and give it weights for student and teacher, all drawn."""
    left = shutil.ignore_patterns("models", "eval", "cache")
    bundle = Path(shutil.copytree(source, parent / source.name, ignore=left))
    write_overlay(bundle, TINY)
    texts = config_texts(bundle, OVERLAYS)
    draw_weights(merged(texts["inference"]), bundle / "models" / "model.pt", seed=0)
    teacher = merged(texts["inference"], texts["teacher"])
    draw_weights(teacher, bundle / "models" / "teacher" / "model.pt", seed=1)
    return bundle


def write_overlay(bundle: Path, settings: Mapping[str, Any], name: str = OVERLAYS[0]) -> None:
    """Write an overlay of a bundle."""
    (bundle / "configs" / f"{name}.yaml").write_text(yaml.safe_dump(dict(settings), sort_keys=False))


def only_teacher_large(bundle: Path) -> int:
    """Take out the pictures, and return the size above which the teacher's weights alone are."""
    for path in (bundle / "docs").glob("*.png"):
        path.unlink()
    return (bundle / "models" / "teacher" / "model.pt").stat().st_size // 2


def draw_weights(config: Mapping[str, Any], path: Path, seed: int) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        weights = ConfigParser(dict(config)).get_parsed_content("network_def").state_dict()
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(weights, path)


def page(name: str) -> str:
    """Text of a page of the documents."""
    return (DOCS / f"{name}.md").read_text(encoding="utf-8")


def commands(text: str) -> Sequence[str]:
    """Lines of a page's indented blocks."""
    return [line.strip() for line in text.splitlines() if line.startswith("    ")]
