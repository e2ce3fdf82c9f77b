"""A release of a bundle: one zip that MONAI downloads and runs, with nothing but MONAI for inference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from monai.bundle import ConfigParser

from dcd_components.bundle.release.archives import refuse_personal_paths, split_large, write_zip
from dcd_components.bundle.release.flattening import SETTINGS, Config, flatten, overlay, to_json
from dcd_components.bundle.release.metadata import fill_metadata
from dcd_components.bundle.release.weights import flat_weights, scripted
from dcd_components.errors import InputError

#: The configs of a release: the bundle's of which each is made, and the kind of its workflow.
CONFIGS = {
    "inference": (("inference",), "infer"),
    "evaluate": (("inference", "evaluate"), "infer"),
    "train": (("inference", "train"), "train"),
}
#: Those that stay overlays, where the bundle has them, and on which of the above each may be laid.
OVERLAYS = {
    "mirror": ("mirror", ("inference", "evaluate")),
    "multi_gpu_train": ("multi_gpu", ("train",)),  # what MONAI Label and the model zoo look for
    "multi_gpu_evaluate": ("multi_gpu", ("evaluate",)),
    "teacher": ("teacher", ("inference", "evaluate")),
    "tensorboard": ("tensorboard", ("train",)),
}
MODEL, TEACHER = "models/model.pt", "models/teacher/model.pt"
#: Rooms of the package that no release needs.
AT_HOME = ("benchmarks", "demo", "simulation")
LICENCES = ("LICENSE", "docs/data_license.txt")


def run(
    bundle: str,
    out: str,
    overlays: str | Sequence[str] = (),
    teacher: bool = False,
    scores: str | None = None,
    url: str | None = None,
) -> str:
    """Pack a bundle and its trained weights into a zip to publish.

    Args:
        bundle: its folder, with models/model.pt.
        out: folder for NAME_vVERSION.zip.
        overlays: configs that the weights were trained with, in their order, "['quick.yaml']".
        teacher: pack models/teacher/model.pt too, so that others can distil from it.
        scores: scores.csv of the weights' evaluation; its means go into the metadata.
        url: address below which files above 25 MB will be published, beside the zip.
    """
    names = [overlays] if isinstance(overlays, str) else list(overlays)
    return str(
        pack(
            Path(str(bundle)),
            Path(str(out)),
            overlays=names,
            teacher=teacher,
            scores=Path(str(scores)) if scores else None,
            url=url,
        )
    )


def pack(
    bundle: Path,
    out: Path,
    *,
    overlays: Sequence[str] = (),
    teacher: bool = False,
    scores: Path | None = None,
    url: str | None = None,
) -> Path:
    """Pack a bundle, see :func:`run`: all its files, or none.

    Returns:
        The zip; files too large for it lie beside it.

    Raises:
        InputError: when weights are missing.
        InputError: for weights that do not fit, a version without a word in the changelog, files that name places on
            this machine, missing licences, scores of another task, and a release that is there already.
    """
    configs = flat_configs(bundle, overlays, teacher=teacher)
    _refuse_places(configs)
    metadata = fill_metadata(bundle / "configs" / "metadata.json", configs["evaluate"]["regions"], scores)
    name = f"{_checked_name(bundle)}_v{metadata['version']}"
    _refuse_loss(out / f"{name}.zip")
    texts = {f"configs/{key}.json": f"{to_json(one)}\n" for key, one in {**configs, "metadata": metadata}.items()}
    files = _copied(bundle) | {path: text.encode() for path, text in texts.items()}
    files |= _weights(bundle, configs, metadata)
    refuse_personal_paths(files, [bundle.resolve(), bundle.absolute(), Path.home()])
    small, large = split_large(files, name, url)
    for one in large:
        _refuse_loss(out / one)
    out.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{name}-", dir=out) as hidden:
        for one, data in large.items():
            (Path(hidden) / one).write_bytes(data)
        write_zip(Path(hidden) / f"{name}.zip", bundle.resolve().name, small)
        for one in (*large, f"{name}.zip"):  # the zip last: where it is, all is
            (Path(hidden) / one).rename(out / one)
    return out / f"{name}.zip"


def flat_configs(bundle: Path, overlays: Sequence[str] = (), *, teacher: bool = False) -> dict[str, Config]:
    """Flatten a bundle's configs, by their names in the release.

    Args:
        bundle: its folder.
        overlays: names of the configs that are laid on all others, as in :func:`run`.
        teacher: the training distils from the teacher, whose overlay is there too.
    """
    folder, last = bundle / "configs", [Path(name).with_suffix(".yaml").name for name in overlays]
    lists = {}
    for key, (names, kind) in CONFIGS.items():
        distil = ("distill",) if teacher and key == "train" else ()
        lists[key] = ([folder / f"{name}.yaml" for name in (*names, *distil)] + [folder / name for name in last], kind)
    flat = {key: flatten(*one) for key, one in lists.items()}
    # A federated client lays one over the other.
    flat["evaluate"]["imports"] = list(dict.fromkeys([*flat["evaluate"]["imports"], *flat["train"]["imports"]]))
    for key, (name, bases) in OVERLAYS.items():
        if (folder / f"{name}.yaml").is_file() and (key != "teacher" or teacher):
            flat[key] = overlay(folder / f"{name}.yaml", [lists[base] for base in bases])
    return flat


def _checked_name(bundle: Path) -> str:
    name = bundle.resolve().name
    if "_v" in name:
        raise InputError(f"a bundle's name may not hold _v, after which MONAI reads a version, got {name}")
    return name


def _refuse_places(configs: Mapping[str, Config]) -> None:
    for name, config in configs.items():
        if found := [key for key in SETTINGS if Path(str(config.get(key, ""))).is_absolute()]:
            said = f"configs/{name}.json would say {found[0]}: {config[found[0]]}"
            raise InputError(f"{said}, a place on this machine; leave it to the command line")


def _refuse_loss(path: Path) -> None:
    if path.exists():
        raise InputError(f"{path} is there already: raise the version in metadata.json, or pack into another folder")


def _copied(bundle: Path) -> dict[str, bytes]:
    """Files of a release that are as in the bundle, and the package that training needs."""
    if missing := [name for name in LICENCES if not (bundle / name).is_file()]:
        raise InputError(f"{bundle} must have {' and '.join(missing)} to be published")
    docs = [path for path in (bundle / "docs").rglob("*") if path.is_file() and not path.name.startswith(".")]
    ours = [bundle / "LICENSE", bundle / "configs" / "logging.conf", *docs]
    package = Path(__file__).parents[2]
    copied = {path.relative_to(bundle).as_posix(): path.read_bytes() for path in ours}
    travels = [path.relative_to(package) for path in package.rglob("*.py")]
    travels = [path for path in travels if path.parts[0] not in AT_HOME]
    return copied | {f"{package.name}/{path.as_posix()}": (package / path).read_bytes() for path in travels}


def _weights(bundle: Path, configs: Mapping[str, Config], metadata: Mapping[str, Any]) -> dict[str, bytes]:
    """The student's weights, alone and compiled, and those of the teacher where it is packed."""
    config = configs["inference"]
    student = ConfigParser(dict(config)).get_parsed_content("network_def")
    files = {MODEL: flat_weights(student, bundle / MODEL)}
    if "teacher" in configs:
        network = ConfigParser({**config, **configs["teacher"]}).get_parsed_content("network_def")
        files[TEACHER] = flat_weights(network, bundle / TEACHER)
    return {**files, "models/model.ts": scripted(config, files[MODEL], metadata)}
