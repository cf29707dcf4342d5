"""What a web video makes of a clean clip: soft, flat and blocky.

The strength is fixed on purpose: a text-to-video model learns *one* look from such clips, as the
real ones learnt theirs, and an elevator has to take it away.
"""

from __future__ import annotations

import math
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["blur", "degrade"]

BLUR = 1.8
"""Standard deviation of the Gaussian blur, in pixels of a 64-pixel frame."""
CONTRAST, GREY = 0.6, 0.5
"""Kept contrast, and the grey towards which the rest is pulled."""
BLOCK, QUANTUM = 8, 0.03
"""Side in pixels of a compression block; step to which its coefficients are rounded, doubled
towards the finest ones."""


def degrade(clips: Float[Tensor, "*batch c h w"]) -> Float[Tensor, "*batch c h w"]:
    """Blur, flatten and compress every frame on its own; deterministic.

    Args:
        clips: RGB in [0, 1]; height and width multiples of `BLOCK`.

    Returns:
        New frames of the same shape and dtype, in [0, 1].
    """
    height, width = clips.shape[-2:]
    if height % BLOCK or width % BLOCK:
        raise ValueError(
            f"degrade got frames of {height}x{width} pixels; height and width must be multiples of "
            f"{BLOCK}. Crop or resize the clip."
        )
    flat = clips.reshape(-1, 1, height, width)
    soft = blur(flat, BLUR * min(height, width) / 64)
    dull = GREY + CONTRAST * (soft - GREY)
    return _compress(dull).clamp_(0, 1).reshape(clips.shape)


def blur(frames: Float[Tensor, "n 1 h w"], sigma: float) -> Float[Tensor, "n 1 h w"]:
    """Gaussian blur with a standard deviation of `sigma` pixels."""
    rows, columns = (_gaussian(side, sigma).to(frames) for side in frames.shape[-2:])
    return rows @ frames @ columns.T


@cache
def _gaussian(side: int, sigma: float) -> Float[Tensor, "n n"]:
    """The blur of a line of pixels as a matrix; no weight is lost beyond the border."""
    ticks = torch.arange(side, dtype=torch.float64)
    weights = torch.exp(-((ticks[:, None] - ticks) ** 2) / (2 * sigma**2))
    return (weights / weights.sum(1, keepdim=True)).float()


@cache
def _cosines() -> Float[Tensor, "k n"]:
    """The orthonormal discrete cosine transform of one block's side."""
    n = torch.arange(BLOCK, dtype=torch.float64)
    basis = torch.cos(math.pi / BLOCK * (n + 0.5) * n[:, None]) * math.sqrt(2 / BLOCK)
    basis[0] /= math.sqrt(2)
    return basis.float()


def _compress(frames: Float[Tensor, "n 1 h w"]) -> Float[Tensor, "n 1 h w"]:
    """Round the cosine coefficients of every block, as JPEG and the video codecs do."""
    basis = _cosines().to(frames)
    height, width = frames.shape[-2:]
    blocks = frames.reshape(-1, height // BLOCK, BLOCK, width // BLOCK, BLOCK).transpose(2, 3)
    order = torch.arange(BLOCK, device=frames.device)
    step = QUANTUM * BLOCK * (1 + (order[:, None] + order) / (2 * BLOCK - 2)) / 2
    coded = torch.round(basis @ blocks @ basis.T / step) * step
    return (basis.T @ coded @ basis).transpose(2, 3).reshape(frames.shape)
