"""DDIM inversion leads back more closely when the network is told each latent's own level.

There and back: degraded clips' latents go up to a noise level with the inflated T2I, and down
again, level by level, with the same network. Error: RMS difference over RMS of the start.
"""

import torch
from einops import rearrange

import elevator as el
from benchmarks._measure import arguments, save, table
from elevator import world, zoo
from elevator.models.inflate import CrossFrameAttention
from elevator.samplers import DDIMInversion, sample

STEPS, REACHED = 25, (3, 10)
"""Sampling steps, and rows of their schedule that the inversion climbs to; 0 is the noisiest."""


def main() -> None:
    """Measure, print and save."""
    options = arguments(__doc__ or "")
    count = options.prompts or (1 if options.tiny else 8)
    steps, reached = (4, (1,)) if options.tiny else (STEPS, REACHED)
    torch.set_grad_enabled(False)
    t2i = zoo.load("t2i")
    denoiser = el.denoiser(t2i, "", guidance=1)
    scenes = world.draw(count, seed=options.seed, split="held-out")
    clips = world.degrade(world.lamp(world.render(scenes, seed=options.seed)))
    latents = [
        rearrange(t2i.vae.encode(clip * 2 - 1).latent_dist.mean, "f c h w -> 1 c f h w")
        * t2i.vae.config.scaling_factor
        for clip in clips
    ]
    rows: dict[str, dict[str, float]] = {}
    for told in ("next", "own"):
        for stride in (1, 3):
            rule = DDIMInversion(denoiser, stride=stride, told=told)
            row = rows[f"told {told}, stride {stride}"] = {}
            for index in reached:
                with el.attach(t2i, el.identity(), [CrossFrameAttention()], frames=8):
                    errors = [_error(denoiser, rule, clean, steps, index) for clean in latents]
                row[f"to level {index}"] = sum(errors) / count
    print(table(rows))
    if not options.tiny:
        command = f"python -m benchmarks.inversion --prompts {count} --seed {options.seed}"
        save("inversion", rows, steps=steps, command=command)


def _error(
    denoiser: el.Denoiser, rule: DDIMInversion, clean: el.Latent, steps: int, index: int
) -> float:
    """Put `clean` in before the level of this index, and see what sampling makes of it."""
    hook = el.renoise(el.at({index - 1}, el.stateless(lambda _, step: clean)), rule)
    *_, last = sample(denoiser, torch.randn_like(clean), steps, hook=hook)
    return float((last.noisy - clean).square().mean().sqrt() / clean.square().mean().sqrt())


if __name__ == "__main__":
    main()
