"""The cases to segment: found below a folder or in a list, and checked by their headers."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from dcd_components.data.case_files import IMAGE, Case, Layout, case_name, find_cases
from dcd_components.data.cases import below, by_name, case_faults, sequence_files, shortened
from dcd_components.errors import InputError


def inference_cases(dataset_dir: str | Path, layout: Layout, datalist: str | Path | None = None) -> list[Case]:
    """Find the cases to segment, and check them by their headers.

    Args:
        dataset_dir: folder that has them at any depth, or from which the list's paths start.
        layout: names of the files, see :class:`LoadCased`.
        datalist: data list whose cases under ``test`` are meant, instead of all below the folder; ``image`` of each is
            what :class:`LoadCased` takes.

    Returns:
        Items of ``image``, the paths of all sequences or of a 4D file, and ``case``.

    Raises:
        InputError: for no case, files that are missing or do not fit together, and two cases of one name.
    """
    root = Path(str(dataset_dir))
    if datalist:
        images = _listed_under_test(Path(str(datalist)), layout)
    else:
        cases, faults = find_cases(root, replace(layout, label_file=()))
        if faults:
            raise InputError(shortened(faults))
        images = [case[IMAGE] for case in cases]
    return checked_cases([below(root, image) for image in images], layout)


def checked_cases(images: Iterable[str | Sequence[str]], layout: Layout) -> list[Case]:
    """Make items of images, each as :class:`LoadCased` takes it, and check them by their headers.

    Returns:
        Items of ``image``, the paths of all sequences or of a 4D file, and ``case``; a case that is given by several of
        its files comes once.

    Raises:
        InputError: for files that are missing or do not fit together, and two cases of one name.
    """
    several = (sequence_files(image, layout.sequences) for image in images)
    files = list({tuple(one.values()): one for one in several}.values())
    names = [case_name(one[layout.reference], layout.sequences) for one in files]
    faults = [fault for one in files for fault in case_faults(one, layout.reference, layout.resampled)]
    faults += [f"{count} cases are called {name}" for name, count in Counter(names).items() if count > 1]
    if faults:
        raise InputError(shortened(faults))
    paths = [list(dict.fromkeys(one.values())) for one in files]
    whole = len(layout.sequences) > 1
    return [
        {IMAGE: path[0] if whole and len(path) == 1 else path, "case": name}
        for path, name in zip(paths, names, strict=True)
    ]


def _listed_under_test(path: Path, layout: Layout) -> list[str | Sequence[str]]:
    """Images of a list: one path each, or those of the layout's sequences, by the list's own names where it has any."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        images = [case[IMAGE] for case in content["test"]]
        if not images:
            raise KeyError("test")
        modality = content.get("modality", {})
        names = [modality[str(channel)] for channel in range(len(modality))] or [*layout.sequences]
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(f"{path} must be a data list with at least one image under test: {error!r}") from None
    return [image if isinstance(image, str) else by_name(image, names, layout, path) for image in images]


def check_output(ckpt_path: str | Path, output_dir: str | Path) -> None:
    """Make sure, before the work of an inference, that there are weights, and that masks can be written.

    Raises:
        InputError: when there are none, or they cannot.
    """
    if not Path(ckpt_path).is_file():
        raise InputError(f"{ckpt_path}: missing, expected the weights of the network")
    folder = Path(output_dir).absolute()
    parent = next(one for one in (folder, *folder.parents) if one.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise InputError(f"cannot write into {parent}")
