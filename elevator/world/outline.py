"""Where the object of a crisp frame is, and where its edges are: what drawing styles start from."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import max_pool2d, pad

__all__ = ["outline"]


def outline(
    frames: Float[Tensor, "n c h w"],
) -> tuple[Float[Tensor, "n 1 h w"], Float[Tensor, "n 1 h w"]]:
    """How much a pixel belongs to the object, and how much to one of the object's edges.

    What differs from the colour along the frame's border, and is not a thin line, is the object.
    """
    border = torch.cat([frames[..., 0, :], frames[..., -1, :], frames[..., 0], frames[..., -1]], -1)
    behind = border.median(-1).values[..., None, None]
    far = (frames - behind).abs().amax(1, keepdim=True)
    far = _spread(-_spread(-far))
    body = ((far - 0.12) / 0.08).clamp(0, 1)
    return body, _edges(frames * body + behind * (1 - body))


def _spread(plane: Float[Tensor, "n 1 h w"]) -> Float[Tensor, "n 1 h w"]:
    """The largest value within one pixel. Of the negative first, it takes thin lines away."""
    return max_pool2d(plane, 3, stride=1, padding=1)


def _edges(frames: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 1 h w"]:
    """How strongly the colour changes at a pixel, 0 where it hardly does, 1 at a clear edge."""
    around = pad(frames, (1,) * 4, mode="replicate")
    across = (around[..., 1:-1, 2:] - around[..., 1:-1, :-2]).abs()
    down = (around[..., 2:, 1:-1] - around[..., :-2, 1:-1]).abs()
    return ((torch.maximum(across, down).amax(1, keepdim=True) - 0.22) / 0.2).clamp(0, 1)
