"""What a teacher and its student cost once they are trained, on the CPU, in every runtime that is installed."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.inferers import Inferer
from torch import Tensor, nn
from tqdm import tqdm

from dcd_components.benchmarks import inference_setting, int8_dice, timing
from dcd_components.benchmarks.inference_setting import Setting
from dcd_components.deploy import onnx_network, runtimes
from dcd_components.networks.cost import cost
from dcd_components.networks.weights import load_frozen

COLUMNS = {
    "network": ("Network", ""),
    "runtime": ("Runtime", ""),
    "parameters": ("Parameters, M", ".3f"),
    "gmac": ("GMAC per patch", ".2f"),
    "patch_seconds": ("Seconds per patch", ".3f"),
    "patch_of_eager": ("of eager float32", ".3f"),
    "patch_of_teacher": ("of the teacher", ".3f"),
    "case_seconds": ("Seconds per case", ".2f"),
    "case_of_eager": ("of eager float32", ".3f"),
    "case_of_teacher": ("of the teacher", ".3f"),
    "megabytes": ("Extra memory per patch, MB", ".0f"),
    "dice": ("Mean Dice", ".4f"),
}
TEACHER, STUDENT = "teacher", "student"
NOISE, LOSSY = ", calibrated on noise", ", loses Dice"
#: Dice that int8 may lose against eager float32.
DICE_TOLERANCE = 0.005
#: Patches of noise for calibration, and their largest side.
NOISE_PATCHES, NOISE_SIZE = 4, 64
#: A whole case that takes more seconds is timed once.
SLOW = 60.0
Key = tuple[str, str]


def measure(setting: Setting, repeats: int) -> list[dict[str, Any]]:
    """Time both networks in every runtime, in turns: one patch, and whole cases in sliding windows.

    A whole case is timed for the student everywhere, for the teacher in eager float32 and in its fastest runtime.

    Args:
        setting: what is measured.
        repeats: rounds of which the median is taken; three for patches that take more than 2 s, and for cases at most
            three, or one beyond a minute.

    Returns:
        Rows with the keys of ``COLUMNS``; NaN is what was not measured.
    """
    student, teacher = setting.parser("inference"), setting.parser("inference", "teacher")
    pair = {TEACHER: _network(teacher), STUDENT: _network(student)}
    if "ckpt_path" in setting.settings:
        load_frozen(pair[STUDENT], setting.settings["ckpt_path"])
    shape = [len(student["sequences"]), *student.get_parsed_content("patch_size")]
    costs = {name: cost(network, shape) for name, network in pair.items()}
    image = torch.randn(1, *shape)
    loaded, megabytes = _load(pair, image, _calibration(setting, shape))
    names = {" ".join(key): key for key in loaded}
    seconds = timing.seconds({name: _call(loaded[key], image) for name, key in names.items()}, repeats, least=2.0)
    patches = {names[name]: taken for name, taken in seconds.items()}
    whole = torch.randn(1, shape[0], *setting.case_size)
    window = student.get_parsed_content("sliding_window")
    cases = _cases({key: _case(window, whole, loaded[key]) for key in _chosen(patches)}, min(repeats, 3))
    test_folds = setting.parser("inference", "evaluate")["test_folds"]
    students = {runtime: run for (name, runtime), run in loaded.items() if name == STUDENT}
    dice = int8_dice.mean_dice(setting.parser("train_student"), test_folds, students) if setting.scored else {}
    return [
        {
            "network": name,
            "runtime": _label(runtime, dice, setting.scored),
            **costs[name],
            **_times("patch", patches, (name, runtime)),
            **_times("case", cases, (name, runtime)),
            "megabytes": megabytes[name, runtime],
            "dice": dice.get(runtime, math.nan) if name == STUDENT else math.nan,
        }
        for name, runtime in loaded
    ]


def _network(parser: ConfigParser) -> nn.Module:
    network: nn.Module = parser.get_parsed_content("network")
    return network.eval().requires_grad_(False)


def _calibration(setting: Setting, shape: Sequence[int]) -> list[Tensor]:
    if setting.scored:
        return int8_dice.training_patches(setting.parser("train_student"), inference_setting.PATCHES)
    return [torch.randn(1, shape[0], *(min(size, NOISE_SIZE) for size in shape[1:])) for _ in range(NOISE_PATCHES)]


def _load(
    pair: Mapping[str, nn.Module], image: Tensor, patches: Sequence[Tensor]
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
                # Measured once, since some runtimes keep what they took. On a GPU's machine it is not told.
                step = _call(run, image)
                megabytes[network, name] = math.nan if torch.cuda.is_available() else timing.extra_megabytes(step)
                progress.update()
    return loaded, megabytes


def _chosen(patches: Mapping[Key, float]) -> list[Key]:
    """Whose whole cases are timed: the student's all, the teacher's in eager float32 and where it is fastest."""
    fastest = min((key for key in patches if key[0] == TEACHER), key=lambda key: patches[key])
    return [key for key in patches if key[0] == STUDENT or key in ((TEACHER, runtimes.EAGER), fastest)]


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


def _call(run: runtimes.Runtime, image: Tensor) -> Callable[[], object]:
    return lambda: run(image)


def _case(window: Inferer, image: Tensor, run: runtimes.Runtime) -> Callable[[], object]:
    return lambda: window(image, run)


def _times(kind: str, seconds: Mapping[Key, float], key: Key) -> dict[str, float]:
    """A time, and its ratios to the same network in eager float32 and to the teacher in the same runtime."""
    network, runtime = key
    taken = seconds.get(key, math.nan)
    return {
        f"{kind}_seconds": taken,
        f"{kind}_of_eager": taken / seconds[network, runtimes.EAGER],
        f"{kind}_of_teacher": taken / seconds.get((TEACHER, runtime), math.nan),
    }


def _label(runtime: str, dice: Mapping[str, float], scored: bool) -> str:
    """Name of a runtime; int8 with what speaks against its use."""
    if runtime != runtimes.INT8:
        return runtime
    if not scored:
        return runtime + NOISE
    return runtime + LOSSY * (dice[runtime] < dice[runtimes.EAGER] - DICE_TOLERANCE)
