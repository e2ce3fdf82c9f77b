"""Distillation in a Lightning module, on random images: `python examples/lightning_module.py`.

Needs `pip install pytorch-lightning`. Lightning saves the student and the projections, not the teacher, which is no
sub-module, and moves them to its device, where the teacher follows the images.
"""

from __future__ import annotations

import torch
from plain_pytorch import EPOCHS, ITERATIONS, batch, network
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from dcd_components import Distiller, cosine_ramp


class Distillation(LightningModule):
    """A student that learns from labels and from a teacher."""

    def __init__(self, student: nn.Module, teacher: nn.Module) -> None:
        super().__init__()
        self.student = student
        weight = cosine_ramp(maximum=0.5, start=1, length=4)
        self.distiller = Distiller(student, teacher, ["0", "1"], image_shape=(1, 16, 16, 16), weight=weight)

    def training_step(self, batch: tuple[Tensor, Tensor], number: int) -> Tensor:
        """Return the loss of a batch."""
        image, label = batch
        segmentation = cross_entropy(self.student(image), label)
        loss = segmentation + self.distiller.loss(image, self.current_epoch)
        self.log("segmentation", segmentation, prog_bar=True)
        self.log("distillation", self.distiller.unweighted, prog_bar=True)
        return loss

    def on_train_epoch_end(self) -> None:
        """Say how the losses fall."""
        values = ", ".join(f"{name} {value:.3f}" for name, value in self.trainer.logged_metrics.items())
        print(f"epoch {self.current_epoch}: {values}")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Train the student and the projections: both are sub-modules."""
        return torch.optim.Adam(self.parameters(), lr=0.01)


def main() -> None:
    """Train the student."""
    torch.manual_seed(0)
    module = Distillation(network(4, 8), teacher=network(16, 32))
    data = DataLoader([batch() for _ in range(ITERATIONS)], batch_size=None)
    trainer = Trainer(max_epochs=EPOCHS, logger=False, enable_checkpointing=False, log_every_n_steps=1)
    with module.distiller:  # hooks on the student, until the end of the block
        trainer.fit(module, data)


if __name__ == "__main__":
    main()
