"""The examples do what their pages say."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import forked
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize("example", ["plain_pytorch.py", "lightning_module.py"])
def test_a_student_learns_from_labels_and_then_from_the_teacher_too(example: str, tmp_path: Path) -> None:
    for path in EXAMPLES.glob("*.py"):
        shutil.copy(path, tmp_path)
    done = forked.run(Path(example).stem, [], tmp_path)
    assert done.returncode == 0, done.stderr[-4000:]
    found = re.findall(r"epoch (\d): segmentation ([\d.]+), distillation ([\d.]+)", done.stdout)
    epochs, segmentation, distillation = zip(*[map(float, row) for row in found], strict=True)
    assert epochs == tuple(range(6))
    assert segmentation[-1] < 0.8 * segmentation[0]
    assert distillation[:2] == (0, 0)  # the weight rises after epoch 1
    assert 0 < distillation[-1] < distillation[2]
