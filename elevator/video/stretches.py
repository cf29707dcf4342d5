"""The stretches of a clip: cut from it, made larger, and put together again frame by frame."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from elevator.errors import ElevatorError
from elevator.upscale import Banded, Bicubic, Upscaler
from elevator.video.clip import Clip, Frame
from elevator.video.io import VideoError
from elevator.video.pixels import as_float, as_pixels
from elevator.video.windows import share

__all__ = ["crossfaded", "following", "larger", "stretches"]

Pixels: TypeAlias = NDArray[Any]


def stretches(
    clip: Clip, plan: Sequence[range], wanted: Sequence[int]
) -> Iterator[tuple[int, list[Pixels]]]:
    """The frames of some stretches; no more of the clip is held at once than one of them.

    Args:
        clip: read once, from the first frame that is wanted.
        plan: the stretches, in order.
        wanted: which of them, in order, at least one.

    Returns:
        The index of each and its frames.

    Raises:
        VideoError: the clip has fewer frames than planned.
    """
    place = plan[wanted[0]].start  # of the next frame
    source, held = clip.frames(place), deque[Pixels]()
    for index in wanted:
        span = plan[index]
        while place < span.stop:
            held.append(following(source, clip).pixels)
            place += 1
            if place <= span.start:
                held.clear()
        while len(held) > len(span):
            held.popleft()
        yield index, list(held)


def following(source: Iterator[Frame], clip: Clip) -> Frame:
    """The next frame of a clip that has been counted.

    Raises:
        VideoError: there is none.
    """
    frame = next(source, None)
    if frame is None:
        raise VideoError(f"{clip.path} has changed while it was read; start anew")
    return frame


def larger(
    frames: Sequence[Pixels], first_frame: int, keep: slice, upscaler: Upscaler, depth: int
) -> NDArray[Any]:
    """Frames (H, W, 3) made larger; how opaque they are, where they say so, by interpolation.

    Args:
        frames: of a stretch.
        first_frame: the index of the first of them in the whole clip.
        keep: those that are asked for.
        upscaler: how; one that gives bands takes no more memory than a band of them.
        depth: bits of a channel of the result; uint8 for 8, else uint16.

    Returns:
        (F, H, W, C).

    Raises:
        ElevatorError: not enough memory, or the upscaler gave another shape.
    """
    given = as_float(np.stack(frames))
    count, channels, height, width = given.shape
    wanted = (count, 3, upscaler.scale * height, upscaler.scale * width)
    kind = np.uint8 if depth == 8 else np.uint16
    try:
        made = np.empty((len(frames[keep]), *wanted[2:], channels), kind)
        if isinstance(upscaler, Banded):
            _fill(made, upscaler.bands(given[:, :3], first_frame, keep), depth)
        else:
            whole = upscaler(given[:, :3], first_frame)
            if whole.shape != wanted:
                raise ElevatorError(
                    f"{type(upscaler).__name__} gave frames of shape {tuple(whole.shape)}, "
                    f"not {wanted}"
                )
            _fill(made, [whole[keep]], depth)
    except (RuntimeError, MemoryError) as error:
        if not isinstance(error, MemoryError) and "allocate" not in str(error):
            raise
        raise ElevatorError(
            f"not enough memory for {count} frames of {width}x{height} at once; "
            "give a smaller --chunk, or smaller tiles"
        ) from error
    for place, alpha in enumerate(given[keep, 3:] if channels == 4 else ()):
        clear = Bicubic(upscaler.scale)(alpha.expand(3, -1, -1)[None], 0)[:, :1]
        made[place, ..., 3:] = as_pixels(clear, depth)[0]
    return made


def _fill(made: NDArray[Any], bands: Iterable[Float[Tensor, "f 3 rows w"]], depth: int) -> None:
    """Write the colours of frames, row by row from the top and frame by frame."""
    top = 0
    for band in bands:
        bottom = top + band.shape[2]
        for place, rows in enumerate(band):
            made[place, top:bottom, :, :3] = as_pixels(rows[None], depth)[0]
            del rows
        top = bottom
        del band  # before the next one is made


def crossfaded(stored: Iterable[Iterable[Pixels]], plan: Sequence[range]) -> Iterator[Pixels]:
    """The frames of stretches put together: `windows.blend`, one frame at a time.

    A frame of one stretch alone is given as it is; no more are held than stretches share.

    Args:
        stored: frames of every stretch, uint8 or uint16; taken one by one.
        plan: the stretches, in order.
    """
    held: dict[int, NDArray[np.float32]] = {}
    for index, (span, frames) in enumerate(zip(plan, stored, strict=True)):
        finished = plan[index + 1].start if index + 1 < len(plan) else span.stop
        weights = share(index, plan).tolist()
        for place, weight, frame in zip(span, weights, frames, strict=True):
            if weight == 1:
                yield frame
                continue
            mixed = np.float32(weight) * frame.astype(np.float32)
            if place in held:
                mixed += held.pop(place)
            if place < finished:
                yield mixed.round().astype(frame.dtype)
            else:
                held[place] = mixed
