"""What becomes of a clip on its way to a small file: the inputs of blind video super-resolution.

The kinds and their order are those of Real-ESRGAN (Wang et al. 2021, arXiv 2107.10833, section 3),
once through: blur, reduction, noise, compression; strengths stay the same over a clip's frames, and
the compression predicts a frame from the one before, as RealBasicVSR's does with a real codec (Chan
et al. 2022, arXiv 2111.12704, section 3.2). Unlike `low_resolution` this takes frames of any size
and reduces them in any of the usual ways.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d, interpolate, pad

from elevator.world.degrade import BLOCK, cosines

__all__ = ["Footage", "code", "shrink"]

WAYS = ("bicubic", "bicubic", "area", "bilinear")
"""How frames are reduced, drawn evenly."""
GREEDY = 0.35
"""What is added to a difference from the frame before, in steps, ere it is cut to whole steps: less
than a half, so that small differences are left out, as codecs do."""
LUMA = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))
"""ITU-R BT.601: red, green and blue to brightness and two differences of colour."""


@dataclass(frozen=True)
class Footage:
    """How bad footage may be; every clip gets strengths drawn from these ranges, from 0 up.

    Attributes:
        clean: share of the clips that are only reduced, in one of the usual ways.
        blur: standard deviations, in pixels of the small frame, along and across a direction.
        noise: standard deviation of the noise, in [0, 1], new in every frame.
        quantum: coarseness of the compression of the finest steps of brightness.
    """

    clean: float = 0.4
    blur: float = 0.8
    noise: float = 0.03
    quantum: float = 0.03

    def __post_init__(self) -> None:
        """Refuse what is no strength."""
        for name, value in vars(self).items():
            if not 0 <= value < math.inf:
                raise ValueError(f"Footage got {name}={value:g}; it must be a number of 0 or more")


def shrink(
    clips: Float[Tensor, "b 3 f h w"],
    factor: int,
    *,
    footage: Footage | None = None,
    seed: int = 0,
) -> Float[Tensor, "b 3 f hs ws"]:
    """Small, worn copies of clips.

    Args:
        clips: RGB in [0, 1]; height and width multiples of `factor`.
        factor: pixels along a side that become one, at least 1.
        footage: how strong everything may get; `Footage()` if left out.
        seed: of the first clip's strengths and noise; the next has the next seed.

    Returns:
        Clips of `1 / factor` of the height and width, in [0, 1]; the same seed gives the same.

    Raises:
        ValueError: height or width is no multiple of the factor.
    """
    height, width = clips.shape[-2:]
    if factor < 1 or height % factor or width % factor:
        raise ValueError(
            f"frames of {height}x{width} pixels cannot be reduced by {factor}; the factor must be "
            "at least 1 and divide height and width. Crop the clips."
        )
    ranges = footage or Footage()
    worn = [_worn(clip.transpose(0, 1), factor, ranges, seed + i) for i, clip in enumerate(clips)]
    return torch.stack(worn).transpose(1, 2)


def _worn(
    clip: Float[Tensor, "f 3 h w"], factor: int, ranges: Footage, seed: int
) -> Float[Tensor, "f 3 hs ws"]:
    """One clip, with strengths of its own."""
    generator = torch.Generator().manual_seed(seed)
    way, clean, along, across, turn, noise, quantum = torch.rand(7, generator=generator).tolist()
    if clean >= ranges.clean and ranges.blur > 0:
        sigmas = (factor * ranges.blur * along, factor * ranges.blur * across)
        clip = _blurred(clip, *sigmas, math.pi * turn)
    size = (clip.shape[-2] // factor, clip.shape[-1] // factor)
    mode = WAYS[int(way * len(WAYS))]
    if mode == "area":
        small = interpolate(clip, size, mode="area")
    else:
        small = interpolate(clip, size, mode=mode, antialias=True).clamp(0, 1)
    if clean < ranges.clean:
        return small
    # Squares: most footage is not bad.
    if ranges.noise > 0:
        grain = torch.randn(small.shape, generator=generator).to(small)
        small = (small + noise**2 * ranges.noise * grain).clamp(0, 1)
    if ranges.quantum > 0:
        small = code(small, quantum**2 * ranges.quantum)
    return small


def _blurred(
    frames: Float[Tensor, "f 3 h w"], along: float, across: float, turn: float
) -> Float[Tensor, "f 3 h w"]:
    """Gaussian blur with one standard deviation along a direction and another across it."""
    reach = math.ceil(2.5 * max(along, across))
    if reach == 0:
        return frames
    ticks = torch.arange(-reach, reach + 1, dtype=torch.float64)
    y, x = ticks[:, None], ticks
    u, v = x * math.cos(turn) + y * math.sin(turn), y * math.cos(turn) - x * math.sin(turn)
    # A pixel is as wide as this anyway; it keeps thin kernels from falling between pixels.
    least = 0.3
    kernel = torch.exp(-((u / max(along, least)) ** 2 + (v / max(across, least)) ** 2) / 2)
    kernel = (kernel / kernel.sum()).to(frames)
    flat = frames.flatten(0, 1)[:, None]
    around = pad(flat, (reach,) * 4, mode="replicate")
    return conv2d(around, kernel[None, None]).reshape(frames.shape)


def code(clip: Float[Tensor, "f 3 h w"], quantum: float) -> Float[Tensor, "f 3 h w"]:
    """Compress a clip as the video codecs do, but for their search for motion.

    Frames are split into brightness and colour, colour at half the size; each block's difference
    from the same block of the frame before, as decoded, is rounded in the cosine transform.

    Args:
        clip: RGB in [0, 1], any size.
        quantum: step to which the finest coefficients are rounded, per pixel of a block's side; the
            coarsest take half of it. 0 changes nothing.
    """
    if quantum <= 0:
        return clip
    height, width = clip.shape[-2:]
    step = 2 * BLOCK
    around = (0, -width % step, 0, -height % step)
    matrix = torch.tensor(LUMA).to(clip)
    split = torch.einsum("k c, f c h w -> f k h w", matrix, pad(clip, around, mode="replicate"))
    light = _coded(split[:, :1], quantum)
    colour = _coded(avg_pool2d(split[:, 1:], 2), 1.5 * quantum)
    colour = interpolate(colour, scale_factor=2, mode="bilinear")
    back = torch.linalg.inv(matrix)
    seen = torch.einsum("c k, f k h w -> f c h w", back, torch.cat([light, colour], 1))
    return seen[..., :height, :width].clamp(0, 1)


def _coded(planes: Float[Tensor, "f k h w"], quantum: float) -> Float[Tensor, "f k h w"]:
    """The planes after rounding, each predicted from the one before."""
    basis = cosines().to(planes)
    blocks = planes.unflatten(-1, (-1, BLOCK)).unflatten(-3, (-1, BLOCK)).transpose(-3, -2)
    coefficients = basis @ blocks @ basis.T
    order = torch.arange(BLOCK, device=planes.device)
    step = quantum * BLOCK * (1 + (order[:, None] + order) / (2 * BLOCK - 2)) / 2
    seen, known = [], torch.zeros_like(coefficients[0])
    for frame, wanted in enumerate(coefficients):
        change = (wanted - known) / step
        change = torch.round(change) if frame == 0 else torch.trunc(change + GREEDY * change.sign())
        known = known + change * step
        seen.append(known)
    decoded = basis.T @ torch.stack(seen) @ basis
    return decoded.transpose(-3, -2).reshape(planes.shape)
