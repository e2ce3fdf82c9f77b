"""Files of weights: written whole, read strictly and without running code from them."""

from __future__ import annotations

import copy
import hashlib
import logging
import zipfile
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dcd_components.errors import InputError
from dcd_components.files import whole_file

logger = logging.getLogger(__name__)

#: What wraps a network in other programs, and so stands before the names of its weights.
PREFIXES = ("module.", "_orig_mod.", "net.", "network.", "model.")
#: Where checkpoints of other programs keep the weights among other things.
NESTED = ("model", "state_dict", "model_state_dict", "network_weights")
#: Parts of the names of what only the training of a DynUNet uses; TorchScript cannot script a network that has them.
TRAINING_ONLY = ("deep_supervision_heads.", ".super_head.")
SHOWN = 4  # faults in one message
DIGEST_SIZE = 6  # bytes; twice as many hexadecimal digits


def save_weights(weights: Mapping[str, Tensor], path: str | Path, record: Mapping[str, Any] | None = None) -> None:
    """Write a flat state dict, whole or not at all.

    Args:
        weights: tensors by name.
        path: of the file; a file that is there already stays until the new one is complete.
        record: what the weights' user must know, made of numbers, texts, lists and dictionaries. It is an attribute of
            the dictionary, which other programs do not see, and is read by :func:`read_record`.

    Raises:
        InputError: for weights that are NaN or Inf, and a file that cannot be written.
    """
    if wrong := _not_finite(weights):
        raise InputError(f"{path} is not written: {wrong} holds NaN or Inf")
    flat: OrderedDict[str, Tensor] = OrderedDict(weights)
    if record is not None:
        flat.__dict__["record"] = dict(record)
    with whole_file(path) as partial, partial.open("wb") as file:
        torch.save(flat, file)


def load_frozen(network: nn.Module, path: str | Path, trained_on: Mapping[str, Any] | None = None) -> nn.Module:
    """Load weights into ``network`` strictly, see :func:`read_weights`, and freeze it.

    Args:
        network: takes the weights.
        path: of the file.
        trained_on: what the record of the weights must not contradict, see :func:`check_record`.

    Returns:
        The same network in evaluation mode, without gradients.

    Raises:
        InputError: when there is no such file, it is no state dict, a key or shape differs, or its record does.
    """
    network.load_state_dict(read_weights(network, path))
    record = check_record(path, trained_on or {})
    if record.get("epoch", 1) < record.get("max_epochs", 0) / 10:
        logger.warning("%s is of epoch %d of %d: was its training cut short?", path, *_epochs(record))
    return network.eval().requires_grad_(False)


def load_frozen_copies(
    network: nn.Module,
    paths: Iterable[str | Path],
    trained_on: Mapping[str, Any] | None = None,
    device: torch.device | None = None,
    memory_format: torch.memory_format = torch.preserve_format,
) -> list[nn.Module]:
    """One network for each file of weights, see :func:`load_frozen`.

    Args:
        network: it is copied, and not changed.
        paths: of the files.
        trained_on: what the records of the weights must not contradict.
        device: for the copies; that of the network by default.
        memory_format: of their weights.
    """
    copies = [load_frozen(copy.deepcopy(network), path, trained_on) for path in paths]
    return [one.to(device=device, memory_format=memory_format) for one in copies]  # type: ignore[call-overload]


def read_weights(network: nn.Module, path: str | Path, left_out: Iterable[str] = ()) -> dict[str, Tensor]:
    """Read the weights at ``path`` and check that they fit ``network``.

    They are a flat state dict, or lie in one of the places of :data:`NESTED`; known prefixes are taken off the names.

    Args:
        network: gives names and shapes; it is not changed.
        path: of the file.
        left_out: parts of names; weights so named need not be there, and are not returned if they are.

    Raises:
        InputError: when there is no such file, it is no state dict, a key or shape differs, or a weight is NaN or Inf.
    """
    expected = network.state_dict()
    content = _read(path)
    weights = _flat(content, path)
    if not set(weights) & set(expected):
        weights = _without_prefix(weights)
    if said := [*_renamed(content, weights)]:
        logger.info("%s: weights %s", path, " and ".join(said))
    weights, expected = without(weights, left_out), without(expected, left_out)
    if faults := _mismatches(expected, weights):
        more = f" and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        raise InputError(f"{path} does not fit {type(network).__name__}: {'; '.join(faults[:SHOWN])}{more}")
    if wrong := _not_finite(weights):
        raise InputError(f"{path} must hold finite weights, but {wrong} holds NaN or Inf")
    return weights


