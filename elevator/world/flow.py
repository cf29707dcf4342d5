"""The exact motion of every pixel, which nobody knows for real videos, and what it hides."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from elevator.world.layout import Layout, layout
from elevator.world.render import cover, cover_behind
from elevator.world.scene import Scene

__all__ = ["flow", "occlusion"]

BACKGROUND, BEHIND, FRONT = range(3)
"""What a pixel may show."""


def flow(
    scenes: Sequence[Scene],
    *,
    frames: int = 8,
    size: int = 64,
    seed: int | Sequence[int] = 0,
    backward: bool = False,
) -> Float[Tensor, "b steps 2 h w"]:
    """Optical flow of the clips that `render` draws from the same arguments.

    Args:
        scenes: what is drawn.
        frames: frames of every clip, at least two.
        size: height and width in pixels.
        seed: as for `render`.
        backward: from frame `i + 1` to frame `i`, on the pixels of frame `i + 1`; otherwise from
            frame `i` to frame `i + 1`, on the pixels of frame `i`.

    Returns:
        Displacements (dx, dy) in pixels, x to the right and y down: the moving object's where it
        covers at least half of a pixel, zero elsewhere.
    """
    where = _layout(scenes, frames, size, seed)
    shown, _ = _ends(_labels(scenes, where, size), backward)
    moves = _displacement(where, size, backward)
    return torch.where((shown == FRONT)[:, :, None], moves, torch.zeros(()))


def occlusion(
    scenes: Sequence[Scene],
    *,
    frames: int = 8,
    size: int = 64,
    seed: int | Sequence[int] = 0,
    backward: bool = False,
) -> Bool[Tensor, "b steps h w"]:
    """Where what a pixel shows cannot be seen where `flow` carries it.

    Args:
        scenes: as for `flow`.
        frames: as for `flow`.
        size: as for `flow`.
        seed: as for `flow`.
        backward: as for `flow`: what frame `i + 1` shows and frame `i` does not.
    """
    where = _layout(scenes, frames, size, seed)
    shown, later = _ends(_labels(scenes, where, size), backward)
    moves = _displacement(where, size, backward) * (shown == FRONT)[:, :, None]
    ticks = torch.arange(size)
    x = (ticks + moves[:, :, 0]).round().long()
    y = (ticks[:, None] + moves[:, :, 1]).round().long()
    outside = (x < 0) | (y < 0) | (x >= size) | (y >= size)
    places = (y.clamp(0, size - 1) * size + x.clamp(0, size - 1)).flatten(2)
    there = later.flatten(2).gather(2, places).unflatten(2, (size, size))
    return outside | (there != shown)


def _layout(scenes: Sequence[Scene], frames: int, size: int, seed: int | Sequence[int]) -> Layout:
    if frames < 2:
        raise ValueError(f"flow got frames={frames}; motion needs at least two.")
    return layout(scenes, frames=frames, size=size, seed=seed)


def _labels(scenes: Sequence[Scene], where: Layout, size: int) -> Int[Tensor, "b f h w"]:
    """What every pixel shows: whatever covers at least half of it and is in front."""
    front = torch.add(*cover(scenes, where, size))[:, :, 0] >= 0.5
    labels = torch.full(front.shape, BACKGROUND)
    pairs = [i for i, scene in enumerate(scenes) if scene.behind is not None]
    if pairs:
        behind = torch.add(*cover_behind(scenes, where, size, pairs))[:, :, 0] >= 0.5
        labels[pairs] = torch.where(behind, BEHIND, labels[pairs])
    return torch.where(front, FRONT, labels)


def _ends(per_frame: Tensor, backward: bool) -> tuple[Tensor, Tensor]:
    """The frame a step starts from and the one it leads to."""
    earlier, later = per_frame[:, :-1], per_frame[:, 1:]
    return (later, earlier) if backward else (earlier, later)


def _displacement(where: Layout, size: int, backward: bool) -> Float[Tensor, "b steps 2 h w"]:
    """Where a point that moves, turns and grows with the object goes."""
    ticks = torch.arange(size) + 0.5
    from_, to = _ends(where.centre[..., None, None], backward)
    x, y = ticks - from_[:, :, 0], ticks[:, None] - from_[:, :, 1]
    before, after = _ends(where.angle, backward)
    smaller, larger = _ends(where.radius, backward)
    turn, scale = (after - before)[..., None, None], (larger / smaller)[..., None, None]
    cos, sin = scale * turn.cos(), scale * turn.sin()
    moved = torch.stack([x * cos - y * sin - x, x * sin + y * cos - y], 2)
    return moved + (to - from_)
