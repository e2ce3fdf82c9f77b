"""The names that users import from the package itself."""

from importlib import import_module

import pytest

import dcd_components

PUBLIC_NAMES = {
    *("BANDS", "DIRECTIONAL_BANDS", "dwt3"),
    *("FeatureLoss", "WaveletDetailLoss", "DeepSupervisionLoss", "BatchDiceCELoss", "RegionDiceBCELoss"),
    *("AttentionLoss", "ChannelWiseLoss", "FrequencyLoss", "IntraClassLoss", "LogitsLoss"),
    *("DistributedReplacementSampler", "case_sampler"),
    *("constant", "linear_ramp", "cosine_ramp"),
    *("Distiller", "EnsembleDistiller", "StageRecorder", "DistillationHandler"),
    *("GradientClipping", "WeightAverage", "average_of"),
    *("StudentStart", "start_from_teacher"),
    *("AutocastInferer", "EnsembleInferer", "ForegroundInferer", "MirrorInferer", "NnunetInferer"),
    "RigidRegistrationd",
    *("BestCheckpoint", "InferenceWeights", "SafeCheckpointLoader", "load_frozen", "load_frozen_copies"),
    *("CaseScores", "TrainingLog", "ValidationPicture", "DiskCache"),
    *("keep_freed_memory", "plain_errors", "set_up_process"),
    *("Layout", "LoadCased", "LoadLabeld", "inference_cases", "labelled_cases", "check_output", "nonzero_or_all"),
    *("check_task", "check_training"),
    *("LabelMapd", "SaveMaskd", "SoundCases", "planned_cases", "check_overwrite", "weights_mark"),
    *("MemoryLimit", "NnunetMemoryLimit"),
    *(
        "NnunetMemoryLimit",
        "NnunetPlan",
        "NnunetImaged",
        "NnunetLabeld",
        "NnunetLabelMapd",
        "RegionMasksd",
        "NnunetUNet",
    ),
    *("LossesForTrackers", "PreparedCases", "TrainingCheckpoint", "TrainingGuard", "outlive_signals"),
}


def test_public_names_are_fixed_and_there() -> None:
    assert set(dcd_components.__all__) == PUBLIC_NAMES
    assert len(dcd_components.__all__) == len(PUBLIC_NAMES)
    assert {name for names in dcd_components.MODULES.values() for name in names} == PUBLIC_NAMES
    assert set(dir(dcd_components)) == PUBLIC_NAMES
    missing = [name for name in PUBLIC_NAMES if not hasattr(dcd_components, name)]
    assert not missing


@pytest.mark.parametrize("name", sorted(PUBLIC_NAMES))
def test_public_functions_and_classes_are_documented(name: str) -> None:
    value = getattr(dcd_components, name)
    assert isinstance(value, tuple) or value.__doc__


@pytest.mark.parametrize(
    ("module", "name"), [(m, name) for m, names in dcd_components.MODULES.items() for name in names]
)
def test_public_names_are_in_their_sub_package_too(module: str, name: str) -> None:
    room, _, rest = module.partition(".")
    if rest:
        assert getattr(getattr(dcd_components, room), name) is getattr(dcd_components, name)


def test_a_name_of_another_sub_package_is_not_there() -> None:
    with pytest.raises(AttributeError, match=r"module 'dcd_components\.losses' has no attribute 'StageRecorder'"):
        getattr(import_module("dcd_components.losses"), "StageRecorder")  # noqa: B009 - as a text, which mypy passes
