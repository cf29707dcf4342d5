"""The built-in models alone and together, on one caption and seed: what is compared everywhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from elevator.recipes import PRESETS, Preset
from elevator.zoo import networks

if TYPE_CHECKING:
    from elevator.pipelines.video_elevator import VideoElevatorPipeline

__all__ = [
    "NUMBERS",
    "STYLED",
    "as_clip",
    "compare",
    "elevate",
    "film",
    "in_style",
    "paint",
    "pair",
]

NUMBERS = PRESETS["world"]
"""The built-in models' preset."""
STYLED = PRESETS["world-styled"]
"""The same with a personalised T2I."""


def pair(t2i: str = "t2i", t2v: str = "t2v") -> VideoElevatorPipeline:
    """Two models of the zoo as a quiet pipeline."""
    import elevator as el
    from elevator import zoo

    pipe = el.VideoElevatorPipeline.from_pipelines(zoo.load(t2i), zoo.load(t2v))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def film(
    pipe: VideoElevatorPipeline, caption: str, seed: int, *, numbers: Preset = NUMBERS
) -> Float[Tensor, "f c h w"]:
    """The T2V's own clip, in [0, 1]."""
    made: Any = pipe.t2v(
        caption,
        num_frames=numbers.frames,
        height=networks.SIZE,
        width=networks.SIZE,
        num_inference_steps=numbers.steps,
        guidance_scale=numbers.video_guidance,
        generator=_seeded(seed),
        output_type="np",
    )
    return as_clip(made.frames[0])


def paint(
    pipe: VideoElevatorPipeline, caption: str, seed: int, *, numbers: Preset = NUMBERS
) -> Float[Tensor, "f c h w"]:
    """As many stills of the T2I, which know nothing of each other, in [0, 1]."""
    made: Any = pipe.t2i(
        [caption] * numbers.frames,
        num_inference_steps=numbers.steps,
        guidance_scale=numbers.guidance,
        generator=_seeded(seed),
        output_type="np",
    )
    return as_clip(made.images)


def elevate(
    pipe: VideoElevatorPipeline,
    caption: str,
    seed: int,
    *,
    numbers: Preset = NUMBERS,
    **changes: Any,
) -> Float[Tensor, "f c h w"]:
    """VideoElevator's clip, in [0, 1]; `changes` are arguments of the pipeline."""
    made: Any = pipe(caption, preset=numbers, generator=_seeded(seed), output_type="pt", **changes)
    clip: Tensor = made.frames[0]
    return clip.cpu()


def compare(
    plain: VideoElevatorPipeline,
    styled: Mapping[str, VideoElevatorPipeline],
    caption: str,
    seed: int,
    *,
    numbers: Preset = NUMBERS,
) -> dict[str, Float[Tensor, "f c h w"]]:
    """Each model alone, both together, and the same with every personalised T2I, by label."""
    made = {
        "T2V": film(plain, caption, seed, numbers=numbers),
        "T2I, frame by frame": paint(plain, caption, seed, numbers=numbers),
        "VideoElevator": elevate(plain, caption, seed, numbers=numbers),
    }
    for style, pipe in styled.items():
        made[f"VideoElevator in {style}"] = elevate(pipe, caption, seed, numbers=in_style(numbers))
    return made


def in_style(numbers: Preset) -> Preset:
    """The numbers as they are for a personalised T2I."""
    return replace(
        numbers,
        guidance=STYLED.guidance,
        keep_colours=STYLED.keep_colours,
        steady=STYLED.steady,
    )


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def as_clip(frames: Any) -> Float[Tensor, "f c h w"]:
    """Frames of a pipeline, `f h w c` as numpy, as a clip."""
    return rearrange(torch.from_numpy(np.asarray(frames, np.float32)), "f h w c -> f c h w")
