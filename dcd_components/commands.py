"""What the commands of ``dcd`` do; each returns what is to be printed.

Modules are imported by the command that needs them: what one needs, another need not have installed.
"""

from __future__ import annotations

import ast
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dcd_components.errors import InputError

#: Whose patients can be simulated, and what the demo can be about.
SIMULATED = ("brats_gli", "isles22")
TASKS = (*SIMULATED, "hippocampus")


def datalist(
    dataset_dir: str | Path,
    bundle: str | Path | None = None,
    sequences: Mapping[str, str | Sequence[str]] | None = None,
    label_file: str | Sequence[str] | None = None,
    resampled: Sequence[str] | None = None,
    labels: Mapping[str, int] | None = None,
    patient_regex: str | None = None,
    patients: Path | None = None,
    folds: int | None = None,
    seed: int | None = None,
    nnunet_folds: bool = False,
    unlabelled: bool = False,
    skip_incomplete: bool = False,
    out: str | Path | None = None,
) -> str:
    """List all cases of a folder, in folds that keep each patient in one, unless a table's or nnU-Net's are taken."""
    from dcd_components.data import case_files, datalists
    from dcd_components.data.case_files import LABEL

    if bundle is None and sequences is None:
        raise InputError("say how the files are named: --bundle FOLDER, or --sequences and --label_file")
    given: dict[str, Any] = {"sequences": sequences, "label_file": label_file, "resampled": resampled}
    given |= {"labels": labels, "patient_regex": patient_regex, "patients": patients}
    given = {key: value for key, value in given.items() if value is not None}
    settings: dict[str, Any] = {}
    if bundle:
        from dcd_components.bundle.configs import bundle_settings

        settings = bundle_settings(bundle)
    if sequences is not None:  # other sequences have another reference, their first
        settings = {name: value for name, value in settings.items() if name not in ("reference", "resampled")}
    if patient_regex is not None:
        settings.pop("patients", None)
    layout = case_files.make_layout({**settings, **given})
    folder = Path(dataset_dir)
    rule: dict[str, Any] = {"nnunet_folds": True} if nnunet_folds else {"seed": seed or 0}
    in_table, others = bool(datalists.table_folds(layout)), folds is not None or nnunet_folds
    rule = {} if in_table and not others else {"folds": 5 if folds is None else folds, **rule}
    rule |= {"unlabelled": True} if unlabelled else {}
    named = {"bundle": f"bundles/{Path(bundle).resolve().name}"} if bundle else {}
    named |= given | ({"patients": patients.name} if patients else {})
    listed, skipped = datalists.make_datalist(
        folder,
        layout,
        folds=folds,
        seed=seed,
        nnunet=nnunet_folds,
        unlabelled=unlabelled,
        skip_incomplete=skip_incomplete,
        description=shlex.join(["dcd", "datalist", "DIR", *_words({**named, **rule})]),
    )
    datalists.write_datalist(listed, path := Path(out or folder / "datalist.json"))
    said = "\n  ".join([f"left out, with {len(skipped)} faults:", *skipped]) + "\n" if skipped else ""
    if in_table and others:
        said += f"the folds that {layout.patients} says are not taken\n"
    if torn := datalists.leaking([case for case in listed.cases if LABEL in case]):
        patient, several = next(iter(torn.items()))
        said += (
            f"warning: {len(torn)} patients have cases in several folds, such as {patient} in {', '.join(several)}: "
            "scores flatter a network that trained on their other cases\n"
        )
    return f"{said}{len(listed.cases)} cases of {len({case['patient'] for case in listed.cases})} patients in {path}"


def download_data(name: str, out: Path) -> str:
    """Download a public data set by MONAI and unpack it; where there is no network, say what to fetch."""
    from dcd_components.data import downloads

    return str(downloads.download(name, out))


