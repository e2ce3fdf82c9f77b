"""Detail Consistent Distillation of 3D segmenters, as components for MONAI bundles."""

from dcd_components.cache import DiskCache
from dcd_components.cases import load_cases
from dcd_components.deep_supervision import DeepSupervisionLoss
from dcd_components.errors import plain_errors
from dcd_components.handlers import DistillationHandler, GradientClipping, WeightAverage
from dcd_components.inferers import AutocastInferer, MirrorInferer
from dcd_components.losses import FeatureLoss, StagewiseLoss, WaveletDetailLoss
from dcd_components.networks import InferenceWeights, load_frozen, prepare_checkpoint
from dcd_components.records import CaseScores, TrainingLog
from dcd_components.registration import RigidRegistrationd
from dcd_components.schedules import constant, cosine_decay, cosine_ramp, linear_ramp, schedule
from dcd_components.stages import StageRecorder
from dcd_components.wavelets import BANDS, DIRECTIONAL_BANDS, dwt3, idwt3

__version__ = "0.3.0"

__all__ = [
    "BANDS",
    "DIRECTIONAL_BANDS",
    "AutocastInferer",
    "CaseScores",
    "DeepSupervisionLoss",
    "DiskCache",
    "DistillationHandler",
    "FeatureLoss",
    "GradientClipping",
    "InferenceWeights",
    "MirrorInferer",
    "RigidRegistrationd",
    "StageRecorder",
    "StagewiseLoss",
    "TrainingLog",
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
]
