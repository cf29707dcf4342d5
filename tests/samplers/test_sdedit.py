"""SDEdit: where it starts, how it walks, and when it does nothing."""

from typing import Any

import pytest
import torch

import elevator as el
from elevator.denoise import count_calls
from elevator.hook import Host
from elevator.hosts.denoiser import PipelineDenoiser
from elevator.latent import Latent
from elevator.level import Level, Prediction
from elevator.samplers import DDIM, LCM, SDEdit
from elevator.schedule import Schedule
from tests.builders import (
    FakeDenoiser,
    ddim,
    make_latent,
    make_run,
    make_step,
    sample,
    scheduler_of,
    tiny_sd,
    tiny_text_to_video,
)
from tests.hosts.loops import scheduler_for


def _video(scheduler: Any, guidance: float = 2.0) -> PipelineDenoiser:
    embeds = make_latent((2, 5, 16), 7)
    return PipelineDenoiser(
        tiny_text_to_video(scheduler), embeds[:1], embeds[1:], guidance, None, "T2V"
    )


def _refine(hook: SDEdit, index: int, schedule: Schedule | None = None) -> Latent:
    run = make_run(schedule=schedule)
    step = make_step(run, index)
    clean, _ = hook.update(step.predicted.clean, step, hook.init(run))
    return clean


def test_it_is_the_two_lines_of_the_paper() -> None:
    """Noise with the other model's levels, solve N steps, take the last clean estimate."""
    fake, run = FakeDenoiser(0.5), make_run(steps=6)
    hook, step = SDEdit(fake, steps=2), make_step(run, 3)
    start = fake.schedule.at(run.schedule.timesteps[3])
    noisy = start.alpha * step.predicted.clean + start.sigma * step.draw("sdedit")
    grid = fake.walk(6)
    for index in (3, 4):
        clean, noise = fake(noisy, grid[index])
        noisy = grid[index + 1].alpha * clean + grid[index + 1].sigma * noise
    got, _ = hook.update(step.predicted.clean, step, hook.init(run))
    torch.testing.assert_close(got, clean)


@pytest.mark.parametrize(("index", "steps", "calls"), [(0, 3, 3), (4, 3, 2), (5, 3, 1), (2, 99, 4)])
def test_it_ends_with_the_run(index: int, steps: int, calls: int) -> None:
    with count_calls() as made:
        _refine(SDEdit(FakeDenoiser(), steps=steps), index)
    assert len(made) == calls


@pytest.mark.parametrize("match", ["timestep", "snr"])
def test_no_steps_change_nothing(match: Any) -> None:
    run = make_run()
    step, hook = make_step(run, 2), SDEdit(FakeDenoiser(), steps=0, match=match)
    assert hook.update(step.predicted.clean, step, hook.init(run))[0] is step.predicted.clean


@pytest.mark.parametrize("index", [0, 2, 5])
@pytest.mark.parametrize("solver", [DDIM(), DDIM(0.6), LCM()])
def test_on_one_schedule_both_ways_of_matching_agree(index: int, solver: Any) -> None:
    t2v = _video(ddim())
    by_time = _refine(SDEdit(t2v, 3, solver, "timestep"), index, t2v.walk(6))
    by_ratio = _refine(SDEdit(t2v, 3, solver, "snr"), index, t2v.walk(6))
    torch.testing.assert_close(by_time, by_ratio, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("index", [0, 2, 5])
def test_a_t2v_that_walks_unscaled_latents(index: int) -> None:
    """Euler keeps alpha = 1: the same run as DDIM's, in another scale."""
    preserving = _video(ddim(set_alpha_to_one=True))
    exploding = _video(scheduler_for("EulerDiscreteScheduler", timestep_spacing="leading"))
    schedule = preserving.walk(6)
    assert exploding.walk(6).space == "exploding"
    assert torch.equal(exploding.walk(6).timesteps, schedule.timesteps)
    one = _refine(SDEdit(preserving, 3), index, schedule)
    other = _refine(SDEdit(exploding, 3), index, schedule)
    torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3 * float(one.abs().max()))


def test_both_calls_of_a_second_order_host_start_at_one_level() -> None:
    given: list[Latent] = []

    class Spy:
        """Keeps the noisy latents it was given."""

        schedule = FakeDenoiser().schedule

        def walk(self, steps: int) -> Schedule:
            return FakeDenoiser().walk(steps)

        def __call__(self, noisy: Latent, level: Level) -> Prediction:
            given.append(noisy)
            return FakeDenoiser()(noisy, level)

    clean = torch.zeros(1, 4, 3, 8, 12)
    pipe = tiny_sd(scheduler_of("HeunDiscreteScheduler"))
    still = el.stateless(lambda _, step: clean)
    with el.attach(pipe, el.at({1}, el.chain(still, SDEdit(Spy(), steps=1))), frames=3):
        sample(pipe, steps=4)
    assert len(given) == 2
    assert torch.equal(given[0], given[1])


def test_the_grid_must_be_as_long_as_the_run() -> None:
    host = Host("DDIMScheduler", 1, "epsilon", steps=60)
    short = _video(scheduler_of("LCMScheduler"))
    (problem,) = SDEdit(short, 3, LCM()).check(host)
    assert "no grid of 60 steps" in problem
    assert "match='snr'" in problem
    assert not list(SDEdit(short, 3, LCM(), match="snr").check(host))


def test_the_draws_have_names_of_their_own() -> None:
    """eta > 0 and LCM draw at every level they visit; the start draws once."""
    names: list[tuple[int, str]] = []

    def noise(key: Any, shape: Any, device: Any) -> Latent:
        names.append((key.step, key.name))
        return make_latent(tuple(shape))

    run = make_run(noise=noise)
    step, hook = make_step(run, 2), SDEdit(FakeDenoiser(), 3, LCM())
    hook.update(step.predicted.clean, step, hook.init(run))
    assert names == [(2, "sdedit"), (2, "solver 2"), (2, "solver 3"), (2, "solver 4")]


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="steps >= 0, got -1"):
        SDEdit(FakeDenoiser(), steps=-1)
