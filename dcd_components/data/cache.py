"""Deterministic transforms on disk: computed once, for every epoch, training and process that asks for them."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import FunctionType
from typing import Any

import monai
import numpy as np
import torch
from monai.data import PersistentDataset
from monai.utils import convert_to_tensor
from torch.utils.data import DataLoader, Dataset

from dcd_components.data.samplers import Draw
from dcd_components.data.workers import outlive_signals
from dcd_components.distributed import rank, world_size
from dcd_components.errors import InputError, input_error
from dcd_components.files import whole_file

#: Packages whose code counts by their version.
VERSIONED = ("monai", "numpy", "torch")


class DiskCache(PersistentDataset):  # type: ignore[misc]
    """Keep what the transforms before the first random one make of each item as a file, and map it into memory.

    MONAI's ``PersistentDataset`` reads whole files, may let a process read what another is still writing, and does not
    know the settings of its transforms. Here a file appears complete or not at all, a patch reads only its own part of
    a volume, and a file is found only by the same item, settings of the transforms and code: any change makes a new
    one, see :func:`transforms_hash`. The files that an item names count by their size and time of writing, as MONAI
    Label's users correct a label in place. Old files stay until their folder is deleted.

    An item that is asked for by a :class:`.Draw` has its random transforms seeded by it, and so is the same in every
    process that makes it, and whatever was made before.

    Args:
        data: items, for example dictionaries of paths.
        transform: flat ``Compose``; a nested one counts as random. Its result must hold tensors, numbers and strings.
        cache_dir: folder of the files; made when missing, and shared by any number of processes.

    Raises:
        InputError: for a deterministic transform that cannot be pickled, such as one with a lambda.
    """

    def __init__(self, data: Sequence[Any], transform: Callable[..., Any], cache_dir: str | Path) -> None:
        super().__init__(data, transform, cache_dir, hash_func=value_hash, hash_transform=transforms_hash)

    def set_data(self, data: Sequence[Any]) -> None:
        """Take other items; their files stay, unlike ``PersistentDataset``'s, since others may use them."""
        self.data = data

    def __getitem__(self, index: Any) -> Any:
        """Item after all transforms."""
        if isinstance(index, Draw):
            self.transform.set_random_state(seed=index.seed)
        return super().__getitem__(index)

    def fill(self, num_workers: int = 0, what: str = "cases") -> list[str]:
        """Make the files that are missing, each process of a training those of its share, and show how far it is.

        Args:
            num_workers: processes that make files at the same time.
            what: is made, for the display.

        Returns:
            What is wrong with those that cannot be made.

        Raises:
            InputError: for a file that cannot be written, as on a full disk.
            RuntimeError: for an error that is not about the input, with the item.
        """
        from tqdm import tqdm  # an inference, which takes hashes from here, need not have it

        share = range(rank(), len(self.data), world_size())
        missing = [index for index in share if not self._path(self.data[index]).is_file()]
        if not missing:
            return []
        workers: dict[str, Any] = {"num_workers": min(num_workers, len(missing)), "worker_init_fn": outlive_signals}
        workers["generator"] = torch.Generator()  # its own: what is drawn later must not depend on what was missing
        made = DataLoader(_Making(self, missing), batch_size=None, **workers)
        return [fault for fault in tqdm(made, desc=what, unit="case", disable=rank() > 0) if fault]

    def make(self, index: int) -> str:
        """Make the file of an item; what is wrong if that cannot be done, empty otherwise."""
        item = self.data[index]
        try:
            made = self._made(item)
        except Exception as error:
            if fault := input_error(error):
                return fault
            name = item.get("case", "") if isinstance(item, Mapping) else ""
            raise RuntimeError(f"item {index} cannot be made{name and ': '}{name}") from error
        _write(made, self._path(item))
        return ""

    def _cachecheck(self, item: Any) -> Any:
        """Item after the deterministic transforms, tensors without MONAI's metadata."""
        path = self._path(item)
        if path.is_file():
            try:
                return torch.load(path, weights_only=True, mmap=True)
            except (RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
                warnings.warn(f"{path} is damaged and made anew: {error}", stacklevel=2)
        _write(self._made(item), path)
        return torch.load(path, weights_only=True, mmap=True)

    def _path(self, item: Any) -> Path:
        key = self.hash_func([item, _written(item)]).decode()
        folder: Path = self.cache_dir
        return folder / f"{key}-{self.transform_hash}.pt"

    def _made(self, item: Any) -> Any:
        return convert_to_tensor(self._pre_transform(item), convert_numeric=False, track_meta=False)


def _write(made: Any, path: Path) -> None:
    with whole_file(path) as partial, partial.open("wb") as file:
        torch.save(made, file)


class _Making(Dataset[str]):
    """Making of the files of a cache's items, as items of their own."""

    def __init__(self, cache: DiskCache, indices: Sequence[int]) -> None:
        self.cache, self.indices = cache, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, number: int) -> str:
        return self.cache.make(self.indices[number])


