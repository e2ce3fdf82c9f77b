"""The examples do what their pages say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize("example", ["plain_pytorch.py", "lightning_module.py"])
def test_a_student_learns_from_labels_and_then_from_the_teacher_too(example: str, tmp_path: Path) -> None:
    command = [sys.executable, "-W", "ignore", str(EXAMPLES / example)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    found = re.findall(r"epoch (\d): segmentation ([\d.]+), distillation ([\d.]+)", done.stdout)
    epochs, segmentation, distillation = zip(*[map(float, row) for row in found], strict=True)
    assert epochs == tuple(range(6))
    assert segmentation[-1] < 0.8 * segmentation[0]
    assert distillation[:2] == (0, 0)  # the weight rises after epoch 1
    assert 0 < distillation[-1] < distillation[2]
