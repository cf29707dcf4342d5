"""Latents of one model for another: autoencoders as pipelines use them, and hooks across."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from diffusers import DDIMScheduler

import elevator as el
from elevator import world, zoo
from elevator.denoise import Call, count_calls
from elevator.errors import CheckError
from elevator.hosts.codec import Codec, LatentBridge, SameSpace, bridge, codec
from elevator.samplers import SDEdit
from tests.builders import awake, make_run, make_step
from tests.conformance import Drift
from tests.tiny_pipelines import call, tiny

VIDEO = ("wan", "ltx", "cog", "hunyuan", "hyv15", "mochi", "kandinsky5", "svd", "cosmos")
OTHERWISE = {
    # It decodes an even number of latent frames as if there were no single first picture.
    "cog": {"num_frames": 9},
    "svd": {"decode_chunk_size": 4},  # the whole clip, as by default
}
"""Arguments of a call beside those described."""
IMAGE = ("sd", "sdxl", "sd3", "flux", "qwen", "t2vsd", "animatediff", "upscale")


ENDS_NOISY = ("t2vsd", "animatediff", "sd", "upscale")
"""Their last level has noise: the last clean estimate is not what they decode."""


@pytest.mark.parametrize("name", [*VIDEO, *IMAGE])
def test_frames_are_those_of_the_pipeline(name: str) -> None:
    """What its own call decodes; and latents have the shape that is foretold."""
    pipe = tiny(name)
    seen: list[torch.Tensor] = []
    if name in ("sd3", "flux"):
        pipe.vae.register_to_config(shift_factor=0.25, scaling_factor=0.5)
    if name == "cosmos":
        pipe.safety_checker.check_video_safety = lambda video: video

    def looking(clean: torch.Tensor, step: el.Step) -> torch.Tensor:
        seen.append(clean)
        return clean

    frames = None if name in VIDEO or name in ("t2vsd", "animatediff") else 1
    with torch.no_grad(), el.attach(pipe, el.stateless(looking), frames=frames):
        made = pipe(**call(name, output_type="pt", **OTHERWISE.get(name, {})), return_dict=False)[0]
    clean, own = seen[-1], codec(pipe)
    if name == "svd":
        made = made[None]
    if name not in ENDS_NOISY:
        expected = (made if made.ndim == 5 else made[:, None]) * 2 - 1
        got = own.decode(clean).clamp(-1, 1).transpose(1, 2)
        rounding = 0.011 if name == "cosmos" else 2e-3  # its checker is shown whole numbers
        torch.testing.assert_close(got, expected, atol=rounding, rtol=0)
    decoded = own.decode(clean)
    assert decoded.shape == own.frames_shape(five(clean))
    encoded = own.encode(decoded)
    assert encoded.shape == clean.shape == own.latent_shape(five(decoded))
    assert own.encode(decoded.to("meta")).shape == clean.shape
    assert own.decode(clean.to("meta")).shape == decoded.shape


def five(tensor: torch.Tensor) -> tuple[int, int, int, int, int]:
    b, c, f, h, w = tensor.shape
    return b, c, f, h, w


def zoo_codec() -> Codec:
    return codec(zoo.load("t2i"), "zoo")


def turned(own: Codec) -> tuple[Codec, torch.Tensor]:
    """The same autoencoder with latents turned in their space: another space, equally good."""
    channels = len(own.mean)
    generator = torch.Generator().manual_seed(0)
    turn, _ = torch.linalg.qr(torch.randn(channels, channels, generator=generator))

    class Turned:
        config, dtype = own.vae.config, own.vae.dtype
        encoder = own.vae.encoder

        def encode(self, frames: torch.Tensor) -> Any:
            latents = own.vae.encode(frames).latent_dist.mode()
            return SimpleNamespace(latents=torch.einsum("nchw,dc->ndhw", latents, turn))

        def decode(self, latents: torch.Tensor) -> Any:
            return own.vae.decode(torch.einsum("nchw,cd->ndhw", latents, turn))

    return Codec(Turned(), own.mean, own.spread, own.space, own.time, "turned"), turn


@pytest.fixture(scope="module")
def clip() -> torch.Tensor:
    """Crisp frames of the built-in world, in [-1, 1]."""
    frames = world.render(world.draw(2, seed=5), frames=4, seed=6) * 2 - 1
    return frames.transpose(1, 2)


def test_a_round_trip_through_pixels_loses_little(clip: torch.Tensor) -> None:
    """Where both autoencoders are good: the loss is theirs, about what decoding it twice costs."""
    own = zoo_codec()
    other, turn = turned(own)
    latents = own.encode(clip)
    across = LatentBridge(own, other)
    again = own.encode(own.decode(latents).clamp(-1, 1))
    expected = torch.einsum("bcfhw,dc->bdfhw", again, turn)
    torch.testing.assert_close(across.across(latents), expected, atol=1e-4, rtol=1e-3)
    assert 0 < across.loss(latents) < 0.25


def test_a_hook_works_on_the_other_models_latents(clip: torch.Tensor) -> None:
    """In a turned space, turning back what a hook does there is doing it here, but for the loss."""
    own = zoo_codec()
    other, turn = turned(own)
    latents = own.encode(clip)
    direction = torch.einsum("c,dc->d", torch.ones(len(own.mean)), turn)[:, None, None, None]
    hook = el.through(LatentBridge(own, other), el.stateless(lambda c, s: c + 0.2 * direction))
    run = make_run(five(latents))
    step = make_step(run, 0, clean=latents)
    changed, _ = hook.update(latents, step, hook.init(run))
    back = LatentBridge(own, other)
    still = back.back(back.across(latents))
    expected = own.encode(own.decode(still + 0.2).clamp(-1, 1))
    assert float((changed - expected).norm() / expected.norm()) < 0.25
    assert float((changed - still).mean()) > 0.05


def test_the_same_space_is_measured() -> None:
    t2i, t2v = zoo.load("t2i"), zoo.load("t2v")
    assert bridge(t2i, t2v) == SameSpace()
    assert bridge(tiny("sdxl"), tiny("animatediff_sdxl")) == SameSpace()
    with torch.no_grad():
        t2v.vae.encoder.conv_in.weight.mul_(1.5)
    assert isinstance(bridge(t2i, t2v), LatentBridge)
    assert isinstance(bridge(tiny("qwen"), tiny("wan")), LatentBridge)  # pictures, a causal clip


def test_a_pipeline_without_an_autoencoder_is_told() -> None:
    pipe = tiny("sd")
    pipe.vae = None
    with pytest.raises(CheckError, match="StableDiffusionPipeline has no vae"):
        codec(pipe)


def test_clips_that_cannot_cross_are_told() -> None:
    way = bridge(tiny("qwen"), tiny("wan"))
    assert [*way.check(5)] == [*way.check(None)] == []
    (problem,) = way.check(8)
    assert "4k + 1 pictures, so 8 cannot cross; give 5 or 9 frames" in problem
    hook = el.through(way, Drift())
    assert problem in el.check(tiny("qwen"), hook, frames=8)


def test_a_decoder_that_mixes_frames_keeps_clips_apart() -> None:
    """Stable Video Diffusion's, which is told how many of its pictures follow each other."""
    own = codec(tiny("svd"))
    clips = torch.randn(2, 4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    apart = torch.cat([own.decode(clip) for clip in clips.split(1)])
    torch.testing.assert_close(own.decode(clips), apart, atol=1e-5, rtol=1e-4)
    frames = torch.cat([own.decode(frame) for frame in clips.split(1, dim=2)], dim=2)
    assert not torch.allclose(own.decode(clips), frames, atol=1e-3)


def test_every_latent_frame_may_have_statistics_of_its_own() -> None:
    """Cosmos' have; more frames than there are statistics of cannot be normalised."""
    pipe = tiny("cosmos")
    pipe.vae.register_to_config(
        latents_mean=[0.1 * i for i in range(8)], latents_std=[1.0 + i for i in range(8)]
    )
    own = codec(pipe)
    data = pipe.scheduler.config.sigma_data
    torch.testing.assert_close(own.mean, torch.arange(8.0).view(4, 2) / 10)
    torch.testing.assert_close(own.spread * data, torch.arange(1.0, 9).view(4, 2))
    latents = torch.randn(1, 4, 2, 4, 4, generator=torch.Generator().manual_seed(1))
    raw = latents * own.spread[..., None, None] + own.mean[..., None, None]
    with torch.no_grad():
        assert torch.equal(own.decode(latents), pipe.vae.decode(raw).sample)
    with pytest.raises(CheckError, match="statistics of 2 latent frames, and was given 3"):
        own.decode(torch.zeros(1, 4, 3, 4, 4))


def test_a_decoder_that_denoises_is_told_there_is_no_noise() -> None:
    """LTX's later autoencoders, as their pipeline tells it by default."""
    pipe = tiny("ltx")
    torch.manual_seed(0)
    vae: Any = awake(type(pipe.vae).from_config(pipe.vae.config, timestep_conditioning=True))
    pipe.vae = vae
    latents = torch.randn(2, 8, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        wanted = vae.decode(latents, torch.zeros(2)).sample
    torch.testing.assert_close(codec(pipe).decode(latents), wanted)


def test_sizes_that_one_of_them_cannot_make_are_told() -> None:
    """Also when a run is planned, before anything is computed."""
    pipe = tiny("sd")
    way = LatentBridge(codec(pipe), codec(tiny("wan")))
    with pytest.raises(CheckError, match=r"WanPipeline encodes 4k .* multiples of 8 .* 5 of 12x10"):
        way.across(torch.zeros(1, 4, 5, 5, 6))
    with pytest.raises(CheckError, match=r"WanPipeline encodes .* not 6 of 16x16"):
        way.across(torch.zeros(1, 4, 6, 8, 8))
    with pytest.raises(CheckError, match="multiples of 8 pixels"):
        el.plan(pipe, el.through(way, Drift()), steps=2, frames=5, height=12, width=16)
    with pytest.raises(CheckError, match=r"decodes 2 latent frames .* odd numbers of"):
        codec(tiny("cog")).decode(torch.zeros(1, 4, 2, 2, 2))


def test_an_offloaded_autoencoder_is_measured_where_it_runs() -> None:
    one, other = tiny("sd"), tiny("sd")
    cpu_offload(other.vae, torch.device("cpu"))
    assert other.vae.device.type == "meta"
    assert bridge(one, other) == SameSpace()


def test_crossing_is_counted() -> None:
    pipe = tiny("qwen")
    hook = el.at({1}, el.through(bridge(pipe, tiny("wan")), Drift()))
    planned = el.plan(pipe, hook, steps=3, frames=5, height=32, width=48)
    assert planned.hooks == {
        Call("QwenImagePipeline decoder", 1, 5): 1,
        Call("WanPipeline encoder", 1, 5): 1,
        Call("WanPipeline decoder", 1, 2): 1,
        Call("QwenImagePipeline encoder", 1, 5): 1,
    }


def test_todays_models_elevate_each_other() -> None:
    """A Qwen-Image T2I lifts a Wan T2V: flow matching, transformers, two latent spaces."""
    t2i, t2v = tiny("qwen"), tiny("wan")
    t2i.scheduler = type(t2i.scheduler).from_config(  # as published
        t2i.scheduler.config, use_dynamic_shifting=True, max_shift=0.9, shift_terminal=0.02
    )
    arguments, texts = call("qwen"), call("wan")
    motion = el.denoiser(
        t2v,
        guidance=2.0,
        prompt_embeds=texts["prompt_embeds"],
        negative_prompt_embeds=texts["negative_prompt_embeds"],
        name="T2V",
    )
    prompt = {name: arguments[name] for name in ("prompt_embeds", "prompt_embeds_mask")}
    recipe = el.recipes.videoelevator(
        motion,
        el.denoiser(t2i, guidance=1, name="inversion", **prompt),
        bridge=bridge(t2i, t2v),
        steps=4,
        refine=(3, 2),
        t2v_steps=2,
        fast=True,
        patches=(),
    )
    given = arguments | {"num_inference_steps": 4, "num_images_per_prompt": 5}
    assert el.check(t2i, recipe.hook, frames=5, steps=4) == ()
    with torch.no_grad(), count_calls() as calls:
        plain = t2i(**given, return_dict=False)[0]
        with el.attach(t2i, recipe.hook, recipe.patches, frames=5):
            elevated = t2i(**call("qwen") | {k: given[k] for k in CHANGED}, return_dict=False)[0]
    assert elevated.shape == plain.shape
    assert elevated.isfinite().all()
    assert not torch.equal(elevated, plain)
    assert sum(made.name == "T2V" for made in calls) == 4
    planned = el.plan(t2i, recipe.hook, steps=4, frames=5, height=32, width=48)
    assert planned.hooks == Counter(calls)


CHANGED = ("num_inference_steps", "num_images_per_prompt")


def test_large_models_of_one_space_need_no_bridge() -> None:
    """SDXL with AnimateDiff-SDXL: as published, with inflation and both kinds of T2I calls."""
    t2i, t2v = tiny("sdxl"), tiny("animatediff_sdxl")
    t2i.scheduler = DDIMScheduler.from_config(t2v.scheduler.config)
    names = [name for name in call("sdxl") if "prompt" in name]
    texts = {name: call("sdxl")[name] for name in names}
    only = {name: text for name, text in texts.items() if not name.startswith("negative")}
    recipe = el.recipes.videoelevator(
        el.denoiser(t2v, guidance=3, **texts),
        el.denoiser(t2i, guidance=1, **only),
        el.denoiser(t2i, guidance=1, **only),
        bridge=bridge(t2i, t2v),
        steps=4,
        refine=(3, 2),
        t2v_steps=1,
    )
    given = {"num_inference_steps": 4, "num_images_per_prompt": 4}
    with torch.no_grad():
        plain = t2i(**call("sdxl") | given, return_dict=False)[0]
        with el.attach(t2i, recipe.hook, recipe.patches, frames=4):
            elevated = t2i(**call("sdxl") | given, return_dict=False)[0]
    assert elevated.isfinite().all()
    assert not torch.equal(elevated, plain)


def test_a_t2i_that_cannot_be_inverted_paints_frame_by_frame() -> None:
    """Told of no inversion, frames are noised anew: a few-step Flux on Wan's clip."""
    t2i, t2v = tiny("flux"), tiny("wan")
    texts = {name: text for name, text in call("wan").items() if "prompt" in name}
    recipe = el.recipes.videoelevator(
        el.denoiser(t2v, guidance=2.0, name="T2V", **texts),
        None,
        bridge=bridge(t2i, t2v),
        steps=4,
        refine=(3, 2),
        t2v_steps=1,
        patches=(),
    )
    given = {"num_inference_steps": 4, "num_images_per_prompt": 5, "height": 16, "width": 16}
    with torch.no_grad(), count_calls() as calls:
        plain = t2i(**call("flux", **given), return_dict=False)[0]
        with el.attach(t2i, recipe.hook, frames=5):
            elevated = t2i(**call("flux", **given), return_dict=False)[0]
    assert elevated.isfinite().all()
    assert not torch.equal(elevated, plain)
    planned = el.plan(t2i, recipe.hook, steps=4, frames=5, height=16, width=16)
    assert planned.hooks == Counter(calls)
    assert {made.name for made in calls if "coder" not in made.name} == {"T2V"}
    with pytest.raises(CheckError, match="mends the error of an inversion"):
        el.recipes.videoelevator(el.denoiser(t2v, **texts), None, el.denoiser(t2v, **texts))


def test_a_t2v_may_be_the_host_and_the_t2i_refine_its_pictures() -> None:
    """The other way round: each of the clip's pictures, once, and nothing is inverted."""
    t2i, t2v = tiny("qwen"), tiny("wan")
    names = ("prompt_embeds", "prompt_embeds_mask")
    painter = el.denoiser(t2i, guidance=1, name="T2I", **{n: call("qwen")[n] for n in names})
    hook = el.at({2}, el.through(bridge(t2v, t2i), SDEdit(painter, steps=1)))
    given = {"num_inference_steps": 4, "num_frames": 5, "height": 16, "width": 16}
    assert el.check(t2v, hook, steps=4) == ()
    with torch.no_grad(), count_calls() as calls:
        plain = t2v(**call("wan", **given), return_dict=False)[0]
        with el.attach(t2v, hook):
            refined = t2v(**call("wan", **given), return_dict=False)[0]
    assert not torch.equal(refined, plain)
    assert Counter(calls) == {
        Call("WanPipeline decoder", 1, 2): 1,
        Call("QwenImagePipeline encoder", 1, 5): 1,
        Call("T2I", 5, 1): 1,
        Call("QwenImagePipeline decoder", 1, 5): 1,
        Call("WanPipeline encoder", 1, 5): 1,
    }
    planned = el.plan(t2v, hook, steps=4, frames=5, height=16, width=16)
    assert planned.hooks == Counter(calls)
