"""What a study consists of, as its YAML file says."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from dcd_components.bundle import running
from dcd_components.bundle.configs import ARCHITECTURES, read_configs
from dcd_components.errors import InputError

TEACHER = "teacher"
#: Workflow of a teacher that need not be trained.
GIVEN = "evaluate"
KEYS = ("bundle", "overlays", "seeds", "settings", TEACHER, "students", "methods")
#: What a method may say: its workflow; another network, by its overlay; overlays and settings on top of those of all
#: students; folds whose labels its teacher draws.
METHOD_KEYS = ("workflow", "network", "overlays", "settings", "drawn_folds")


@dataclass(frozen=True)
class Run:
    """One network: how it is trained.

    Args:
        method: its name, or ``teacher``.
        seed: of first weights, data order and augmentation.
        workflow: of ``dcd run``: teacher, student or distill; evaluate for a teacher that the bundle has, and that is
            scored alone.
        overlays: configs on top, the later over the earlier, that its evaluation has too.
        own: overlays that make another method of its training, on top of these.
        settings: over the configs, by key.
        drawn_folds: folds whose cases count as unlabelled, and are trained on with the masks that the teacher draws.
    """

    method: str
    seed: int
    workflow: str
    overlays: Sequence[str] = ()
    own: Sequence[str] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    drawn_folds: Sequence[int] = ()

    @property
    def name(self) -> str:
        """Name of the run, and of its files."""
        return f"{self.method}-{self.seed}"

    @property
    def training(self) -> list[str]:
        """Overlays of its training."""
        return [*self.overlays, *self.own]

    @property
    def evaluation(self) -> list[str]:
        """Overlays of its evaluation."""
        return [*([TEACHER] if self.method == TEACHER else []), *self.overlays]

    @property
    def needs_teacher(self) -> bool:
        """Whether the seed's teacher has to be there first."""
        return self.workflow == "distill" or bool(self.drawn_folds)

    @property
    def is_given(self) -> bool:
        """Whether it is a teacher that the bundle has, such as an nnU-Net."""
        return self.workflow == GIVEN


@dataclass(frozen=True)
class Study:
    """A study's file.

    Args:
        path: of the file; results lie in the folder of the same name beside it.
        bundle: whose configs are run. One without ``train_teacher`` has a teacher, in ``models/teacher/model.pt``.
        runs: seed by seed, each with its teacher first, so that a study that is stopped has whole seeds.
    """

    path: Path
    bundle: Path
    runs: Sequence[Run]

    @property
    def results(self) -> Path:
        """Folder of the results."""
        return self.path.with_suffix("")

    def teacher_of(self, run: Run) -> Run:
        """The teacher of a run's seed."""
        return next(one for one in self.runs if one.method == TEACHER and one.seed == run.seed)

    @property
    def methods(self) -> list[str]:
        """Names of the methods, in the order of the file."""
        return list(dict.fromkeys(run.method for run in self.runs if run.method != TEACHER))

    def of(self, methods: Collection[str]) -> Study:
        """The study of these methods alone, and of the teachers.

        Raises:
            InputError: for a method that it does not have.
        """
        if others := [method for method in methods if method not in self.methods]:
            raise InputError(f"methods must be among {', '.join(self.methods)} of {self.path}, got {others[0]}")
        return replace(self, runs=[run for run in self.runs if run.method in {TEACHER, *methods}])


