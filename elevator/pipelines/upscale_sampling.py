"""The work of a call of `VideoUpscalePipeline`: sampling, decoding, and colours."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

from elevator.attach import attach
from elevator.combine import identity
from elevator.filters import Flow, adain, wavelet
from elevator.hook import Hook
from elevator.latent import Latent, publish_frames
from elevator.noise import Key, Noise
from elevator.patch import Patch
from elevator.pipelines.motion import cut_flow
from elevator.pipelines.upscale_call import (
    UpscaleCall,
    latent_shape,
    scaled_tile,
    within,
)
from elevator.pipelines.upscale_noise import SolverNoise
from elevator.pipelines.views import Views
from elevator.recipes import Recipe
from elevator.video.windows import Tile

__all__ = ["Sources", "coloured", "enlarged"]


@final
@dataclass(frozen=True, eq=False)
class Sources:
    """What a call samples with, beside its numbers; `VideoUpscalePipeline.__call__` explains it.

    Attributes:
        text: rows of the network's batch, with guidance the negative ones first.
        noise: where all noise comes from.
        generator: what it was made from, for who looks on.
        latents: initial noise (b, c, f, h, w), if the caller gave it.
        flow: of the whole clip, or a future of it; None without propagation.
        hook: one of the caller's, run after propagation.
        patches: changes inside the U-Net.
    """

    text: Float[Tensor, "rows n d"]
    noise: Noise
    generator: torch.Generator | list[torch.Generator] | None
    latents: Latent | None
    flow: Flow | Future[Flow] | None
    hook: Hook[Any] | None
    patches: Sequence[Patch]


def enlarged(
    pipe: Any, low: Float[Tensor, "b 3 f h w"], call: UpscaleCall, given: Sources
) -> Float[Tensor, "b _ f H W"]:
    """The clip in [-1, 1], or its latents, as `call.output` has it; float32."""
    factor = 1 if call.output == "latent" else pipe.scale
    plan = call.parts(*low.shape[-2:])
    made: Tensor | None = None
    with pipe.progress_bar(total=call.steps * len(plan)) as bar:
        for seen, kept in plan:
            flow = given.flow
            if flow is not None and len(plan) > 1:
                flow = cut_flow(flow, seen)
            recipe = pipe.recipe(flow, call.propagate, given.hook, given.patches)
            start = None if given.latents is None else seen.cut(given.latents)
            part = _sampled(pipe, seen.cut(low), call, given, recipe, start, bar.update)
            if call.output != "latent":
                part = _decoded(pipe, part, seen.cut(low), call)
            if made is None:
                made = part.new_zeros((*part.shape[:3], *(factor * n for n in low.shape[-2:])))
            inside = Tile(*(within(a, b, factor) for a, b in zip(kept, seen, strict=True)))
            scaled_tile(kept, factor).cut(made).copy_(inside.cut(part))
    assert made is not None
    return made


def _sampled(
    pipe: Any,
    low: Float[Tensor, "b 3 f h w"],
    call: UpscaleCall,
    given: Sources,
    recipe: Recipe,
    latents: Latent | None,
    advance: Callable[[], Any],
) -> Latent:
    """Clean latents of a clip, scaled as the network sees them; float32."""
    device, shape, text = low.device, latent_shape(pipe, low), given.text
    frames = shape[2]
    drawn = given.noise(Key(0, (), "low_res", call.first_frame), low.shape, device)
    level = torch.tensor([call.level], dtype=torch.long, device=device)
    noisy = pipe.low_res_scheduler.add_noise(low.float(), drawn, level)
    views = call.views(shape)
    labels = level if call.published and frames <= 8 else level.expand(len(text))
    draws = SolverNoise(given.noise, call.first_frame)
    more = draws.told(pipe.scheduler)

    with ExitStack() as undo:
        undo.enter_context(publish_frames(frames))
        if recipe.hook != identity() or recipe.patches:
            undo.enter_context(
                attach(pipe, recipe.hook, recipe.patches, frames=frames, noise=given.noise)
            )
        noised = pipe.prepare_latents(
            shape, frames, given.generator, given.noise, call.first_frame, latents
        )
        pipe.scheduler.set_timesteps(call.steps, device=device)
        for index, time in enumerate(pipe.scheduler.timesteps):
            if pipe.interrupt:
                break
            seen = torch.cat([pipe.scheduler.scale_model_input(noised, time), noisy], dim=1)
            output = _predicted(pipe.unet, seen, time, text, labels, call, views)
            draws.step = index
            with draws:
                noised = pipe.scheduler.step(output, time, noised, **more).prev_sample
            if call.callback is not None:
                own = {"latents": noised, "prompt_embeds": text}
                chosen = {name: own[name] for name in call.callback_inputs}
                changed = call.callback(pipe, index, time, chosen) or {}
                noised = changed.get("latents", noised)
                text = changed.get("prompt_embeds", text)
            advance()
    return noised


def _predicted(
    unet: Any,
    seen: Float[Tensor, "b i f h w"],
    time: Tensor,
    text: Float[Tensor, "rows n d"],
    labels: Tensor,
    call: UpscaleCall,
    views: Views,
) -> Latent:
    """What the network says of noisy latents beside low-resolution frames, guidance inside."""
    dtype = unet.dtype
    words, copies = text.to(dtype), len(text) // len(seen)

    def network(part: Tensor) -> Tensor:
        part = torch.cat([part.to(dtype)] * copies)
        return unet(part, time, words, class_labels=labels).sample

    output = views.blend(network, seen)
    if not call.guided:
        return output
    against, toward = output.chunk(2)
    return against + call.guidance * (toward - against)


def _decoded(
    pipe: Any, latents: Latent, low: Float[Tensor, "b 3 f h w"], call: UpscaleCall
) -> Float[Tensor, "b 3 f H W"]:
    """Frames of latents in [-1, 1], on the CPU, float32."""
    vae, dtype = pipe.vae, pipe.vae.dtype

    def decode(part: Tensor, seen: Tensor) -> Tensor:
        part = (part / vae.config.scaling_factor).to(dtype)
        return vae.decode(part, seen.to(dtype), call.strength).sample.clamp(-1, 1)

    views = call.decoding(latents.shape)
    return views.blend(decode, latents, low, factor=pipe.scale, device=torch.device("cpu"))


def coloured(
    video: Float[Tensor, "b 3 f H W"], low: Float[Tensor, "b 3 f h w"], colour: str, scale: int
) -> Float[Tensor, "b 3 f H W"]:
    """The clip with its original's colours, a frame at a time; it is written into."""
    if colour == "none":
        return video
    correct = adain if colour == "adain" else wavelet
    for frame in range(video.shape[2]):
        original = low[:, :, frame].to(video)
        reference = interpolate(original, scale_factor=scale, mode="bicubic")
        video[:, :, frame] = correct(video[:, :, frame], reference)
    return video
