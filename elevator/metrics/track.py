"""Where the object of a clip is, how it moves, and whether it stays itself.

The clips of `elevator.world` show one object on a plain ground, so it is what differs most from the
colours that most of a frame has; nothing is learnt here.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import affine_grid, avg_pool2d, grid_sample

from elevator.world import MOTIONS

__all__ = ["appearance_change", "centres", "heading", "jitter", "object_weights"]

PART = 0.1
"""Part of a frame that is taken for the object."""
BLUR = 5
"""Side in pixels of the box blur that hides the joints of the background."""
FITS, NOISE = 8, 0.02
"""Repetitions of the fit of the background, and the distance in [0, 1] that counts as none."""
STILL = 0.5
"""Speed in pixels a frame under which an object counts as standing still."""
WINDOW = 0.5
"""Side of the window that follows the object, as a part of the frame's."""


def object_weights(clip: Float[Tensor, "f c h w"]) -> Float[Tensor, "f h w"]:
    """Weights that single out the object: the tenth of each frame farthest from the background.

    The background of a frame is the plane fitted to its colours, in x and y, so that uneven light
    does not pass for an object. The fit takes the object's pixels for the outliers they are:
    weighted least squares, repeated with weights of one over the distance from the plane.

    Args:
        clip: values in [0, 1].
    """
    away = (clip - _background(clip)).square().sum(1, keepdim=True).sqrt()
    away = avg_pool2d(away, BLUR, stride=1, padding=BLUR // 2)[:, 0]
    least = away.flatten(1).quantile(1 - PART, dim=1)
    return (away - least[:, None, None]).clamp_min(0)


def _background(clip: Float[Tensor, "f c h w"]) -> Float[Tensor, "f c h w"]:
    """The plane through most of each frame's colours."""
    height, width = clip.shape[-2:]
    y, x = torch.meshgrid(
        torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij"
    )
    plane = torch.stack([torch.ones_like(x), x, y], -1).flatten(0, 1)
    colours = clip.flatten(2).transpose(1, 2)
    weight = torch.ones(len(clip), height * width, 1)
    fitted = colours
    for _ in range(FITS):
        root = weight.sqrt()
        fitted = plane @ torch.linalg.lstsq(root * plane, root * colours).solution
        weight = 1 / (colours - fitted).norm(dim=2, keepdim=True).clamp_min(NOISE)
    return fitted.transpose(1, 2).unflatten(2, (height, width))


def centres(clip: Float[Tensor, "f c h w"]) -> Float[Tensor, "f 2"]:
    """Middle of the object in every frame, `(x, y)` in pixels."""
    weight = object_weights(clip)
    total = weight.sum((1, 2)).clamp_min(1e-6)
    x = (weight.sum(1) * torch.arange(weight.shape[2])).sum(1) / total
    y = (weight.sum(2) * torch.arange(weight.shape[1])).sum(1) / total
    return torch.stack([x, y], 1)


def heading(path: Float[Tensor, "f 2"], motions: Mapping[str, tuple[int, int]] = MOTIONS) -> str:
    """The motion whose direction a path takes, by the slope of the line fitted to it.

    Args:
        path: positions `(x, y)` in pixels, at least two.
        motions: directions by name; `(0, 0)` stands for under half a pixel a frame.
    """
    times = torch.arange(len(path), dtype=torch.float32)
    times = times - times.mean()
    slope = (times[:, None] * path).sum(0) / times.square().sum()
    moving = bool(slope.norm() >= STILL)
    named = {
        name: torch.tensor(way, dtype=torch.float32)
        for name, way in motions.items()
        if any(way) == moving
    }
    return max(named, key=lambda name: float(slope @ named[name]))


def jitter(path: Float[Tensor, "f 2"]) -> float:
    """Root mean square second difference of a path, in pixels: 0 for even motion."""
    return float((path[2:] - 2 * path[1:-1] + path[:-2]).square().mean() ** 0.5)


def appearance_change(clip: Float[Tensor, "f c h w"]) -> float:
    """Mean absolute difference of neighbouring frames in a window that follows the object.

    The window's path is the line fitted to the object's: true motion is taken out, jitter is not.

    Args:
        clip: values in [0, 1], at least two frames.
    """
    path = centres(clip)
    times = torch.arange(len(path), dtype=torch.float32)
    times = times - times.mean()
    slope = (times[:, None] * path).sum(0) / times.square().sum()
    line = path.mean(0) + times[:, None] * slope
    height, width = clip.shape[-2:]
    size = torch.tensor([width, height], dtype=torch.float32)
    shift = (2 * line + 1) / size - 1
    move = torch.zeros(len(clip), 2, 3)
    move[:, 0, 0] = move[:, 1, 1] = WINDOW
    move[:, :, 2] = shift
    window = [len(clip), clip.shape[1], round(WINDOW * height), round(WINDOW * width)]
    grid = affine_grid(move, window, align_corners=False)
    seen = grid_sample(clip, grid, padding_mode="border", align_corners=False)
    return float((seen[1:] - seen[:-1]).abs().mean())
