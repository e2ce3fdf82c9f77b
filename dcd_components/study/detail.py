r"""How much of the teacher's wavelet detail the students of a study have, at each stage of the encoder.

Asked of any student, trained with the teacher or without: what share of the energy of the teacher's sub-bands does the
best linear map of the student's channels give?

.. math:: R^2 = 1 - \frac{\sum_b \|W\, s_b - t_b\|^2}{\sum_b \|t_b\|^2}

:math:`s_b` and :math:`t_b` are the coefficients of sub-band :math:`b` of the maps of a stage, less the mean of each
channel. Each group of sub-bands has one matrix :math:`W` for all its bands and levels, by least squares in which the
levels count alike, each in units of the teacher's energy. It is fitted on other patients than it is tested on, so
that a student with many channels is not flattered: the share may be negative.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from monai.bundle import ConfigParser
from monai.transforms import Compose, ResizeWithPadOrCrop
from torch import Tensor, nn
from tqdm import tqdm

from dcd_components.bundle.configs import read_configs
from dcd_components.data.cases import labelled_cases
from dcd_components.files import write_json
from dcd_components.networks.stage_pairs import named_stages
from dcd_components.networks.stage_recorder import StageRecorder
from dcd_components.networks.weights import load_frozen, weights_digest
from dcd_components.study.plan import TEACHER, Run, Study
from dcd_components.study.records import read_record
from dcd_components.wavelets.dwt_matmul import dwt3
from dcd_components.wavelets.transform import BANDS, DIRECTIONAL_BANDS, supported_levels

if TYPE_CHECKING:
    from dcd_components.study.runner import Places

#: Sub-bands that are measured together.
GROUPS = {"aaa": ("aaa",), "directional": DIRECTIONAL_BANDS, "ddd": ("ddd",)}
#: Cases of which the matrices are fitted, and as many to test them on.
CASES = 20
#: Directions of the student's channels with less than this share of their energy count as none.
NEGLIGIBLE = 1e-9
#: Inner products of the channels of student and teacher, ``(c + C, c + C)``, by group and level.
Products = dict[tuple[str, int], Tensor]


def measure_detail(
    students: Mapping[str, nn.Module],
    teacher: nn.Module,
    stages: Sequence[str],
    fitting: Iterable[Tensor],
    testing: Iterable[Tensor],
    *,
    wavelet: str,
    levels: int,
    mode: str,
    teacher_stages: Sequence[str] | None = None,
) -> dict[str, dict[str, Any]]:
    """Measure the share of the teacher's sub-bands that each student's features explain.

    Args:
        students: networks in evaluation mode, by name.
        teacher: the same.
        stages: module paths in all of them, or in the students alone.
        fitting: images ``(B, C, D, H, W)`` on which the linear maps are fitted.
        testing: images of other patients.
        wavelet: discrete wavelet known to PyWavelets.
        levels: number of decompositions; capped at what the map of a stage supports.
        mode: boundary rule known to PyWavelets.
        teacher_stages: module paths in the teacher, where they are others.

    Returns:
        By student and stage: ``explained``, the share for each group of sub-bands; ``most``, what the mean of it over
        the levels can be with so few channels, had they been chosen for the tested images; and ``energy``, what share
        of the energy of ``student`` and ``teacher`` each group has. ``explained`` and ``energy`` are lists over the
        levels, finest first; the approximation ``aaa`` is of the last alone. Figures have four digits.
    """
    rule = {"wavelet": wavelet, "levels": levels, "mode": mode}
    theirs = StageRecorder(teacher, teacher_stages or stages, stop=True)
    fitted, tested = (_sums(students, theirs, stages, images, rule) for images in (fitting, testing))
    return {name: {stage: _of_stage(fitted[name, stage], tested[name, stage]) for stage in stages} for name in students}


def _sums(
    students: Mapping[str, nn.Module],
    theirs: StageRecorder,
    stages: Sequence[str],
    images: Iterable[Tensor],
    rule: Mapping[str, Any],
) -> dict[tuple[str, str], tuple[int, Products]]:
    """By student and stage: number of the student's channels, and sums of products over the images."""
    recorders = {name: StageRecorder(network, stages, stop=True) for name, network in students.items()}
    sums: dict[tuple[str, str], tuple[int, Products]] = {}
    for image in images:
        known = [_coefficients(x, **rule) for x in theirs.features(lambda network: network(image))]  # noqa: B023
        for name, recorder in recorders.items():
            maps = recorder.features(lambda network: network(image))  # noqa: B023
            for stage, x, target in zip(stages, maps, known, strict=True):
                _, before = sums.get((name, stage), (0, {}))
                sums[name, stage] = x.shape[1], _added(before, _coefficients(x, **rule), target)
    return sums


