"""The rules of the package's layout, which no import or type checker knows."""

import ast
from pathlib import Path

import pytest

import dcd_components

PACKAGE = Path(dcd_components.__file__).parent
MODULES = sorted(path.stem for path in PACKAGE.glob("*.py"))

#: Modules of the package that each module may import: downwards only. The two entrances may import any.
ALLOWED: dict[str, set[str]] = {
    "anatomy": set(),
    "cache": set(),
    "layouts": {"bundle_configs"},
    "datalists": {"layouts"},
    "cases": {"checks", "datalists", "layouts", "volumes"},
    "errors": set(),
    "inferers": set(),
    "metrics": set(),
    "deep_supervision": set(),
    "networks": set(),
    "processes": set(),
    "registration": set(),
    "reporting": set(),
    "pictures": set(),
    "schedules": set(),
    "segmentation_loss": {"processes"},
    "stages": set(),
    "tracking": {"pictures"},
    "bundle_configs": set(),
    "onnx_files": set(),
    "exporting": {"bundle_configs", "networks", "onnx_files"},
    "segmenting": {"bundle_configs", "onnx_files"},
    "wavelets": set(),
    "handlers": {"stages"},
    "matrix_passes": {"wavelets"},
    "taps": set(),
    "tap_kernels": {"taps"},
    "tap_passes": {"tap_kernels", "taps", "wavelets"},
    "band_energy": {"matrix_passes", "tap_passes", "wavelets"},
    "projected_distance": {"band_energy"},
    "losses": {"band_energy", "processes", "projected_distance", "wavelets"},
    "gliomas": {"anatomy"},
    "strokes": {"anatomy"},
    "stroke_scans": {"anatomy", "strokes"},
    "phantoms": {"anatomy", "gliomas", "stroke_scans", "strokes"},
    "records": {"metrics", "processes", "reporting"},
    "data_benchmark": {"datalists", "reporting", "timing"},
    "timing": set(),
    "published_loss": set(),
    "loss_benchmark": {"losses", "published_loss", "timing"},
    "step_benchmark": {"losses", "published_loss", "stages", "timing"},
    "runtimes": {"inferers", "onnx_files"},
    "runtime_scores": {"cases", "runtimes"},
    "inference_setting": {"bundle_configs", "runtimes"},
    "inference_benchmark": {
        *("inference_setting", "networks", "onnx_files", "runtime_scores", "runtimes", "timing"),
    },
    "benchmark": {
        *("inference_benchmark", "inference_setting", "loss_benchmark", "reporting", "step_benchmark", "timing"),
    },
    "summary": {"datalists", "layouts", "networks", "pictures", "reporting"},
    "flattening": {"layouts"},
    "archives": set(),
    "packed_metadata": {"reporting"},
    "packed_weights": {"networks"},
    "packing": {"archives", "flattening", "packed_metadata", "packed_weights"},
    "volumes": set(),
    "checks": {"datalists", "layouts", "volumes"},
    "check_tables": {"reporting"},
    "checking": {"check_tables", "checks", "datalists", "layouts", "volumes"},
    "bundle_texts": {"layouts"},
    "new_bundles": {"bundle_texts", "datalists", "layouts"},
    "commands": {"datalists", "layouts", "new_bundles", "phantoms"},
    "demo": {"networks", "records", "reporting", "summary"},
    "__init__": set(MODULES) - {"__main__", "demo"},
    "__main__": set(MODULES),
}

PUBLIC_NAMES = {
    *("BANDS", "DIRECTIONAL_BANDS", "dwt3", "idwt3"),
    *("FeatureLoss", "WaveletDetailLoss", "StagewiseLoss", "DeepSupervisionLoss", "BatchDiceCELoss"),
    *("SharedOrder", "share_cases"),
    *("constant", "linear_ramp", "cosine_ramp", "cosine_decay", "schedule"),
    *("StageRecorder", "DistillationHandler", "GradientClipping", "WeightAverage"),
    *("AutocastInferer", "MirrorInferer"),
    "RigidRegistrationd",
    *("InferenceWeights", "load_frozen", "prepare_checkpoint"),
    *("CaseScores", "TrainingLog", "ValidationPicture", "DiskCache", "load_cases", "plain_errors"),
}


def tree(module: str) -> ast.Module:
    return ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))


def imported(source: ast.Module) -> set[str]:
    """Modules of the package that a module imports anywhere, also inside its functions."""
    found = set()
    for node in ast.walk(source):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            origin = "dcd_components" + (f".{node.module}" if node.module else "") if node.level else node.module or ""
            found |= {f"{origin}.{alias.name}" for alias in node.names}
    parts = [name.split(".") for name in found]
    return {(name[1:] or ["__init__"])[0] for name in parts if name[0] == "dcd_components"}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import dcd_components", {"__init__"}),
        ("import dcd_components.losses", {"losses"}),
        ("from dcd_components import demo, errors", {"demo", "errors"}),
        ("from dcd_components.losses import FeatureLoss", {"losses"}),
        ("def f():\n    from .losses import FeatureLoss", {"losses"}),
        ("from . import losses", {"losses"}),
        ("import torch.nn\nfrom dcd_components_extra import losses", set()),
    ],
)
def test_the_guard_sees_every_form_of_import(source: str, expected: set[str]) -> None:
    assert imported(ast.parse(source)) == expected


def test_every_module_has_its_place_in_the_order() -> None:
    assert set(MODULES) == set(ALLOWED)


@pytest.mark.parametrize("module", MODULES)
def test_modules_import_only_what_lies_below_them(module: str) -> None:
    assert imported(tree(module)) <= ALLOWED[module]


def test_the_order_has_no_circle() -> None:
    below = {module: set(allowed) for module, allowed in ALLOWED.items() if not module.startswith("__")}
    while below:
        lowest = {module for module, allowed in below.items() if not allowed}
        assert lowest, f"circle among {sorted(below)}"
        below = {module: allowed - lowest for module, allowed in below.items() if module not in lowest}


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


@pytest.mark.parametrize("module", [module for module in MODULES if module not in ("__main__", "demo")])
def test_only_the_entrances_print(module: str) -> None:
    calls = [node for node in ast.walk(tree(module)) if isinstance(node, ast.Call)]
    assert not [call.lineno for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"]


@pytest.mark.parametrize("module", MODULES)
def test_modules_fit_on_a_few_screens(module: str) -> None:
    assert len((PACKAGE / f"{module}.py").read_text(encoding="utf-8").splitlines()) <= 200
