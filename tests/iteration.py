"""A distillation by MONAI's trainer, with the handlers of the bundles, on any device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from monai.engines import SupervisedTrainer
from monai.inferers import SimpleInferer
from monai.networks.nets import DynUNet
from torch import nn

from dcd_components import (
    BatchDiceCELoss,
    DeepSupervisionLoss,
    DistillationHandler,
    Distiller,
    GradientClipping,
    WaveletDetailLoss,
    WeightAverage,
    average_of,
)

STAGES = ["input_block", "downsamples.0", "bottleneck"]


def network(filters: Sequence[int]) -> nn.Module:
    """A small network of the bundles' architecture, with deep supervision."""
    made: nn.Module = DynUNet(
        3,
        2,
        3,
        kernel_size=[3] * 3,
        strides=[1, 2, 2],
        upsample_kernel_size=[2, 2],
        filters=filters,
        norm_name=("INSTANCE", {"affine": True}),
        deep_supervision=True,
        deep_supr_num=1,
        res_block=True,
    )
    return made


def distilling(
    device: torch.device,
    iterations: int,
    *,
    max_norm: float = 12.0,
    log: Any = None,
    distil: Mapping[str, Any] | None = None,
    **settings: Any,
) -> SupervisedTrainer:
    """A trainer whose batches lie on the device already; ``distil`` is what the distiller is told besides."""
    with device:
        student, teacher = network([8, 8, 16]), network([16, 16, 32])
        image = torch.randn(2, 2, 16, 16, 16)
        batch = {"image": image, "label": (image[:, :1] > 0).float()}
    given = {"loss": partial(WaveletDetailLoss, levels=2), **(distil or {})}
    distiller = Distiller(student, teacher, STAGES, image_shape=image.shape[1:], **given)
    average = average_of(student)
    handlers = [GradientClipping(max_norm), WeightAverage(student, average, 0.9), DistillationHandler(distiller)]
    parameters = [*student.parameters(), *distiller.parameters()]
    return SupervisedTrainer(
        device=device,
        max_epochs=1,
        train_data_loader=[batch] * iterations,
        network=student,
        optimizer=torch.optim.SGD(parameters, lr=0.01, momentum=0.99, nesterov=True, weight_decay=3e-5),
        loss_function=DeepSupervisionLoss(BatchDiceCELoss()),
        inferer=SimpleInferer(),
        train_handlers=[*handlers, *([log] if log else [])],
        decollate=False,
        optim_set_to_none=True,
        **settings,
    )
