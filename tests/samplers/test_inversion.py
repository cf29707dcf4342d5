"""DDIM inversion: exactness, the ladder of levels, the correction, and what it claims."""

import math
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import elevator as el
from elevator.denoise import count_calls
from elevator.errors import CheckError
from elevator.hook import Host
from elevator.latent import Latent
from elevator.level import Level, Prediction
from elevator.renoise import renoise_conflicts
from elevator.samplers import DDIM, DDIMInversion, sample
from elevator.schedule import Schedule
from tests.builders import (
    FakeDenoiser,
    ddim,
    make_latent,
    make_run,
    make_schedule,
    make_step,
    tiny_sd,
)
from tests.builders import sample as call
from tests.hosts.loops import Loop


class Fixed:
    """A network that ignores its input: the same noise whatever it is given."""

    def __init__(self, noise: Latent, space: str = "preserving") -> None:
        self.noise, self.space = noise, space
        self.levels: list[Level] = []

    @property
    def schedule(self) -> Schedule:
        return make_schedule(50, self.space)

    def walk(self, steps: int) -> Schedule:
        return make_schedule(steps, self.space)

    def __call__(self, noisy: Latent, level: Level) -> Prediction:
        self.levels.append(level)
        return Prediction((noisy - level.sigma * self.noise) / level.alpha, self.noise)


def _invert(
    denoiser: Any, clean: Latent, schedule: Schedule, stride: int = 1, index: int = 0
) -> Latent:
    """From a clean latent up to the level after step `index`."""
    rule, run = DDIMInversion(denoiser, stride=stride), make_run(schedule=schedule)
    latent, _ = rule.update(clean, 0 * clean, make_step(run, index), rule.init(run))
    return latent


def _resample(denoiser: Any, latent: Latent, schedule: Schedule, first: int = 1) -> Latent:
    for index in range(first, len(schedule)):
        prediction = denoiser(latent, schedule[index])
        latent = DDIM()(prediction, latent, schedule[index], schedule[index + 1], make_latent).noisy
    return latent


@given(
    steps=st.integers(2, 12),
    seed=st.integers(0, 99),
    space=st.sampled_from(["preserving", "flow"]),
    stride=st.integers(1, 14),
)
def test_there_and_back_is_exact_for_a_network_that_ignores_its_input(
    steps: int, seed: int, space: str, stride: int
) -> None:
    fixed, schedule = Fixed(make_latent(seed=seed), space), make_schedule(steps, space)
    clean = make_latent(seed=seed + 1)
    noisy = _invert(fixed, clean, schedule, stride)
    level = schedule[1]
    torch.testing.assert_close(
        noisy, level.alpha.float() * clean + level.sigma.float() * fixed.noise
    )
    torch.testing.assert_close(_resample(fixed, noisy, schedule), clean, rtol=1e-4, atol=1e-4)


@given(seed=st.integers(0, 9), gain=st.sampled_from([0.1, 0.4, 0.7]))
def test_otherwise_it_comes_closer_with_more_steps(seed: int, gain: float) -> None:
    fake, clean = FakeDenoiser(gain), make_latent((1, 4, 2, 3, 3), seed)
    errors = []
    for steps in (9, 33, 129):  # up to the same level, half way
        schedule, middle = make_schedule(steps), (steps - 1) // 2
        noisy = _invert(fake, clean, schedule, index=middle - 1)
        back = _resample(fake, noisy, schedule, first=middle)
        errors.append(float((back - clean).abs().mean()))
    assert errors[0] > 2 * errors[1] > 4 * errors[2]


