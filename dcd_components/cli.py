r"""The command ``dcd``: one sub-command each for data, bundles, trainings and measurements.

``dcd COMMAND --help`` lists the options of a command. Lists are repeated words, ``--levels 1 2 3``; what has a name and
a value is written as ``name=value``, ``--labels necrosis=1 oedema=2``.
"""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import dcd_components
from dcd_components import commands
from dcd_components.commands import SIMULATED, TASKS
from dcd_components.errors import InputError
from dcd_components.process import set_up_process

#: The extra that brings a module, by the module's name: what one command needs, another need not have installed.
EXTRAS = {
    **dict.fromkeys(("fire", "ignite", "matplotlib", "monai", "nibabel", "scipy", "sklearn"), "train"),
    **dict.fromkeys(("tabulate", "tqdm", "yaml"), "train"),
    **dict.fromkeys(("nilearn",), "simulate"),
    **dict.fromkeys(("nncf", "onnx", "onnxruntime", "onnxscript", "openvino"), "deploy"),
    **dict.fromkeys(("SimpleITK",), "register"),
}
PATIENT_REGEX = r"regular expression whose first group is the patient in a case's name: (.+)-\d{3}$"
SETTINGS = "key=value sets a key of the configs, max_epochs=3, nested ones as train::trainer::max_epochs=3"
WORKFLOWS = ("teacher", "student", "distill", "evaluate", "segment")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command, and print what it returns.

    Raises:
        InputError: for a package that the command needs and that is not installed, and what the command raises.
        SystemExit: for options that the command does not have, with status 2.
    """
    set_up_process()
    options = vars(parse(sys.argv[1:] if arguments is None else arguments))
    command: Callable[..., str | None] = options.pop("function")
    try:
        text = command(**options)
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if module not in EXTRAS:
            raise
        raise InputError(
            f'{module} is not installed, which this command needs: pip install "dcd_components[{EXTRAS[module]}]"'
        ) from error
    if text:
        sys.stdout.write(f"{text}\n")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the words of a command; options that are not given are absent, so that the function's defaults hold."""
    parser = argparse.ArgumentParser("dcd", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", action="version", version=f"%(prog)s {dcd_components.__version__}")
    groups = {"": parser.add_subparsers(metavar="COMMAND", required=True)}
    known: dict[str, argparse.ArgumentParser] = {}
    for name, function, summary, describe in COMMANDS:
        group, _, last = name.rpartition(" ")
        if group not in groups:
            of_group = groups[""].add_parser(group, help=GROUPS[group], description=GROUPS[group])
            groups[group] = of_group.add_subparsers(metavar="WHAT", required=True)
        known[name] = groups[group].add_parser(
            last, help=summary, description=function.__doc__, argument_default=argparse.SUPPRESS, allow_abbrev=False
        )
        known[name].set_defaults(function=function)
        describe(known[name])
    one = known.get(" ".join(arguments[:1])) or known.get(" ".join(arguments[:2])) or parser
    if one is not parser:  # else the command is what is wrong
        _refuse_unknown(arguments, one)
    found, rest = parser.parse_known_args(arguments)
    if one.epilog == SETTINGS:
        # Words with = are settings, wherever they stand, also behind an option that takes several words.
        words = [*getattr(found, "overlay", ()), *rest]
        found.settings = [word for word in words if "=" in word]
        found.overlay = [word for word in getattr(found, "overlay", ()) if "=" not in word]
        rest = [word for word in rest if "=" not in word]
    if rest:
        one.error(f"unexpected word {rest[0]!r}")
    return found


def _refuse_unknown(words: Sequence[str], parser: argparse.ArgumentParser) -> None:
    """Name the option most alike, which argparse does not; before it asks for one that is thought to be given."""
    known = parser._option_string_actions
    for name in (word.partition("=")[0] for word in words if word.startswith("--")):
        if name not in known:
            near = difflib.get_close_matches(f"--{name[2:].replace('-', '_')}", known, n=1)
            options = ", ".join(one for one in known if one.startswith("--"))
            hint = f"did you mean {near[0]}?" if near else parser.epilog or f"it has {options}"
            parser.error(f"unknown option {name}; {hint}")


class _Named(argparse.Action):
    """Words ``name=value`` as a mapping; a name that comes twice has a list of values."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option: str | None = None) -> None:
        found: dict[str, list[str]] = {}
        for word in values:
            name, equals, value = word.partition("=")
            if not equals:
                parser.error(f"{option} must be words name=value, got {word!r}")
            found.setdefault(name, []).append(value)
        setattr(namespace, self.dest, {name: one[0] if len(one) == 1 else one for name, one in found.items()})


class _Labels(argparse.Action):
    """Words ``name=value`` with whole numbers as a mapping, or plain names as a list."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option: str | None = None) -> None:
        pairs = [word.partition("=") for word in values]
        if not any(equals for _, equals, _ in pairs):
            setattr(namespace, self.dest, list(values))
        elif all(equals and value.isdecimal() for _, equals, value in pairs):
            setattr(namespace, self.dest, {name: int(value) for name, _, value in pairs})
        else:
            parser.error(f"{option} must be names, or words name=1 with whole numbers, got {' '.join(values)}")


def _phantom_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("task", choices=SIMULATED)
    add("--out", type=Path, required=True, help="new folder to write them into")
    add("--cases", type=int, required=True, help="number of cases")
    add("--seed", type=int, help="the same seed gives the same bytes")
    add("--spacing_mm", type=float, help="size of a voxel; 2 by default")
    add("--size", type=int, nargs=3, metavar="N", help="voxels along each axis; 80 96 80, or 80 96 72 for isles22")
    add("--folds", type=int, help="number of folds in the data list; 5 by default")
    add("--workers", type=int, help="processes; all cores by default")


def _naming_options(parser: argparse.ArgumentParser, label_file: str) -> None:
    """What says how the files of a data set are named."""
    add = parser.add_argument_group("names of the files", "in which {case} stands for the name of a case").add_argument
    add(
        "--sequences",
        nargs="+",
        action=_Named,
        metavar="NAME=PATTERN",
        help="path of each sequence, t1c={case}-t1c.nii.gz, in the order of the network's channels; the first names a "
        "case and shares the label's grid; a sequence may come twice, with another pattern",
    )
    add("--label_file", nargs="+", metavar="PATTERN", help=f"path of the label{label_file}")
    add("--resampled", nargs="+", metavar="NAME", help="sequences that need not lie on the first one's grid")
    add("--patient_regex", help=PATIENT_REGEX)


def _datalist_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("dataset_dir", type=Path, help="the data set; its cases may lie at any depth")
    add("--bundle", type=Path, help="folder of the bundle that says how the files are named; what is given goes before")
    _naming_options(parser, '; "" for images without labels, for inference')
    add("--labels", nargs="+", action=_Labels, metavar="NAME=VALUE", help="values of the labels: necrosis=1 oedema=2")
    add("--patients", type=Path, metavar="TABLE", help="CSV file that names them instead: case, patient, fold")
    add("--folds", type=int, help="number of folds; without it those of the table, or else 5")
    add("--seed", type=int, help="of the assignment of patients to folds; 0 by default")
    add(
        "--nnunet_folds",
        action="store_true",
        help="nnU-Net's own folds, which may put a patient into several, to compare with published figures",
    )
    add("--unlabelled", action="store_true", help="take cases without a label too, to be segmented")
    add("--skip_incomplete", action="store_true", help="leave out cases with missing or doubled files, do not stop")
    add("--out", type=Path, help="file to write; DATASET_DIR/datalist.json by default")


def _download_data_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("name", choices=("hippocampus",), help="Task04 of the Medical Segmentation Decathlon, 27 MB")
    add("--out", type=Path, required=True, help="folder for the data set's own")


def _check_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("datalist", type=Path, help="the data list")
    add("--dataset_dir", type=Path, required=True, help="folder that its paths start from")
    add("--out", type=Path, help="CSV file, one row a case; by default beside the list. A stopped run goes on from it")
    add("--workers", type=int, help="processes; all cores by default")


def _new_bundle_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("name", help="of the bundle and its new folder")
    add(
        "--channels",
        nargs="+",
        default=None,
        metavar="NAME",
        help="the sequences, where their files are called {case}-NAME.nii.gz",
    )
    _naming_options(parser, "; {case}-seg.nii.gz by default")
    add(
        "--labels",
        nargs="+",
        action=_Labels,
        required=True,
        metavar="NAME=VALUE",
        help="values of the labels, necrosis=1 oedema=2, or only names, for 1, 2 and so on",
    )
    add("--dataset_dir", type=Path, help="images to take spacing and patch from; without: 1 mm and 128 voxels")
    add("--spacing", type=float, nargs=3, metavar="MM", help="along each axis in RAS")
    add("--patch_size", type=int, nargs=3, metavar="N", help="voxels along each axis in RAS")
    add("--out", type=Path, help="folder to put the new one into; this one by default")


def _from_nnunet_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("result_folder", type=Path, help="of the trained network, TRAINER__PLANS__CONFIGURATION")
    add("name", help="of the bundle and its new folder")
    add("--fold", nargs="+", metavar="N", help="whose networks are the teachers; the first one by default")
    add("--checkpoint", metavar="NAME", help="checkpoint_final.pth by default, or else checkpoint_best.pth")
    add("--splits", type=Path, help="splits_final.json of the training, so that the folds are the same")
    add("--patient_regex", help=PATIENT_REGEX)
    add("--patients", type=Path, metavar="TABLE", help="CSV file that names them instead: case, patient")
    add("--out", type=Path, help="folder to put the new one into; this one by default")


def _to_nnunet_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("bundle", type=Path, help="its folder, made by from_nnunet, with models/model.pt")
    add(
        "--out",
        type=Path,
        required=True,
        help="new folder, such as nnUNetTrainer__PLANS__CONFIGURATION",
    )
    _overlay_option(parser)


def _size_options(parser: argparse.ArgumentParser) -> None:
    parser.usage = "dcd size BUNDLE --seconds S --gigabytes GB [options] [key=value ...]"
    parser.epilog = SETTINGS
    add = parser.add_argument
    add("bundle", type=Path, help="its folder")
    add("--seconds", type=float, required=True, metavar="S", help="that a case may take on this machine")
    add("--gigabytes", type=float, required=True, metavar="GB", help="of memory that the process may take")
    add("--case_size", type=int, nargs=3, metavar="N", help="voxels of a case; 240 240 155 by default")
    add("--runtime", metavar="NAME", help="onnxruntime or openvino; PyTorch by default")
    add("--overlay", nargs="+", action="extend", metavar="NAME", help="configs on top: quick, ...")


def _stages_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path, help="its folder")
    parser.add_argument("--overlay", nargs="+", action="extend", metavar="NAME", help="configs on top: quick, ...")


