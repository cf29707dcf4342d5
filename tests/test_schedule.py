"""Schedule: rows, looking levels up by timestep and by signal-to-noise ratio."""

from typing import Any, Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from elevator.level import Level
from elevator.schedule import Schedule
from tests.builders import ddim, make_schedule

Space = Literal["preserving", "exploding", "flow"]
SPACES: tuple[Space, ...] = ("preserving", "exploding", "flow")


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    """Any falling table on one of the three curves."""
    steps = draw(st.lists(st.integers(1, 999), min_size=1, max_size=8, unique=True))
    at = torch.tensor(sorted(steps, reverse=True), dtype=torch.float64) / 1000
    curves = {
        "preserving": (torch.cos(at * torch.pi / 2), torch.sin(at * torch.pi / 2)),
        "exploding": (torch.ones_like(at), 14 * at**2),
        "flow": (1 - at, at),
    }
    alphas, sigmas = curves[draw(st.sampled_from(SPACES))]
    zero = torch.zeros((), dtype=torch.float64)
    return Schedule(alphas, sigmas, at * 1000, Level(zero + 1, zero, zero))


def same(one: Level, other: Level) -> bool:
    assert one.timestep is not None
    assert other.timestep is not None
    return bool(
        one.alpha == other.alpha and one.sigma == other.sigma and one.timestep == other.timestep
    )


def ratio(level: Level) -> float:
    return float(level.sigma / level.alpha)


@given(schedules())
def test_rows_then_the_final_level(schedule: Schedule) -> None:
    assert len(schedule) == len(schedule.alphas)
    for index in range(len(schedule)):
        assert schedule[index].alpha == schedule.alphas[index]
        assert schedule[index].sigma == schedule.sigmas[index]
        assert schedule[index].timestep == schedule.timesteps[index]
    assert schedule[len(schedule)] is schedule.final


@pytest.mark.parametrize("index", [-1, 7, 100])
def test_rows_outside_the_table_are_refused(index: int) -> None:
    with pytest.raises(IndexError) as error:
        make_schedule(6)[index]
    assert str(error.value) == f"level {index} of a schedule of 6 steps; give 0..6"


@pytest.mark.parametrize("space", SPACES)
def test_the_curve_is_recognised(space: Space) -> None:
    assert make_schedule(6, space).space == space


@given(schedules())
def test_looking_up_a_row_gives_the_row_exactly(schedule: Schedule) -> None:
    for index in range(len(schedule)):
        row = schedule[index]
        assert row.timestep is not None
        assert same(schedule.at(row.timestep), row)
        assert same(schedule.at(float(row.timestep)), row)
        assert same(schedule.match(row), row)


@given(schedules(), st.floats(0.1, 20))
def test_the_scale_of_a_level_does_not_matter_to_its_match(
    schedule: Schedule, scale: float
) -> None:
    for index in range(len(schedule)):
        row = schedule[index]
        found = schedule.match(Level(row.alpha * scale, row.sigma * scale, None))
        assert found.timestep is not None
        torch.testing.assert_close(found.alpha, row.alpha, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(found.sigma, row.sigma, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(found.timestep, row.timestep, rtol=1e-9, atol=1e-6)


@given(schedules(), st.floats(-2, 1002))
def test_between_rows_the_log_ratio_is_linear_in_time(schedule: Schedule, time: float) -> None:
    found = schedule.at(time)
    below = [i for i in range(len(schedule)) if schedule.timesteps[i] <= time]
    above = [i for i in range(len(schedule)) if schedule.timesteps[i] >= time]
    if not below or not above:  # outside the table: its first or last row
        assert same(found, schedule[len(schedule) - 1 if not below else 0])
        return
    low, high = schedule[below[0]], schedule[above[-1]]
    assert low.timestep is not None
    assert high.timestep is not None
    span = float(high.timestep - low.timestep)
    weight = (time - float(low.timestep)) / span if span else 0.0
    expected = ratio(low) ** (1 - weight) * ratio(high) ** weight
    assert ratio(found) == pytest.approx(expected, rel=1e-9)
    assert float(found.timestep or 0) == pytest.approx(time)
    assert on_the_curve(found, schedule.space)


def on_the_curve(level: Level, space: str) -> bool:
    value = {
        "preserving": level.alpha**2 + level.sigma**2,
        "exploding": level.alpha,
        "flow": level.alpha + level.sigma,
    }[space]
    return float(value) == pytest.approx(1, abs=1e-9)


@given(schedules(), schedules())
def test_a_match_has_the_same_ratio_or_is_at_an_end(own: Schedule, other: Schedule) -> None:
    ratios = [ratio(own[index]) for index in range(len(own))]
    for index in range(len(other)):
        wanted = other[index]
        found = own.match(wanted)
        expected = min(max(ratio(wanted), min(ratios)), max(ratios))
        assert ratio(found) == pytest.approx(expected, rel=1e-6)
        if len(own) > 1:  # one row may lie on several curves
            assert on_the_curve(found, own.space)


@given(schedules())
def test_without_noise_or_without_signal_a_match_is_an_end(schedule: Schedule) -> None:
    zero, one = torch.zeros(()), torch.ones(())
    assert same(schedule.match(Level(one, zero, None)), schedule[len(schedule) - 1])
    assert same(schedule.match(Level(zero, one, None)), schedule[0])


@given(schedules(), st.floats(0.1, 20))
def test_scale_brings_a_level_onto_the_curve(schedule: Schedule, scale: float) -> None:
    row = schedule[0]
    elsewhere = Level(row.alpha * scale, row.sigma * scale, None)
    factor = schedule.scale(elsewhere)
    torch.testing.assert_close(elsewhere.alpha * factor, row.alpha, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(elsewhere.sigma * factor, row.sigma, rtol=1e-9, atol=1e-12)


def test_a_long_table_is_found_in_exactly() -> None:
    scheduler: Any = ddim()
    product = scheduler.alphas_cumprod.flip(0).double()
    zero = torch.zeros((), dtype=torch.float64)
    table = Schedule(
        product.sqrt(),
        (1 - product).sqrt(),
        torch.arange(999.0, -1, -1, dtype=torch.float64),
        Level(zero + 1, zero, zero),
    )
    assert table.space == "preserving"
    for time in (0, 1, 501, 998, 999):
        assert same(table.at(float(time)), table[999 - time])
        assert same(table.match(table[time]), table[time])
