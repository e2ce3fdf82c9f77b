"""What a teacher and its student cost once they are trained, on the CPU, in every runtime that is installed."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.inferers import Inferer
from monai.transforms import CropForeground
from torch import Tensor, nn
from tqdm import tqdm

from dcd_components.benchmarks import inference_setting, timing
from dcd_components.benchmarks.inference_setting import Setting
from dcd_components.deploy import calibration, onnx_network, runtimes
from dcd_components.deploy.calibration import PATCHES
from dcd_components.deploy.int8_export import TOLERANCE as DICE_TOLERANCE
from dcd_components.inferers import NnunetInferer, as_in_windows
from dcd_components.networks.cost import cost
from dcd_components.networks.weights import load_frozen

COLUMNS = {
    "network": ("Network", ""),
    "runtime": ("Runtime", ""),
    "parameters": ("Parameters, M", ".3f"),
    "gmac": ("GMAC per patch", ".2f"),
    "patch_seconds": ("Seconds per patch", ".3f"),
    "patch_of_teacher": ("of the teacher", ".3f"),
    "case_seconds": ("Seconds per case", ".2f"),
    "case_of_teacher": ("of the teacher", ".3f"),
    "long_windows_seconds": ("in long windows", ".2f"),
    "long_windows_of_teacher": ("of the teacher in long windows", ".3f"),
    "megabytes": ("Extra memory per patch, MB", ".0f"),
    "long_windows_megabytes": ("in long windows, MB", ".0f"),
    "dice": ("Mean Dice", ".4f"),
    "largest_loss": ("Largest loss of a case", ".4f"),
    "long_windows_dice": ("Mean Dice in long windows", ".4f"),
}
TEACHER, STUDENT = "teacher", "student"
LONG_WINDOWS = " in long windows"
SCORES = ("dice", "largest_loss", "long_windows_dice")
NOISE, LOSSY = ", calibrated on noise", ", loses Dice"
#: Patches of noise for calibration, and their largest side.
NOISE_PATCHES, NOISE_SIZE = 4, 64
#: A whole case that takes more seconds is timed once.
SLOW = 60.0
Key = tuple[str, str]


def measure(setting: Setting, repeats: int) -> list[dict[str, Any]]:
    """Time both networks in every runtime, in turns: one patch, and whole cases, also in long windows.

    Args:
        setting: what is measured.
        repeats: rounds of which the median is taken; three for patches that take more than 2 s, and for cases at most
            three, or one beyond a minute.

    Returns:
        Rows with the keys of ``COLUMNS``; NaN is what was not measured.
    """
    student, teacher = setting.parser("inference"), setting.teacher()
    pair = {TEACHER: _network(teacher), STUDENT: _network(student)}
    if "ckpt_path" in setting.settings:
        load_frozen(pair[STUDENT], setting.settings["ckpt_path"])
    shape = [len(student["sequences"]), *student.get_parsed_content("patch_size")]
    costs = {name: cost(network, shape) for name, network in pair.items()}
    windows = _windows(teacher, student)
    long_windows: Mapping[str, Inferer] = {}
    if setting.has_long_windows:
        long_windows = _windows(setting.teacher("long_windows"), setting.parser("inference", "long_windows"))
    image = torch.randn(1, *shape)
    loaded, megabytes = _load(pair, image, windows, _calibration(setting, shape))
    names = {" ".join(key): key for key in loaded}
    patch = {name: _patch(windows[key[0]], image, loaded[key]) for name, key in names.items()}
    seconds = timing.seconds(patch, repeats, least=2.0)
    patches = {names[name]: taken for name, taken in seconds.items()}
    whole = inference_setting.brain(shape[0], setting.case_size)
    if isinstance(windows[STUDENT], NnunetInferer):  # nnU-Net's steps crop before
        whole = CropForeground(select_fn=lambda voxels: voxels != 0)(whole[0])[None]
    students = {runtime: run for (name, runtime), run in loaded.items() if name == STUDENT}
    # By copies, so that OpenVINO keeps the model that is compiled for windows.
    long = {key: _case(long_windows[key[0]], whole, copy(run)) for key, run in loaded.items() if long_windows}
    long_megabytes = {key: _megabytes(step) for key, step in long.items()}
    steps = {key: _case(windows[key[0]], whole, run) for key, run in loaded.items()}
    steps |= {(name + LONG_WINDOWS, runtime): step for (name, runtime), step in long.items()}
    cases = _cases(steps, min(repeats, 3))
    scores = _scores(setting, students, windows[STUDENT], long_windows.get(STUDENT)) if setting.scored else {}
    return [
        {
            "network": name,
            "runtime": _label(runtime, scores),
            **costs[name],
            **_times("patch", patches, (name, runtime), (TEACHER, runtime)),
            **_times("case", cases, (name, runtime), (TEACHER, runtime)),
            **_times("long_windows", cases, (name + LONG_WINDOWS, runtime), (TEACHER + LONG_WINDOWS, runtime)),
            "megabytes": megabytes[name, runtime],
            "long_windows_megabytes": long_megabytes.get((name, runtime), math.nan),
            **(scores[runtime] if name == STUDENT and scores else dict.fromkeys(SCORES, math.nan)),
        }
        for name, runtime in loaded
    ]


def _network(parser: ConfigParser) -> nn.Module:
    network: nn.Module = parser.get_parsed_content("network")
    return network.eval().requires_grad_(False)


def _windows(teacher: ConfigParser, student: ConfigParser) -> dict[str, Inferer]:
    """Those of each network's inference, which may differ in what a longer one is a multiple of, and in rounding."""
    return {name: one.get_parsed_content("sliding_window") for name, one in ((TEACHER, teacher), (STUDENT, student))}


