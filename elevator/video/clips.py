"""Clips from files, and clips made to fit a size."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, ImageSequence

from elevator.video.io import VideoError

__all__ = ["fit", "read_video"]

_PICTURES = {".gif", ".webp", ".png", ".jpg", ".jpeg"}


def read_video(path: str | Path, frames: int, every: int = 1) -> NDArray[np.uint8]:
    """The first frames of a clip, or the first of each `every`-th; (F, H, W, 3).

    No more of the file is decoded than that.

    Args:
        path: a video of any kind FFmpeg reads, a GIF or WebP, or a folder of pictures, taken in
            the order of their names.
        frames: how many.
        every: 3 takes frames 0, 3, 6, ...: a clip of 24 frames a second at 8.

    Raises:
        VideoError: no such file, one that cannot be read, frames of different sizes, or fewer
            frames than asked for.
    """
    file = Path(path)
    if not file.exists():
        raise VideoError(f"no file {file}: check the name")
    read = _folder if file.is_dir() else _pictures
    if read is _pictures and file.suffix.lower() not in _PICTURES:
        read = _stream
    try:
        found = [*islice(read(file), 0, (frames - 1) * every + 1, every)]
    except (OSError, SyntaxError, ValueError, LookupError) as error:
        raise VideoError(f"cannot read {file}: it is damaged or not a video") from error
    if not found:
        raise VideoError(f"no frames in {file}: it is damaged, or neither a video nor pictures")
    if len(found) < frames:
        apart = f", {every} apart," if every > 1 else ""
        raise VideoError(
            f"{file} has {len(found)} of the {frames} frames{apart} that are needed; ask for "
            "fewer frames, or give a longer clip"
        )
    if len({one.shape for one in found}) > 1:
        raise VideoError(f"the frames of {file} differ in size; give frames of one size")
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


# --- one reader per kind of file ------------------------------------------------------------------


def _stream(file: Path) -> Iterator[NDArray[Any]]:
    import av

    try:
        with av.open(str(file)) as container:
            if not container.streams.video:
                raise ValueError("no video stream")
            for frame in container.decode(video=0):
                yield frame.to_ndarray(format="rgb24")
    except av.FFmpegError as error:  # not all of them are OSError or ValueError
        raise ValueError(str(error)) from error


def _pictures(file: Path) -> Iterator[NDArray[Any]]:
    with Image.open(file) as picture:
        for frame in ImageSequence.Iterator(picture):
            yield np.asarray(frame.convert("RGB"))


def _folder(folder: Path) -> Iterator[NDArray[Any]]:
    for file in sorted(folder.iterdir()):
        if file.suffix.lower() in _PICTURES:
            yield next(_pictures(file))
