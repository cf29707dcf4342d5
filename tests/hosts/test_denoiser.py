"""A pipeline's network as a denoiser: guidance, levels in any scale, batches, frames, errors."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import elevator as el
from elevator.denoise import Call, Denoiser, count_calls
from elevator.errors import CheckError
from elevator.hosts.denoiser import PipelineDenoiser, denoiser
from elevator.latent import current_frames
from elevator.level import Level
from elevator.schedule import Schedule
from tests.builders import ddim, make_latent, sample, tiny_animatediff, tiny_sd, tiny_text_to_video
from tests.hosts.loops import looking, scheduler_for

EMBEDS = make_latent((2, 5, 16), 7)
SHAPE = (1, 4, 3, 8, 8)
BUILDS = [tiny_sd, tiny_text_to_video, tiny_animatediff]


def _make(pipe: Any, guidance: float = 3.0, **more: Any) -> PipelineDenoiser:
    arguments = {"prompt_embeds": EMBEDS[:1], "negative_prompt_embeds": EMBEDS[1:], **more}
    made = denoiser(pipe, guidance=guidance, **arguments)
    assert isinstance(made, PipelineDenoiser)
    return made


def _level(alpha: float, sigma: float, timestep: float | None = None) -> Level:
    told = None if timestep is None else torch.tensor(timestep, dtype=torch.float64)
    return Level(
        torch.tensor(alpha, dtype=torch.float64), torch.tensor(sigma, dtype=torch.float64), told
    )


@pytest.mark.parametrize("build", BUILDS)
def test_guidance_is_the_formula_on_two_separate_calls(build: Callable[[], Any]) -> None:
    pipe, noisy = build(), make_latent(SHAPE)
    level = _make(pipe).schedule[400]
    negative = _make(pipe, 1.0, prompt_embeds=EMBEDS[1:])(noisy, level)
    positive = _make(pipe, 1.0)(noisy, level)
    for guidance in (0.0, 2.5, 7.5):
        got = _make(pipe, guidance)(noisy, level)
        wanted = negative.noise + guidance * (positive.noise - negative.noise)
        # Batches of one and of two round differently, and guidance multiplies the difference.
        torch.testing.assert_close(got.noise, wanted, rtol=1e-4, atol=5e-5)
        again = level.alpha * got.clean + level.sigma * got.noise
        torch.testing.assert_close(again, noisy, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("build", BUILDS)
def test_it_predicts_what_the_pipeline_does(build: Callable[[], Any]) -> None:
    pipe, seen = build(), []
    hook = looking(lambda clean, step: seen.append(step))
    with el.attach(pipe, hook, frames=3):
        sample(pipe, steps=2, guidance=2.0)
    own = _make(pipe, 2.0)
    assert isinstance(own, Denoiser)
    for step in seen:
        got = own(step.noisy, step.level)
        torch.testing.assert_close(got.clean, step.predicted.clean, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(got.noise, step.predicted.noise, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("build", BUILDS)
def test_guidance_one_is_half_the_work(build: Callable[[], Any]) -> None:
    pipe, rows = build(), []
    handle = pipe.unet.register_forward_pre_hook(lambda module, given: rows.append(len(given[0])))
    with count_calls() as calls:
        for guidance in (1.0, 2.0):
            _make(pipe, guidance)(make_latent(SHAPE), _level(0.8, 0.6))
    handle.remove()
    per_row = 1 if build is tiny_sd else 3
    name = type(pipe.unet).__name__
    assert calls == [Call(name, 3 // per_row, per_row), Call(name, 6 // per_row, per_row)]
    assert rows == [call.batch for call in calls]


@settings(max_examples=12)
@given(
    kind=st.sampled_from(["epsilon", "v_prediction", "sample"]),
    index=st.integers(0, 999),
    scale=st.floats(0.05, 30.0),
)
def test_any_scale_of_one_ratio_is_one_prediction(kind: str, index: int, scale: float) -> None:
    """Preserving, exploding, flow or unscaled: the network sees the same, so does the caller."""
    own = _make(tiny_sd(ddim(kind)), 1.0)
    level = own.schedule[index]
    clean, noise = make_latent(SHAPE, 1), make_latent(SHAPE, 2)
    factor = torch.tensor(scale, dtype=torch.float64)
    one = own(level.alpha * clean + level.sigma * noise, level)
    scaled = Level(level.alpha * factor, level.sigma * factor, None)
    other = own(scaled.alpha * clean + scaled.sigma * noise, scaled)
    size = float(one.clean.abs().max())
    torch.testing.assert_close(other.clean / size, one.clean / size, rtol=0.0, atol=1e-4)
    torch.testing.assert_close(other.noise, one.noise, rtol=1e-3, atol=2e-4)


@pytest.mark.parametrize("name", ["EulerDiscreteScheduler", "DPMSolverMultistepScheduler"])
def test_no_timestep_means_the_one_of_equal_ratio(name: str) -> None:
    pipe, told = tiny_sd(scheduler_for(name)), []
    pipe.unet.register_forward_pre_hook(lambda module, given: told.append(float(given[1])))
    own = _make(pipe, 1.0)
    for index in (0, 300, 999):
        level = own.schedule[index]
        flow = level.sigma / (level.alpha + level.sigma)
        for alpha, sigma in (
            (level.alpha, level.sigma),
            (torch.ones(()).double(), level.sigma / level.alpha),
            (1 - flow, flow),
        ):
            own(make_latent(SHAPE), Level(alpha, sigma, None))
            assert abs(told.pop() - float(level.timestep or 0)) < 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("alpha", [1.0, 0.25])
def test_without_noise_the_latent_is_the_clean_one(
    dtype: torch.dtype, kind: str, alpha: float
) -> None:
    own, noisy = _make(tiny_sd(ddim(kind)).to(dtype)), make_latent(SHAPE)
    clean, noise = own(noisy, _level(alpha, 0.0))
    torch.testing.assert_close(clean, noisy / alpha)
    assert clean.dtype == noise.dtype == torch.float32
    assert noise.isfinite().all()


def test_networks_of_any_device_and_dtype_predict_in_float32(
    device: torch.device, dtype: torch.dtype
) -> None:
    exact, rounded = _make(tiny_sd().to(device)), _make(tiny_sd().to(device, dtype))
    for level in (_level(1.0, 12.0), _level(0.4, 0.6), exact.schedule[999]):
        clean, noise = (make_latent(SHAPE, seed).to(device) for seed in (1, 2))
        noisy = level.alpha * clean + level.sigma * noise
        one, other = exact(noisy, level), rounded(noisy, level)
        assert other.clean.device.type == other.noise.device.type == device.type
        assert other.clean.dtype == other.noise.dtype == torch.float32
        assert (one.noise - other.noise).abs().max() < 0.15
        # What it says is consistent to float32, whatever the network was rounded to.
        again = level.alpha * other.clean + level.sigma * other.noise
        torch.testing.assert_close(again, noisy, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_a_prompt_per_clip(build: Callable[[], Any], guidance: float) -> None:
    pipe, noisy, level = build(), make_latent((2, *SHAPE[1:])), _level(0.8, 0.6)
    both = _make(pipe, guidance, prompt_embeds=EMBEDS, negative_prompt_embeds=EMBEDS.flip(0))
    together = both(noisy, level)
    for row in range(2):
        own = {
            "prompt_embeds": EMBEDS[row : row + 1],
            "negative_prompt_embeds": EMBEDS[1 - row : 2 - row],
        }
        alone = _make(pipe, guidance, **own)(noisy[row : row + 1], level)
        torch.testing.assert_close(together.clean[row : row + 1], alone.clean, rtol=1e-4, atol=1e-4)
    shared = _make(pipe, guidance)(noisy, level)  # one prompt serves every clip
    first = _make(pipe, guidance)(noisy[:1], level)
    torch.testing.assert_close(shared.clean[:1], first.clean, rtol=1e-4, atol=1e-4)


def test_three_prompts_for_two_clips() -> None:
    three = EMBEDS[:1].repeat(3, 1, 1)
    own = _make(tiny_sd(), 1.0, prompt_embeds=three, negative_prompt_embeds=three)
    with pytest.raises(CheckError, match="made for 3 prompts, but the clip batch is 2"):
        own(make_latent((2, *SHAPE[1:])), _level(0.8, 0.6))


@pytest.mark.parametrize(("anchor", "told"), [(None, 3), (2, 2)])
def test_frames_that_share_an_anchor_are_published(anchor: int | None, told: int) -> None:
    pipe, seen = tiny_sd(), []
    pipe.unet.register_forward_pre_hook(lambda module, given: seen.append(current_frames()))
    _make(pipe, anchor_every=anchor)(make_latent(SHAPE), _level(0.8, 0.6))
    assert seen == [told]
    assert current_frames() is None


def test_walking_leaves_the_pipelines_scheduler_alone() -> None:
    pipe = tiny_sd(scheduler_for("UniPCMultistepScheduler"))
    pipe.scheduler.set_timesteps(7)
    before = dict(vars(pipe.scheduler))
    walked: Schedule = _make(pipe).walk(3)
    _make(pipe)(make_latent(SHAPE), walked[1])
    assert len(walked) == 3
    assert walked[3] is walked.final
    for name, value in before.items():
        assert vars(pipe.scheduler)[name] is value


def test_a_learned_variance_is_left_out() -> None:
    own = _make(tiny_sd(out_channels=8))
    assert own(make_latent(SHAPE), _level(0.8, 0.6)).clean.shape == SHAPE


def test_it_needs_a_prompt_and_a_network_it_knows() -> None:
    class Pipe:
        unet = torch.nn.Identity()
        scheduler = ddim()

    with pytest.raises(CheckError, match="Pipe has no network a denoiser can be made of"):
        denoiser(Pipe(), "a dog")
    with pytest.raises(CheckError, match="a prompt or prompt_embeds, one of the two"):
        denoiser(tiny_sd())
    with pytest.raises(CheckError, match="one of the two"):
        denoiser(tiny_sd(), "a dog", prompt_embeds=EMBEDS)


def test_it_reads_as_what_it_is() -> None:
    own = _make(tiny_sd(), 2.0, name="mine")
    assert repr(own) == "<denoiser 'mine' of StableDiffusionPipeline, guidance 2.0>"
    assert isinstance(own(make_latent(SHAPE), own.walk(4)[0]).clean, Tensor)


@pytest.mark.parametrize("build", BUILDS)
def test_caches_do_not_notice_a_denoiser_nor_answer_it(build: Callable[[], Any]) -> None:
    """A cache of attention takes each call for the next step of one loop, which it is not."""
    from diffusers import PyramidAttentionBroadcastConfig, apply_pyramid_attention_broadcast

    config = PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2,
        spatial_attention_timestep_skip_range=(0, 1000),
        spatial_attention_block_identifiers=("blocks",),
        current_timestep_callback=lambda: 500,
    )

    def cached() -> Any:
        pipe = build()
        apply_pyramid_attention_broadcast(pipe.unet, config)
        return pipe

    by_itself = sample(cached(), steps=4)
    assert not torch.equal(by_itself, sample(build(), steps=4))
    pipe = cached()
    own, exact = _make(pipe), _make(build())
    hook = looking(lambda clean, step: own(step.noisy, step.level))
    with el.attach(pipe, hook, frames=3):
        assert torch.equal(sample(pipe, steps=4), by_itself)
    for level in (own.schedule[400], own.schedule[500]):
        assert torch.equal(
            own(make_latent(SHAPE), level).clean, exact(make_latent(SHAPE), level).clean
        )
