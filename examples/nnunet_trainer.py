"""Detail Consistent Distillation in nnU-Net's own trainer: a student of a quarter of the widths that the plans say.

    export DCD_TEACHER=RESULTS/DATASET/nnUNetTrainer__nnUNetPlans__3d_fullres nnUNet_extTrainer=PATH/examples
    nnUNetv2_train DATASET 3d_fullres 0 -tr nnUNetTrainerDCD

The teacher is a finished training of the same fold. Run with nnunetv2 2.8.1; the project's tests run it with a light
stand-in of nnU-Net's classes, since nnU-Net itself needs several gigabytes of packages.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

from dcd_components import Distiller, cosine_ramp


class nnUNetTrainerDCD(nnUNetTrainer):  # noqa: N801 - nnU-Net finds its trainers by such names
    """Adds the distiller's loss to nnU-Net's; the optimizer, augmentation and validation are nnU-Net's."""

    @staticmethod
    def build_network_architecture(plans_manager, configuration_manager, inputs, outputs, enable_deep_supervision=True):
        """Build the student: also for inference, which asks the trainer for its network."""
        plan, settings = configuration_manager, dict(configuration_manager.network_arch_init_kwargs)
        settings["features_per_stage"] = [width // 4 for width in settings["features_per_stage"]]
        kind, imports = plan.network_arch_class_name, plan.network_arch_init_kwargs_req_import
        return get_network_from_plans(kind, settings, imports, inputs, outputs, True, enable_deep_supervision)

    def configure_optimizers(self):
        """Let the optimizer train the projections too."""
        optimizer, scheduler = super().configure_optimizers()
        predictor = nnUNetPredictor(device=self.device)
        predictor.initialize_from_trained_model_folder(os.environ["DCD_TEACHER"], use_folds=(self.fold,))
        plan = self.configuration_manager
        self.distiller = Distiller(
            self.network,
            predictor.network.to(self.device),
            [f"encoder.stages.{i}" for i in range(len(plan.network_arch_init_kwargs["features_per_stage"]))],
            image_shape=(self.num_input_channels, *plan.patch_size),
            weight=cosine_ramp(maximum=0.01, start=self.num_epochs * 3 // 20, length=self.num_epochs * 4 // 5),
        )
        optimizer.add_param_group({"params": list(self.distiller.parameters())})
        return optimizer, scheduler

    def _build_loss(self):
        segmentation = super()._build_loss()

        def loss(output, target):
            value = segmentation(output, target)
            training = torch.is_grad_enabled()  # nnU-Net calls it in validation too
            return value + self.distiller.loss(self.image, self.current_epoch) if training else value

        return loss

    def train_step(self, batch):
        """Keep the image for the teacher."""
        self.image = batch["data"].to(self.device, non_blocking=True)
        return super().train_step({**batch, "data": self.image})

    def on_train_epoch_start(self):
        """Record the student's passes while the weight is not 0."""
        super().on_train_epoch_start()
        self.distiller.open(self.current_epoch)

    def on_train_end(self):
        """Leave a plain network behind."""
        self.distiller.close()
        super().on_train_end()

    def save_checkpoint(self, filename):
        """Keep the projections beside nnU-Net's checkpoint, for a training that goes on."""
        super().save_checkpoint(filename)
        if self.local_rank == 0 and not self.disable_checkpointing:
            torch.save(self.distiller.state_dict(), Path(filename).with_suffix(".projections"))

    def load_checkpoint(self, filename_or_checkpoint):
        """Go on with the projections too, which lie beside a checkpoint of this trainer."""
        super().load_checkpoint(filename_or_checkpoint)
        if isinstance(filename_or_checkpoint, str):
            path = Path(filename_or_checkpoint).with_suffix(".projections")
            self.distiller.load_state_dict(torch.load(path, map_location=self.device, weights_only=True))