def _written(item: Any) -> list[tuple[int, int]]:
    """Size and time of writing of each file that an item names, alone or in a list."""
    values = item.values() if isinstance(item, Mapping) else []
    texts = [text for value in values for text in (value if isinstance(value, list) else [value])]
    files = [text for text in texts if isinstance(text, str) and os.path.isfile(text)]
    return [(one.st_size, one.st_mtime_ns) for one in map(os.stat, files)]


def transforms_hash(transforms: Iterable[Any]) -> bytes:
    """Hash of all that decides what transforms do: their settings, by :func:`value_hash`, and their code.

    Of the code count the versions of MONAI, NumPy and torch, the files of ``dcd_components.data``, and those of the
    modules that define the classes and functions within the transforms.

    Raises:
        InputError: for a transform that cannot be pickled.
    """
    versions = monai.__version__, np.__version__, torch.__version__
    parts, files = [repr(versions).encode()], set(Path(__file__).parent.rglob("*.py"))
    for transform in transforms:
        text, modules = _pickled(transform)
        parts.append(text)
        files |= {Path(file) for name in modules if (file := getattr(sys.modules.get(name), "__file__", None))}
    parts += [file.read_bytes() for file in sorted(files) if file.suffix == ".py"]
    return _hash(parts)


def value_hash(value: Any) -> bytes:
    """Hash of a value, by its pickle: equal values have the same in every process, different ones do not.

    Raises:
        InputError: for a value that cannot be pickled.
    """
    return _hash([_pickled(value)[0]])


def _hash(parts: Iterable[bytes]) -> bytes:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()[:32].encode()


def _pickled(value: Any) -> tuple[bytes, set[str]]:
    """Pickle of a value, and the modules that define its classes and functions."""
    pickler = _Pickler(file := io.BytesIO())
    try:
        pickler.dump(value)
    except (pickle.PicklingError, AttributeError, TypeError, ValueError) as error:
        kind = type(value).__name__
        raise InputError(f"{kind} must be made of named functions and plain settings to be cached: {error}") from None
    return file.getvalue(), pickler.modules


class _Pickler(pickle.Pickler):
    """Pickles equal values to equal bytes, in every process."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.fast = True  # no references to equal objects before, which depend on what is one object and what two
        self.modules: set[str] = set()

    def persistent_id(self, value: Any) -> Any:
        """What is pickled instead of a value, None for itself; called for everything within it."""
        if isinstance(value, (set, frozenset)):
            return [type(value).__name__, *sorted(value, key=repr)]  # each process has another order
        if isinstance(value, torch.Tensor):
            return "tensor", value.numpy(force=True)  # a tensor's own pickle holds its address
        if isinstance(value, (type, FunctionType)) and value.__module__.partition(".")[0] not in VERSIONED:
            self.modules.add(value.__module__)
        return None
