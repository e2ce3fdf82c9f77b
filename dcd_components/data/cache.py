"""Deterministic transforms on disk: computed once, for every epoch, training and process that asks for them."""

from __future__ import annotations

import copyreg
import hashlib
import inspect
import os
import pickle
import sys
import threading
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from types import CellType, CodeType, FunctionType, ModuleType
from typing import Any

import monai
import numpy as np
import torch
from monai.data import PersistentDataset
from monai.utils import convert_to_tensor

#: What tells values of some kinds apart.
PARTS: dict[type, tuple[str, ...]] = {
    FunctionType: ("__code__", "__defaults__", "__kwdefaults__", "__closure__"),
    CellType: ("cell_contents",),
    CodeType: ("co_code", "co_consts", "co_names"),
    ModuleType: ("__name__",),
    partial: ("func", "args", "keywords"),
}


class DiskCache(PersistentDataset):  # type: ignore[misc]
    """Keep what the transforms before the first random one make of each item as a file, and map it into memory.

    MONAI's ``PersistentDataset`` reads whole files, may let a process read what another is still writing, and does not
    know the settings of its transforms. Here a file appears complete or not at all, a patch reads only its own part of
    a volume, and a file is found only by the same item, transforms, settings of theirs and version of MONAI: any change
    makes a new one. Files that an item names count by their size and time of writing, as MONAI Label's users correct a
    label in place; what else is read for it must be told, as ``stamp`` does in :func:`dcd_components.load_cases`. Old
    files stay until their folder is deleted.

    Args:
        data: items, for example dictionaries of paths.
        transform: flat ``Compose``; a nested one counts as random. Its result must hold tensors, numbers and strings.
        cache_dir: folder of the files; made when missing, and shared by any number of processes.
    """

    def __init__(self, data: Sequence[Any], transform: Callable[..., Any], cache_dir: str | Path) -> None:
        super().__init__(data, transform, cache_dir, hash_func=fingerprint, hash_transform=fingerprint)

    def set_data(self, data: Sequence[Any]) -> None:
        """Take other items; their files stay, unlike ``PersistentDataset``'s, since others may use them."""
        self.data = data

    def _cachecheck(self, item: Any) -> Any:
        """Item after the deterministic transforms, tensors without MONAI's metadata."""
        key = self.hash_func([item, _written(item)]).decode()
        path: Path = self.cache_dir / f"{key}-{self.transform_hash}.pt"
        if path.is_file():
            try:
                return torch.load(path, weights_only=True, mmap=True)
            except (RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
                warnings.warn(f"{path} is damaged and made anew: {error}", stacklevel=2)
        self._write(convert_to_tensor(self._pre_transform(item), convert_numeric=False, track_meta=False), path)
        return torch.load(path, weights_only=True, mmap=True)

    @staticmethod
    def _write(item: Any, path: Path) -> None:
        # In the cache's own folder, since only within one file system a file is replaced in a single step.
        unfinished = path.with_name(f"{uuid.uuid4().hex}.unfinished")
        try:
            torch.save(item, unfinished)
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)


def _written(item: Any) -> list[tuple[int, int]]:
    """Size and time of writing of each file that an item names."""
    paths = [value for value in item.values() if isinstance(value, str)] if isinstance(item, Mapping) else []
    return [(one.st_size, one.st_mtime_ns) for one in (os.stat(path) for path in paths if os.path.isfile(path))]


def fingerprint(value: Any) -> bytes:
    """Hash of a value that is the same in every process: settings, arrays, transforms and functions.

    Objects count by their attributes and the text of their class's module, functions by their code, defaults and
    closures, not by the globals that they use: what those change must show in the items. MONAI counts by its version.

    Raises:
        TypeError: for what cannot be told apart from others of its kind, such as a generator.
    """
    digest = hashlib.sha256(monai.__version__.encode())
    for token in _tokens(value, ()):
        digest.update(token.encode() if isinstance(token, str) else token)
        digest.update(b"\0")
    return digest.hexdigest()[:32].encode()


def _tokens(value: Any, above: tuple[int, ...]) -> Iterator[str | bytes]:
    """Walk through a value, depth first; ``above`` holds what encloses it, in which circles end."""
    if id(value) in above:
        return
    yield type(value).__qualname__
    if isinstance(value, (np.ndarray, torch.Tensor)):
        array = np.asarray(value)
        yield from (str(array.dtype), str(array.shape), array.tobytes())
    elif isinstance(value, (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, np.generic)):
        yield repr(value)
    else:
        parts = _parts(value)
        yield str(len(parts))
        for part in parts:
            yield from _tokens(part, (*above, id(value)))


def _parts(value: Any) -> Sequence[Any]:
    for kind, names in PARTS.items():
        if isinstance(value, kind):
            return [getattr(value, name) for name in names]
    if isinstance(value, Mapping):
        return [part for key in sorted(value, key=repr) for part in (key, value[key])]
    if isinstance(value, (set, frozenset)):
        return sorted(value, key=repr)
    if isinstance(value, Sequence):
        return value
    if callable(value) and hasattr(value, "__qualname__"):  # classes, built-in functions and methods
        return [getattr(value, "__module__", None), value.__qualname__, getattr(value, "__self__", None)]
    if isinstance(value, os.PathLike):
        return [os.fspath(value)]
    if not hasattr(value, "__dict__"):
        reduce = copyreg.dispatch_table.get(type(value))
        return list(reduce(value) if reduce else value.__reduce_ex__(4))
    # MONAI's transforms gain a thread's own state when they are first used.
    settings = {name: one for name, one in vars(value).items() if not isinstance(one, threading.local)}
    return [settings, _source(type(value).__module__)]


@lru_cache(maxsize=256)
def _source(module: str) -> str:
    """Text of a module; none for MONAI's, whose version counts, and where there is no text."""
    try:
        return "" if module.startswith("monai.") else inspect.getsource(sys.modules[module])
    except (KeyError, OSError, TypeError):
        return ""
