"""What a camera of few pixels makes of a clip: the inputs of video super-resolution."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

from elevator.world.degrade import BLOCK, blur, compress

__all__ = ["Camera", "downscale", "low_resolution"]


def downscale(clips: Float[Tensor, "*batch c h w"], factor: int = 4) -> Float[Tensor, ...]:
    """Bicubic reduction with an anti-aliasing filter: the plain task of super-resolution.

    Args:
        clips: RGB in [0, 1]; height and width multiples of `factor`.
        factor: pixels along a side that become one.

    Returns:
        Frames of `1 / factor` of the height and width, in [0, 1].
    """
    height, width = clips.shape[-2:]
    if factor < 1 or height % factor or width % factor:
        raise ValueError(
            f"frames of {height}x{width} pixels cannot be reduced by {factor}; the factor must be "
            "at least 1 and divide height and width"
        )
    flat = clips.reshape(-1, *clips.shape[-3:])
    size = (height // factor, width // factor)
    small = interpolate(flat, size, mode="bicubic", antialias=True).clamp(0, 1)
    return small.reshape(*clips.shape[:-2], *size)


@dataclass(frozen=True)
class Camera:
    """How bad a camera may be; every clip gets one drawn evenly from these ranges, from 0 up.

    Attributes:
        blur: standard deviation of its blur, in pixels of the small frame.
        noise: standard deviation of its noise, in [0, 1], new in every frame.
        quantum: coarseness of its compression.
    """

    blur: float = 0.8
    noise: float = 0.06
    quantum: float = 0.04

    def __post_init__(self) -> None:
        """Refuse what is no strength."""
        for name, value in vars(self).items():
            if not 0 <= value < math.inf:
                raise ValueError(f"Camera got {name}={value:g}; it must be a number of 0 or more")


def low_resolution(
    clips: Float[Tensor, "b f c h w"],
    factor: int = 4,
    *,
    camera: Camera | None = None,
    seed: int = 0,
) -> Float[Tensor, "b f c hs ws"]:
    """Blur, reduce, add noise and compress, in this order: the harder, blind task.

    The order and the kinds are those of Real-ESRGAN (Wang et al. 2021, arXiv 2107.10833, section
    3), once through; strengths are drawn per clip and stay the same over its frames, as in
    RealBasicVSR (Chan et al. 2022, arXiv 2111.12704).

    Args:
        clips: RGB in [0, 1]; the small frames' height and width must be multiples of 8.
        factor: pixels along a side that become one.
        camera: how strong everything may get; `Camera()` if left out.
        seed: of the first clip's strengths and noise; the next has the next seed.

    Returns:
        Small clips in [0, 1]; the same seed gives the same.
    """
    height, width = clips.shape[-2:]
    step = factor * BLOCK
    if factor < 1 or height % step or width % step:
        raise ValueError(
            f"frames of {height}x{width} pixels cannot be reduced by {factor} and compressed; the "
            f"factor must be at least 1, height and width multiples of {BLOCK} times the factor"
        )
    ranges = camera or Camera()
    return torch.stack([_filmed(clip, factor, ranges, seed + i) for i, clip in enumerate(clips)])


def _filmed(
    clip: Float[Tensor, "f c h w"], factor: int, ranges: Camera, seed: int
) -> Float[Tensor, "f c hs ws"]:
    """One clip, as one camera sees it."""
    generator = torch.Generator().manual_seed(seed)
    sigma, noise, quantum = torch.rand(3, generator=generator).tolist()
    flat = rearrange(clip, "f c h w -> (f c) 1 h w")
    if sigma * ranges.blur > 0:
        flat = blur(flat, sigma * ranges.blur * factor)
    small = downscale(flat, factor)
    grain = torch.randn(small.shape, generator=generator).to(small)
    small = (small + noise * ranges.noise * grain).clamp(0, 1)
    if quantum * ranges.quantum > 0:
        small = compress(small, quantum * ranges.quantum).clamp(0, 1)
    return rearrange(small, "(f c) 1 h w -> f c h w", f=len(clip))
