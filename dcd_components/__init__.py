"""Detail Consistent Distillation of 3D segmenters, as components for MONAI bundles."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dcd_components.bundle.task_checks import check_task, check_training
    from dcd_components.data.cache import DiskCache
    from dcd_components.data.case_files import Layout
    from dcd_components.data.cases import LoadCased, LoadLabeld, labelled_cases
    from dcd_components.data.label_maps import LabelMapd
    from dcd_components.data.masks import SaveMaskd, check_output, check_overwrite, planned_cases, weights_mark
    from dcd_components.data.memory import MemoryLimit, NnunetMemoryLimit
    from dcd_components.data.nnunet_plan import NnunetPlan
    from dcd_components.data.nnunet_transforms import NnunetImaged, NnunetLabeld, NnunetLabelMapd
    from dcd_components.data.registration import RigidRegistrationd
    from dcd_components.data.samplers import DistributedReplacementSampler, case_sampler
    from dcd_components.data.transforms import RegionMasksd, nonzero_or_all
    from dcd_components.data.unlabelled_cases import SoundCases, inference_cases
    from dcd_components.data.workers import outlive_signals
    from dcd_components.distillation_schedules import constant, cosine_ramp, linear_ramp
    from dcd_components.distiller import Distiller
    from dcd_components.ensemble_distiller import EnsembleDistiller
    from dcd_components.errors import plain_errors
    from dcd_components.handlers.case_scores import CaseScores
    from dcd_components.handlers.checkpoint_loader import SafeCheckpointLoader
    from dcd_components.handlers.checkpoints import BestCheckpoint, InferenceWeights
    from dcd_components.handlers.distillation import DistillationHandler
    from dcd_components.handlers.gradient_clipping import GradientClipping
    from dcd_components.handlers.prepared_cases import PreparedCases
    from dcd_components.handlers.resume import TrainingCheckpoint
    from dcd_components.handlers.student_start import StudentStart
    from dcd_components.handlers.training_guard import TrainingGuard
    from dcd_components.handlers.training_log import LossesForTrackers, TrainingLog
    from dcd_components.handlers.validation_picture import ValidationPicture
    from dcd_components.handlers.weight_average import WeightAverage, average_of
    from dcd_components.inferers import (
        AutocastInferer,
        EnsembleInferer,
        ForegroundInferer,
        MirrorInferer,
        NnunetInferer,
    )
    from dcd_components.losses.attention import AttentionLoss
    from dcd_components.losses.channel_wise import ChannelWiseLoss
    from dcd_components.losses.deep_supervision import DeepSupervisionLoss
    from dcd_components.losses.feature import FeatureLoss
    from dcd_components.losses.frequency import FrequencyLoss
    from dcd_components.losses.intra_class import IntraClassLoss
    from dcd_components.losses.logits import LogitsLoss
    from dcd_components.losses.segmentation import BatchDiceCELoss, RegionDiceBCELoss
    from dcd_components.losses.wavelet_detail import WaveletDetailLoss
    from dcd_components.networks.narrowing import start_from_teacher
    from dcd_components.networks.nnunet_student import NnunetUNet
    from dcd_components.networks.stage_recorder import StageRecorder
    from dcd_components.networks.weights import load_frozen, load_frozen_copies
    from dcd_components.process import keep_freed_memory, set_up_process
    from dcd_components.wavelets.dwt_matmul import dwt3
    from dcd_components.wavelets.transform import BANDS, DIRECTIONAL_BANDS

__version__ = "0.7.0"

__all__ = [
    "BANDS",
    "DIRECTIONAL_BANDS",
    "AttentionLoss",
    "AutocastInferer",
    "BatchDiceCELoss",
    "BestCheckpoint",
    "CaseScores",
    "ChannelWiseLoss",
    "DeepSupervisionLoss",
    "DiskCache",
    "DistillationHandler",
    "Distiller",
    "DistributedReplacementSampler",
    "EnsembleDistiller",
    "EnsembleInferer",
    "FeatureLoss",
    "ForegroundInferer",
    "FrequencyLoss",
    "GradientClipping",
    "InferenceWeights",
    "IntraClassLoss",
    "LabelMapd",
    "Layout",
    "LoadCased",
    "LoadLabeld",
    "LogitsLoss",
    "LossesForTrackers",
    "MemoryLimit",
    "MirrorInferer",
    "NnunetImaged",
    "NnunetInferer",
    "NnunetLabelMapd",
    "NnunetLabeld",
    "NnunetMemoryLimit",
    "NnunetPlan",
    "NnunetUNet",
    "PreparedCases",
    "RegionDiceBCELoss",
    "RegionMasksd",
    "RigidRegistrationd",
    "SafeCheckpointLoader",
    "SaveMaskd",
    "SoundCases",
    "StageRecorder",
    "StudentStart",
    "TrainingCheckpoint",
    "TrainingGuard",
    "TrainingLog",
    "ValidationPicture",
    "WaveletDetailLoss",
    "WeightAverage",
    "average_of",
    "case_sampler",
    "check_output",
    "check_overwrite",
    "check_task",
    "check_training",
    "constant",
    "cosine_ramp",
    "dwt3",
    "inference_cases",
    "keep_freed_memory",
    "labelled_cases",
    "linear_ramp",
    "load_frozen",
    "load_frozen_copies",
    "nonzero_or_all",
    "outlive_signals",
    "plain_errors",
    "planned_cases",
    "set_up_process",
    "start_from_teacher",
    "weights_mark",
]

#: Where the public names are. Modules are imported at first use: what one needs, another need not have installed.
MODULES = {
    "bundle.task_checks": ("check_task", "check_training"),
    "data.cache": ("DiskCache",),
    "data.cases": ("LoadCased", "LoadLabeld", "labelled_cases"),
    "data.unlabelled_cases": ("SoundCases", "inference_cases"),
    "data.case_files": ("Layout",),
    "data.label_maps": ("LabelMapd",),
    "data.masks": ("SaveMaskd", "check_output", "check_overwrite", "planned_cases", "weights_mark"),
    "data.memory": ("MemoryLimit", "NnunetMemoryLimit"),
    "data.nnunet_plan": ("NnunetPlan",),
    "data.nnunet_transforms": ("NnunetImaged", "NnunetLabelMapd", "NnunetLabeld"),
    "data.transforms": ("RegionMasksd", "nonzero_or_all"),
    "data.workers": ("outlive_signals",),
    "data.registration": ("RigidRegistrationd",),
    "data.samplers": (
        "DistributedReplacementSampler",
        "case_sampler",
    ),
    "distiller": ("Distiller",),
    "ensemble_distiller": ("EnsembleDistiller",),
    "errors": ("plain_errors",),
    "handlers.case_scores": ("CaseScores",),
    "handlers.checkpoint_loader": ("SafeCheckpointLoader",),
    "handlers.checkpoints": ("BestCheckpoint", "InferenceWeights"),
    "handlers.distillation": ("DistillationHandler",),
    "handlers.gradient_clipping": ("GradientClipping",),
    "handlers.prepared_cases": ("PreparedCases",),
    "handlers.resume": ("TrainingCheckpoint",),
    "handlers.student_start": ("StudentStart",),
    "handlers.training_guard": ("TrainingGuard",),
    "handlers.training_log": ("LossesForTrackers", "TrainingLog"),
    "handlers.validation_picture": ("ValidationPicture",),
    "handlers.weight_average": ("WeightAverage", "average_of"),
    "inferers": (
        "AutocastInferer",
        "EnsembleInferer",
        "ForegroundInferer",
        "MirrorInferer",
        "NnunetInferer",
    ),
    "losses.attention": ("AttentionLoss",),
    "losses.channel_wise": ("ChannelWiseLoss",),
    "losses.deep_supervision": ("DeepSupervisionLoss",),
    "losses.feature": ("FeatureLoss",),
    "losses.frequency": ("FrequencyLoss",),
    "losses.intra_class": ("IntraClassLoss",),
    "losses.logits": ("LogitsLoss",),
    "losses.segmentation": ("BatchDiceCELoss", "RegionDiceBCELoss"),
    "losses.wavelet_detail": ("WaveletDetailLoss",),
    "networks.nnunet_student": ("NnunetUNet",),
    "networks.narrowing": ("start_from_teacher",),
    "networks.stage_recorder": ("StageRecorder",),
    "networks.weights": ("load_frozen", "load_frozen_copies"),
    "process": ("keep_freed_memory", "set_up_process"),
    "distillation_schedules": (
        "constant",
        "cosine_ramp",
        "linear_ramp",
    ),
    "wavelets.dwt_matmul": ("dwt3",),
    "wavelets.transform": (
        "BANDS",
        "DIRECTIONAL_BANDS",
    ),
}


#: Sub-packages, which `import dcd_components` makes attributes of it at first use.
ROOMS = (
    *("benchmarks", "bundle", "data", "demo", "deploy", "handlers"),
    *("losses", "metrics", "networks", "simulation", "wavelets"),
)


def public_name(name: str, room: str = __name__) -> object:
    """Import a public name, of a sub-package alone if one is given, at its first use.

    Raises:
        AttributeError: for a name that is not public there.
    """
    prefix = room.removeprefix(__name__).removeprefix(".")
    module = next((one for one, names in MODULES.items() if name in names and one.startswith(prefix)), None)
    if module is None:
        raise AttributeError(f"module {room!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{module}"), name)


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> object:
    return import_module(f"{__name__}.{name}") if name in ROOMS else public_name(name)
