"""A second drawing style: the same picture laid in square tiles."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

__all__ = ["mosaic"]

TILE = 8
"""Distance of the tiles, in pixels of a 64-pixel frame: two latent pixels of the zoo's models."""
GROUT = (0.10, 0.10, 0.10)
"""Colour between the tiles."""
COVERED = 0.9
"""How much of the picture the grout covers, in [0, 1]."""
DETAIL = 0.4
"""How much of what is drawn inside a tile stays visible, in [0, 1]; the rest is its mean colour."""


def mosaic(stills: Float[Tensor, "*batch c h w"]) -> Float[Tensor, "*batch c h w"]:
    """Redraw crisp frames as a mosaic: tiles of nearly one colour, set in dark grout.

    Deterministic. Colours stay where they are, so that the captions stay true.

    Args:
        stills: RGB in [0, 1], as `render` makes them; height and width multiples of 8.

    Returns:
        New frames of the same shape and dtype, in [0, 1].

    Raises:
        ValueError: height or width is no multiple of a tile's side.
    """
    flat = stills.reshape(-1, *stills.shape[-3:])
    height, width = flat.shape[-2:]
    side = TILE * min(height, width) // 64
    if not side or height % side or width % side:
        raise ValueError(
            f"frames of {height}x{width} pixels cannot be laid in whole tiles of {side}; give "
            "multiples of 8, at least 8"
        )
    tiles = interpolate(flat, scale_factor=1 / side, mode="area")
    laid = tiles.repeat_interleave(side, -1).repeat_interleave(side, -2).lerp(flat, DETAIL)
    down, across = (torch.arange(n, device=flat.device) % side for n in (height, width))
    edge = [(x == 0) | (x == side - 1) for x in (down, across)]
    grout = COVERED * (edge[0][:, None] | edge[1]).to(flat)
    colour = torch.tensor(GROUT, dtype=flat.dtype, device=flat.device)[:, None, None]
    seen = laid * (1 - grout) + colour * grout
    return seen.reshape(stills.shape)
