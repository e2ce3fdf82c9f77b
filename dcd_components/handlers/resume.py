"""A training that goes on where it was stopped or killed, as if it had not been."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from ignite.handlers import Checkpoint
from torch import Tensor

from dcd_components.distributed import CpuGroup, rank, world_size
from dcd_components.errors import InputError
from dcd_components.files import whole_file
from dcd_components.handlers.checkpoints import dated, prepare_folder, remove_partial_files
from dcd_components.handlers.course import case_names, described, difference, plain
from dcd_components.handlers.endings import Stopped, StopSignals, at_end
from dcd_components.handlers.kept_state import States, kept_states
from dcd_components.handlers.training_lock import TrainingLock
from dcd_components.networks.stage_recorder import unwrap
from dcd_components.networks.weights import read_safely

#: Names of the files, which sort by their number.
NAME = "iteration-{:09d}.pt"
PATTERN = NAME.format(0).replace("0", "[0-9]")


class TrainingCheckpoint:
    """Keep all that a training needs to go on, at the end of epochs and when a signal stops it, and go on from there.

    A training that goes on computes what it would have, bit by bit where the machine does: weights, their average,
    optimizer, schedule, projections, records, best metric and random states are kept; the order of the data follows
    from the epoch (:class:`.DistributedReplacementSampler`); their loader must have a generator of its own, since it
    draws from it more often when a training goes on. Unlike Ignite's ``Checkpoint``, with whose layout and
    ``load_objects`` it works, it writes a file whole or not at all, removes older ones only after that, and reads files
    without running code from them.

    At SIGTERM and at Ctrl-C the training ends after the running iteration, or the running case of a validation, with
    the exit status of shells; a second Ctrl-C interrupts at once. Of several processes, all end after the same
    iteration; a validation that they share is ended first, and can be repeated if there is no time for that.

    Acts after all other handlers of its events, wherever it is listed; list it last all the same, since it loads at
    ``STARTED`` what others begin with, but for :class:`.SafeCheckpointLoader`, which after it has nothing to load. Of
    several runs of an engine, as in federated rounds, only the first may go on from a file.

    Args:
        folder: of the files, one for each of the last epochs, and one after the end. Those of another training are
            moved into a folder with their date, if this one does not go on from them.
        state: what is kept by name, with ``state_dict`` and ``load_state_dict``, besides what handlers of the trainer
            and the validator ask to keep, see :func:`.keep`; the same in all processes.
        validator: engine whose best metric is kept; a signal ends it too.
        settings: of the training, by name, that must not change when it goes on, besides the numbers of epochs,
            iterations, patches and processes, the cases, the sizes of networks, and what the optimizer and the
            schedule in ``state`` were made with.
        resume: go on from the newest file that can be read, or begin if there is none.
        every: epochs from one file to the next; the last epoch has one too.
        kept: number of files.

    Raises:
        InputError: when the folder cannot be written to, another training writes to it, a setting has changed, no file
            can be read, or what is to be kept is not finite.
    """

    def __init__(
        self,
        folder: str | Path,
        state: Mapping[str, Any],
        validator: Any = None,
        settings: Mapping[str, Any] | None = None,
        resume: bool = False,
        every: int = 1,
        kept: int = 2,
    ) -> None:
        if every < 1 or kept < 1:
            raise InputError(f"checkpoint_every and checkpoints_kept must be at least 1, got {every} and {kept}")
        self.folder = Path(folder)
        self.state = {name: unwrap(one) if isinstance(one, torch.nn.Module) else one for name, one in state.items()}
        self.own: States = {"random": RandomStates()}
        self.validator = validator
        self.settings = dict(settings or {})
        self.resume = resume
        self.every, self.kept = every, kept
        self._signals = StopSignals()
        self._group: Any = None  # known at STARTED
        self._epoch_end: list[Any] = []  # what each process had of its own after the last iteration of an epoch
        self._lock = TrainingLock(self.folder)
        prepare_folder(self.folder.parent)

    def attach(self, engine: Engine) -> None:
        """Register at the engine's events."""
        engine.add_event_handler(Events.STARTED, self._begin)
        at_end(engine, self._signals.release)
        at_end(engine, self._lock.release)

    def _begin(self, engine: Any) -> None:
        self._signals.listen()
        first, self._group = self._group is None, self._group or CpuGroup()
        if not self._group.first(rank() > 0 or self._lock.take()):
            raise InputError(f"another training is writing to {self.folder}: give another ckpt_path")
        if first:
            self._begin_first_run(engine)

    def _begin_first_run(self, engine: Any) -> None:
        self.settings = self._settings(engine)
        if self.validator is not None:
            self.state["validator"] = BestMetric(self.validator)
        self.state |= kept_states(engine, self.validator)
        self.own |= kept_states(engine, self.validator, own=True)
        # Only now, so that they come after those of handlers that are listed later.
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._after_iteration)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._after_epoch)
        if self.validator is not None:
            self.validator.add_event_handler(Events.ITERATION_COMPLETED, self._after_case, engine)
        if rank() == 0:
            remove_partial_files(self.folder, PATTERN)
        self._load(engine) if self.resume else self._set_aside(engine)

    def _after_iteration(self, engine: Any) -> None:
        ended = engine.state.iteration % engine.state.epoch_length == 0
        stop = self._group.largest(self._signals.number)
        if ended or stop:
            self._epoch_end = self._group.gather(_states(self.own))
        if stop:
            self._save(engine, self._epoch_end, epoch_completed=False)
            self._stop(engine, stop)

    def _after_case(self, validator: Any, engine: Any) -> None:
        """End a validation, of which nothing is kept. Several processes wait for each other in it."""
        if not self._signals.number or not self._epoch_end:
            return
        self._save(engine, self._epoch_end, epoch_completed=False)
        self._epoch_end = []
        if world_size() == 1:
            self._stop(engine, self._signals.number)

    def _after_epoch(self, engine: Any) -> None:
        state, stop = engine.state, self._group.largest(self._signals.number)
        if stop or state.epoch % self.every == 0 or state.epoch >= state.max_epochs:
            self._save(engine, self._group.gather(_states(self.own)), epoch_completed=True)
        self._epoch_end = []
        if stop:
            self._stop(engine, stop)

    def _stop(self, engine: Any, number: int) -> None:
        self._group.largest(0)  # no process ends before the file is written: a launcher would end the others
        state = engine.state
        engine.logger.info(
            f"stopped after iteration {state.iteration}, in epoch {state.epoch} of {state.max_epochs}: "
            "the same command with --resume goes on"
        )
        raise Stopped(number)

    def _save(self, engine: Any, own: list[Any], *, epoch_completed: bool) -> None:
        if rank() > 0:
            return
        content = {**_states(self._shared(engine)), "own": own}
        content |= {"epoch_completed": epoch_completed, "settings": self.settings}
        path = self.folder / NAME.format(engine.state.iteration)
        if name := next(_not_finite({name: content[name] for name in self._shared(engine)}), None):
            raise InputError(f"{path} is not written: {name} holds NaN or Inf; look for NaN with the command check")
        with whole_file(path) as partial, partial.open("wb") as file:
            torch.save(content, file)
        others = [one for one in self._files() if one != path]
        ended = epoch_completed and engine.state.epoch >= engine.state.max_epochs
        for old in others[0 if ended else self.kept - 1 :]:
            old.unlink(missing_ok=True)

    def _shared(self, engine: Any) -> dict[str, Any]:
        scaler = getattr(engine, "scaler", None)
        return {**self.state, "trainer": engine, **({} if scaler is None else {"scaler": scaler})}

    def _settings(self, engine: Any) -> dict[str, Any]:
        """All that may not change, of a training that has not begun."""
        state, loader = engine.state, engine.state.dataloader
        found = {"max_epochs": state.max_epochs, "epoch_length": state.epoch_length}
        found |= {"batch_size": getattr(loader, "batch_size", None), "processes": world_size(), **self.settings}
        found |= {"cases": case_names(loader)}
        found |= {"validation_cases": case_names(getattr(self.validator, "data_loader", None))}
        return plain({**found, **described(self.state)})

    def _files(self) -> list[Path]:
        """Files, the newest first."""
        return sorted(self.folder.glob(PATTERN), reverse=True)

    def _set_aside(self, engine: Any) -> None:
        if engine.state.iteration == 0 and rank() == 0 and (files := self._files()):
            place = dated(self.folder, files[0])
            place.mkdir()
            for path in self.folder.glob(f"{PATTERN}*"):
                path.rename(place / path.name)
            engine.logger.warning(f"checkpoints of another training are now in {place}; --resume would have gone on")

    def _load(self, engine: Any) -> None:
        path, content = self._newest(engine) if rank() == 0 else (None, None)
        path = self._group.first(path)
        if path is None:
            engine.logger.info(f"no checkpoint in {self.folder}: the training starts from the beginning")
            return
        content = content or _read(path)
        self._compare(path, content["settings"])
        Checkpoint.load_objects(self._shared(engine), content)
        Checkpoint.load_objects(self.own, content["own"][rank()])
        self._go_on(engine, path, content["epoch_completed"])

    def _newest(self, engine: Any) -> tuple[Path | None, Any]:
        """The newest file that can be read, and its content; damaged ones that are newer get another name."""
        damaged: list[Path] = []
        for path in self._files():
            try:
                content = _read(path)
            except InputError as error:
                engine.logger.warning(f"{error}; the one before is tried")
                damaged.append(path)
                continue
            for one in damaged:
                one.rename(f"{one}.damaged")
            return path, content
        if damaged:
            raise InputError(f"no checkpoint in {self.folder} can be read: start anew without --resume")
        return None, None

    def _compare(self, path: Path, saved: Mapping[str, Any]) -> None:
        if found := difference(saved, self.settings):
            name, was, now = found
            raise InputError(
                f"{path} is of a training with {name} {was}, this one has {now}: a training goes on with the "
                "settings that it began with; start anew without --resume"
            )

    def _go_on(self, engine: Any, path: Path, epoch_completed: bool) -> None:
        state = engine.state
        done = state.iteration % state.epoch_length
        engine.logger.info(f"goes on after iteration {state.iteration}, in epoch {state.epoch + (done > 0)}: {path}")
        if done:
            state.dataloader.sampler.start = done * state.dataloader.batch_size
        elif not epoch_completed:
            self._epoch_end = self._group.gather(_states(self.own))
            engine.fire_event(Events.EPOCH_COMPLETED)
        if state.epoch >= state.max_epochs:
            engine.logger.info("this training has ended already: nothing is left to do")