def read_record(path: str | Path) -> dict[str, Any]:
    """What :func:`save_weights` noted of the weights; nothing in a file of another program."""
    record = getattr(_read(path), "record", None)
    return dict(record) if isinstance(record, Mapping) else {}


def check_record(path: str | Path, trained_on: Mapping[str, Any]) -> dict[str, Any]:
    """Make sure that weights are used as they were trained, and return their record.

    Args:
        path: of the weights.
        trained_on: settings by name; those that the record has too must be equal.

    Raises:
        InputError: for one that is not.
    """
    record = read_record(path)
    for name, value in trained_on.items():
        if record.get(name, value) != value:
            raise InputError(
                f"{path} was trained with {name} {record[name]}, the config says {value}: lay the overlays that it was "
                "trained with, such as quick, on top, or set trained_on to null"
            )
    return record


def without(weights: Mapping[str, Tensor], parts: Iterable[str]) -> dict[str, Tensor]:
    """Weights whose names hold none of some parts."""
    several = [*parts]
    return {name: value for name, value in weights.items() if not any(part in name for part in several)}


def weights_digest(path: str | Path) -> str:
    """Tell weights apart: 12 hexadecimal digits that depend on names and values alone, not on how the file was written.

    Raises:
        InputError: when there is no such file, or it is no state dict.
    """
    return state_digest(_flat(_read(path), path))


def weights_digests(paths: Iterable[str | Path]) -> list[str]:
    """What tells several files of weights apart, see :func:`weights_digest`."""
    return [weights_digest(path) for path in paths]


def state_digest(weights: Mapping[str, Tensor]) -> str:
    """Digest of a network's weights as :func:`weights_digest` has it, less what only training uses."""
    digest = hashlib.blake2b(digest_size=DIGEST_SIZE)
    for name, value in sorted(without(_without_prefix(weights), TRAINING_ONLY).items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def read_safely(path: str | Path, kind: str = "a file of weights") -> Any:
    """Content of a file that torch wrote, on the CPU, without running code from it or unpacking a compressed one.

    Args:
        path: of the file.
        kind: what it should be, for the message.

    Raises:
        InputError: when it is not.
    """
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                _refuse_compressed(archive)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001 - torch raises many kinds
        cause = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"{path} is not {kind} that torch can read safely: {cause}") from None


def _read(path: str | Path) -> Any:
    if not Path(path).is_file():
        raise InputError(f"no weights at {path}: train the network first, or say where they are")
    return read_safely(path)


def _refuse_compressed(archive: zipfile.ZipFile) -> None:
    """Torch does not compress: what unpacks to more than the file was made to fill the memory."""
    if any(one.compress_type != zipfile.ZIP_STORED for one in archive.infolist()):
        raise ValueError("it is compressed, which torch never does")


def _flat(content: Any, path: str | Path) -> dict[str, Tensor]:
    nested = (content[key] for key in NESTED if isinstance(content, dict) and isinstance(content.get(key), dict))
    for weights in (content, *nested):
        if isinstance(weights, dict) and all(isinstance(value, Tensor) for value in weights.values()):
            return dict(weights)
    raise InputError(
        f"{path} must hold a state dict of tensors, at its top or under {', '.join(NESTED)}, as trainings write it"
    )


def _without_prefix(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Take known prefixes that all names share off them, also several."""
    names = [*weights]
    while prefix := next((one for one in PREFIXES if names and all(name.startswith(one) for name in names)), ""):
        names = [name[len(prefix) :] for name in names]
    return dict(zip(names, weights.values(), strict=True))


def _renamed(content: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Iterable[str]:
    """How weights were found that are not a flat state dict under the network's own names."""
    if place := next((key for key in NESTED if isinstance(content.get(key), dict)), ""):
        yield f"taken from {place!r}"
    flat = content[place] if place else content
    if prefix := next(iter(flat), "").removesuffix(next(iter(weights), "")):
        yield f"taken without {prefix!r} before their names"


def _mismatches(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> list[str]:
    missing = [f"lacks {key}" for key in expected if key not in found]
    foreign = [f"has unknown {key}" for key in found if key not in expected]
    shapes = [
        f"{key} is {tuple(found[key].shape)} instead of {tuple(expected[key].shape)}"
        for key in expected
        if key in found and found[key].shape != expected[key].shape
    ]
    return shapes + missing + foreign


def _not_finite(weights: Mapping[str, Tensor]) -> str | None:
    """First name of a weight that holds NaN or Inf."""
    return next((name for name, x in weights.items() if x.is_floating_point() and not x.isfinite().all()), None)


def _epochs(record: Mapping[str, Any]) -> tuple[int, int]:
    return record["epoch"], record["max_epochs"]
