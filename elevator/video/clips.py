"""Clips from files, and clips made to fit a size."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from elevator.video.io import VideoError
from elevator.video.pixels import of_depth
from elevator.video.reader import open_video

__all__ = ["fit", "read_video"]


def read_video(path: str | Path, frames: int, every: int = 1) -> NDArray[np.uint8]:
    """The first frames of a clip, or the first of each `every`-th; (F, H, W, 3).

    No more of the file is decoded than that.

    Args:
        path: a video of any kind FFmpeg reads, a GIF or WebP, or a folder of pictures, taken in
            the natural order of their names.
        frames: how many.
        every: 3 takes frames 0, 3, 6, ...: a clip of 24 frames a second at 8.

    Raises:
        VideoError: no such file, one that cannot be read, frames of different sizes, or fewer
            frames than asked for.
    """
    with open_video(path) as clip:
        found = [
            of_depth(frame.pixels[..., :3], 8)
            for frame in islice(clip, 0, (frames - 1) * every + 1, every)
        ]
    if len(found) < frames:
        apart = f", {every} apart," if every > 1 else ""
        raise VideoError(
            f"{path} has {len(found)} of the {frames} frames{apart} that are needed; ask for "
            "fewer frames, or give a longer clip"
        )
    return np.stack(found)


def fit(frames: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """Frames of another size: scaled until they cover it, then cut around the middle.

    Frames of that size are returned as they are.

    Args:
        frames: (F, H, W, 3).
        width: in pixels.
        height: in pixels.
    """
    if frames.shape[1:3] == (height, width):
        return frames
    size, filtered = (width, height), Image.Resampling.LANCZOS
    return np.stack(
        [np.asarray(ImageOps.fit(Image.fromarray(one), size, filtered)) for one in frames]
    )
