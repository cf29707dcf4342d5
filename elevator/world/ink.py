"""A drawing style: the same objects in ink on paper, for a personalised text-to-image model."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import max_pool2d, pad

__all__ = ["ink"]

PAPER = (0.97, 0.95, 0.89)
"""Colour of the paper."""
PEN = (0.10, 0.09, 0.14)
"""Colour of the ink."""
WASH, WASH_BEHIND = 0.55, 0.12
"""How much of its colour an object keeps, and how much the background keeps."""
HATCH_PERIOD, HATCH_DEPTH = 5, 0.55
"""Distance in pixels between hatching lines, and their darkness in [0, 1]."""


def ink(stills: Float[Tensor, "*batch c h w"]) -> Float[Tensor, "*batch c h w"]:
    """Redraw crisp frames as a washed ink drawing: outlined, hatched, on paper; deterministic.

    What differs from the colour along the frame's border counts as the object.

    Args:
        stills: RGB in [0, 1], as `render` makes them.

    Returns:
        New frames of the same shape and dtype, in [0, 1].
    """
    flat = stills.reshape(-1, *stills.shape[-3:])
    height, width = flat.shape[-2:]
    border = torch.cat([flat[..., 0, :], flat[..., -1, :], flat[..., 0], flat[..., -1]], -1)
    behind = border.median(-1).values[..., None, None]
    far = (flat - behind).abs().amax(1, keepdim=True)
    far = _spread(-_spread(-far))
    body = ((far - 0.12) / 0.08).clamp(0, 1)
    outline = _edges(flat * body + behind * (1 - body))
    paper, pen = (
        torch.tensor(c, dtype=flat.dtype, device=flat.device)[:, None, None] for c in (PAPER, PEN)
    )
    keep = WASH * body + WASH_BEHIND * (1 - body)
    washed = paper * (1 - keep) + flat * keep
    row = torch.arange(height, device=flat.device)[:, None]
    column = torch.arange(width, device=flat.device)
    hatch = ((row + column) % HATCH_PERIOD == 0).to(flat) * HATCH_DEPTH * body
    mark = torch.maximum(outline, hatch)
    return (washed * (1 - mark) + pen * mark).clamp(0, 1).reshape(stills.shape)


def _spread(plane: Float[Tensor, "n 1 h w"]) -> Float[Tensor, "n 1 h w"]:
    """The largest value within one pixel. Of the negative first, it takes thin lines away."""
    return max_pool2d(plane, 3, stride=1, padding=1)


def _edges(frames: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 1 h w"]:
    """How strongly the colour changes at a pixel, 0 where it hardly does, 1 at a clear edge."""
    around = pad(frames, (1,) * 4, mode="replicate")
    across = (around[..., 1:-1, 2:] - around[..., 1:-1, :-2]).abs()
    down = (around[..., 2:, 1:-1] - around[..., :-2, 1:-1]).abs()
    return ((torch.maximum(across, down).amax(1, keepdim=True) - 0.22) / 0.2).clamp(0, 1)
