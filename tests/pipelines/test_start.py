"""Starting from a clip: the level it is noised to, what is run, and against image-to-image."""

from collections import Counter
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

import elevator as el
from elevator.denoise import count_calls
from elevator.hosts.coefficients import run_schedule
from elevator.models.inflate import CrossFrameAttention
from elevator.pipelines.start import first_step, noised
from elevator.recipes import Preset
from elevator.samplers import mixed_noise
from tests.builders import (
    ddim,
    make_latent,
    scheduler_of,
    tiny_animatediff,
    tiny_sd,
    tiny_text_to_video,
)

NUMBERS = Preset(4, 10, (9, 7, 4), 2, 0.4, 1.0, 1.0, 3.0, 2.0)


def _pipe(video: Any = tiny_text_to_video) -> Any:
    pipe = el.VideoElevatorPipeline.from_pipelines(tiny_sd(), video())
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def pipe() -> Any:
    return _pipe()


def _embeds(clips: int = 1) -> dict[str, Tensor]:
    text = make_latent((2 * clips, 5, 16), 7)
    one, other = text[:clips], text[clips:]
    return {
        "prompt_embeds": one,
        "negative_prompt_embeds": other,
        "video_prompt_embeds": one,
        "negative_video_prompt_embeds": other,
    }


def _run(pipe: Any, seed: int = 0, clips: int = 1, **more: Any) -> Any:
    settings = {"preset": NUMBERS, "output_type": "latent", "generator": _generator(seed)}
    return pipe(**_embeds(clips), **(settings | more)).frames


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _clip(frames: int = 4, height: int = 16, width: int = 16) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (frames, height, width, 3), np.uint8)


# --- where it starts ------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 7, 10, 25, 50])
def test_as_many_steps_as_image_to_image(steps: int) -> None:
    view: Any = StableDiffusionImg2ImgPipeline(
        **tiny_sd().components, requires_safety_checker=False
    )
    view.scheduler.set_timesteps(steps)
    for strength in (0.1, 0.28, 0.29, 0.3, 0.5, 0.57, 0.6, 0.999, 1.0):
        timesteps, _ = view.get_timesteps(steps, strength, "cpu")
        if not len(timesteps):
            with pytest.raises(el.CheckError, match=f"strength {strength} leaves none of {steps}"):
                first_step(strength, steps)
        else:
            assert steps - first_step(strength, steps) == len(timesteps)


@pytest.mark.parametrize(
    "name", ["DDIMScheduler", "EulerDiscreteScheduler", "HeunDiscreteScheduler"]
)
def test_the_level_is_that_of_the_step(name: str) -> None:
    """As `add_noise` has it, on whichever curve the scheduler keeps its latents."""
    scheduler = scheduler_of(name)
    scheduler.set_timesteps(10)
    clean, noise = make_latent((1, 4, 3, 8, 8), 1), make_latent((1, 4, 3, 8, 8), 2)
    timestep = scheduler.timesteps[4 * scheduler.order]
    wanted = scheduler.add_noise(clean, noise, timestep[None])
    torch.testing.assert_close(noised(clean, noise, scheduler, 10, 4), wanted)


def test_unrefined_it_is_inflated_image_to_image(pipe: Any) -> None:
    """diffusers' own, which draws the same noise frame by frame."""
    clean = 0.5 * make_latent((4, 4, 8, 8), 3)
    text = _embeds()
    view: Any = StableDiffusionImg2ImgPipeline(**pipe.t2i.components, requires_safety_checker=False)
    view.set_progress_bar_config(disable=True)
    with el.attach(view, el.identity(), [CrossFrameAttention()], frames=4):
        wanted = view(
            prompt_embeds=text["prompt_embeds"].repeat(4, 1, 1),
            negative_prompt_embeds=text["negative_prompt_embeds"].repeat(4, 1, 1),
            image=clean,
            strength=0.6,
            num_inference_steps=10,
            guidance_scale=3.0,
            generator=_generator(5),
            output_type="latent",
        ).images
    noise = torch.randn(4, 4, 8, 8, generator=_generator(5))
    got = _run(
        pipe,
        init=rearrange(clean, "f c h w -> 1 c f h w"),
        latents=rearrange(noise, "f c h w -> 1 c f h w"),
        strength=0.6,
        refine=(),
    )
    torch.testing.assert_close(rearrange(got, "1 c f h w -> f c h w"), wanted, atol=1e-5, rtol=1e-5)


def test_strength_one_is_a_clip_from_noise(pipe: Any) -> None:
    plain = _run(pipe)
    assert torch.equal(_run(pipe, init=_clip(), strength=1.0), plain)
    assert torch.equal(_run(pipe, init=_clip(6), num_frames=4, strength=1.0), plain)


