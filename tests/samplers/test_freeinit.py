"""FreeInit: the equation at its ends, its spectrum, and diffusers' own on the same inputs."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers.pipelines.free_init_utils import FreeInitMixin
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import elevator as el
from elevator.filters import LowPass
from elevator.hosts.coefficients import training_schedule
from elevator.recipes import freeinit
from elevator.samplers import mixed_noise, reinitialise
from tests.builders import (
    ddim,
    make_latent,
    make_schedule,
    sample,
    scheduler_of,
    tiny_animatediff,
    tiny_text_to_video,
)

SHAPE = (1, 4, 6, 8, 10)
PAPER = LowPass("butterworth", temporal=0.25, spatial=0.25)


def _generator(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _fresh(seed: int = 3, shape: tuple[int, ...] = SHAPE) -> Tensor:
    return torch.randn(shape, generator=_generator(seed))


@pytest.mark.parametrize("scheduler", [ddim(), scheduler_of("FlowMatchEulerDiscreteScheduler")])
def test_a_filter_that_passes_all_is_forward_diffusion(scheduler: Any) -> None:
    schedule = training_schedule(scheduler)
    clean, noise = make_latent(SHAPE, 1), make_latent(SHAPE, 2)
    got = reinitialise(clean, noise, schedule, LowPass(temporal=None), _generator())
    wanted = schedule.alphas[0] * clean + schedule.sigmas[0] * noise
    assert torch.equal(got, wanted.float())
    if "alphas_cumprod" in vars(scheduler):
        torch.testing.assert_close(got, scheduler.add_noise(clean, noise, torch.tensor([999])))
    else:  # flow matching starts from noise alone
        assert torch.equal(got, noise)


def test_a_filter_that_passes_nothing_is_fresh_noise() -> None:
    nothing = LowPass("box", temporal=0.0, spatial=0.25, convention="freeinit")
    given = make_latent(SHAPE, 1), make_latent(SHAPE, 2), make_schedule(), nothing
    assert torch.equal(reinitialise(*given, _generator()), _fresh())


@given(
    frames=st.integers(1, 7),
    sides=st.tuples(st.integers(3, 8), st.integers(3, 8)),
    stops=st.tuples(st.floats(0.1, 1), st.floats(0.1, 1)),
)
def test_each_frequency_comes_from_where_it_should(
    frames: int, sides: tuple[int, int], stops: tuple[float, float]
) -> None:
    """Low ones from the noised result, high ones from the fresh noise."""
    shape, schedule = (1, 2, frames, *sides), make_schedule()
    clean, noise = make_latent(shape, 1), make_latent(shape, 2)
    lowpass = LowPass("box", temporal=stops[0], spatial=stops[1])
    got = reinitialise(clean, noise, schedule, lowpass, _generator())
    noised = (schedule.alphas[0] * clean + schedule.sigmas[0] * noise).float()
    axes = (-3, -2, -1)
    spectrum, low, high = (
        torch.fft.fftn(one, dim=axes) for one in (got, noised, _fresh(shape=shape))
    )
    inside = torch.ones(shape[2:], dtype=torch.bool)
    for axis, stop in zip(axes, (stops[0], stops[1], stops[1]), strict=True):
        near = 2 * torch.fft.fftfreq(shape[axis], dtype=torch.float64).abs() <= stop + 1e-9
        inside &= near.reshape([-1 if a == axis else 1 for a in axes])
    torch.testing.assert_close(spectrum, torch.where(inside, low, high), atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("kind", ["butterworth", "gaussian"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_arithmetic_of_diffusers(kind: Any, dtype: torch.dtype) -> None:
    """At even sizes, where its filters are centred."""

    class Theirs(FreeInitMixin):
        scheduler = ddim()

    theirs = Theirs()
    theirs.enable_free_init(method=kind)
    clean, noise = make_latent(SHAPE, 1).to(dtype), make_latent(SHAPE, 2).to(dtype)
    rest: Any = (4, "cpu", dtype, _generator())
    theirs._apply_free_init(noise, 0, *rest)
    wanted, _ = theirs._apply_free_init(clean, 1, *rest)
    lowpass = LowPass(kind, temporal=0.25, spatial=0.25)
    got = reinitialise(clean, noise, training_schedule(ddim()), lowpass, _generator())
    assert got.dtype == dtype
    torch.testing.assert_close(got, wanted, atol=1e-5 if dtype == torch.float32 else 4e-3, rtol=0)


def test_generators_decide_clip_by_clip() -> None:
    shape = (2, *SHAPE[1:])
    given = make_latent(shape, 1), make_latent(shape, 2), make_schedule(), PAPER
    both = reinitialise(*given, [_generator(1), _generator(2)])
    for row, seed in enumerate((1, 2)):
        clean, noise = (one[row : row + 1] for one in given[:2])
        single = reinitialise(clean, noise, make_schedule(), PAPER, _generator(seed))
        torch.testing.assert_close(both[row : row + 1], single)
    assert torch.equal(reinitialise(*given, _generator(1))[0], both[0])


def test_bad_arguments() -> None:
    clean, schedule = make_latent(SHAPE), make_schedule()
    with pytest.raises(ValueError, match="the noise a clip was made from: got clean latents of"):
        reinitialise(clean, clean[:, :, 1:], schedule, PAPER)
    with pytest.raises(ValueError, match="2 generators were given for 1 clips"):
        reinitialise(clean, clean, schedule, PAPER, [_generator(), _generator()])
    with pytest.raises(ValueError, match=r"iterations >= 1 \(1 is the plain run\), got 0"):
        freeinit(lambda latents: latents, clean, ddim(), iterations=0)
    with pytest.raises(el.CheckError, match="PNDMScheduler"):
        freeinit(lambda latents: latents, clean, scheduler_of("PNDMScheduler"))


# --- the recipe -----------------------------------------------------------------------------------


def _runs(pipe: Any, seen: list[Tensor]) -> Callable[[Tensor], Tensor]:
    def run(latents: Tensor) -> Tensor:
        seen.append(latents)
        return sample(pipe, frames=4, latents=latents)

    return run


def test_as_the_pipeline_that_has_it_built_in() -> None:
    """AnimateDiff's own FreeInit, from the same generator."""
    pipe = tiny_animatediff()
    pipe.enable_free_init(num_iters=3, use_fast_sampling=False)
    wanted = sample(pipe, frames=4)
    pipe.disable_free_init()
    generator = _generator(0)  # as `sample` does
    noise = torch.randn(1, 4, 4, 8, 12, generator=generator)
    seen: list[Tensor] = []
    results = [
        *freeinit(_runs(pipe, seen), noise, pipe.scheduler, iterations=3, generator=generator)
    ]
    assert len(results) == 3
    torch.testing.assert_close(results[-1], wanted, atol=1e-4, rtol=1e-4)
    assert torch.equal(results[0], sample(pipe, frames=4))


def test_one_iteration_is_the_plain_run_and_later_ones_remember() -> None:
    pipe, noise = tiny_text_to_video(), mixed_noise((1, 4, 4, 8, 12), 0.0, _generator(5))
    seen: list[Tensor] = []
    (plain,) = freeinit(_runs(pipe, seen), noise, pipe.scheduler, iterations=1)
    assert torch.equal(plain, sample(pipe, frames=4, latents=noise))
    seen.clear()
    results = [
        *freeinit(_runs(pipe, seen), noise, pipe.scheduler, iterations=3, generator=_generator())
    ]
    assert torch.equal(seen[0], noise)
    generator = _generator()
    for start, result in zip(seen[1:], results[:-1], strict=True):
        again = reinitialise(result, noise, training_schedule(ddim()), PAPER, generator)
        assert torch.equal(start, again)  # each time with the original noise


def test_nothing_runs_before_it_is_asked_for() -> None:
    seen: list[Tensor] = []

    def run(latents: Tensor) -> Tensor:
        seen.append(latents)
        return latents

    results = freeinit(run, make_latent(SHAPE), ddim())
    assert seen == []
    next(results)
    assert len(seen) == 1
    assert len([*results]) == 4
    assert len(seen) == 5