def _run_options(parser: argparse.ArgumentParser) -> None:
    parser.usage = "dcd run WORKFLOW BUNDLE --dataset_dir DIR [options] [key=value ...]"
    parser.epilog = SETTINGS
    add = parser.add_argument
    add("workflow", choices=WORKFLOWS, help="teacher, student (alone) and distill train; segment writes masks")
    add("bundle", type=Path, help="its folder, in the repository or unpacked from a release")
    add("--dataset_dir", type=Path, required=True, help="the data set, with its datalist.json")
    add("--output_dir", type=Path, help="folder for masks and scores; BUNDLE/eval by default")
    add("--quick", action="store_true", help="few iterations of small networks, to see that all runs")
    add("--resume", action="store_true", help="trainings: go on where the same command was stopped or killed")
    add("--overlay", nargs="+", action="extend", metavar="NAME", help="configs on top: mirror, teacher, cwd, ...")
    add("--max_memory", type=float, metavar="GB", help="evaluate, segment: refuse a case that needs more memory")


def _overlay_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--overlay", nargs="+", action="extend", metavar="NAME", help="configs that the weights were trained with"
    )


def _pack_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("bundle", type=Path, help="its folder, with models/model.pt")
    add("--out", type=Path, required=True, help="folder for NAME_vVERSION.zip")
    _overlay_option(parser)
    add("--teacher", action="store_true", help="with models/teacher/model.pt, so that others can distil from it")
    add("--scores", type=Path, help="scores.csv of the weights' evaluation; its means go into the metadata")
    add("--url", help="address below which files above 25 MB will be published, beside the zip")


