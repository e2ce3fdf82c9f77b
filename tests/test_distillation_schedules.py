import math
from collections.abc import Callable

import pytest
from monai.bundle import ConfigParser

import dcd_components
from dcd_components.distillation_schedules import Schedule, constant, cosine_ramp, linear_ramp

RAMPS = [linear_ramp, cosine_ramp]
SCHEDULES = [
    pytest.param(constant(0.5, 10), id="constant"),
    pytest.param(linear_ramp(0.5, 10, 20), id="linear_ramp"),
    pytest.param(cosine_ramp(0.5, 10, 20), id="cosine_ramp"),
]


@pytest.mark.parametrize("epoch", [150, 151, 350, 550, 750, 949, 950, 999])
def test_cosine_ramp_is_the_papers_formula(epoch: int) -> None:
    expected = 0.01 * (1 - math.cos(math.pi * min((epoch - 150) / 800, 1))) / 2
    assert cosine_ramp(0.01, 150, 800)(epoch) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("weight", "expected"),
    [
        pytest.param(constant(0.5), [0.5, 0.5, 0.5, 0.5, 0.5], id="constant from the first epoch"),
        pytest.param(constant(0.5, 10), [0, 0.5, 0.5, 0.5, 0.5], id="constant"),
        pytest.param(constant(0.5, 10, every=10), [0, 0.5, 0.5, 0.5, 0], id="every tenth epoch"),
        pytest.param(linear_ramp(0.5, 10, 20), [0, 0, 0.25, 0.5, 0.5], id="linear_ramp"),
        pytest.param(cosine_ramp(0.5, 10, 20), [0, 0, 0.25, 0.5, 0.5], id="cosine_ramp"),
    ],
)
def test_schedules_take_known_values_at_start_middle_and_end(weight: Schedule, expected: list[float]) -> None:
    assert [weight(epoch) for epoch in (9, 10, 20, 30, 31)] == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("ramp", RAMPS)
def test_ramps_are_exactly_zero_until_the_start(ramp: Callable[[float, int, int], Schedule]) -> None:
    assert [ramp(0.01, 150, 800)(epoch) for epoch in (0, 1, 149, 150)] == [0, 0, 0, 0]
    assert ramp(0.01, 150, 800)(151) > 0


@pytest.mark.parametrize("weight", SCHEDULES)
def test_weights_stay_between_zero_and_the_maximum(weight: Schedule) -> None:
    assert all(0 <= weight(epoch) <= 0.5 for epoch in range(50))


@pytest.mark.parametrize("ramp", RAMPS)
def test_ramps_never_fall(ramp: Callable[[float, int, int], Schedule]) -> None:
    rising = [ramp(1.0, 3, 9)(epoch) for epoch in range(20)]
    assert rising == sorted(rising)


@pytest.mark.parametrize("factory", RAMPS)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param((-0.1, 0, 1), "must not be negative, got -0.1", id="maximum"),
        pytest.param((0.1, -1, 1), "got start -1, length 1", id="start"),
        pytest.param((0.1, 0, 0), "got start 0, length 0", id="length"),
    ],
)
def test_wrong_settings_are_named(
    factory: Callable[[float, int, int], Schedule], arguments: tuple[float, int, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        factory(*arguments)


def test_constant_names_wrong_settings() -> None:
    with pytest.raises(ValueError, match="must not be negative, got -1"):
        constant(-1)
    with pytest.raises(ValueError, match="got start -2"):
        constant(1, -2)
    with pytest.raises(ValueError, match="every >= 1 epochs, got start 0, every 0"):
        constant(1, every=0)


@pytest.mark.parametrize("name", ["linear_ramp", "cosine_ramp"])
def test_a_config_of_monai_makes_a_schedule(name: str) -> None:
    config = {"weight": {"_target_": f"dcd_components.{name}", "maximum": 0.5, "start": 3, "length": 9}}
    made, direct = ConfigParser(config).get_parsed_content("weight"), getattr(dcd_components, name)(0.5, 3, 9)
    assert [made(epoch) for epoch in range(20)] == [direct(epoch) for epoch in range(20)]