def check(
    datalist: Path, dataset_dir: Path, out: Path | None = None, workers: int | None = None
) -> str:  # the exit status is 1 by SystemExit
    """Read every case of a data list and say what would break a training; exit status 1 if anything does."""
    from dcd_components.data.check import runner

    report = runner.check_datalist(datalist, dataset_dir, out, workers)
    if not report.faults:
        return report.summary
    sys.stdout.write(f"{report.summary}\n")
    sys.exit(1)


def new_bundle(
    name: str,
    channels: str | Sequence[str] | None,
    labels: str | Sequence[str] | Mapping[str, int],
    sequences: Mapping[str, str | Sequence[str]] | None = None,
    label_file: str | Sequence[str] = "{case}-seg.nii.gz",
    resampled: Sequence[str] = (),
    patient_regex: str = "(.+)",
    dataset_dir: str | Path | None = None,
    spacing: Sequence[float] | None = None,
    patch_size: Sequence[int] | None = None,
    out: str | Path = ".",
) -> str:
    """Write a bundle for other sequences and labels, ready to train."""
    from dcd_components.bundle import new_bundles

    if channels is None and sequences is None:
        raise InputError("name the network's channels: --channels, or --sequences with the patterns of their files")
    folder = new_bundles.free_folder(name, out)
    layout = new_bundles.plan_layout(
        [*(sequences or {})] if channels is None else channels,
        labels,
        sequences=sequences,
        label_file=label_file,
        resampled=resampled,
        patient_regex=patient_regex,
    )
    task = new_bundles.plan_task(layout, dataset_dir, spacing, patch_size)
    new_bundles.write_bundle(folder, task)
    patch, mm = (" x ".join(map(str, sizes)) for sizes in (task.patch_size, task.spacing))
    return f"{folder}: patches of {patch} voxels of {mm} mm; its docs/README.md says what is still to be written"


def from_nnunet(
    result_folder: Path,
    name: str,
    fold: str | Sequence[str] = (),
    checkpoint: str | None = None,
    splits: Path | None = None,
    patient_regex: str | None = None,
    patients: Path | None = None,
    out: Path = Path("."),
) -> str:
    """Write a bundle that distils a network of nnU-Net v2, with nnU-Net's own steps before and after the network."""
    from dcd_components.bundle.nnunet import importing

    folds = [fold] if isinstance(fold, str) else fold
    folder, teachers, remarks = importing.bundle_from_nnunet(
        result_folder, name, out, folds, splits, patient_regex, patients, checkpoint
    )
    taught = ", ".join(str(one.path.relative_to(result_folder)) for one in teachers)
    return "\n".join([*remarks, f"{folder}: taught by {taught}; docs/README.md says what is still to be written"])


def to_nnunet(bundle: Path, out: Path, overlay: Sequence[str] = ()) -> str:
    """Write the student of a bundle, made by from_nnunet, as a result folder that nnU-Net runs as it is."""
    from dcd_components.bundle.nnunet import exporting

    folder = exporting.bundle_to_nnunet(bundle, out, overlay)
    return f"{folder}: nnUNetv2_predict_from_modelfolder -m {folder} -f 0 -i IMAGES -o MASKS"


def size(
    bundle: Path,
    seconds: float,
    gigabytes: float,
    case_size: Sequence[int] = (240, 240, 155),
    overlay: Sequence[str] = (),
    settings: Sequence[str] = (),
    runtime: str | None = None,
) -> str:
    """Measure students of several widths on this machine, and name the widest that a budget allows."""
    from dcd_components.benchmarks import size as of_size
    from dcd_components.bundle import configs, running

    given = _pairs(settings)
    if "width_divisor" in given:
        raise InputError("width_divisor is what dcd size looks for, and so is no setting of it")
    running.check_settings([configs.config_file(bundle, name) for name in ("inference", *overlay)], given)
    named = {key: _literal(value) for key, value in given.items()}
    return of_size.propose(bundle, seconds, gigabytes, case_size, overlay, named, runtime)


def stages(bundle: Path, overlay: Sequence[str] = ()) -> str:
    """List the stages of a bundle's student and teacher, and which can be compared."""
    from dcd_components.bundle import stages as bundle_stages

    return bundle_stages.stages_of(bundle, overlay)