@pytest.mark.parametrize("stride", [1, 2, 3, 5, 8, 9, 20])
@pytest.mark.parametrize("index", [0, 3, 7])
def test_a_ladder_ends_at_the_next_level(stride: int, index: int) -> None:
    schedule = make_schedule(9)
    fixed = Fixed(make_latent(seed=1))
    rule, run = DDIMInversion(fixed, stride=stride), make_run(schedule=schedule)
    clean = make_latent(seed=2)
    latent, _ = rule.update(clean, 0 * clean, make_step(run, index), rule.init(run))
    above = len(schedule) - 1 - index
    told = [float(level.timestep) for level in fixed.levels if level.timestep is not None]
    assert len(told) == math.ceil(above / stride)
    assert told == sorted(set(told)), "each level once, noisier and noisier"
    level = schedule[index + 1]
    assert told[-1] == level.timestep
    wanted = level.alpha.float() * clean + level.sigma.float() * fixed.noise
    torch.testing.assert_close(latent, wanted)


def test_after_the_last_step_nothing_is_left_to_invert() -> None:
    fixed, run = Fixed(make_latent(seed=1)), make_run()
    clean, rule = make_latent(seed=2), DDIMInversion(fixed)
    last = len(run.schedule) - 1
    latent, _ = rule.update(clean, make_latent(), make_step(run, last), rule.init(run))
    assert torch.equal(latent, clean)
    assert not fixed.levels


def test_the_network_is_told_the_new_level_for_the_old_latent() -> None:
    fixed, schedule = Fixed(make_latent(seed=1)), make_schedule(4)
    _invert(fixed, make_latent(), schedule)
    for call_, old, new in zip(
        fixed.levels,
        (schedule.final, schedule[3], schedule[2]),
        (schedule[3], schedule[2], schedule[1]),
        strict=True,
    ):
        assert (call_.alpha, call_.sigma) == (old.alpha, old.sigma)
        assert call_.timestep == new.timestep


def test_or_the_old_level_where_asked() -> None:
    fixed, schedule = Fixed(make_latent(seed=1)), make_schedule(7)
    rule, run = DDIMInversion(fixed, stride=2, told="own"), make_run(schedule=schedule)
    rule.update(make_latent(), make_latent(), make_step(run, 0), rule.init(run))
    for told, own in zip(fixed.levels, (schedule.final, schedule[5], schedule[3]), strict=True):
        assert (told.alpha, told.sigma, told.timestep) == (own.alpha, own.sigma, own.timestep)


class Gaussian(Fixed):
    """The ideal network for normal data of some spread; it believes the timestep it is told."""

    spread = 0.5
    levels_of_the_run: Schedule

    def __call__(self, noisy: Latent, level: Level) -> Prediction:
        run = self.levels_of_the_run
        rows = {float(run.timesteps[i]): run[i] for i in range(len(run))}
        told = level if level.timestep is None else rows.get(float(level.timestep), run.final)
        alpha, sigma = told.alpha.float(), told.sigma.float()
        noise = sigma * noisy / (alpha**2 * self.spread**2 + sigma**2)
        return Prediction((noisy - level.sigma * noise) / level.alpha, noise)

    def grow(self, level: Level) -> float:
        """How much longer the ODE makes a clean latent up to a level."""
        return float((level.alpha**2 + (level.sigma / self.spread) ** 2) ** 0.5)


@pytest.mark.parametrize("told", ["next", "own"])
@pytest.mark.parametrize("stride", [1, 3])
def test_finer_levels_come_closer_to_the_ode(told: Any, stride: int) -> None:
    """The way up is the probability-flow ODE, whose solution is known for Gaussian data."""
    clean, errors = make_latent(seed=2), []
    for steps in (24, 48, 96):
        denoiser, schedule, middle = Gaussian(clean), make_schedule(steps), steps // 2
        denoiser.levels_of_the_run = schedule
        rule = DDIMInversion(denoiser, stride=stride, told=told)
        run = make_run(schedule=schedule)
        latent, _ = rule.update(clean, clean, make_step(run, middle - 1), rule.init(run))
        exact = denoiser.grow(schedule[middle]) * clean
        errors.append(float((latent - exact).abs().mean() / exact.abs().mean()))
    assert errors[2] < 0.15
    assert errors[0] > 1.4 * errors[1] > 1.4**2 * errors[2]


