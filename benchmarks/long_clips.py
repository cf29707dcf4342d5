"""Windows of frames make long clips at constant memory; FreeInit steadies; a clip may be the start.

Long: the T2V, trained on 8 frames, asked for 24: all at once, and in windows of 8, from noise of
its own in every frame or rescheduled (FreeNoise). FreeInit: the T2V again and again, each time from
the low frequencies of the clip before. Start: VideoElevator from degraded clips of the caption, by
strength. Measures as in `quality_videoelevator`; Fréchet distances of so few clips compare within a
table only. Apart: RMS difference from the clip started from, in [0, 1].
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeAlias

import torch
from torch import Tensor

import elevator as el
from benchmarks._arrangements import Models, degraded
from benchmarks._measure import arguments, save, table
from benchmarks._rows import Judge
from elevator import world
from elevator.models import FrameWindows
from elevator.recipes import freeinit
from elevator.samplers import rescheduled_noise
from elevator.zoo.sampling import NUMBERS, as_clip

Rows: TypeAlias = dict[str, dict[str, float]]

STEPS, LONG = 12, 3 * NUMBERS.frames
"""Half the preset's steps, so that all of it takes minutes; and frames of a long clip."""
WINDOWS = FrameWindows(NUMBERS.frames, stride=NUMBERS.frames // 2)
ITERATIONS = 5
STRENGTHS = (0.3, 0.6, 1.0)


def main() -> None:
    """Measure, print and save."""
    options = arguments(__doc__ or "")
    count = options.prompts or (1 if options.tiny else 4)
    models, judge = Models(4 if options.tiny else STEPS), Judge(count=64 if options.tiny else 512)
    length, iterations = (12, 2) if options.tiny else (LONG, ITERATIONS)
    torch.set_grad_enabled(False)
    scenes = world.draw(count, seed=options.seed, split="held-out")
    found = {
        "long": _long(models, judge, scenes, options.seed, length),
        "freeinit": _again(models, judge, scenes, options.seed, iterations),
        "start": _started(models, judge, scenes, options.seed),
    }
    for name, rows in found.items():
        print(f"{name}\n{table(rows)}\n")
    if not options.tiny:
        command = f"python -m benchmarks.long_clips --prompts {count} --seed {options.seed}"
        save("long_clips", found, command=command, steps=models.steps)


def _long(
    models: Models, judge: Judge, scenes: Sequence[world.Scene], seed: int, length: int
) -> Rows:
    """More frames than the T2V was trained on."""
    short = NUMBERS.frames
    ways: dict[str, tuple[int, bool, bool]] = {  # frames, in windows, rescheduled noise
        f"{short} frames": (short, False, False),
        f"{length} frames at once": (length, False, False),
        f"{length} in windows": (length, True, False),
        f"{length} in windows, FreeNoise": (length, True, True),
    }
    rows: Rows = {}
    for name, (frames, cut, rescheduled) in ways.items():
        own = WINDOWS.frames if rescheduled else frames
        t2v = models.pipe().t2v
        with _frames_per_call(t2v.unet) as seen:
            clips = []
            for index, scene in enumerate(scenes):
                noise = _noise(t2v, frames, own, torch.Generator().manual_seed(seed + index))
                with el.attach(t2v, el.identity(), [WINDOWS] if cut else []):
                    clips.append(_filmed(models, t2v, scene, noise, frames))
        rows[name] = {"at once": max(seen)} | _judged(judge, clips, scenes)
    return rows


def _again(
    models: Models, judge: Judge, scenes: Sequence[world.Scene], seed: int, iterations: int
) -> Rows:
    """FreeInit, by iteration."""
    t2v, frames = models.pipe().t2v, NUMBERS.frames
    made: list[list[Tensor]] = [[] for _ in range(iterations)]
    for index, scene in enumerate(scenes):
        generator = torch.Generator().manual_seed(seed + index)
        noise, run = _noise(t2v, frames, frames, generator), _run(models, t2v, scene, frames)
        runs = freeinit(run, noise, t2v.scheduler, iterations=iterations, generator=generator)
        for clips, clean in zip(made, runs, strict=True):
            clips.append(_decoded(t2v, clean))
    return {
        f"{number} iteration{'s'[: number > 1]}": _judged(judge, clips, scenes)
        for number, clips in enumerate(made, 1)
    }


def _started(models: Models, judge: Judge, scenes: Sequence[world.Scene], seed: int) -> Rows:
    """VideoElevator from a degraded clip, by strength."""
    numbers, pipe = replace(models.numbers, t2v_steps=NUMBERS.t2v_steps), models.pipe()
    clips = degraded(world.render(scenes, frames=numbers.frames, seed=seed))
    rows = {"the clip itself": {"apart": 0.0} | _judged(judge, list(clips), scenes)}
    for strength in STRENGTHS:
        made = []
        for index, (scene, clip) in enumerate(zip(scenes, clips, strict=True)):
            video: Any = pipe(
                scene.caption(),
                preset=numbers,
                init=clip.permute(0, 2, 3, 1).numpy(),
                strength=strength,
                generator=torch.Generator().manual_seed(seed + index),
                output_type="np",
            )
            made.append(as_clip(video.frames[0]))
        apart = float((torch.stack(made) - clips).square().mean((1, 2, 3, 4)).sqrt().mean())
        rows[f"strength {strength:g}"] = {"apart": apart} | _judged(judge, made, scenes)
    return rows


def _judged(judge: Judge, clips: list[Tensor], scenes: Sequence[world.Scene]) -> dict[str, float]:
    rows = judge.rows(torch.stack(clips), scenes)
    names = ("motion", "words", "jitter", "change", "flicker", "sharpness")
    return {name: float(rows[name].mean()) for name in names} | {"Fréchet": judge.distance(rows)}


# --- the T2V alone, from given noise --------------------------------------------------------------


def _noise(t2v: Any, frames: int, own: int, generator: torch.Generator) -> Tensor:
    """Initial noise of a clip, of which `own` frames have noise of their own."""
    side, channels = t2v.unet.config.sample_size, t2v.unet.config.in_channels
    shape = (1, channels, frames, side, side)
    stride = WINDOWS.stride if own < frames else own
    return rescheduled_noise(shape, own, stride, generator)


def _run(models: Models, t2v: Any, scene: world.Scene, frames: int) -> Callable[[Tensor], Tensor]:
    """A sampling run, from noise to clean latents."""

    def run(latents: Tensor) -> Tensor:
        made: Tensor = t2v(
            scene.caption(),
            num_frames=frames,
            num_inference_steps=models.numbers.steps,
            guidance_scale=models.numbers.video_guidance,
            latents=latents,
            output_type="latent",
        ).frames
        return made

    return run


def _filmed(models: Models, t2v: Any, scene: world.Scene, noise: Tensor, frames: int) -> Tensor:
    return _decoded(t2v, _run(models, t2v, scene, frames)(noise))


def _decoded(t2v: Any, clean: Tensor) -> Tensor:
    """A clip `f c h w` in [0, 1]."""
    video: Tensor = t2v.decode_latents(clean)[0].transpose(0, 1)
    return (video.float() / 2 + 0.5).clamp(0, 1)


@contextmanager
def _frames_per_call(unet: torch.nn.Module) -> Iterator[list[int]]:
    seen: list[int] = []
    handle = unet.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[2]))
    try:
        yield seen
    finally:
        handle.remove()


if __name__ == "__main__":
    main()
