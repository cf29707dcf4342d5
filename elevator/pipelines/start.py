"""Sampling that starts from a given clip: SDEdit, or image-to-image, for every frame of it.

The clip's clean latents are noised to the level of the first step that is run (Meng et al. 2022,
arXiv 2108.01073); `strength` says where that is, as diffusers counts it: of S steps the last
int(S * strength) are run.
"""

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import PIL.Image
import torch
from diffusers import StableDiffusionImg2ImgPipeline
from einops import rearrange
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from elevator.errors import CheckError
from elevator.hosts.coefficients import prepared, run_schedule
from elevator.latent import Latent
from elevator.video.clips import fit
from elevator.video.io import as_bytes

__all__ = [
    "STRENGTH",
    "Clip",
    "ContinuedPipeline",
    "first_step",
    "frames_of",
    "init_latents",
    "noised",
]

Clip: TypeAlias = NDArray[Any] | Sequence[PIL.Image.Image] | Float[Tensor, "..."]
"""Frames, as `as_bytes` takes them, or clean latents `b c f h w`."""

STRENGTH = 0.6
"""Where sampling starts if nobody says."""


def first_step(strength: float, steps: int) -> int:
    """Index of the first step that is run.

    Args:
        strength: in (0, 1]; 1 runs all steps, from pure noise.
        steps: sampling steps of a whole run.

    Raises:
        CheckError: a strength out of range, or so low that none of the steps is left.
    """
    if not 0 < strength <= 1:
        raise CheckError(
            [
                f"strength is {strength:g}, but must be above 0 (the clip itself) and at most 1 "
                "(nothing of it)"
            ]
        )
    run = int(steps * strength)
    if run < 1 <= steps:
        raise CheckError(
            [
                f"strength {strength:g} leaves none of {steps} steps to run; "
                f"give at least {math.ceil(1000 / steps) / 1000:g}, or more num_inference_steps"
            ]
        )
    return steps - run


def frames_of(init: Clip, wanted: int | None) -> tuple[Clip, int]:
    """The first `wanted` frames of a clip (all of them if None), and how many that is.

    Raises:
        CheckError: it has fewer, or is a tensor that is no `b c f h w`.
    """
    if isinstance(init, Tensor) and init.ndim != 5:
        raise CheckError(
            [
                f"init of shape {tuple(init.shape)} is no clip; give clean latents b c f h w, or "
                "frames as PIL images or an array (f, h, w, 3)"
            ]
        )
    count = init.shape[2] if isinstance(init, Tensor) else len(init)
    frames = count if wanted is None else wanted
    if frames > count:
        raise CheckError(
            [
                f"init has {count} frames, but num_frames is {frames}; "
                f"give a longer clip, or num_frames={count}"
            ]
        )
    return (init[:, :, :frames] if isinstance(init, Tensor) else init[:frames]), frames


def init_latents(
    vae: Any,
    init: Clip,
    clips: int,
    size: tuple[int, int],
    device: torch.device,
    chunk: int | None = None,
) -> Latent:
    """Clean latents of a clip, float32; frames are fitted to a size and encoded, without noise.

    Args:
        vae: the T2I's.
        init: frames, the same for all clips, or clean latents, one row per clip.
        clips: how many clips are made.
        size: height and width in pixels.
        device: where the VAE runs.
        chunk: frames encoded at once; None for all.
    """
    if isinstance(init, Tensor):
        return init.to(device, torch.float32)
    height, width = size
    pixels = torch.from_numpy(np.ascontiguousarray(fit(as_bytes(init), width, height)))
    flat = rearrange(pixels, "f h w c -> f c h w").to(device, vae.dtype) / 127.5 - 1
    parts = [vae.encode(part).latent_dist.mode() for part in flat.split(chunk or len(flat))]
    latents = torch.cat(parts).float() * vae.config.scaling_factor
    return rearrange(latents, "f c h w -> 1 c f h w").repeat(clips, 1, 1, 1, 1)


def noised(clean: Latent, noise: Latent, scheduler: Any, steps: int, first: int) -> Latent:
    """A clip at the level that step `first` of a run starts from, in the dtype of the noise."""
    level = run_schedule(prepared(scheduler, steps))[first]
    return (level.alpha * clean + level.sigma * noise.float()).to(noise.dtype)


class ContinuedPipeline(StableDiffusionImg2ImgPipeline):
    """Image-to-image whose `image` is latents, already at the level of its first step.

    So the noise is the caller's, which may share a part between frames.
    """

    def prepare_latents(
        self,
        image: Tensor,
        timestep: Any,
        batch_size: int,
        num_images_per_prompt: int,
        dtype: torch.dtype,
        device: torch.device,
        generator: Any = None,
    ) -> Tensor:
        """The latents as they are."""
        return image.to(device=device, dtype=dtype)
