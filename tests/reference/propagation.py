"""Upscale-A-Video's propagation of one clip, frame by frame and pixel by pixel."""

import torch
from torch import Tensor

from tests.reference.warp import warp_pixel_by_pixel


def trusted(there: Tensor, back: Tensor, alpha1: float, alpha2: float) -> Tensor:
    """Where the way there and back ends where it began: `1 h w` of 0 and 1."""
    returned = warp_pixel_by_pixel(back[None], there[None], "zeros")[0]
    _, h, w = there.shape
    mask = torch.zeros(1, h, w)
    for row in range(h):
        for column in range(w):
            f, g = there[:, row, column], returned[:, row, column]
            bound = alpha1 * (f.dot(f) + g.dot(g)) + alpha2
            mask[0, row, column] = float((f + g).dot(f + g) < bound)
    return mask


def propagate(
    clip: Tensor,
    forward: Tensor,
    backward: Tensor,
    fuse: float,
    alpha1: float = 0.001,
    alpha2: float = 0.05,
) -> Tensor:
    """Carry frames backwards, then forwards, with bilinear warps.

    Args:
        clip: `f c h w`.
        forward: `f-1 2 h w`, from each frame to the next.
        backward: `f-1 2 h w`, from each next frame back.
        fuse: share of the neighbour.
        alpha1: of the mask.
        alpha2: of the mask.
    """

    def step(frame: Tensor, neighbour: Tensor, there: Tensor, back: Tensor) -> Tensor:
        mask = trusted(there, back, alpha1, alpha2)
        carried = warp_pixel_by_pixel(neighbour[None], there[None], "zeros")[0]
        return mask * (fuse * carried + (1 - fuse) * frame) + (1 - mask) * frame

    frames = list(clip)
    for i in range(len(frames) - 2, -1, -1):
        frames[i] = step(frames[i], frames[i + 1], forward[i], backward[i])
    for i in range(1, len(frames)):
        frames[i] = step(frames[i], frames[i - 1], backward[i - 1], forward[i - 1])
    return torch.stack(frames)
