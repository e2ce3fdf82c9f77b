"""Handlers say what of theirs goes with a training's checkpoints, so that no config needs to."""

from __future__ import annotations

from typing import Any

from ignite.engine import Engine

#: Names, each with an object that has ``state_dict`` and ``load_state_dict``.
States = dict[str, Any]


def keep(engine: Engine, name: str, one: Any, *, own: bool = False) -> None:
    """Let :class:`dcd_components.TrainingCheckpoint` keep an object's state.

    Args:
        engine: that the handler is attached to, the trainer or its validator.
        name: of the state in the file.
        one: has ``state_dict``, of tensors, numbers, texts, lists and dictionaries, and ``load_state_dict``.
        own: whether each process has a state of its own.
    """
    _registry(engine)[own][name] = one


def kept_states(*engines: Engine | None, own: bool = False) -> States:
    """What handlers of some engines asked to keep."""
    states: States = {}
    for engine in engines:
        states |= _registry(engine)[own] if engine is not None else {}
    return states


def _registry(engine: Any) -> dict[bool, States]:
    if not hasattr(engine, "_kept_states"):
        engine._kept_states = {False: {}, True: {}}
    found: dict[bool, States] = engine._kept_states
    return found
