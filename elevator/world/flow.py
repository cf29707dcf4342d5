"""The exact motion of every pixel, which nobody knows for real videos."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from elevator.world.layout import layout
from elevator.world.render import cover
from elevator.world.scene import Scene

__all__ = ["flow"]


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
        Displacements (dx, dy) in pixels, x to the right and y down: the object's where it covers at
        least half of a pixel, zero elsewhere.
    """
    if frames < 2:
        raise ValueError(f"flow got frames={frames}; motion needs at least two.")
    where = layout(scenes, frames=frames, size=size, seed=seed)
    main, second = cover(scenes, where, size)
    body = (main + second >= 0.5).float()
    step = where.centre.diff(dim=1)[..., None, None]
    return -step * body[:, 1:] if backward else step * body[:, :-1]
