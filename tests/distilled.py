"""A small distillation with torch and PyWavelets alone: in this process, as a program, or under torchrun."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from dcd_components import Distiller, LogitsLoss, StageRecorder, WaveletDetailLoss, cosine_ramp

STAGES = ["stem", "down"]
LOSS = partial(WaveletDetailLoss, wavelet="db2", levels=2)
OUTPUT: dict[str, Any] = {"output": "decoder", "output_loss": partial(LogitsLoss, by_class=True)}


class Network(nn.Module):
    """An encoder of two stages and a decoder, which count their calls."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__()
        self.stem = nn.Conv3d(1, first, 3, padding=1)
        self.norm = nn.BatchNorm3d(first)
        self.dropout = nn.Dropout3d(0.0)
        self.down = nn.Conv3d(first, second, 2, 2)
        self.decoder = nn.Conv3d(second, 2, 1)
        self.calls = self.decoder_calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        x = self.down(self.dropout(self.norm(self.stem(x))))
        self.decoder_calls += 1
        logits: Tensor = self.decoder(x)
        return logits

    def maps(self, x: Tensor) -> list[Tensor]:
        """Outputs of the stages."""
        stem = self.stem(x)
        return [stem, self.down(self.norm(stem))]


def networks() -> tuple[Network, Network]:
    """Student and teacher, the same every time."""
    torch.manual_seed(0)
    return Network(2, 3), Network(6, 8)


def image(seed: int = 0, batch: int = 2) -> Tensor:
    return torch.randn(batch, 1, 8, 8, 8, generator=torch.Generator().manual_seed(seed))


def distiller_of(student: nn.Module, teacher: nn.Module, **settings: Any) -> Distiller:
    return Distiller(student, teacher, STAGES, **{"image_shape": (1, 8, 8, 8), "loss": LOSS, **settings})


def train(folder: Path) -> None:
    """Train for three epochs, each process on its part of the batches, and keep what was learnt."""
    folder.mkdir(exist_ok=True)
    processes = dist.get_world_size() if dist.is_initialized() else 1
    rank = dist.get_rank() if dist.is_initialized() else 0
    student, teacher = networks()
    student.eval()  # a batch norm's statistics are those of a process
    torch.manual_seed(1 + rank)  # the processes have one start all the same
    wrapped = nn.parallel.DistributedDataParallel(student) if processes > 1 else student
    distiller = distiller_of(wrapped, teacher, weight=cosine_ramp(0.5, start=0, length=2), **OUTPUT)
    learnt = [*student.parameters(), *distiller.parameters()]
    optimizer = torch.optim.SGD(learnt, lr=0.1)
    with distiller:
        for epoch in range(3):
            optimizer.zero_grad()
            for step in range(2):
                x = image(2 * epoch + step, batch=4).chunk(processes)[rank]
                loss = wrapped(x).square().mean() + distiller.loss(x, epoch)
                loss.backward()
            optimizer.step()
    with StageRecorder(student, STAGES) as recorder:
        student(x)
        assert [one.shape[1] for one in recorder.pop()] == [2, 3]
    torch.save([x.detach() for x in learnt], folder / (f"{rank}.pt" if processes > 1 else "alone.pt"))


if __name__ == "__main__":
    if dist.is_torchelastic_launched():
        dist.init_process_group("gloo")
    train(Path(sys.argv[1]))
