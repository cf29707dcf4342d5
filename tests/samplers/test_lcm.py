"""LCM steps against diffusers' LCMScheduler."""

import pytest
import torch

from elevator.errors import HookError
from elevator.hosts.coefficients import run_schedule
from elevator.level import Level, read_output
from elevator.samplers import LCM, SDEdit
from tests.builders import FakeDenoiser, make_latent, make_run, make_step, scheduler_of


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("steps", [1, 4])
def test_a_run_is_diffusers_own(kind: str, steps: int) -> None:
    scheduler = scheduler_of("LCMScheduler", prediction_type=kind)
    scheduler.set_timesteps(steps)
    schedule = run_schedule(scheduler)
    theirs = ours = make_latent((1, 4, 3, 5, 6))
    mine, own = (torch.Generator().manual_seed(3) for _ in range(2))
    for index, timestep in enumerate(scheduler.timesteps):
        output = torch.tanh(theirs)
        prediction = read_output(torch.tanh(ours), ours, schedule[index], kind)  # type: ignore[arg-type]
        result = scheduler.step(output, timestep, theirs, generator=own)
        solved = LCM()(
            prediction,
            ours,
            schedule[index],
            schedule[index + 1],
            lambda: torch.randn((1, 4, 3, 5, 6), generator=mine),
        )
        theirs, ours = result.prev_sample, solved.noisy
        torch.testing.assert_close(solved.clean, result.denoised, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_noise_follows_the_seed() -> None:
    """The reference lost the generator here: the same seed gave other frames each time."""
    from elevator.noise import KeyedNoise

    def refined(seed: int) -> torch.Tensor:
        run = make_run(noise=KeyedNoise((seed,)))
        step, hook = make_step(run, 1), SDEdit(FakeDenoiser(), 3, LCM())
        return hook.update(step.predicted.clean, step, hook.init(run))[0]

    one = refined(1)
    torch.rand(7)
    assert torch.equal(one, refined(1))
    assert not torch.equal(one, refined(2))


def test_it_needs_a_timestep() -> None:
    level = Level(torch.tensor(0.5), torch.tensor(0.5), None)
    prediction = FakeDenoiser()(make_latent(), level)
    with pytest.raises(HookError, match=r"LCM needs the timestep.*denoiser\.walk"):
        LCM()(prediction, make_latent(), level, level, make_latent)