def test_the_weaker_the_closer(pipe: Any) -> None:
    clean = 0.5 * make_latent((1, 4, 4, 8, 8), 3)
    away = [
        float((_run(pipe, init=clean, strength=strength, refine=()) - clean).norm())
        for strength in (0.1, 0.4, 0.7, 1.0)
    ]
    assert away == sorted(away)


def test_steps_are_those_of_a_whole_run(pipe: Any) -> None:
    """Hooks see the indices they would see without a clip."""
    seen: list[tuple[int, el.Level]] = []

    def note(clean: el.Latent, step: el.Step) -> el.Latent:
        seen.append((step.index, step.level))
        return clean

    _run(pipe, init=_clip(), strength=0.6, hook=el.stateless(note))
    assert [index for index, _ in seen] == [4, 5, 6, 7, 8, 9]
    whole = run_schedule(_timed(10))
    assert all(level.alpha == whole[index].alpha for index, level in seen)


def _timed(steps: int) -> Any:
    scheduler = ddim()
    scheduler.set_timesteps(steps)
    return scheduler


# --- what is refined ------------------------------------------------------------------------------


@pytest.mark.parametrize("video", [tiny_text_to_video, tiny_animatediff])
@pytest.mark.parametrize("strength", [0.3, 0.6, 1.0])
@pytest.mark.parametrize("fast", [False, True])
def test_the_plan_counts_the_real_calls(video: Any, strength: float, fast: bool) -> None:
    pipe, real = _pipe(video), Counter[tuple[str, int]]()

    def count(name: str) -> Any:
        def look(module: Any, args: Any) -> None:
            real[name, len(args[0])] += 1

        return look

    pipe.unet.register_forward_pre_hook(count("t2i"))
    pipe.video_unet.register_forward_pre_hook(count("t2v"))
    planned = pipe.plan(None, preset=NUMBERS, strength=strength, fast=fast, **_embeds())
    with count_calls() as recorded:
        _run(pipe, init=_clip(), strength=strength, fast=fast)
    assert planned.hooks == Counter(recorded)
    expected = Counter[tuple[str, int]]()
    for call, number in planned.total.items():
        expected["t2v" if call.name == "T2V" else "t2i", call.batch] += number
    assert real == expected


@pytest.mark.parametrize("strength", [0.3, 0.5, 0.6, 1.0])
def test_the_presets_refinements_are_scaled_to_the_steps_that_are_run(
    pipe: Any, strength: float
) -> None:
    acts = _acts(pipe.recipe(None, preset=NUMBERS, strength=strength, **_embeds()))
    run = int(10 * strength)
    assert acts == {10 - remaining for remaining in NUMBERS.refine_at(run)}
    assert min(acts) >= 10 - run
    assert acts


def test_points_that_are_given_are_taken_as_they_are(pipe: Any) -> None:
    recipe = pipe.recipe(None, preset=NUMBERS, strength=0.6, refine=(6, 3), **_embeds())
    assert _acts(recipe) == {4, 7}
    sentence = (
        r"refinement points \[9, 7\] lie before the start: at strength 0.6 the last 6 of 10 steps "
        "are run; give points from 6 to 1, or more strength"
    )
    with pytest.raises(el.CheckError, match=sentence):
        _run(pipe, init=_clip(), strength=0.6, refine=(9, 7, 4))
    with pytest.raises(el.CheckError, match=r"\[12\] lie outside a run of 10 steps"):
        _run(pipe, init=_clip(), strength=0.6, refine=(12,))


def _acts(recipe: Any) -> set[int]:
    (refinement,) = recipe.hook.inner()
    return set(refinement.acts_at(10))


# --- what may be given ----------------------------------------------------------------------------


