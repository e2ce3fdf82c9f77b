"""Detail Consistent Distillation of 3D segmenters, as components for MONAI bundles."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dcd_components.cache import DiskCache
    from dcd_components.cases import load_cases
    from dcd_components.deep_supervision import DeepSupervisionLoss
    from dcd_components.errors import plain_errors
    from dcd_components.handlers import DistillationHandler, GradientClipping, WeightAverage
    from dcd_components.inferers import AutocastInferer, MirrorInferer
    from dcd_components.losses import FeatureLoss, StagewiseLoss, WaveletDetailLoss
    from dcd_components.networks import InferenceWeights, load_frozen, prepare_checkpoint
    from dcd_components.processes import SharedOrder, share_cases
    from dcd_components.records import CaseScores, TrainingLog
    from dcd_components.registration import RigidRegistrationd
    from dcd_components.schedules import constant, cosine_decay, cosine_ramp, linear_ramp, schedule
    from dcd_components.segmentation_loss import BatchDiceCELoss
    from dcd_components.stages import StageRecorder
    from dcd_components.tracking import ValidationPicture
    from dcd_components.wavelets import BANDS, DIRECTIONAL_BANDS, dwt3, idwt3

__version__ = "0.4.0"

__all__ = [
    "BANDS",
    "DIRECTIONAL_BANDS",
    "AutocastInferer",
    "BatchDiceCELoss",
    "CaseScores",
    "DeepSupervisionLoss",
    "DiskCache",
    "DistillationHandler",
    "FeatureLoss",
    "GradientClipping",
    "InferenceWeights",
    "MirrorInferer",
    "RigidRegistrationd",
    "SharedOrder",
    "StageRecorder",
    "StagewiseLoss",
    "TrainingLog",
    "ValidationPicture",
    "WaveletDetailLoss",
    "WeightAverage",
    "constant",
    "cosine_decay",
    "cosine_ramp",
    "dwt3",
    "idwt3",
    "linear_ramp",
    "load_cases",
    "load_frozen",
    "plain_errors",
    "prepare_checkpoint",
    "schedule",
    "share_cases",
]

#: Where the public names are. Modules are imported at first use: what one needs, another need not have installed.
MODULES = {
    "cache": ("DiskCache",),
    "cases": ("load_cases",),
    "deep_supervision": ("DeepSupervisionLoss",),
    "errors": ("plain_errors",),
    "handlers": ("DistillationHandler", "GradientClipping", "WeightAverage"),
    "inferers": ("AutocastInferer", "MirrorInferer"),
    "losses": ("FeatureLoss", "StagewiseLoss", "WaveletDetailLoss"),
    "networks": ("InferenceWeights", "load_frozen", "prepare_checkpoint"),
    "processes": ("SharedOrder", "share_cases"),
    "records": ("CaseScores", "TrainingLog"),
    "registration": ("RigidRegistrationd",),
    "schedules": ("constant", "cosine_decay", "cosine_ramp", "linear_ramp", "schedule"),
    "segmentation_loss": ("BatchDiceCELoss",),
    "stages": ("StageRecorder",),
    "tracking": ("ValidationPicture",),
    "wavelets": ("BANDS", "DIRECTIONAL_BANDS", "dwt3", "idwt3"),
}


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> object:
    module = next((module for module, names in MODULES.items() if name in names), None)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{module}"), name)
