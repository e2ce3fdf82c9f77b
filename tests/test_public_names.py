"""The names that users import from the package itself."""

import pytest

import dcd_components

PUBLIC_NAMES = {
    *("BANDS", "DIRECTIONAL_BANDS", "dwt3"),
    *("FeatureLoss", "WaveletDetailLoss", "DeepSupervisionLoss", "BatchDiceCELoss"),
    *("DistributedReplacementSampler", "case_sampler"),
    *("constant", "linear_ramp", "cosine_ramp"),
    *("Distiller", "StageRecorder", "DistillationHandler", "GradientClipping", "WeightAverage"),
    *("AutocastInferer", "MirrorInferer"),
    "RigidRegistrationd",
    *("InferenceWeights", "load_frozen", "prepare_checkpoint"),
    *("CaseScores", "TrainingLog", "ValidationPicture", "DiskCache", "plain_errors"),
    *("Layout", "LoadCased", "inference_cases", "labelled_cases", "mask_name", "check_output", "nonzero_or_all"),
    *("LossesForTrackers", "TrainingGuard"),
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