def run(
    workflow: str,
    bundle: Path,
    dataset_dir: Path,
    output_dir: Path | None = None,
    quick: bool = False,
    resume: bool = False,
    overlay: Sequence[str] = (),
    max_memory: float | None = None,
    settings: Sequence[str] = (),
) -> None:
    """Train, evaluate or segment: show the command of MONAI that does it, and run it.

    Unlike MONAI, this refuses a key that no config has.
    """
    from dcd_components.bundle import running

    folders = {"dataset_dir": str(dataset_dir.absolute())}
    folders |= {"output_dir": str(output_dir.absolute())} if output_dir else {}
    folders |= {"resume": "True"} if resume else {}
    folders |= {"max_memory": f"{max_memory:g}"} if max_memory else {}
    overlays = [*overlay, *(["quick"] if quick else [])]
    running.run(running.command_line(workflow, bundle, overlays, folders | _pairs(settings)))


def pack(
    bundle: Path,
    out: Path,
    overlay: Sequence[str] = (),
    teacher: bool = False,
    scores: Path | None = None,
    url: str | None = None,
) -> str:
    """Pack a bundle and its trained weights into a zip to publish."""
    from dcd_components.bundle.release import packing

    return str(packing.pack(bundle, out, overlays=overlay, teacher=teacher, scores=scores, url=url))


def export(
    bundle: Path, overlay: Sequence[str] = (), dataset_dir: Path | None = None, datalist: Path | None = None
) -> str:
    """Write the network of a bundle as an ONNX file, checked against PyTorch, and by cases in int8 too."""
    from dcd_components.deploy import onnx_export

    said = onnx_export.run(str(bundle), overlay)
    if dataset_dir is None:
        return said
    from dcd_components.deploy import int8_export

    return f"{said}\n{int8_export.run(bundle, dataset_dir, overlay, datalist)}"


def segment(
    cases: Sequence[str], model: Path, out: Path, max_memory: float | None = None, runtime: str | None = None
) -> str:
    """Segment cases on a CPU with a file that export wrote; masks that are there already are kept."""
    from dcd_components.deploy import onnx_inference

    return onnx_inference.run(cases, model, out, max_memory, runtime)


def phantom(
    task: str,
    out: Path,
    cases: int,
    seed: int = 0,
    spacing_mm: float = 2.0,
    size: Sequence[int] | None = None,
    folds: int = 5,
    workers: int | None = None,
) -> str:
    """Simulate patients on real anatomy, named as in a data set, with a data list."""
    from dcd_components.bundle.configs import BUNDLES

    if task not in SIMULATED:
        raise InputError(f"unknown task {task!r}; choose {' or '.join(SIMULATED)}")
    if not BUNDLES.is_dir():
        raise InputError(f"phantom works in the repository only: it names files as the bundles in {BUNDLES} say")
    from dcd_components.simulation import phantoms

    if folds < 1:
        raise InputError(f"--folds must be at least 1, got {folds}")
    depth, height, width = size or {"brats_gli": (80, 96, 80), "isles22": (80, 96, 72)}[task]
    simulate = {"brats_gli": phantoms.simulate_brats_gli, "isles22": phantoms.simulate_isles22}[task]
    simulate(Path(out), cases, seed, spacing_mm, (depth, height, width), workers)
    return datalist(out, bundle=BUNDLES / f"{task}_dcd", folds=folds, seed=seed)


def demo(out: Path = Path("demo"), seed: int = 0, task: str = "brats_gli", dataset_dir: Path | None = None) -> None:
    """Simulate patients or take real ones, train, distil, evaluate and report, in about a quarter of an hour."""
    from dcd_components.demo import demo as whole

    whole.run(str(out), seed, task, dataset_dir)


