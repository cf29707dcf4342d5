"""What a web video makes of a clean clip: soft, flat, blocky, and marked if one likes.

Nothing is random on purpose: a text-to-video model learns *one* look from such clips, as the real
ones learnt theirs, and an elevator has to take it away.
"""

from __future__ import annotations

import math
from functools import cache, lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["MILD", "blur", "compress", "cosines", "degrade", "watermark"]

MILD = 0.5
"""Strength of the degradation that the zoo's `t2v-mild` learnt; `t2v` learnt that of 1."""

BLUR = 1.8
"""Standard deviation of the Gaussian blur, in pixels of a 64-pixel frame."""
CONTRAST, GREY = 0.6, 0.5
"""Kept contrast, and the grey towards which the rest is pulled."""
BLOCK, QUANTUM = 8, 0.03
"""Side in pixels of a compression block; step to which its coefficients are rounded, doubled
towards the finest ones."""


MARK, MARK_SIDE, MARK_LINE = 0.4, 0.55, 0.05
"""Opacity of a watermark; its side and the width of its lines, as parts of the frame's."""


def degrade(
    clips: Float[Tensor, "*batch c h w"], strength: float = 1.0
) -> Float[Tensor, "*batch c h w"]:
    """Blur, flatten and compress every frame on its own; deterministic.

    Args:
        clips: RGB in [0, 1]; height and width multiples of `BLOCK`.
        strength: scales the blur, the lost contrast and the compression; 0 changes nothing.

    Returns:
        New frames of the same shape and dtype, in [0, 1].
    """
    if not 0 <= strength < math.inf:
        raise ValueError(f"degrade got strength={strength:g}; it must be a number of 0 or more")
    if strength == 0:
        return clips.clone()
    height, width = clips.shape[-2:]
    flat = clips.reshape(-1, 1, height, width)
    soft = blur(flat, BLUR * strength * min(height, width) / 64)
    dull = GREY + max(0.0, 1 - (1 - CONTRAST) * strength) * (soft - GREY)
    return compress(dull, QUANTUM * strength).clamp_(0, 1).reshape(clips.shape)


def watermark(clips: Float[Tensor, "*batch c h w"]) -> Float[Tensor, "*batch c h w"]:
    """Lay a half-transparent mark over the middle of every frame: a crossed ring, as stock has it.

    Args:
        clips: RGB in [0, 1].

    Returns:
        New frames of the same shape and dtype, in [0, 1].
    """
    height, width = clips.shape[-2:]
    side = min(height, width)
    y = (torch.arange(height, dtype=clips.dtype, device=clips.device) + 0.5 - height / 2)[:, None]
    x = torch.arange(width, dtype=clips.dtype, device=clips.device) + 0.5 - width / 2
    radius, line = MARK_SIDE * side / 2, MARK_LINE * side / 2
    away = (x.square() + y.square()).sqrt()
    ring = (away - radius).abs()
    cross = torch.minimum((x + y).abs(), (x - y).abs()) / math.sqrt(2)
    near = torch.minimum(ring, torch.maximum(cross, away - radius))
    return torch.lerp(clips, torch.ones_like(clips), MARK * (line + 0.5 - near).clamp(0, 1))


def blur(frames: Float[Tensor, "n 1 h w"], sigma: float) -> Float[Tensor, "n 1 h w"]:
    """Gaussian blur with a standard deviation of `sigma` pixels."""
    rows, columns = (_gaussian(side, sigma).to(frames) for side in frames.shape[-2:])
    return rows @ frames @ columns.T


@lru_cache(maxsize=64)  # sigmas may be random
def _gaussian(side: int, sigma: float) -> Float[Tensor, "n n"]:
    """The blur of a line of pixels as a matrix; no weight is lost beyond the border."""
    ticks = torch.arange(side, dtype=torch.float64)
    weights = torch.exp(-((ticks[:, None] - ticks) ** 2) / (2 * sigma**2))
    return (weights / weights.sum(1, keepdim=True)).float()


@cache
def cosines() -> Float[Tensor, "k n"]:
    """The orthonormal discrete cosine transform of one block's side."""
    n = torch.arange(BLOCK, dtype=torch.float64)
    basis = torch.cos(math.pi / BLOCK * (n + 0.5) * n[:, None]) * math.sqrt(2 / BLOCK)
    basis[0] /= math.sqrt(2)
    return basis.float()


def compress(frames: Float[Tensor, "n 1 h w"], quantum: float) -> Float[Tensor, "n 1 h w"]:
    """Round the cosine coefficients of every block, as JPEG and the video codecs do.

    Args:
        frames: one channel each; height and width multiples of `BLOCK`.
        quantum: step to which the coarsest coefficients are rounded, per pixel of a block's side.
    """
    height, width = frames.shape[-2:]
    if height % BLOCK or width % BLOCK:
        raise ValueError(
            f"compression got frames of {height}x{width} pixels; height and width must be "
            f"multiples of {BLOCK}. Crop or resize the clip."
        )
    basis = cosines().to(frames)
    blocks = frames.reshape(-1, height // BLOCK, BLOCK, width // BLOCK, BLOCK).transpose(2, 3)
    order = torch.arange(BLOCK, device=frames.device)
    step = quantum * BLOCK * (1 + (order[:, None] + order) / (2 * BLOCK - 2)) / 2
    coded = torch.round(basis @ blocks @ basis.T / step) * step
    return (basis.T @ coded @ basis).transpose(2, 3).reshape(frames.shape)
