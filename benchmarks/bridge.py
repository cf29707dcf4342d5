"""What a bridge through pixels costs VideoElevator, and what going without one does.

The T2V films in another latent space (`zoo`'s `t2v-turned`, the same network behind a second
autoencoder); each refinement crosses to it and back. Against the same T2V in the T2I's own space,
and against latents that are handed over as they are. `loss`: what one round trip changes in the
latents of crisp clips, relative to them; other columns as in `quality_videoelevator`.
"""

from __future__ import annotations

from typing import Any

import torch
from einops import rearrange

import elevator as el
from benchmarks._measure import arguments, measure, save, table
from elevator import world, zoo
from elevator.hosts.codec import LatentBridge, SameSpace, bridge
from elevator.recipes import PRESETS
from elevator.samplers import mixed_noise
from elevator.zoo.recogniser import shares

__all__ = ["across"]

NUMBERS = PRESETS["world-inverted"]


def across(
    t2i: Any, t2v: Any, way: el.Bridge, scene: world.Scene, seed: int, *, steps: int = NUMBERS.steps
) -> torch.Tensor:
    """VideoElevator's clip `f c h w` in [0, 1], the T2V's refinements at the end of a bridge."""
    caption, frames = scene.caption(), NUMBERS.frames
    recipe = el.recipes.videoelevator(
        el.denoiser(t2v, caption, guidance=NUMBERS.video_guidance),
        el.denoiser(t2i, "", guidance=1),
        el.denoiser(t2i, caption, guidance=1),
        preset=NUMBERS,
        steps=steps,
        bridge=way,
    )
    generator = torch.Generator().manual_seed(seed)
    side, channels = t2i.unet.config.sample_size, t2i.unet.config.in_channels
    noise = mixed_noise((1, channels, frames, side, side), NUMBERS.shared_noise, generator)
    with torch.no_grad(), el.attach(t2i, recipe.hook, recipe.patches, frames=frames):
        made: Any = t2i(
            [caption] * frames,
            latents=rearrange(noise, "1 c f h w -> f c h w"),
            num_inference_steps=steps,
            guidance_scale=NUMBERS.guidance,
            generator=generator,
            output_type="pt",
        )
    clip: torch.Tensor = made.images
    return clip


def main() -> None:
    """Measure, print and save."""
    options = arguments(__doc__ or "")
    count = options.prompts or (1 if options.tiny else 8)
    steps = 2 if options.tiny else NUMBERS.steps
    t2i, t2v, turned = (zoo.load(name) for name in ("t2i", "t2v", "t2v-turned"))
    for pipe in (t2i, t2v, turned):
        pipe.set_progress_bar_config(disable=True)
    way = bridge(t2i, turned)
    assert isinstance(way, LatentBridge)
    scenes = world.draw(count, seed=options.seed, split="held-out")
    truth = world.render(scenes, seed=options.seed)
    clean = way.here.encode(truth.transpose(1, 2) * 2 - 1)
    judge = zoo.load_recogniser()
    rows: dict[str, dict[str, float]] = {}
    for name, video, between in (
        ("one space", t2v, SameSpace()),
        ("across the bridge", turned, way),
        ("without the bridge", turned, SameSpace()),
    ):
        clips = torch.stack(
            [across(t2i, video, between, scene, i, steps=steps) for i, scene in enumerate(scenes)]
        )
        with torch.no_grad():
            read = shares(judge(clips), scenes)
        found = {key: float(values.mean()) for key, values in measure(clips, scenes).items()}
        rows[name] = {
            "loss": way.loss(clean) if between is way else 0.0,
            "motion": float(read["motion"].mean()),
            "colour": float(read["colour"].mean()),
            "shape": float(read["shape"].mean()),
            "texture": float(read["texture"].mean()),
            **{key: found[key] for key in ("sharpness", "jitter", "change")},
        }
    print(table(rows))
    if not options.tiny:
        command = f"python -m benchmarks.bridge --prompts {count} --seed {options.seed}"
        save("bridge", rows, steps=steps, command=command)


if __name__ == "__main__":
    main()