def study(
    study: Path,
    dataset_dir: Path | None = None,
    work: Path | None = None,
    datalist: Path | None = None,
    processes: int = 1,
    index: int | None = None,
    costs: bool = False,
    listed: bool = False,
) -> str:
    """Train and score what of a study is not there yet: teachers, then every method and seed; a stopped one goes on."""
    from dcd_components.study import plan, records, runner

    if listed:
        return records.list_runs(plan.read_study(study))
    if dataset_dir is None or work is None:
        raise InputError("a study needs --dataset_dir and --work, unless its runs are only listed, by --list")
    places = runner.Places(dataset_dir, datalist or dataset_dir / "datalist.json", work)
    if costs:
        from dcd_components.study.costs import measure_costs

        return measure_costs(plan.read_study(study), places)
    return runner.run_study(plan.read_study(study), places, processes, index)


def report(
    study: Path,
    out: Path,
    against: str | None = None,
    methods: Sequence[str] = (),
    work: Path | None = None,
    dataset_dir: Path | None = None,
    datalist: Path | None = None,
) -> str:
    """Compare the methods of a study by the files of its runs: tables, pictures and a page."""
    from dcd_components.bundle.configs import read_configs
    from dcd_components.study import compared, plan, records, report, results, runner

    if (work is None) != (dataset_dir is None):
        raise InputError("pictures of cases need both --work and --dataset_dir")
    said = plan.read_study(study)
    said = said.of([*methods, *([against] if against else [])]) if methods else said
    config = read_configs(said.bundle, ["inference", "evaluate"])
    labels, regions = results.labels_of(config["regions"], config.get("painted"))
    places, cases = None, None
    if work and dataset_dir:
        places = runner.Places(dataset_dir, datalist or dataset_dir / "datalist.json", work)
        cases = records.cases_digest(places.datalist)
    lesions = bool(config["lesion_labels"])
    found = results.read_results(said, list(labels), cases, against, methods, lesions=lesions, regions=regions)
    return report.write_report(compared.Report(said, found, out, labels, places))


def benchmark_loss(**options: Any) -> str:
    """Measure the loss against the published algorithm and, where installed, ptwt."""
    from dcd_components.benchmarks import benchmark

    return benchmark.run_loss(**options)


def benchmark_step(**options: Any) -> str:
    """Measure a training step of the student alone, of distillation, and of the published algorithm."""
    from dcd_components.benchmarks import benchmark

    return benchmark.run_step(**options)


def benchmark_inference(overlay: Sequence[str] = (), settings: Sequence[str] = (), **options: Any) -> str:
    """Measure teacher and student on the CPU in every runtime that is installed: patches, whole cases and Dice."""
    from dcd_components.benchmarks import benchmark
    from dcd_components.bundle import configs, running

    given, bundle = _pairs(settings), options.get("bundle", benchmark.BRATS)
    names = ("inference", "evaluate", "train_student", *overlay)  # patches, cases under test, cases to calibrate with
    running.check_settings([configs.config_file(bundle, name) for name in names], given)
    values = {key: _literal(text) for key, text in given.items()}
    return benchmark.run_inference(overlays=overlay, settings=values, **options)


def benchmark_data(**options: Any) -> str:
    """Measure how much of a training's time is spent waiting for data, with and without the cache on disk."""
    from dcd_components.benchmarks import benchmark

    return benchmark.run_data(**options)


def _pairs(words: Sequence[str]) -> dict[str, str]:
    return {key: value for key, _, value in (word.partition("=") for word in words)}


def _literal(text: str) -> Any:
    """A number or a list, as MONAI's own command takes it, or the text itself."""
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text


def _words(options: Mapping[str, Any]) -> list[str]:
    """Options as they are written on the command line."""
    words = []
    for name, value in options.items():
        if isinstance(value, Mapping):
            pairs = [(key, one) for key, several in value.items() for one in _several(several)]
            words += [f"--{name}", *(f"{key}={one}" for key, one in pairs)]
        else:
            words += [f"--{name}", *([] if value is True else map(str, _several(value)))]
    return words


def _several(value: Any) -> Sequence[Any]:
    return value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
