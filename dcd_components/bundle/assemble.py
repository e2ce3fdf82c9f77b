"""Configs that each run alone, though what they share is written once.

MONAI reads one file for a workflow, or a list whose later files change the earlier; MONAI Label reads one. So every
config of a bundle is whole. Its head, above the first line ``# ==== from FILE: ... ====``, is written by hand. What
follows such a line is the head of the file that it names, of another config of the bundle or of a part below
``bundles``, or one setting of it: ``# ==== from FILE, KEY: ... ====``. A setting that stands higher up is left out, so
the head decides. ``make configs`` writes all this; a test holds that nobody edits it elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Iterator
from pathlib import Path

from dcd_components.bundle.configs import BUNDLES
from dcd_components.errors import InputError

MARK = re.compile(r"^# ==== from (\S+?)(?:, (\w+))?: .* ====\n", re.M)
KEY = re.compile(r"^([\"']?)([\w+:]+)\1:", re.M)
TITLE = re.compile(r"(?:#.*\n)*")
COMMON = BUNDLES / "common"
#: What tells a bundle with nnU-Net's steps, and the overlays of other windows than nnU-Net's, which it does not get.
NNUNET, OTHER_WINDOWS = "common/nnunet/inference.yaml", ("long_windows",)


def assembled(config: Path) -> str:
    """Write out what a config's lines ``# ==== from FILE: ... ====`` stand for.

    Args:
        config: file of a bundle, whose head and such lines are read.

    Raises:
        InputError: for a line that names no file.
    """
    text = config.read_text(encoding="utf-8")
    whole = head(text)
    known = {key for key, _ in blocks(whole)}
    for name, wanted in MARK.findall(text):
        part = next((one for one in (config.parent / name, BUNDLES.parent / name) if one.is_file()), None)
        if part is None:
            raise InputError(f"{config}: no file {name}, expected a config beside it or a part below {COMMON}")
        theirs = head(part.read_text(encoding="utf-8"))
        above = title(theirs) if part.is_relative_to(COMMON) else ""
        new = [(key, block) for key, block in blocks(theirs) if key not in known and wanted in ("", key)]
        known |= {key for key, _ in new}
        whole += f"{mark(name, wanted)}{above}{''.join(block for _, block in new).strip()}\n\n"
    return whole.rstrip() + "\n"


def mark(name: str, key: str = "") -> str:
    """Line above what is from another file: all of its head, or one setting."""
    return f"# ==== from {name}{', ' if key else ''}{key}: edit it there, then make configs ====\n"


def head(text: str) -> str:
    """What stands above the first mark."""
    found = MARK.search(text)
    return text[: found.start()] if found else text


def blocks(text: str) -> Iterator[tuple[str, str]]:
    """Settings of the uppermost level by key, each with the comments right above it; without the title.

    The title is the comment that the text begins with.
    """
    rest = text[len(title(text)) :]
    found = list(KEY.finditer(rest))
    begins = [_with_comments(rest, match.start()) for match in found]
    for match, begin, end in zip(found, begins, [*begins[1:], len(rest)][: len(found)], strict=True):
        yield match[2], rest[begin:end]


def title(text: str) -> str:
    """The comment that a text begins with."""
    return TITLE.match(text)[0]  # type: ignore[index]  # which fits an empty text too


def _with_comments(text: str, start: int) -> int:
    """Begin of the comment lines that stand right above a line."""
    while start and (line := text.rfind("\n", 0, start - 1) + 1) < start and text[line] == "#":
        start = line
    return start


def laid_over(config: str, overlay: str) -> str:
    """Text of a config as another one changes it: the overlay's settings replace the config's, or follow them.

    Settings of the overlay for which the config has no place are left out.

    Raises:
        InputError: where both add to one list, which a file of YAML can do only once.
    """
    ours, theirs = list(blocks(config)), list(blocks(overlay))
    known = {_root(key) for key, _ in ours}
    while more := [key for key, _ in theirs if _root(key) not in known and _is_used(key, theirs, known)]:
        known |= {_root(key) for key in more}
    laid = [(key, block) for key, block in theirs if _root(key) in known]
    replaced = {key for key, _ in laid}
    if both := [key for key, _ in ours if key in replaced and key.startswith("+")]:
        raise InputError(f"an overlay and a config that it lies over both add to {both[0][1:]}: leave the overlay out")
    kept = "".join(block for key, block in ours if key not in replaced)
    return f"{title(config)}\n{kept.strip()}\n\n{''.join(block for _, block in laid).strip()}\n"


def _root(key: str) -> str:
    return key.removeprefix("+").partition("::")[0]


def _is_used(key: str, settings: Iterable[tuple[str, str]], known: Container[str]) -> bool:
    """Whether a setting that has a place refers to a key."""
    return any(re.search(rf"[@%]{key}\b", block) for other, block in settings if _root(other) in known)


def write_configs() -> list[Path]:
    """Assemble the configs of all bundles of the repository, and copy the overlays that they share.

    Returns:
        The files that changed.
    """
    changed = []
    for bundle in sorted(path.parent for path in BUNDLES.glob("*/configs")):
        for path, text in wanted_files(bundle).items():
            if not path.is_file() or path.read_text(encoding="utf-8") != text:
                path.write_text(text, encoding="utf-8")
                changed.append(path)
    return changed


def wanted_files(bundle: Path) -> dict[Path, str]:
    """Text of each file of a bundle that is made from others; an overlay that says where it is from is its own."""
    configs = bundle / "configs"
    own = {path for path in configs.glob("*.yaml") if MARK.search(path.read_text(encoding="utf-8"))}
    of_nnunet = NNUNET in (configs / "inference.yaml").read_text(encoding="utf-8")
    shared = {
        configs / path.name: path.read_text(encoding="utf-8")
        for path in (COMMON / "overlays").iterdir()
        if not (of_nnunet and path.stem in OTHER_WINDOWS)
    }
    copied = {path: text for path, text in shared.items() if path not in own}
    ours = {path: assembled(path) for path in sorted({*configs.glob("*.yaml")} - {*copied})}
    licence = {bundle / "LICENSE": (BUNDLES.parent / "LICENSE").read_text(encoding="utf-8")}
    return {**ours, **copied, **licence}
