"""The page on nnU-Net with regions for outputs and residual blocks, beside that with labels on another worker."""

from __future__ import annotations

from pathlib import Path

import pytest
from nnunet.rounds import Round, check_masks, follow


@pytest.fixture(scope="module")
def followed(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Round:
    return follow("regions", raw, tmp_path_factory.mktemp("regions"))


def test_the_teacher_s_masks_are_nnunet_s(followed: Round) -> None:
    check_masks(followed, "TEACHER", "EXPECTED")


def test_the_student_s_masks_are_nnunet_s(followed: Round) -> None:
    check_masks(followed, "MIRRORED", "MASKS")
