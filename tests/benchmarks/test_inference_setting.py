"""Which teacher and student the benchmark of inference measures."""

from __future__ import annotations

from typing import Any

import pytest
from tiny import BRATS

from dcd_components.benchmarks.inference_setting import Setting


@pytest.mark.parametrize(
    ("overlays", "settings"),
    [
        (["unet_student"], {"network_def::num_res_units": 0}),
        (["shallow_student"], {}),
        ([], {"widths": [16, 16, 16, 16]}),
    ],
)
def test_the_teacher_is_that_of_the_bundle_whatever_the_student(overlays: list[str], settings: dict[str, Any]) -> None:
    four: dict[str, Any] = {"teacher_widths": [32, 32, 32, 64]}  # stages, of which the shallow one has three
    given, usual = Setting(BRATS, overlays, four | settings), Setting(BRATS, settings=four)
    assert str(given.teacher().get_parsed_content("network")) == str(usual.teacher().get_parsed_content("network"))
    students = (one.parser("inference").get_parsed_content("network") for one in (given, usual))
    assert len({str(network) for network in students}) == 2


def test_another_teacher_is_measured_by_its_overlay() -> None:
    network = Setting(BRATS, ["segresnet_teacher", "unet_student"]).teacher().get_parsed_content("network")
    assert type(network).__name__ == "SegResNet"
