"""DDIM against diffusers' own, and the reference loop against attach."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import elevator as el
from elevator.filters import LowPass
from elevator.hosts.coefficients import run_schedule
from elevator.hosts.denoiser import PipelineDenoiser
from elevator.level import Level, Prediction, read_output
from elevator.samplers import DDIM, DDIMInversion, SDEdit
from elevator.samplers import sample as loop
from tests.builders import FakeDenoiser, ddim, make_latent, sample, tiny_sd, tiny_text_to_video

SHAPE = (1, 4, 3, 8, 12)


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("to_one", [True, False])
def test_a_run_is_diffusers_own(eta: float, kind: str, to_one: bool) -> None:
    scheduler = ddim(kind, set_alpha_to_one=to_one)
    scheduler.set_timesteps(7)
    schedule = run_schedule(scheduler)
    theirs = ours = make_latent(SHAPE)
    mine, own = (torch.Generator().manual_seed(3) for _ in range(2))
    for index, timestep in enumerate(scheduler.timesteps):
        result = scheduler.step(torch.tanh(theirs), timestep, theirs, eta=eta, generator=own)
        prediction = read_output(torch.tanh(ours), ours, schedule[index], kind)  # type: ignore[arg-type]
        ours = DDIM(eta)(
            prediction,
            ours,
            schedule[index],
            schedule[index + 1],
            lambda: torch.randn(SHAPE, generator=mine),
        ).noisy
        theirs = result.prev_sample
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@given(
    eta=st.floats(0, 1),
    one=st.floats(0.05, 0.999),
    other=st.floats(0, 0.98),
    scale=st.floats(0.5, 20),
)
def test_a_step_is_the_same_in_any_scale(
    eta: float, one: float, other: float, scale: float
) -> None:
    """(alpha, sigma) times s at the start, times r at the end: the result times r."""
    clean, noise, fresh = (make_latent((1, 1, 1, 2, 2), seed) for seed in range(3))
    below = one * other

    def level(sigma: float, factor: float) -> Level:
        value = torch.tensor(sigma, dtype=torch.float64)
        return Level((1 - value**2).sqrt() * factor, value * factor, None)

    def run(first: float, second: float) -> Tensor:
        start, end = level(one, first), level(below, second)
        noisy = start.alpha * clean + start.sigma * noise
        return DDIM(eta)(Prediction(clean, noise), noisy, start, end, lambda: fresh).noisy

    torch.testing.assert_close(run(scale, 2.0) / 2.0, run(1.0, 1.0), rtol=1e-4, atol=1e-5)
    # Its variance is that of the level it ends at, whatever eta.
    end = level(below, 1.0)
    kept = run(1.0, 1.0) - end.alpha * clean
    parts = torch.linalg.lstsq(
        torch.stack([noise.flatten(), fresh.flatten()], 1), kept.flatten()[:, None].float()
    ).solution
    assert abs(float(parts.norm()) - below) < 1e-3


def _denoiser(pipe: Any, guidance: float = 2.0) -> PipelineDenoiser:
    embeds = make_latent((2, 5, 16), 7)
    negatives = embeds[1:] if guidance != 1 else None
    return PipelineDenoiser(pipe, embeds[:1], negatives, guidance, None, "own")


def _hooks(pipe: Any) -> dict[str, el.Hook[Any]]:
    fake, plain = FakeDenoiser(), _denoiser(pipe, 1.0)
    low = LowPass("gaussian", temporal=0.4, spatial=0.5)
    double = el.stateless(lambda clean, step: 1.3 * clean)
    return {
        "none": el.identity(),
        "low-pass": el.at({1, 3}, low),
        "keep": el.renoise(el.at({1, 3}, double), el.KeepNoise()),
        "fresh": el.renoise(el.at({0, 2}, double), el.FreshNoise()),
        "inversion": el.renoise(el.at({1}, double), DDIMInversion(plain)),
        "corrected": el.renoise(
            el.at({0, 2}, el.chain(low, SDEdit(fake, 2))), DDIMInversion(plain, plain, reuse=True)
        ),
        "beside": el.chain(double, el.renoise(el.at({2}, low), el.FreshNoise()), low),
    }


@pytest.mark.parametrize(
    "name", ["none", "low-pass", "keep", "fresh", "inversion", "corrected", "beside"]
)
@pytest.mark.parametrize("build", [tiny_sd, tiny_text_to_video])
def test_attach_on_ddim_is_the_loop(build: Any, name: str) -> None:
    """The host's solver with our hooks inside = our own loop with the same hooks."""
    pipe = build()
    noise = el.KeyedNoise((5,))
    hook = _hooks(pipe)[name]
    start = make_latent(SHAPE, 3)
    image = build is tiny_sd
    given_ = start[0].transpose(0, 1) if image else start
    with el.attach(pipe, hook, frames=3 if image else None, noise=noise):
        got = sample(pipe, steps=5, latents=given_)
    wanted = list(loop(_denoiser(pipe), start, 5, hook=hook, noise=noise))[-1].noisy
    wanted = wanted[0].transpose(0, 1) if image else wanted
    size = float(wanted.abs().max())
    torch.testing.assert_close(got / size, wanted / size, rtol=0.0, atol=1e-5)
    plain = list(loop(_denoiser(pipe), start, 5, noise=noise))[-1].noisy
    plain = plain[0].transpose(0, 1) if image else plain
    assert torch.equal(plain, wanted) is (name == "none")


def test_the_loop_yields_every_step_and_starts_from_no_state() -> None:
    fake = FakeDenoiser()
    solved = list(loop(fake, make_latent(), 6))
    assert len(solved) == 6
    again = list(loop(fake, make_latent(), 6))
    assert all(
        torch.equal(one.noisy, other.noisy) for one, other in zip(solved, again, strict=True)
    )
