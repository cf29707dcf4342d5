"""Where things are in a clip: everything about it that is drawn from a seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from elevator.world.scene import MOTIONS, Scene

__all__ = ["Layout", "layout"]

SIZE = 64
"""Frame size, in pixels, in which the lengths below are given; other sizes scale them."""
RADIUS = (11.0, 15.0)
"""Half the width of an object, in pixels."""
TRAVEL = (2.0, 2.8)
"""Speed of a moving object in pixels a frame; slower where it would leave the frame."""
START = 3.0
"""Distance from the middle, in pixels, within which a moving object starts along its way."""
MARGIN = 1.5
"""Least distance, in pixels, between an object and the border."""


@dataclass(frozen=True)
class Layout:
    """Geometry of a batch of clips; lengths in pixels, x to the right, y down.

    Attributes:
        centre: middle of the object in every frame, `(x, y)`.
        radius: half its width.
        phase: where the object's texture starts, in periods in [0, 1), for x and y.
        joints: kind of background pattern: 0 horizontal lines, 1 vertical lines, 2 both.
        offset: shift of the background pattern, in periods in [0, 1), for x and y.
        shade: direction and phase of the two slow waves that shade the background.
    """

    centre: Float[Tensor, "b f 2"]
    radius: Float[Tensor, " b"]
    phase: Float[Tensor, "b 2"]
    joints: Int[Tensor, " b"]
    offset: Float[Tensor, "b 2"]
    shade: Float[Tensor, "b 2 3"]


def layout(scenes: Sequence[Scene], *, frames: int, size: int, seed: int | Sequence[int]) -> Layout:
    """Draw the geometry of every scene; scene `i` of an integer seed uses `seed + i`.

    The object of a moving scene starts near the middle, moves evenly and stays in view in all
    frames: words of motion then tell where it will be as well as how it moves, and a small model
    learns the first long before the second. In a still it may be anywhere.
    """
    if not scenes or frames < 1 or size < 16:
        raise ValueError(
            f"layout got {len(scenes)} scenes, frames={frames}, size={size}; "
            "give at least one scene, one frame and 16 pixels."
        )
    seeds = [seed + i for i in range(len(scenes))] if isinstance(seed, int) else list(seed)
    if len(seeds) != len(scenes):
        raise ValueError(
            f"layout got {len(seeds)} seeds for {len(scenes)} scenes; "
            "give one integer, or one for each scene."
        )
    draws = np.stack([np.random.default_rng(s).random(16) for s in seeds])
    unit = size / SIZE
    radius = unit * (RADIUS[0] + (RADIUS[1] - RADIUS[0]) * draws[:, 0])
    room = (size - 2 * (radius + MARGIN * unit))[:, None]
    direction = np.array([MOTIONS[s.motion] if frames > 1 else (0, 0) for s in scenes], dtype=float)
    speed = unit * (TRAVEL[0] + (TRAVEL[1] - TRAVEL[0]) * draws[:, 1:2])
    aside = 2 * draws[:, 2:4] - 1
    start = size / 2 + np.where(direction == 0, room / 2, START * unit) * aside
    left = np.abs(size / 2 + direction * room / 2 - start)
    travel = np.minimum(speed * (frames - 1), left) * direction
    centre = start[:, None] + np.linspace(0.0, 1.0, frames)[:, None] * travel[:, None]

    def tensor(values: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))

    return Layout(
        centre=tensor(centre),
        radius=tensor(radius),
        phase=tensor(draws[:, 4:6]),
        joints=torch.from_numpy((draws[:, 6] * 3).astype(np.int64)),
        offset=tensor(draws[:, 7:9]),
        shade=tensor(draws[:, 9:15].reshape(-1, 2, 3)),
    )
