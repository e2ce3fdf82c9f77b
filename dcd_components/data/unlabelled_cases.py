"""The cases to segment: found below a folder or in a list, checked by their headers, and loaded if they are sound."""

from __future__ import annotations

import itertools
import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from torch.utils.data import IterableDataset, get_worker_info

from dcd_components.data.case_files import FAULT, IMAGE, MARK, Case, Layout, case_name, find_cases
from dcd_components.data.cases import below, by_name, case_faults, sequence_files
from dcd_components.data.marks import read_mark
from dcd_components.data.masks import is_done
from dcd_components.errors import InputError, input_error

logger = logging.getLogger(__name__)


def inference_cases(dataset_dir: str | Path, layout: Layout, datalist: str | Path | None = None) -> list[Case]:
    """Find the cases to segment, and check them by their headers.

    Args:
        dataset_dir: folder that has them at any depth, or from which the list's paths start.
        layout: names of the files, see :class:`LoadCased`; what is named as a label is taken for no case.
        datalist: data list whose cases under ``test`` are meant, instead of all below the folder; ``image`` of each is
            what :class:`LoadCased` takes.

    Returns:
        Items of ``image``, the paths of all sequences or of a 4D file, and ``case``; and items of ``case`` and
        ``fault``, a sentence, for those whose files are missing or do not fit together. Masks that this project wrote
        are left out.

    Raises:
        InputError: for a folder or a list without any case.
    """
    root = Path(str(dataset_dir))
    faults: list[str] = []
    if datalist:
        images = _listed_under_test(Path(str(datalist)), layout)
    else:
        cases, faults = find_cases(root, layout, labels="ignored")
        images = [case[IMAGE] for case in cases]
    found = checked_cases([below(root, image) for image in images], layout)
    incomplete = itertools.groupby(faults, lambda fault: fault.partition(": ")[0])
    return found + [{"case": case, FAULT: "; ".join(several)} for case, several in incomplete]


def checked_cases(images: Iterable[str | Sequence[str]], layout: Layout) -> list[Case]:
    """Make items of images, each as :class:`LoadCased` takes it, and check them by their headers.

    Returns:
        Items as of :func:`inference_cases`; a case that is given by several of its files comes once.

    Raises:
        InputError: when all are masks that this project wrote.
    """
    several = (sequence_files(image, layout.sequences) for image in images)
    given = list({tuple(one.values()): one for one in several}.values())
    files = [one for one in given if not read_mark(one[layout.reference])]
    if masks := len(given) - len(files):
        logger.info(f"left out {masks} masks that this project wrote")
        if not files:
            raise InputError(f"there is no case but masks that this project wrote: {masks}")
    names = Counter(case_name(one[layout.reference], layout.sequences) for one in files)
    return [_checked(one, names, layout) for one in files]


def _checked(files: Mapping[str, str], names: Mapping[str, int], layout: Layout) -> Case:
    name = case_name(files[layout.reference], layout.sequences)
    faults = case_faults(files, layout.reference, layout.resampled)
    faults += [f"{names[name]} cases are called {name}"] if names[name] > 1 else []
    if faults:
        return {"case": name, FAULT: "; ".join(faults)}
    paths = list(dict.fromkeys(files.values()))
    return {IMAGE: paths[0] if len(paths) == 1 < len(files) else paths, "case": name}


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


class SoundCases(IterableDataset[Any]):
    """The cases of an inference that can be loaded; what is wrong with the others is kept until the end.

    A line is logged for each case that is done, with the time left.

    Args:
        data: items of :func:`.planned_cases`, the share of this process.
        transform: makes the network's input of an item.
        output_dir: folder of the masks, where :meth:`report` looks for them.
        limit: called with each item before it is loaded, to refuse what does not fit into memory.
    """

    def __init__(
        self,
        data: Sequence[Case],
        transform: Callable[[Case], Any],
        output_dir: str | Path,
        limit: Callable[[Case], None] | None = None,
    ) -> None:
        self.data = list(data)
        self.transform = transform
        self.output_dir = output_dir
        self.limit = limit
        self.faults: dict[str, str] = {}

    def __iter__(self) -> Iterator[Any]:
        """Load one case after another, however often it is asked for.

        Raises:
            InputError: in a process that loads data, of which each would do all cases, and keep their faults to itself.
        """
        if get_worker_info() is not None:
            raise InputError("dataloader::num_workers must be 0 in inference, where each case is done by itself")
        self.faults, start = {}, time.monotonic()
        for number, case in enumerate(self.data, 1):
            try:
                item = self._load(case)
            except Exception as error:  # MONAI wraps what a transform raises
                if (fault := input_error(error)) is None:
                    raise
                self.faults[case["case"]] = fault
                logger.error(f"case {number}/{len(self.data)}: {case['case']} is left out: {fault}")
                continue
            yield item
            left = timedelta(seconds=round((time.monotonic() - start) / number * (len(self.data) - number)))
            logger.info(f"case {number}/{len(self.data)}: {case['case']}; {left} left")

    def _load(self, case: Case) -> Any:
        if FAULT in case:
            raise InputError(case[FAULT])
        if self.limit:
            self.limit(case)
        return self.transform(case)

    def report(self) -> None:
        """End the run: name the cases that have no mask.

        Raises:
            InputError: when there are any.
        """
        faults = dict(self.faults)
        for case in self.data:
            if case["case"] not in faults and not (MARK in case and is_done(self.output_dir, case)):
                faults[case["case"]] = f"{case['case']}: no mask of it was written"
        if faults:
            said = "; ".join(faults.values())
            raise InputError(f"{len(faults)} of the cases could not be segmented: {said}")
