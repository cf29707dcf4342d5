"""Where things are in a clip: everything about it that is drawn from a seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
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
TURN = (0.2, 0.4)
"""Speed of a turning object in radians a frame, either way round."""
CIRCLE = (6.0, 9.0)
"""Radius of the way of an object that goes in circles, in pixels."""
SMALL = 0.55
"""Size at which an object starts to grow or ends to shrink, as a part of its full size."""
RADIUS_BEHIND = (9.0, 12.0)
"""Half the width of an object behind another, in pixels."""
AHEAD = 14.0
"""Farthest distance, in pixels, of an object from the middle towards where the one in front of it
goes."""


@dataclass(frozen=True)
class Layout:
    """Geometry of a batch of clips; lengths in pixels, x to the right, y down.

    Attributes:
        centre: middle of the object in every frame, `(x, y)`.
        radius: half its width in every frame.
        angle: how far it has turned in every frame, in radians, clockwise.
        phase: where the object's texture starts, in periods in [0, 1), for x and y.
        behind: middle of the object behind it, for scenes that have one.
        behind_radius: half the width of that object.
        behind_phase: where its texture starts.
        joints: kind of background pattern: 0 horizontal lines, 1 vertical lines, 2 both.
        offset: shift of the background pattern, in periods in [0, 1), for x and y.
        shade: direction and phase of the two slow waves that shade the background.
    """

    centre: Float[Tensor, "b f 2"]
    radius: Float[Tensor, "b f"]
    angle: Float[Tensor, "b f"]
    phase: Float[Tensor, "b 2"]
    behind: Float[Tensor, "b 2"]
    behind_radius: Float[Tensor, " b"]
    behind_phase: Float[Tensor, "b 2"]
    joints: Int[Tensor, " b"]
    offset: Float[Tensor, "b 2"]
    shade: Float[Tensor, "b 2 3"]


def layout(scenes: Sequence[Scene], *, frames: int, size: int, seed: int | Sequence[int]) -> Layout:
    """Draw the geometry of every scene; scene `i` of an integer seed uses `seed + i`.

    The object of a moving scene starts near the middle, moves evenly and stays in view in all
    frames: words of motion then tell where it will be as well as how it moves, and a small model
    learns the first long before the second. What stands, turns, grows or shrinks does so anywhere
    in view, as does the object of a still. A second object stands where the first one goes.
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
    draws = np.stack([np.random.default_rng(s).random(24) for s in seeds])
    unit = size / SIZE
    radius = unit * _between(RADIUS, draws[:, 0])
    room = (size - 2 * (radius + MARGIN * unit))[:, None]
    motions = [s.motion if frames > 1 else "standing still" for s in scenes]
    direction = np.array([MOTIONS.get(motion, (0, 0)) for motion in motions], dtype=float)
    speed = unit * _between(TRAVEL, draws[:, 1:2])
    aside = 2 * draws[:, 2:4] - 1
    circling = np.array([motion == "going in circles" for motion in motions])[:, None]
    near = (direction != 0) | circling
    start = size / 2 + np.where(near, START * unit, room / 2) * aside
    left = np.abs(size / 2 + direction * room / 2 - start)
    travel = np.minimum(speed * (frames - 1), left) * direction
    centre = start[:, None] + np.linspace(0.0, 1.0, frames)[:, None] * travel[:, None]
    times = np.arange(frames)
    sense = np.where(draws[:, 15:16] < 0.5, -1.0, 1.0)
    orbit = unit * _between(CIRCLE, draws[:, 16:17])
    way = 2 * np.pi * draws[:, 17:18] + sense * speed / orbit * times
    circle = orbit[..., None] * np.stack([np.cos(way), np.sin(way)], -1)
    centre = np.where(circling[..., None], centre + circle, centre)
    turning = np.array([motion == "turning around" for motion in motions])[:, None]
    angle = np.where(turning, sense * _between(TURN, draws[:, 16:17]) * times, 0.0)
    ends = np.array([_ENDS.get(motion, (1.0, 1.0)) for motion in motions])
    sizes = ends[:, :1] + (ends[:, 1:] - ends[:, :1]) * np.linspace(0.0, 1.0, frames)
    behind = size / 2 + unit * (AHEAD * draws[:, 18:19] * direction + START * aside[:, ::-1])

    def tensor(values: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))

    return Layout(
        centre=tensor(centre),
        radius=tensor(radius[:, None] * sizes),
        angle=tensor(angle),
        phase=tensor(draws[:, 4:6]),
        behind=tensor(behind),
        behind_radius=tensor(unit * _between(RADIUS_BEHIND, draws[:, 19])),
        behind_phase=tensor(draws[:, 20:22]),
        joints=torch.from_numpy((draws[:, 6] * 3).astype(np.int64)),
        offset=tensor(draws[:, 7:9]),
        shade=tensor(draws[:, 9:15].reshape(-1, 2, 3)),
    )


_ENDS = {"growing": (SMALL, 1.0), "shrinking": (1.0, SMALL)}


def _between(ends: tuple[float, float], part: NDArray[np.float64]) -> NDArray[np.float64]:
    return ends[0] + (ends[1] - ends[0]) * part
