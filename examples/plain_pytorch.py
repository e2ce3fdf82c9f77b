"""Distil one network into a smaller one in a plain PyTorch loop, on random images: `python examples/plain_pytorch.py`.

Needs torch and PyWavelets; `pip install numba` makes it faster on a CPU.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from dcd_components import Distiller, cosine_ramp

EPOCHS, ITERATIONS = 6, 10


def network(first: int, second: int) -> nn.Sequential:
    """Two stages of an encoder, and a decoder to three classes."""
    return nn.Sequential(
        nn.Sequential(nn.Conv3d(1, first, 3, padding=1), nn.InstanceNorm3d(first), nn.LeakyReLU()),
        nn.Sequential(nn.Conv3d(first, second, 3, stride=2, padding=1), nn.InstanceNorm3d(second), nn.LeakyReLU()),
        nn.ConvTranspose3d(second, 3, 2, stride=2),
    )


def batch() -> tuple[Tensor, Tensor]:
    """Images of noise, and labels that say where it is strong."""
    image = torch.randn(2, 1, 16, 16, 16)
    smooth = nn.functional.avg_pool3d(image, 3, stride=1, padding=1)
    return image, (smooth > 0.1).long()[:, 0] + (smooth > 0.3).long()[:, 0]


def main() -> None:
    """Train the student, and say how its loss falls."""
    torch.manual_seed(0)
    student, teacher = network(4, 8), network(16, 32)  # a real teacher has been trained
    distiller = Distiller(
        student,
        teacher,
        stages=["0", "1"],  # module paths; the names of both networks' stages are the same here
        image_shape=(1, 16, 16, 16),
        weight=cosine_ramp(maximum=0.5, start=1, length=4),
    )
    optimizer = torch.optim.Adam([*student.parameters(), *distiller.parameters()], lr=0.01)
    with distiller:  # hooks on the student, until the end of the block
        for epoch in range(EPOCHS):
            for _ in range(ITERATIONS):
                image, label = batch()
                optimizer.zero_grad()
                segmentation = cross_entropy(student(image), label)
                loss = segmentation + distiller.loss(image, epoch)
                loss.backward()
                optimizer.step()
            print(f"epoch {epoch}: segmentation {segmentation:.3f}, distillation {distiller.unweighted:.3f}")


if __name__ == "__main__":
    main()