def _added(before: Products, student: Products, teacher: Products) -> Products:
    """Add the products of the coefficients of an image."""
    both = {key: torch.cat([student[key], teacher[key]]) for key in teacher}
    return {key: x @ x.T + before.get(key, 0.0) for key, x in both.items()}


def _coefficients(x: Tensor, wavelet: str, levels: int, mode: str) -> Products:
    """Coefficients of a map ``(B, C, D, H, W)``, less the mean of each channel: ``(C, number)`` by group and level."""
    wide = x.double()
    wide = wide - wide.mean((2, 3, 4), keepdim=True)
    levels = min(levels, supported_levels(x.shape[2:], wavelet))
    approximation, details = dwt3(wide, wavelet, levels, mode)
    details[-1]["aaa"] = approximation
    for found in details:  # no bands have detail along an axis of a single voxel
        found |= {band: 0 * next(iter(found.values())) for band in BANDS[1:] if band not in found}
    return {
        (group, level): torch.stack([found[band] for band in bands]).movedim(2, 0).flatten(1)
        for group, bands in GROUPS.items()
        for level, found in enumerate(details)
        if bands[0] in found
    }


def _of_stage(fitted: tuple[int, Products], tested: tuple[int, Products]) -> dict[str, Any]:
    """Shares of a student and a stage, from the sums of the images for fitting and of those for testing."""
    channels, products = tested[0], _by_group(tested[1])
    explained = {}
    for group, of_levels in _by_group(fitted[1]).items():
        residual = _residual(_relative(of_levels, channels), channels)
        explained[group] = [_share(residual, x, channels) for x in products[group]]
    most = {group: _most(_relative(several, channels), channels) for group, several in products.items()}
    student = {group: [x[:channels, :channels] for x in several] for group, several in products.items()}
    teacher = {group: [x[channels:, channels:] for x in several] for group, several in products.items()}
    energy = {"student": _spectrum(student), "teacher": _spectrum(teacher)}
    return {"explained": explained, "most": most, "energy": energy}


def _by_group(products: Products) -> dict[str, list[Tensor]]:
    return {group: [x.cpu() for key, x in products.items() if key[0] == group] for group in GROUPS}


def _relative(products: Sequence[Tensor], channels: int) -> Tensor:
    """Mean over levels, each in units of the teacher's energy."""
    return torch.stack([x / (x[channels:, channels:].trace() or 1.0) for x in products]).mean(0)


def _residual(products: Tensor, channels: int) -> Tensor:
    """``(W, -1)``, which makes of the channels of student and teacher what is not explained: ``(C, c + C)``."""
    inverse = torch.linalg.pinv(products[:channels, :channels], rtol=NEGLIGIBLE, hermitian=True)
    best = products[channels:, :channels] @ inverse
    return torch.cat([best, -torch.eye(len(best), dtype=best.dtype)], 1)


def _most(products: Tensor, channels: int) -> float:
    """Share of the teacher's energy in as many of its principal components as the student has channels."""
    return _rounded(torch.linalg.eigvalsh(products[channels:, channels:])[-channels:].sum())


def _share(residual: Tensor, products: Tensor, channels: int) -> float:
    """Share of the teacher's energy that is explained; 0 where it has none."""
    energy = products[channels:, channels:].trace()
    return _rounded(1 - (residual @ products @ residual.T).trace() / energy) if energy else 0.0


def _spectrum(products: Mapping[str, Sequence[Tensor]]) -> dict[str, list[float]]:
    """Share of a network's energy by group, a list over levels."""
    whole = sum(float(x.trace()) for several in products.values() for x in several) or 1.0
    return {group: [_rounded(x.trace() / whole) for x in several] for group, several in products.items()}


def _rounded(value: Tensor) -> float:
    return float(f"{value.item():.4g}")


