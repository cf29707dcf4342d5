"""Uneven light, as in amateur video: brighter on one side, warm above, darker at the start."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["lamp"]

SIDE = 0.25
"""How much brighter the left border is than the middle, and darker the right one."""
WARMTH = 0.15
"""How much red the upper border gains and blue it loses; the lower one the other way round."""
SETTLING = 0.25
"""How much darker the clip is just before its first frame than after its last, evenly settling."""


def lamp(clips: Float[Tensor, "*batch f c h w"]) -> Float[Tensor, "*batch f c h w"]:
    """Light clips from the left and from above, while the exposure settles; deterministic.

    To a model that learns from such clips, left, up and early look different from right, down and
    late even where all else is noise. Without, a small convolutional network hardly knows where in
    the frame and when in the clip it is, and cannot tell what "moving left" means.

    Args:
        clips: RGB in [0, 1].

    Returns:
        New clips of the same shape and dtype, in [0, 1].
    """
    frames, _, height, width = clips.shape[-4:]

    def ramp(count: int) -> Tensor:
        return (torch.arange(count, dtype=clips.dtype, device=clips.device) + 0.5) * 2 / count - 1

    side = 1 - SIDE * ramp(width)
    exposure = 1 - SETTLING * (1 - ramp(frames)) / 2
    tint = torch.tensor([1.0, 0.0, -1.0], dtype=clips.dtype, device=clips.device)
    warmth = WARMTH * tint[:, None, None] * ramp(height)[:, None]
    return (exposure[:, None, None, None] * (clips * side - warmth)).clamp(0, 1)
