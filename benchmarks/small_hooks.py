"""Do bounds take the glare off strong guidance, and do known frames join the rest of a clip?

Guidance 12 with and without bounds taken from real latents, channel by channel (their largest
values), on the built-in T2V and T2I. Saturated: share of values within 1/255 of black or full
colour; real clips have none. Contrast: standard deviation of all values. Fréchet: distance to
stills of the look each model learnt. Words: share read as told.

First and last frame of a degraded clip known to the T2V, under each re-noising rule. Errors: RMS
difference of known and other frames from that clip. Seam: change from a known frame to its
neighbour over the change between the others.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

import elevator as el
from benchmarks._arrangements import degraded
from benchmarks._measure import arguments, measure, save, table
from benchmarks._rows import Judge
from elevator import world
from elevator.filters import Clamp, DynamicThreshold
from elevator.samplers import FreshKnown, Known
from elevator.zoo.sampling import NUMBERS, film, paint, pair

STEPS, STRONG, REAL = 15, 12.0, 32
"""Sampling steps, the strong guidance, and how many real clips bounds are taken from."""
ENDS = (0, -1)


def main() -> None:
    """Measure, print and save."""
    options = arguments(__doc__ or "")
    torch.set_grad_enabled(False)
    count = options.prompts or (1 if options.tiny else 3)
    steps = 3 if options.tiny else STEPS
    pipe, judge = pair(), Judge(count=32 if options.tiny else 256)
    scenes = world.draw(count, seed=options.seed, split="held-out")
    rows = {
        "thresholds": _thresholds(pipe, judge, scenes, options.seed, steps),
        "known": _known(pipe, scenes, options.seed, steps),
    }
    print("\n\n".join(table(part) for part in rows.values()))
    if not options.tiny:
        command = f"python -m benchmarks.small_hooks --prompts {count} --seed {options.seed}"
        save("small_hooks", rows, steps=steps, command=command)


def _sample(
    pipe: Any, model: str, scene: world.Scene, seed: int, steps: int, guidance: float, hook: Any
) -> Tensor:
    """A clip of the T2V, or stills of the T2I, with a hook inside."""
    numbers = replace(NUMBERS, steps=steps, guidance=guidance, video_guidance=guidance)
    host, make = {"T2V": (pipe.t2v, film), "T2I": (pipe.t2i, paint)}[model]
    with el.attach(host, hook, frames=NUMBERS.frames, noise=el.KeyedNoise((seed,))):
        return make(pipe, scene.caption(), seed, numbers=numbers)


def _encode(pipe: Any, clips: Tensor) -> el.Latent:
    """Latents of clips `b f c h w`, as the models see them."""
    vae = pipe.t2i.vae
    latents = torch.stack([vae.encode(clip * 2 - 1).latent_dist.mean for clip in clips])
    return rearrange(latents, "b f c h w -> b c f h w") * float(vae.config.scaling_factor)


def _thresholds(
    pipe: Any, judge: Judge, scenes: list[world.Scene], seed: int, steps: int
) -> dict[str, dict[str, float]]:
    real = world.render(world.draw(REAL, seed=seed + 1), frames=2, seed=seed + 1)
    looks: Mapping[str, tuple[float, Callable[[Tensor], Tensor] | None]] = {
        "T2V": (NUMBERS.video_guidance, degraded),
        "T2I": (NUMBERS.guidance, None),
    }
    rows = {}
    for model, (usual, look) in looks.items():
        latents = _encode(pipe, real if look is None else look(real))
        limit = tuple(latents.abs().amax((0, 2, 3, 4)).tolist())
        ways = {
            f"guidance {usual:g}": (usual, el.identity()),
            f"guidance {STRONG:g}": (STRONG, el.identity()),
            f"{STRONG:g}, Clamp": (STRONG, Clamp(tuple(-value for value in limit), limit)),
            f"{STRONG:g}, DynamicThreshold": (STRONG, DynamicThreshold(limit)),
            f"{STRONG:g}, only cut off": (STRONG, DynamicThreshold(limit, rescale=False)),
        }
        for name, (guidance, hook) in ways.items():
            clips = torch.stack(
                [
                    _sample(pipe, model, scene, seed + index, steps, guidance, hook)
                    for index, scene in enumerate(scenes)
                ]
            )
            found = judge.rows(clips, scenes)
            rows[f"{model}, {name}"] = {
                "saturated": float(((clips - 0.5).abs() > 0.5 - 1.5 / 255).float().mean()),
                "contrast": float(clips.std()),
                "sharpness": float(found["sharpness"].mean()),
                "words": float(found["words"].mean()),
                "Fréchet": judge.distance(found, look),
            }
    return rows


def _known(
    pipe: Any, scenes: list[world.Scene], seed: int, steps: int
) -> dict[str, dict[str, float]]:
    clips = degraded(world.render(scenes, frames=NUMBERS.frames, seed=seed))
    latents = _encode(pipe, clips)
    # What decoding alone loses is no error of the sampling.
    truth = el.preview.decode_with(pipe.t2i.vae)(latents).clamp(0, 1)
    rules: Mapping[str, Callable[[Known], Any]] = {
        "nothing known": lambda known: el.identity(),
        "Known": lambda known: known,
        "Known, FreshKnown": lambda known: el.renoise(known, FreshKnown(known)),
        "Known, FreshNoise": lambda known: el.renoise(known, el.FreshNoise()),
    }
    made = {"truth": truth}
    for name, rule in rules.items():
        made[name] = torch.stack(
            [
                _sample(
                    pipe,
                    "T2V",
                    scene,
                    seed + index,
                    steps,
                    NUMBERS.video_guidance,
                    rule(Known(latents[index : index + 1, :, list(ENDS)], frames=ENDS)),
                )
                for index, scene in enumerate(scenes)
            ]
        )
    rows = {}
    for name, got in made.items():
        error = (got - truth).square().mean((0, 2, 3, 4))
        change = (got[:, 1:] - got[:, :-1]).abs().mean((0, 2, 3, 4))
        rows[name] = {
            "known error": float(error[list(ENDS)].mean().sqrt()),
            "other error": float(error[1:-1].mean().sqrt()),
            "seam": float(change[list(ENDS)].mean() / change[1:-1].mean()),
            "heading": float(measure(got, scenes)["heading"].mean()),
        }
    return rows


if __name__ == "__main__":
    main()