class BestMetric:
    """Best key metric of a validation, and its epoch, as state dict.

    Args:
        validator: MONAI's evaluator.
    """

    def __init__(self, validator: Any) -> None:
        self.validator = validator

    def state_dict(self) -> dict[str, float]:
        """Both, as numbers."""
        state = self.validator.state
        return {"best_metric": float(state.best_metric), "best_metric_epoch": state.best_metric_epoch}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Give them to the evaluator."""
        for name, value in state.items():
            setattr(self.validator.state, name, value)


class RandomStates:
    """States of the generators of random numbers of a process: Python's, NumPy's and torch's, on CPU and GPU."""

    def state_dict(self) -> dict[str, Any]:
        """All states, as tensors and numbers."""
        kind, keys, *rest = np.random.get_state(legacy=True)
        return {
            "python": random.getstate(),
            "numpy": [kind, torch.from_numpy(np.asarray(keys, np.int64)), *rest],
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Set all of them."""
        random.setstate(state["python"])
        kind, keys, *rest = state["numpy"]
        np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
        torch.set_rng_state(state["torch"])
        if state["cuda"] is not None and torch.cuda.is_available():
            torch.cuda.set_rng_state(state["cuda"])


def _states(objects: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _plain(one.state_dict()) for name, one in objects.items()}


def _plain(value: Any) -> Any:
    """Value made of what can be read without running code: no enumerations, and tensors without meta data."""
    if isinstance(value, Tensor):
        return value.detach().as_subclass(Tensor)
    if isinstance(value, Mapping):
        return {_plain(key): _plain(child) for key, child in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(_plain, value)) if type(value) in (list, tuple) else [*map(_plain, value)]
    if isinstance(value, np.generic):
        return value.item()
    return str(value) if isinstance(value, str) else value


def _read(path: Path) -> dict[str, Any]:
    content = read_safely(path, "a checkpoint")
    if not isinstance(content, dict) or not {"own", "settings", "epoch_completed"} <= content.keys():
        raise InputError(f"{path} is not a checkpoint: it holds no training")
    return content


def _not_finite(value: Any, name: str = "") -> Iterator[str]:
    """Names of tensors that hold NaN or Inf, in nested dictionaries and lists."""
    if isinstance(value, Tensor):
        if value.is_floating_point() and not bool(value.isfinite().all()):
            yield name
        return
    children = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from _not_finite(child, f"{name} {key}".strip())