def _export_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("bundle", type=Path, help="its folder, in the repository or unpacked from a release")
    _overlay_option(parser)
    add("--dataset_dir", type=Path, help="cases to write models/model_int8.xml by too, for OpenVINO")
    add("--datalist", type=Path, help="their list; DATASET_DIR/datalist.json by default")


def _segment_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("cases", nargs="+", metavar="CASE", help="a file of a case, whichever sequence, or a folder with cases")
    add("--model", type=Path, required=True, help="the file that export wrote, in models of its bundle")
    add("--out", type=Path, required=True, help="folder for the masks, each in the geometry of its case")
    add("--max_memory", type=float, metavar="GB", help="refuse a case that needs more memory")
    add(
        "--runtime",
        metavar="NAME",
        help="onnxruntime, by default for ONNX, or openvino, which is faster and rounds more",
    )


def _demo_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--out", type=Path, help="new folder for tables, pictures, weights and logs; demo by default")
    add("--seed", type=int, help="of the simulated patients and the networks' first weights")
    add("--task", choices=TASKS, help="brats_gli by default")
    add("--dataset_dir", type=Path, help="real patients instead of simulated ones; hippocampus: not to be downloaded")


def _study_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("study", type=Path, metavar="STUDY.yaml", help="what is compared; results go into the folder STUDY beside it")
    add("--dataset_dir", type=Path, help="the patients")
    add("--datalist", type=Path, help="their list; DATASET_DIR/datalist.json by default")
    add("--work", type=Path, help="folder for weights, masks, cache and logs, by which it goes on")
    add("--processes", type=int, help="runs at once, of one thread each; 1 by default, which takes all cores")
    add("--list", action="store_true", dest="listed", help="only list the runs, their numbers and which ended")
    add("--index", type=int, help="only the run of this number, from 0: one job of a cluster")
    add("--costs", action="store_true", help="only time iterations and patches, in turns, on a quiet machine")