def add_details(study: Study, runs: Iterable[Run], places: Places) -> list[str]:
    """Measure what the records of some students lack, seed by seed, and write it into them as ``detail``.

    Networks, images, stages, wavelet and levels are those of the configs of ``distill``, and the same for all methods,
    whatever their settings say of them; students of another architecture than their teacher's have other stages, and
    are left out. An image is the centre patch of a case. The maps are fitted on the validation folds, less those that
    are tested, or on the training folds where nothing is left, and tested on the test folds.

    Args:
        study: that the runs belong to.
        runs: of which the students that have ended are measured.
        places: of the patients and of the weights.

    Returns:
        Names of the runs that cannot be measured, since their weights or those of their teacher are not there.

    Raises:
        InputError: for weights or cases that cannot be used.
    """
    teachers = {run.seed: run for run in study.runs if run.method == TEACHER}
    ended = [(run, read_record(study, run)) for run in runs if run.method != TEACHER]
    alike = [(run, record) for run, record in ended if run.overlays == teachers[run.seed].overlays]
    lacking = [(run, record) for run, record in alike if record and "detail" not in record]
    there = [
        (run, record)
        for run, record in lacking
        if _is_there(study, run, places) and _is_there(study, teachers[run.seed], places)
    ]
    for seed in tqdm(sorted({run.seed for run, _ in there}), desc="detail", unit="seed", disable=not there):
        several = [(run, record) for run, record in there if run.seed == seed]
        found = _measured(teachers[seed], [run for run, _ in several], study, places)
        for run, record in several:
            write_json(study.results / f"{run.name}.json", {**record, "detail": found[run.name]})
    return [run.name for run, record in lacking if (run, record) not in there]


def _weights(run: Run, places: Places) -> Path:
    return places.work / run.name / "model.pt"


def _is_there(study: Study, run: Run, places: Places) -> bool:
    """Whether a run has ended and its weights are those that were scored."""
    record, path = read_record(study, run), _weights(run, places)
    return record is not None and path.is_file() and weights_digest(path) == record["weights"]


def _measured(teacher: Run, students: Sequence[Run], study: Study, places: Places) -> dict[str, dict[str, Any]]:
    parser = _configs(study, teacher)
    layout, folds = parser.get_parsed_content("layout"), _folds(parser)
    fitting, testing = (labelled_cases(places.datalist, places.dataset_dir, layout, *one) for one in folds)
    rule = {key: parser.get_parsed_content(key) for key in ("wavelet", "levels", "mode")}
    networks = {run.name: _network(run, _configs(study, run), "network_def", places) for run in students}
    network = _network(teacher, parser, "teacher_def", places)
    shape = [len(parser["sequences"]), *parser.get_parsed_content("patch_size")]
    named = (parser.get_parsed_content(key) for key in ("stages", "teacher_stages"))
    stages, teacher_stages = named_stages(next(iter(networks.values())), network, shape, *named)
    return measure_detail(
        networks,
        network,
        stages,
        fitting=_images(parser, fitting),
        testing=_images(parser, testing),
        teacher_stages=teacher_stages,
        **rule,
    )


def _configs(study: Study, run: Run) -> ConfigParser:
    """Configs of a distillation, with what the settings of a run say of the network, the images and the folds."""
    known = {*read_configs(study.bundle, ["inference", "evaluate", *run.overlays]).get(), "train_folds", "val_folds"}
    parser = read_configs(study.bundle, ["distill", *run.overlays])
    parser.update({key: value for key, value in run.settings.items() if key.partition("::")[0] in known})
    parser.update({"architecture::deep_supervision": False})
    return parser


def _folds(parser: ConfigParser) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Folds to fit and to test on, each with those that are held out."""
    train, validation, test = (parser.get_parsed_content(f"{name}_folds") for name in ("train", "val", "test"))
    others = [fold for fold in validation if fold not in test]
    return ((others,) if others else (train, [*validation, *test])), (test,)


def _network(run: Run, parser: ConfigParser, key: str, places: Places) -> nn.Module:
    network = load_frozen(parser.get_parsed_content(key), _weights(run, places))
    return network.to(parser.get_parsed_content("device"))


def _images(parser: ConfigParser, cases: Sequence[Any]) -> Iterator[Tensor]:
    """Centre patches ``(1, C, D, H, W)`` of some of the cases."""
    size, device = parser.get_parsed_content("patch_size"), parser.get_parsed_content("device")
    prepare = Compose([*parser.get_parsed_content("deterministic_transforms")])
    crop = ResizeWithPadOrCrop(size)
    count = min(CASES, len(cases))
    for case in (cases[number * len(cases) // count] for number in range(count)):
        yield crop(prepare(case)["image"]).as_tensor()[None].float().to(device)
