"""What decides the course of a training by name, and what differs between two."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from torch import nn


def described(objects: Mapping[str, Any]) -> dict[str, Any]:
    """Networks by their size; optimizers and schedules by what they were made with, as long as they are new.

    Args:
        objects: by name, with ``state_dict``.
    """
    return {name: _sizes(one) if isinstance(one, nn.Module) else one.state_dict() for name, one in objects.items()}


def case_names(loader: Any) -> list[str]:
    """Names of the cases of a data loader; none where items have no names."""
    items = getattr(getattr(loader, "dataset", None), "data", None) or []
    return [item["case"] for item in items if isinstance(item, Mapping) and "case" in item]


def plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The same settings made of numbers, texts, lists and dictionaries."""
    return dict(json.loads(json.dumps(settings, default=str)))


def difference(saved: Mapping[str, Any], given: Mapping[str, Any]) -> tuple[str, str, str] | None:
    """Name of the first setting that differs, as configs write it, and both values; None if all are equal.

    A setting that only one of them has is one of them.
    """
    was, now = _flat(saved), _flat(given)
    for name in {**was, **now}:
        if was.get(name) != now.get(name):
            return name, *_shortened(was.get(name), now.get(name))
    return None


def _sizes(network: nn.Module) -> dict[str, int]:
    weights = network.state_dict().values()
    return {"tensors": len(weights), "numbers": sum(one.numel() for one in weights)}


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """Dictionaries, and lists of them, by their path."""
    if isinstance(value, list) and any(isinstance(child, Mapping) for child in value):
        value = {str(number): child for number, child in enumerate(value)}
    if not isinstance(value, Mapping):
        return {name: value}
    paths = ((child, f"{name}::{key}" if name else str(key)) for key, child in value.items())
    return {path: one for child, start in paths for path, one in _flat(child, start).items()}


def _shortened(saved: Any, given: Any) -> tuple[str, str]:
    """Both as texts; of long lists, what only one of them has."""
    texts = str(saved), str(given)
    if sum(map(len, texts)) < 200 or not (isinstance(saved, list) and isinstance(given, list)):
        return texts
    was, now = ([str(x) for x in one if x not in other] for one, other in ((saved, given), (given, saved)))
    return _first(was), _first(now)


def _first(texts: list[str]) -> str:
    return ", ".join(texts[:3]) + ", ..." * (len(texts) > 3) or "the same in another order, or fewer"
