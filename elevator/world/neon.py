"""A second drawing style: the same objects as neon signs at night."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from elevator.world.degrade import blur
from elevator.world.outline import outline

__all__ = ["neon"]

NIGHT = (0.06, 0.05, 0.12)
"""Colour of the dark."""
LIT, LIT_BEHIND = 0.25, 0.12
"""How much of its own colour the object shows in the dark, and how much the background."""
GLOW, GLOW_POWER = 2.5, 0.9
"""Standard deviation, in pixels of a 64-pixel frame, and brightness of the glow around a tube."""


def neon(stills: Float[Tensor, "*batch c h w"]) -> Float[Tensor, "*batch c h w"]:
    """Redraw crisp frames at night, edges as glowing tubes of the object's colour; deterministic.

    Args:
        stills: RGB in [0, 1], as `render` makes them.

    Returns:
        New frames of the same shape and dtype, in [0, 1].
    """
    flat = stills.reshape(-1, *stills.shape[-3:])
    height, width = flat.shape[-2:]
    body, tube = outline(flat)
    colour = (flat * body).sum((2, 3), keepdim=True) / body.sum((2, 3), keepdim=True).clamp_min(1)
    colour = colour / colour.amax(1, keepdim=True).clamp_min(1e-3)
    glow = blur(tube, GLOW * min(height, width) / 64)
    night = torch.tensor(NIGHT, dtype=flat.dtype, device=flat.device)[:, None, None]
    ground = night + flat * (LIT * body + LIT_BEHIND * (1 - body))
    lit = ground * (1 - tube) + colour * (tube + GLOW_POWER * glow)
    return lit.clamp(0, 1).reshape(stills.shape)
