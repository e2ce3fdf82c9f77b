"""An iteration never waits for the device: run where there are no values to wait for, whatever reads one fails."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from iteration import distilling

from dcd_components import IntraClassLoss, LogitsLoss

META = torch.device("meta")


@pytest.mark.parametrize(
    "distil",
    [
        {},
        {"output": "output_block", "output_loss": partial(LogitsLoss, by_class=True)},
        {"loss": partial(IntraClassLoss, num_classes=3)},
    ],
    ids=["DCD", "DCD and logits", "with the label"],
)
def test_a_whole_iteration_reads_no_value(distil: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "autocast", _autocast)
    trainer = distilling(META, iterations=3, distil=distil)
    trainer.run()
    assert trainer.state.iteration == 3
    assert trainer.state.output["loss"].device == META
    assert set(trainer.state.output) > {"distillation_loss", "segmentation_loss"}


def test_the_device_refuses_to_tell_a_value() -> None:
    with pytest.raises(RuntimeError, match="meta"):
        torch.ones((), device=META).item()


def _autocast(kind: str, *args: Any, **kwargs: Any) -> torch.amp.autocast:
    """Torch has no autocast for ``meta``."""
    return torch.amp.autocast("cpu" if kind == "meta" else kind, *args, **kwargs)