def _report_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("study", type=Path, metavar="STUDY.yaml", help="whose results lie in the folder STUDY beside it")
    add("--out", type=Path, required=True, help="folder for tables, pictures and index.html")
    add("--against", metavar="METHOD", help="what the others are compared with; the first method by default")
    add("--methods", nargs="+", metavar="METHOD", help="only these, and the seeds that have all of them")
    add("--work", type=Path, help="folder that the study was run with, for pictures of cases")
    add("--dataset_dir", type=Path, help="the patients, for pictures of cases")
    add("--datalist", type=Path, help="their list; DATASET_DIR/datalist.json by default")


def _benchmark_loss_options(parser: argparse.ArgumentParser) -> None:
    _measurement_options(parser)
    add = parser.add_argument
    add("--sizes", type=int, nargs="+", metavar="N", help="voxels along the axes of the patches; 32 64 by default")
    add("--levels", type=int, nargs="+", metavar="N", help="of the wavelet transform; 1 2 3 by default")


def _measurement_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, help="new folder for the table and its picture")
    parser.add_argument("--repeats", type=int, help="rounds of which the median is taken")


def _bundle_measurement_options(parser: argparse.ArgumentParser) -> None:
    _measurement_options(parser)
    parser.add_argument("--bundle", type=Path, help="whose networks are measured; that for BraTS by default")


def _benchmark_inference_options(parser: argparse.ArgumentParser) -> None:
    _bundle_measurement_options(parser)
    parser.usage = "dcd benchmark inference --out OUT [options] [key=value ...]"
    parser.epilog = SETTINGS
    add = parser.add_argument
    add("--case_size", type=int, nargs=3, metavar="N", help="voxels of a whole case; 240 240 155 by default")
    _overlay_option(parser)


def _benchmark_data_options(parser: argparse.ArgumentParser) -> None:
    _bundle_measurement_options(parser)
    add = parser.add_argument
    add("--dataset_dir", type=Path, required=True, help="with its datalist.json; all its cases are trained on")
    add("--epoch_length", type=int, help="iterations per epoch; 6 by default")
    add("--num_workers", type=int, help="processes that load data; 2 by default")


#: What holds several commands.
GROUPS = {"benchmark": "measure loss, training step, inference or loading of data"}
#: The commands: a name, the function, a summary, and what declares the options.
COMMANDS: list[tuple[str, Callable[..., str | None], str, Callable[[argparse.ArgumentParser], None]]] = [
    ("datalist", commands.datalist, "list the cases of a folder, in folds", _datalist_options),
    ("download_data", commands.download_data, "download a public data set, or say how", _download_data_options),
    ("check", commands.check, "read every case and say what would break a training", _check_options),
    ("new_bundle", commands.new_bundle, "write a bundle for other sequences and labels", _new_bundle_options),
    ("from_nnunet", commands.from_nnunet, "write a bundle whose teacher is an nnU-Net", _from_nnunet_options),
    ("to_nnunet", commands.to_nnunet, "write a student as a result folder of nnU-Net", _to_nnunet_options),
    ("size", commands.size, "propose the width of a student for a budget", _size_options),
    ("stages", commands.stages, "list the stages of student and teacher, and pair them", _stages_options),
    ("run", commands.run, "train a teacher, distil, evaluate or segment", _run_options),
    ("pack", commands.pack, "pack a bundle and its weights into a zip", _pack_options),
    ("export", commands.export, "write a network as ONNX, checked against PyTorch", _export_options),
    ("segment", commands.segment, "segment with an ONNX file, on a CPU", _segment_options),
    ("phantom", commands.phantom, "simulate patients", _phantom_options),
    ("demo", commands.demo, "the whole story, on simulated or real patients", _demo_options),
    ("study", commands.study, "compare methods over seeds; goes on where it was stopped", _study_options),
    ("report", commands.report, "tables, pictures and a page of a study", _report_options),
    ("benchmark loss", commands.benchmark_loss, "the loss, forward and backward", _benchmark_loss_options),
    ("benchmark step", commands.benchmark_step, "a training step", _measurement_options),
    ("benchmark inference", commands.benchmark_inference, "inference on a CPU", _benchmark_inference_options),
    ("benchmark data", commands.benchmark_data, "the time spent waiting for data", _benchmark_data_options),
]
