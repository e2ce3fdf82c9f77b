"""nnU-Net's trainer for less than a minute, found by ``nnUNet_extTrainer``."""

from __future__ import annotations

from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerNoDA import nnUNetTrainerNoDA


class nnUNetTrainerShort(nnUNetTrainerNoDA):  # type: ignore[misc]  # noqa: N801 - nnU-Net finds its trainers by such names
    def initialize(self) -> None:
        self.num_epochs, self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = 1, 150, 1
        self.oversample_foreground_percent = 1.0  # so few iterations of background would teach nothing else
        torch.manual_seed(0)
        super().initialize()

    def configure_optimizers(self) -> Any:
        """Another optimizer, which needs fewer iterations."""
        optimizer = torch.optim.AdamW(self.network.parameters(), 0.003)
        return optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self) -> Any:  # noqa: N802
        """Mirrored windows in inference, as after a training with augmentation."""
        found = super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        self.inference_allowed_mirroring_axes = (0, 1, 2)
        return found

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """Nothing, to save time."""
