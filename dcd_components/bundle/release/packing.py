"""A release of a bundle: one zip that MONAI downloads and runs, with nothing but MONAI for inference."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from monai.bundle import ConfigParser
from monai.bundle.utils import merge_kv

from dcd_components.bundle.assemble import laid_over
from dcd_components.bundle.configs import config_file, literal
from dcd_components.bundle.release.archives import refuse_personal_paths, split_large, write_zip
from dcd_components.bundle.release.metadata import fill_metadata
from dcd_components.bundle.release.weights import flat_weights, scripted
from dcd_components.errors import InputError
from dcd_components.networks.weights import weights_digest

Config = dict[str, Any]
WORKFLOWS = ("inference", "train_teacher", "train_student", "distill")
#: Of these, what a bundle lacks whose teacher was trained elsewhere.
OPTIONAL = ("train_teacher",)
#: Overlays of a release; the others are for the making of weights.
OVERLAYS = ("evaluate", "mirror", "multi_gpu", "long_windows", "teacher", "tensorboard")
#: Paths that are said at the command line, and so are no part of a release.
COMMAND_LINE_PATHS = ("dataset_dir", "output_dir", "datalist", "ckpt_path", "cache_dir", "teacher_path")
MODEL, TEACHER = "models/model.pt", "models/teacher/model.pt"
#: Sub-packages that no release needs.
NOT_RELEASED = ("benchmarks", "demo", "simulation")
LICENCES = ("LICENSE", "docs/data_license.txt")


def pack(
    bundle: Path,
    out: Path,
    *,
    overlays: Sequence[str] = (),
    teacher: bool = False,
    scores: Path | None = None,
    url: str | None = None,
) -> Path:
    """Pack a bundle and its trained weights into a zip to publish: all its files, or none.

    Args:
        bundle: its folder, with ``models/model.pt``.
        out: folder for ``NAME_vVERSION.zip``.
        overlays: configs that the weights were trained with, by name and in their order, such as ``quick``.
        teacher: pack ``models/teacher/model.pt`` too, and the ``further_teachers`` of ``distill.yaml``, so that others
            can distil from them.
        scores: ``scores.csv`` of the weights' evaluation; its means go into the metadata.
        url: address below which files above 25 MB will be published, beside the zip.

    Returns:
        The zip; files too large for it lie beside it.

    Raises:
        InputError: for weights that are missing or do not fit, a version without a word in the changelog, files that
            name places on this machine, missing licences, scores of another task or other weights, and a release that
            is there already.
    """
    texts = config_texts(bundle, overlays)
    configs = json_configs(texts, teacher=teacher)
    _refuse_places(texts)
    digest = weights_digest(bundle / MODEL) if scores else ""
    metadata = fill_metadata(bundle / "configs" / "metadata.json", configs["evaluate"]["regions"], scores, digest)
    name = f"{_checked_name(bundle)}_v{metadata['version']}"
    _refuse_loss(out / f"{name}.zip")
    files = _copied(bundle) | {f"configs/{key}.yaml": text.encode() for key, text in texts.items()}
    for key, config in {**configs, "metadata": metadata}.items():
        files[f"configs/{key}.json"] = f"{json.dumps(config, indent=2, ensure_ascii=False)}\n".encode()
    files |= _weights(bundle, texts, metadata, teacher=teacher)
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


def config_texts(bundle: Path, overlays: Sequence[str] = ()) -> dict[str, str]:
    """Text of each config of a release, by name: the bundle's own, with the overlays laid over those that each run.

    Raises:
        InputError: for a config that is not there.
    """
    folder = bundle / "configs"
    there = {path.stem for path in folder.glob("*.yaml")}
    workflows = [name for name in WORKFLOWS if name in there or name not in OPTIONAL]
    laid = [_text(config_file(bundle, name)) for name in overlays]
    texts = {name: _text(folder / f"{name}.yaml") for name in [*workflows, *(one for one in OVERLAYS if one in there)]}
    for name in (*workflows, "evaluate"):
        for overlay in laid:
            texts[name] = laid_over(texts[name], overlay)
    return texts


def _text(path: Path) -> str:
    if not path.is_file():
        raise InputError(f"no config {path}")
    return path.read_text(encoding="utf-8")


def json_configs(texts: Mapping[str, str], *, teacher: bool) -> dict[str, Config]:
    """Configs as MONAI's programs ask for them by name, each in one JSON file.

    ``monai.bundle.load`` reads ``inference.json``; MONAI Label and MONAI FL train by ``train.json``, which distils
    where the teacher is there; MONAI FL lays ``evaluate.json`` over it.
    """
    return {
        "inference": merged(texts["inference"]),
        "train": merged(texts["distill" if teacher else "train_student"]),
        "evaluate": merged(texts["inference"], texts["evaluate"]),
        "multi_gpu_train": dict(yaml.safe_load(texts["multi_gpu"])),
    }


def merged(*texts: str) -> Config:
    """Merge texts of configs as MONAI merges files, the later over the earlier."""
    parser = ConfigParser({})
    for text in texts:
        for key, value in yaml.safe_load(text).items():
            merge_kv(parser, key, value)
    return dict(parser.get())


def _checked_name(bundle: Path) -> str:
    name = bundle.resolve().name
    if "_v" in name:
        raise InputError(f"a bundle's name may not hold _v, after which MONAI reads a version, got {name}")
    return name


def _refuse_places(texts: Mapping[str, str]) -> None:
    for name, text in texts.items():
        config = yaml.safe_load(text)
        if found := [key for key in COMMAND_LINE_PATHS if Path(str(config.get(key, ""))).is_absolute()]:
            said = f"configs/{name}.yaml would say {found[0]}: {config[found[0]]}"
            raise InputError(f"{said}, a place on this machine; leave it to the command line")


def _refuse_loss(path: Path) -> None:
    if path.exists():
        raise InputError(f"{path} is there already: raise the version in metadata.json, or pack into another folder")


def _copied(bundle: Path) -> dict[str, bytes]:
    """Files of a release that are as in the bundle, and the package."""
    if missing := [name for name in LICENCES if not (bundle / name).is_file()]:
        raise InputError(f"{bundle} must have {' and '.join(missing)} to be published")
    docs = [path for path in (bundle / "docs").rglob("*") if path.is_file() and not path.name.startswith(".")]
    ours = [bundle / "LICENSE", bundle / "configs" / "logging.conf", *docs]
    package = Path(__file__).parents[2]
    copied = {path.relative_to(bundle).as_posix(): path.read_bytes() for path in ours}
    travels = [path.relative_to(package) for path in package.rglob("*.py")]
    travels = [path for path in travels if path.parts[0] not in NOT_RELEASED]
    return copied | {f"{package.name}/{path.as_posix()}": (package / path).read_bytes() for path in travels}


def _weights(bundle: Path, texts: Mapping[str, str], metadata: Config, *, teacher: bool) -> dict[str, bytes]:
    """The student's weights, alone and compiled, and those of the teacher where it is packed."""
    config = merged(texts["inference"])
    student = ConfigParser(dict(config)).get_parsed_content("network_def")
    files = {MODEL: flat_weights(student, bundle / MODEL)}
    if teacher:
        network = ConfigParser(merged(texts["inference"], texts["teacher"])).get_parsed_content("network_def")
        for place in (TEACHER, *_further_teachers(bundle, texts)):
            files[place] = flat_weights(network, bundle / place)
    return {**files, "models/model.ts": scripted(config, files[MODEL], metadata)}


def _further_teachers(bundle: Path, texts: Mapping[str, str]) -> list[str]:
    """Places in the bundle of the weights of further teachers, where the distillation of a release looks for them."""
    config, root = merged(texts["distill"]), bundle.resolve()
    if "further_teachers" not in config:
        return []
    found = ConfigParser({**config, "bundle_root": literal(str(root))}).get_parsed_content("further_teachers")
    paths = [(root / path).resolve() for path in found]
    if outside := [path for path in paths if not path.is_relative_to(root)]:
        raise InputError(f"configs/distill.yaml says further_teachers: {outside[0]}, which must lie in {bundle}")
    return [path.relative_to(root).as_posix() for path in paths]