def test_the_correction_makes_the_host_retrace_the_inversion() -> None:
    """If the host samples with the corrector's network, it follows the trail exactly."""
    fake, clean = FakeDenoiser(0.5), make_latent(seed=3)
    target = el.at({1}, el.stateless(lambda _, step: clean))
    start = make_latent(seed=4)
    ends = []
    for correct in (None, fake):
        hook = el.renoise(target, DDIMInversion(fake, correct))
        *_, last = sample(fake, start, 6, hook=hook)
        ends.append(last.noisy)
    trail = clean
    schedule = fake.walk(6)
    old, new = schedule.final, schedule[5]
    prediction = fake(trail, Level(old.alpha, old.sigma, new.timestep))
    first = new.alpha * prediction.clean + new.sigma * prediction.noise
    exact = DDIM()(fake(first, schedule[5]), first, schedule[5], schedule.final, make_latent).noisy
    torch.testing.assert_close(ends[1], exact, rtol=1e-4, atol=1e-4)
    assert (ends[0] - exact).abs().max() > 10 * (ends[1] - exact).abs().max() + 1e-3


def test_reuse_saves_one_call_and_changes_nothing() -> None:
    pipe = tiny_sd(ddim())
    embeds = make_latent((2, 5, 16), 7)
    host: dict[str, Any] = {
        "prompt_embeds": embeds[:1],
        "negative_prompt_embeds": embeds[1:],
        "guidance": 1,
    }
    correct = el.denoiser(pipe, name="correct", **host)
    invert = el.denoiser(
        pipe, prompt_embeds=embeds[1:], negative_prompt_embeds=embeds[1:], guidance=1, name="invert"
    )
    ends, counts = [], []
    for reuse in (False, True):
        rule = DDIMInversion(invert, correct, reuse=reuse)
        hook = el.renoise(el.at({1}, el.stateless(lambda clean, step: 1.1 * clean)), rule)
        with el.attach(pipe, hook, frames=3), count_calls() as calls:
            ends.append(call(pipe, steps=5, guidance=3.0))
        counts.append([made.name for made in calls].count("correct"))
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-4, atol=1e-4)
    assert counts == [2, 1]


def _host(**facts: Any) -> Host:
    return Host(**{"solver": "X", "order": 1, "prediction": "epsilon", **facts})


def test_what_it_claims() -> None:
    acts = frozenset({2, 4})
    assert DDIMInversion(FakeDenoiser()).claims(acts, 7) == acts
    corrected = DDIMInversion(FakeDenoiser(), FakeDenoiser())
    assert corrected.claims(acts, 7) == {2, 3, 4, 5, 6}
    assert corrected.claims(frozenset(), 7) == frozenset()


@pytest.mark.parametrize(("other", "steps"), [({0, 1}, []), ({4}, [4]), ({1, 3, 5}, [3, 5])])
def test_two_rules_conflict_where_both_claim(other: Iterable[int], steps: list[int]) -> None:
    nudge = el.stateless(lambda clean, step: clean + 1)
    corrected = DDIMInversion(FakeDenoiser(), FakeDenoiser())
    hook = el.chain(
        el.renoise(el.at({2}, nudge), corrected), el.renoise(el.at(other, nudge), el.KeepNoise())
    )
    problems = list(renoise_conflicts(hook, 6))
    assert len(problems) == bool(steps)
    if steps:
        assert str(steps) in problems[0]


def test_a_clipping_solver_is_refused() -> None:
    rule = DDIMInversion(FakeDenoiser())
    assert not list(rule.check(_host()))
    (problem,) = rule.check(_host(clips=True))
    assert "clip_sample=False" in problem
    pipe = Loop(ddim(clip_sample=True))
    with (
        pytest.raises(CheckError, match="clips the clean estimate"),
        el.attach(pipe, el.renoise(el.identity(), rule), frames=1),
    ):
        pass


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="stride >= 1, got 0"):
        DDIMInversion(FakeDenoiser(), stride=0)
    with pytest.raises(ValueError, match="not both"):
        DDIMInversion(FakeDenoiser(), FakeDenoiser(), stride=2)