def _calibration(setting: Setting, shape: Sequence[int]) -> list[Tensor]:
    if setting.scored:
        return calibration.training_patches(setting.parser("train_student"), PATCHES)
    return [torch.randn(1, shape[0], *(min(size, NOISE_SIZE) for size in shape[1:])) for _ in range(NOISE_PATCHES)]


def _load(
    pair: Mapping[str, nn.Module], image: Tensor, windows: Mapping[str, Inferer], patches: Sequence[Tensor]
) -> tuple[dict[Key, runtimes.Runtime], dict[Key, float]]:
    """Bring the networks into all runtimes, and measure the memory of each one's first patch."""
    loaded, megabytes = {}, {}
    names = runtimes.available()
    with tempfile.TemporaryDirectory() as folder, tqdm(total=len(pair) * len(names), leave=False) as progress:
        for network, module in pair.items():
            model = Path(folder, f"{network}.onnx")
            if any(runtimes.NEEDS.get(name) for name in names):
                onnx_network.export_onnx(module, image.shape[1], model)
            for name in names:
                run = runtimes.load(name, module, model, patches)
                loaded[network, name] = run
                megabytes[network, name] = _megabytes(_patch(windows[network], image, run))
                progress.update()
    return loaded, megabytes


def _megabytes(step: Callable[[], object]) -> float:
    """Memory of a first pass, since some runtimes keep what they took. On a GPU's machine it is not told."""
    return math.nan if torch.cuda.is_available() else timing.extra_megabytes(step)


def _cases(steps: Mapping[Key, Callable[[], object]], rounds: int) -> dict[Key, float]:
    """Median time of each step, in turns; no first round is thrown away, for the runtimes have run before."""
    times: dict[Key, list[float]] = {key: [] for key in steps}
    for _ in tqdm(range(rounds), unit="round of cases", leave=False):
        for key, step in steps.items():
            if not times[key] or times[key][0] <= SLOW:
                start = time.perf_counter()
                step()
                times[key].append(time.perf_counter() - start)
    return {key: median(taken) for key, taken in times.items()}


def _patch(windows: Inferer, image: Tensor, run: runtimes.Runtime) -> Callable[[], object]:
    """A pass over a patch, as these windows compute it."""

    def call() -> None:
        with as_in_windows(windows, image):
            run(image)

    return call


def _case(window: Inferer, image: Tensor, run: runtimes.Runtime) -> Callable[[], object]:
    return lambda: window(image, run)


def _times(kind: str, seconds: Mapping[Key, float], key: Key, teacher: Key) -> dict[str, float]:
    """A time, and its ratio to one of the teacher in the same runtime."""
    taken = seconds.get(key, math.nan)
    return {f"{kind}_seconds": taken, f"{kind}_of_teacher": taken / seconds.get(teacher, math.nan)}


def _scores(
    setting: Setting, students: Mapping[str, runtimes.Runtime], windows: Inferer, long_windows: Inferer | None
) -> dict[str, dict[str, float]]:
    """Mean Dice of the student's runtimes, what a case loses most against the first, and its Dice in long windows."""
    folds = setting.parser("inference", "evaluate")["test_folds"]
    ways = {runtime: partial(windows, network=run) for runtime, run in students.items()}
    if long_windows:
        ways[LONG_WINDOWS] = partial(long_windows, network=students[runtimes.EAGER])
    dice = calibration.case_dice(setting.parser("train_student"), folds, ways)
    means = {way: of_cases.nanmean(0).nanmean().item() for way, of_cases in dice.items()}
    losses = {way: dice[runtimes.EAGER].nanmean(1) - of_cases.nanmean(1) for way, of_cases in dice.items()}
    return {
        runtime: {
            "dice": means[runtime],
            "largest_loss": losses[runtime].nan_to_num().clamp(min=0).max().item(),
            "long_windows_dice": means.get(LONG_WINDOWS, math.nan) if runtime == runtimes.EAGER else math.nan,
        }
        for runtime in students
    }


def _label(runtime: str, scores: Mapping[str, Mapping[str, float]]) -> str:
    """Name of a runtime; int8 with what speaks against its use."""
    if runtime != runtimes.INT8:
        return runtime
    if not scores:
        return runtime + NOISE
    return runtime + LOSSY * (scores[runtime]["dice"] < scores[runtimes.EAGER]["dice"] - DICE_TOLERANCE)