def test_frames_and_their_latents_are_the_same(pipe: Any) -> None:
    frames = _clip()
    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2) / 127.5 - 1
    latents = pipe.vae.encode(pixels).latent_dist.mode() * pipe.vae.config.scaling_factor
    wanted = _run(pipe, init=rearrange(latents, "f c h w -> 1 c f h w"))
    torch.testing.assert_close(_run(pipe, init=frames), wanted, atol=1e-4, rtol=1e-4)
    images = [PIL.Image.fromarray(one) for one in frames]
    torch.testing.assert_close(_run(pipe, init=images), wanted, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(_run(pipe, init=frames / 255), wanted, atol=1e-4, rtol=1e-4)
    chunks = _run(pipe, init=frames, decode_chunk_size=3)
    torch.testing.assert_close(chunks, wanted, atol=1e-4, rtol=1e-4)


def test_frames_are_fitted_and_the_first_taken(pipe: Any) -> None:
    wide = np.pad(_clip(), ((0, 0), (0, 0), (8, 8), (0, 0)))
    assert torch.equal(_run(pipe, init=wide), _run(pipe, init=_clip())), "cut around the middle"
    more = np.concatenate([_clip(), _clip()[::-1]])
    assert torch.equal(_run(pipe, init=more, num_frames=4), _run(pipe, init=_clip()))
    assert _run(pipe, init=more).shape == (1, 4, 8, 8, 8), "all of them where nobody says"
    assert _run(pipe, init=more, num_frames=3, height=24, width=32).shape == (1, 4, 3, 12, 16)


def test_latents_tell_the_size(pipe: Any) -> None:
    clean = 0.5 * make_latent((1, 4, 5, 6, 10), 3)
    assert _run(pipe, init=clean).shape == clean.shape
    assert _run(pipe, init=clean, num_frames=2).shape == (1, 4, 2, 6, 10)
    noise = mixed_noise((1, 4, 4, 6, 10), 1.0, _generator(1))
    assert torch.equal(
        _run(pipe, init=clean, latents=noise), _run(pipe, init=clean[:, :, :4], latents=noise)
    )


def test_one_clip_for_every_prompt(pipe: Any) -> None:
    generators = [_generator(0), _generator(1)]
    both = _run(pipe, clips=2, init=_clip(), generator=generators)
    text = {name: value[:1] for name, value in _embeds(2).items()}
    settings: dict[str, Any] = {"preset": NUMBERS, "output_type": "latent", "init": _clip()}
    one = pipe(**text, **settings, generator=[_generator(0)]).frames
    torch.testing.assert_close(both[:1], one, atol=2e-4, rtol=1e-4)
    assert (both[0] - both[1]).abs().max() > 0.01


def test_the_seed_is_all_and_nothing_is_left_behind(pipe: Any) -> None:
    before = type(pipe.scheduler), dict(pipe.unet.attn_processors)
    torch.manual_seed(1)
    first = _run(pipe, init=_clip())
    torch.manual_seed(2)
    assert torch.equal(_run(pipe, init=_clip()), first)
    assert not torch.equal(_run(pipe, init=_clip(), seed=1), first)
    assert (type(pipe.scheduler), dict(pipe.unet.attn_processors)) == before
    plain = _run(pipe)
    _run(pipe, init=_clip())
    assert torch.equal(_run(pipe), plain), "a run from noise begins at the first step again"


@pytest.mark.parametrize("name", ["EulerDiscreteScheduler", "DPMSolverMultistepScheduler"])
def test_solvers_that_count_their_steps(name: str) -> None:
    pipe = _pipe()
    pipe.scheduler = scheduler_of(name)
    plain = _run(pipe)
    made = _run(pipe, init=_clip(), strength=0.5)
    assert made.isfinite().all()
    assert torch.equal(_run(pipe), plain)


def test_offloading_and_callbacks() -> None:
    pipe, seen = _pipe(), []
    plain = _run(pipe, init=_clip())

    def callback(own: Any, index: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        seen.append((own is pipe, index))
        return {}

    pipe.enable_model_cpu_offload(device="cpu")
    again = _run(pipe, init=_clip(), callback_on_step_end=callback)
    torch.testing.assert_close(again, plain)
    assert seen == [(True, index) for index in range(6)]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"strength": 0.0}, r"strength is 0, but must be above 0 \(the clip itself\) and at most"),
        ({"strength": 1.5}, "strength is 1.5"),
        ({"strength": -0.1}, "strength is -0.1"),
        ({"strength": float("nan")}, "strength is nan"),
        ({"strength": 0.05}, "strength 0.05 leaves none of 10 steps to run; give at least 0.1"),
        ({"init": None}, r"strength says how far to leave a clip; give init=\.\.\. with it"),
        ({"num_frames": 5}, "init has 4 frames, but num_frames is 5; give a longer clip, or num_f"),
        ({"init": torch.zeros(4, 3, 16, 16)}, r"init of shape \(4, 3, 16, 16\) is no clip"),
        ({"init": torch.zeros(1, 3, 4, 8, 8)}, r"\(1, 3, 4, 8, 8\) do not fit 1 clips of 4 chan"),
        ({"init": torch.zeros(1, 4, 4, 8, 8), "height": 24}, "height 24"),
        (
            {"init": torch.zeros(1, 4, 4, 8, 8), "latents": torch.zeros(1, 4, 4, 6, 8)},
            "do not fit .* height 12",
        ),
        ({"latents": torch.zeros(1, 4, 6, 8, 8)}, "init has 4 frames, but num_frames is 6"),
        ({"num_inference_steps": 0}, "num_inference_steps is 0, but must be at least 1"),
    ],
)
def test_arguments_that_cannot_work(pipe: Any, arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(el.CheckError, match=sentence):
        _run(pipe, **{"init": _clip(), "strength": 0.6, **arguments})
