"""Detail Consistent Distillation in nnU-Net's own trainer: a student of a quarter of the widths that the plans say.

    mkdir TRAINERS
    cp examples/nnunet_trainer.py TRAINERS
    export nnUNet_extTrainer=TRAINERS DCD_TEACHER=RESULT
    nnUNetv2_train 701 3d_fullres 0 -tr nnUNetTrainerDCD

Written for nnunetv2 2.7 or later, in which networks are built of plans; run with 2.8.1.

The teacher is a finished training of the same fold; ``RESULT`` is its result folder, which nnU-Net calls
``nnUNetTrainer__PLANS__CONFIGURATION``. nnU-Net imports every file beside a trainer: hence a folder of its own.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from dcd_components import Distiller, cosine_ramp
from dcd_components.networks.nnunet import read_checkpoint


class nnUNetTrainerDCD(nnUNetTrainer):  # noqa: N801 - nnU-Net finds its trainers by such names
    """Adds the distiller's loss to nnU-Net's; the optimizer, augmentation and validation are nnU-Net's."""

    def __init__(self, plans, configuration, fold, dataset_json, device=torch.device("cuda")):  # noqa: B008
        super().__init__(plans, configuration, fold, dataset_json, device)
        student = self.configuration_manager.configuration
        settings = student["architecture"]["arch_kwargs"]
        settings["features_per_stage"] = [max(8, width // 4) for width in settings["features_per_stage"]]
        self.plans_manager.plans["configurations"][configuration] = student  # written beside the checkpoint

    def configure_optimizers(self):
        """Let the optimizer train the projections too."""
        optimizer, scheduler = super().configure_optimizers()
        stages, patch_size = len(self.configuration_manager.pool_op_kernel_sizes), self.configuration_manager.patch_size
        self.distiller = Distiller(
            self.network,
            self.read_teacher().to(self.device),
            [f"encoder.stages.{stage}" for stage in range(stages)],
            image_shape=(self.num_input_channels, *patch_size),
            weight=cosine_ramp(maximum=0.01, start=self.num_epochs * 3 // 20, length=self.num_epochs * 4 // 5),
        )
        optimizer.add_param_group({"params": list(self.distiller.parameters())})
        return optimizer, scheduler

    def read_teacher(self):
        """Build the teacher as its own plans say, and run no code from its checkpoint."""
        folder = Path(os.environ["DCD_TEACHER"])
        checkpoint = read_checkpoint(folder / f"fold_{self.fold}" / "checkpoint_final.pth")
        plans = PlansManager(str(folder / "plans.json"))
        plan = plans.get_configuration(checkpoint["init_args"]["configuration"])
        outputs = self.label_manager.num_segmentation_heads
        teacher = self.build_network_architecture(plans, plan, self.num_input_channels, outputs, False)
        teacher.load_state_dict(checkpoint["network_weights"])
        return teacher

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
        """Add the projections, for a training that goes on; nnU-Net alone can run the student, by its own trainer."""
        super().save_checkpoint(filename)
        if self.local_rank == 0 and not self.disable_checkpointing:
            added = {"projections": self.distiller.state_dict(), "trainer_name": nnUNetTrainer.__name__}
            torch.save({**read_checkpoint(filename), **added}, f"{filename}.whole")
            os.replace(f"{filename}.whole", filename)  # a kill leaves one file or the other

    def load_checkpoint(self, filename_or_checkpoint):
        """Go on with the projections too."""
        super().load_checkpoint(filename_or_checkpoint)
        self.distiller.load_state_dict(read_checkpoint(filename_or_checkpoint)["projections"])
