"""A drawing style: the same objects in ink on paper, for a personalised text-to-image model."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from elevator.world.outline import outline

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
    body, lines = outline(flat)
    paper, pen = (
        torch.tensor(c, dtype=flat.dtype, device=flat.device)[:, None, None] for c in (PAPER, PEN)
    )
    keep = WASH * body + WASH_BEHIND * (1 - body)
    washed = paper * (1 - keep) + flat * keep
    row = torch.arange(height, device=flat.device)[:, None]
    column = torch.arange(width, device=flat.device)
    hatch = ((row + column) % HATCH_PERIOD == 0).to(flat) * HATCH_DEPTH * body
    mark = torch.maximum(lines, hatch)
    return (washed * (1 - mark) + pen * mark).clamp(0, 1).reshape(stills.shape)
