"""VideoElevator is far sharper than its T2V and moves as it does; `fast` loses nothing measurable.

On captions no model was trained with: the T2V alone, the T2I frame by frame, VideoElevator exact
and fast, on the same seeds; and the T2I's network calls against the published arrangement.
"""

from typing import Any

import numpy as np
import torch
from einops import rearrange

import elevator as el
from benchmarks._measure import arguments, interval, measure, save, table
from elevator import world, zoo
from elevator.recipes import PRESETS

PUBLISHED = {"zeroscope": 7248, "lavie": 5600, "animatelcm": 2800}
"""T2I frame-forwards of the method's published arrangement with its example settings."""


def main() -> None:
    """Measure, print and save."""
    options = arguments(__doc__ or "")
    count = options.prompts or (1 if options.tiny else 48)
    torch.set_grad_enabled(False)
    pipe = el.VideoElevatorPipeline.from_pretrained(t2i=zoo.path("t2i"), t2v=zoo.path("t2v"))
    pipe.set_progress_bar_config(disable=True)
    costs = _costs(pipe)
    print(table(costs))
    print()

    scenes = world.draw(count, seed=options.seed, split="held-out")
    numbers = PRESETS["world"]
    steps = 4 if options.tiny else numbers.steps
    clips: dict[str, list[torch.Tensor]] = {}
    for index, scene in enumerate(scenes):
        for name, clip in clips_of(pipe, scene, options.seed + index, steps).items():
            clips.setdefault(name, []).append(clip)
    truth = world.render(scenes, frames=numbers.frames, seed=options.seed)
    measured = {"truth": measure(truth, scenes)}
    measured |= {name: measure(torch.stack(made), scenes) for name, made in clips.items()}
    rows = {
        name: {column: float(values.mean()) for column, values in columns.items()}
        for name, columns in measured.items()
    }
    print(table(rows))
    differences = {}
    for column in rows["truth"]:
        paired = measured["VideoElevator, fast"][column] - measured["VideoElevator"][column]
        low, high = interval(np.asarray(paired))
        differences[column] = {"low": low, "mean": float(paired.mean()), "high": high}
    print(f"\nfast minus exact, paired over {count} captions, 95 % interval")
    print(table(differences))
    if not options.tiny:
        command = f"python -m benchmarks.videoelevator --prompts {count} --seed {options.seed}"
        save("videoelevator", rows, fast_minus_exact=differences, costs=costs, command=command)


def _costs(pipe: Any) -> dict[str, dict[str, float]]:
    """T2I frame-forwards per arrangement, planned, not run."""
    rows = {}
    for name, published in PUBLISHED.items():
        row: dict[str, float] = {"published": published}
        for arrangement, fast in (("exact", False), ("fast", True)):
            planned = pipe.plan("", preset=name, fast=fast)
            row[arrangement] = planned.frame_forwards() - planned.frame_forwards("T2V")
            row[f"{arrangement} / pub"] = row[arrangement] / published
        rows[name] = row
    return rows


def clips_of(pipe: Any, scene: world.Scene, seed: int, steps: int) -> dict[str, torch.Tensor]:
    """The clips of one caption, all from the same seed, `f c h w` in [0, 1]."""
    numbers, caption = PRESETS["world"], scene.caption()

    def generator() -> torch.Generator:
        return torch.Generator().manual_seed(seed)

    video = pipe.t2v(
        caption,
        num_frames=numbers.frames,
        height=64,
        width=64,
        num_inference_steps=steps,
        guidance_scale=numbers.video_guidance,
        generator=generator(),
        output_type="np",
    ).frames[0]
    stills = pipe.t2i(
        [caption] * numbers.frames,
        num_inference_steps=steps,
        guidance_scale=numbers.guidance,
        generator=generator(),
        output_type="np",
    ).images
    made = {"T2V": _tensor(video), "T2I, frame by frame": _tensor(stills)}
    for name, fast in (("VideoElevator", False), ("VideoElevator, fast", True)):
        made[name] = pipe(
            caption,
            preset="world",
            num_inference_steps=steps,
            fast=fast,
            generator=generator(),
            output_type="pt",
        ).frames[0]
    return made


def _tensor(frames: Any) -> torch.Tensor:
    return rearrange(torch.from_numpy(np.asarray(frames, np.float32)), "f h w c -> f c h w")


if __name__ == "__main__":
    main()