def read_study(path: Path) -> Study:
    """Read a study, and check every setting against the configs that it is for.

    Raises:
        InputError: for a file that is missing or no study, an unknown key, and a config or setting that no config has.
    """
    if not path.is_file():
        raise InputError(f"no study at {path}")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
    _check_keys(path, content, KEYS, ("bundle", "seeds", "methods"))
    if not isinstance(content["bundle"], str):
        raise InputError(f"{path}: bundle must be a folder, from that of the study, got {content['bundle']!r}")
    bundle = (path.parent / content["bundle"]).resolve()
    study = Study(path, bundle, list(_runs(path, content)))
    for run in study.runs[: len(study.runs) // len(content["seeds"])]:  # those of another seed say the same
        try:  # as the run itself will be checked
            settings = {key: str(value) for key, value in run.settings.items()}
            running.command_line(run.workflow, bundle, run.training, settings)
        except InputError as error:
            raise InputError(f"{path}: {run.method}: {error}") from None
    return study


def _runs(path: Path, content: Mapping[str, Any]) -> Iterator[Run]:
    seeds, methods = content["seeds"], content["methods"]
    if not isinstance(seeds, list) or not seeds or not all(type(seed) is int for seed in seeds):
        raise InputError(f"{path}: seeds must be whole numbers, [0, 1, 2], got {seeds}")
    if len({*seeds}) < len(seeds):
        raise InputError(f"{path}: seeds must be different, got {seeds}")
    if not isinstance(methods, Mapping) or not methods:
        raise InputError(f"{path}: methods must be a mapping of names to their settings, got {methods}")
    for name in methods:
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z]\w*", name) or name == TEACHER:
            rule = "a letter, then letters, digits or _, and not teacher"
            raise InputError(f"{path}: the name of a method must be {rule}, got {name!r}")
    shared, students, teacher = (_mapping(path, key, content.get(key)) for key in ("settings", "students", TEACHER))
    overlays = _listed(path, content.get("overlays"))
    of_teacher = _teacher(path, path.parent / content["bundle"], overlays, shared, teacher)
    for seed in seeds:
        yield Run(TEACHER, seed, of_teacher[0], overlays, (), of_teacher[1])
        for name, given in methods.items():
            said = _mapping(path, name, given)
            _check_keys(path, said, METHOD_KEYS, ())
            workflow = said.get("workflow", "distill")
            if workflow not in ("student", "distill"):
                raise InputError(f"{path}: the workflow of {name} must be student or distill, got {workflow}")
            own = _listed(path, said.get("overlays"))
            network = [said["network"]] if "network" in said else []
            _check_known(f"{path}: the network of {name}", network, ARCHITECTURES.glob("*_student.yaml"))
            _check_known(f"{path}: a method's overlay, which trains alone,", own, running.BASELINES.glob("*.yaml"))
            settings = {**shared, **students, **_mapping(path, name, said.get("settings"))}
            drawn = said.get("drawn_folds", [])
            if not isinstance(drawn, list) or not all(type(fold) is int for fold in drawn):
                raise InputError(f"{path}: the drawn_folds of {name} must be whole numbers, [5, 6], got {drawn!r}")
            yield Run(name, seed, workflow, [*network, *overlays], own, settings, drawn)


def _teacher(
    path: Path, bundle: Path, overlays: Sequence[str], shared: Mapping[str, Any], own: Mapping[str, Any]
) -> tuple[str, dict[str, Any]]:
    """Workflow and settings of a teacher; of one that is given, the settings that its evaluation has too."""
    configs = bundle / "configs"
    if not configs.is_dir() or any(configs.glob("train_teacher.*")):
        return TEACHER, {**shared, **own}
    if own:
        raise InputError(f"{path}: teacher must be left out, since {bundle} has one that is not trained")
    known = read_configs(bundle, ["inference", "evaluate", TEACHER, *overlays]).get()
    return GIVEN, {key: value for key, value in shared.items() if key.partition("::")[0] in known}


def _mapping(path: Path, key: str, said: object) -> Mapping[str, Any]:
    if not isinstance(said, Mapping | None):
        raise InputError(f"{path}: {key} must be a mapping, got {said!r}")
    return said or {}


def _listed(path: Path, said: object) -> list[str]:
    if not isinstance(said, list | None) or not all(isinstance(one, str) for one in said or ()):
        raise InputError(f"{path}: overlays must be a list of names, got {said!r}")
    return said or []


def _check_known(what: str, names: Sequence[object], files: Iterable[Path]) -> None:
    known = sorted(file.stem for file in files)
    if others := [name for name in names if name not in known]:
        raise InputError(f"{what} must be one of {', '.join(known)}, got {others[0]}")


def _check_keys(path: Path, said: object, known: Sequence[str], needed: Sequence[str]) -> None:
    if not isinstance(said, Mapping) or set(said) - set(known) or set(needed) - set(said):
        got = ", ".join(map(str, said)) if isinstance(said, Mapping) else said
        expected = f"have the keys {', '.join(needed)}, and" if needed else "have"
        raise InputError(f"{path} must {expected} only keys of {', '.join(known)}, got {got}")
