"""Deterministic transforms on disk: computed once, for every epoch, training and process that asks for them."""

from __future__ import annotations

import hashlib
import pickle
import threading
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

import monai
import numpy as np
import torch
from monai.data import PersistentDataset
from monai.utils import convert_to_tensor


class DiskCache(PersistentDataset):  # type: ignore[misc]
    """Keep what the transforms before the first random one make of each item as a file, and map it into memory.

    MONAI's ``PersistentDataset`` reads whole files, may let a process read what another is still writing, and knows
    of a transform only its name. Here a file appears complete or not at all, a patch reads only its own part of a
    volume, and a file is found only by the same item, transforms, settings of theirs and version of MONAI: any change
    makes a new one. An item whose files may change must say so itself, as ``stamp`` does in
    :func:`dcd_components.load_cases`. Old files stay until their folder is deleted.

    Args:
        data: items, for example dictionaries of paths.
        transform: flat ``Compose``; a nested one counts as random. Its result must hold tensors, numbers and strings.
        cache_dir: folder of the files; made when missing, and shared by any number of processes.
    """

    def __init__(self, data: Sequence[Any], transform: Callable[..., Any], cache_dir: str | Path) -> None:
        super().__init__(data, transform, cache_dir, hash_func=fingerprint, hash_transform=fingerprint)

    def _cachecheck(self, item: Any) -> Any:
        """Item after the deterministic transforms, tensors without MONAI's metadata."""
        path: Path = self.cache_dir / f"{self.hash_func(item).decode()}-{self.transform_hash}.pt"
        if path.is_file():
            try:
                return torch.load(path, weights_only=True, mmap=True)
            except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
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


def fingerprint(value: Any) -> bytes:
    """Hash of a value that is the same in every process: settings, arrays, transforms and functions.

    Objects count by their class and attributes, functions by their code, defaults and closures, not by the globals that
    they use. The versions of MONAI and of Python's byte code count too.
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
    if isinstance(value, FunctionType):
        closure = [cell.cell_contents for cell in value.__closure__ or ()]
        return [value.__code__, value.__defaults__, value.__kwdefaults__, closure]
    if isinstance(value, CodeType):
        return [value.co_code, value.co_consts, value.co_names]
    if isinstance(value, partial):
        return [value.func, value.args, value.keywords]
    if isinstance(value, Mapping):
        return [part for key in sorted(value, key=repr) for part in (key, value[key])]
    if isinstance(value, (set, frozenset)):
        return sorted(value, key=repr)
    if isinstance(value, Sequence):
        return value
    if callable(value) and hasattr(value, "__qualname__"):  # classes, built-in functions and methods
        return [getattr(value, "__module__", None), value.__qualname__, getattr(value, "__self__", None)]
    if isinstance(value, ModuleType):
        return [value.__name__]
    # MONAI's transforms gain a thread's own state when they are first used.
    settings = {
        name: one for name, one in getattr(value, "__dict__", {}).items() if not isinstance(one, threading.local)
    }
    return [settings]
