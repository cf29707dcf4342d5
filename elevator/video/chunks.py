"""Frames kept on disk between two steps of a job, without any loss."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from elevator.video.io import VideoError, explained, replacing

__all__ = ["read_frames", "write_frames"]

_SUMS, _SIZE = "ELEVATOR_SUMS", "ELEVATOR_SIZE"
_LEAST = 2  # pixels of a side, of which FFV1 can make slices
_ARRAYS = {
    (np.dtype(np.uint8), 3): "rgb24",
    (np.dtype(np.uint8), 4): "rgba",
    (np.dtype(np.uint16), 3): "rgb48le",
    (np.dtype(np.uint16), 4): "rgba64le",
}
_CODED = {"rgb24": "bgr0", "rgba": "bgra", "rgb48le": "rgb48le", "rgba64le": "rgba64le"}
_DECODED = {"bgr0": "rgb24", "bgra": "rgba", "gbrp16le": "rgb48le", "gbrap16le": "rgba64le"}


def write_frames(path: str | Path, frames: NDArray[Any]) -> None:
    """Write frames so that `read_frames` gives the same numbers.

    The file, FFV1 in Matroska, is there when it is whole; the same frames make the same bytes.

    Args:
        path: where to; what is there is replaced.
        frames: (F, H, W, 3 or 4) of uint8 or uint16, at least one.

    Raises:
        VideoError: frames of another kind, or a file that cannot be written.
    """
    import av

    target = Path(path)
    form = _ARRAYS.get((frames.dtype, frames.shape[-1])) if frames.ndim == 4 else None
    if form is None or 0 in frames.shape:
        raise VideoError(
            "frames must be (F, H, W, 3 or 4) of uint8 or uint16 and at least one, "
            f"got {frames.shape} of {frames.dtype}"
        )
    height, width = frames.shape[1:3]
    spare = max(0, _LEAST - height), max(0, _LEAST - width)
    # How many slices is left to FFV1, which takes only so many pixels in one.
    options = {"level": "3", "threads": "4"}
    try:
        with (
            replacing(target) as aside,
            explained(target),
            av.open(
                f"file:{aside}", "w", format="matroska", container_options={"fflags": "+bitexact"}
            ) as container,
        ):
            sums = (f"{crc32(one.tobytes()):08x}" for one in frames)
            container.metadata[_SUMS] = " ".join(sums)
            container.metadata[_SIZE] = f"{width}x{height}"
            stream = container.add_stream("ffv1", rate=Fraction(25), options=options)
            stream.height, stream.width = height + spare[0], width + spare[1]
            stream.pix_fmt = _CODED[form]
            for one in frames:
                padded = np.pad(one, ((0, spare[0]), (0, spare[1]), (0, 0)))
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(padded), format=form)
                container.mux(stream.encode(frame.reformat(format=_CODED[form])))
            container.mux(stream.encode(None))
    except av.FFmpegError as error:
        raise VideoError(f"cannot write {target}: {error.strerror}") from error


def read_frames(path: str | Path) -> Iterator[NDArray[Any]]:
    """The frames of a file that `write_frames` made, one by one: (H, W, 3 or 4).

    Raises:
        VideoError: no such file, or one that is not as it was written.
    """
    import av

    file = Path(path)
    if not file.is_file():
        raise VideoError(f"no file {file}: check the name")
    damaged = f"cannot read {file}: it is not as it was written; remove it and make it again"
    try:
        with av.open(f"file:{file}") as container:
            sums = container.metadata[_SUMS].split()
            width, height = map(int, container.metadata[_SIZE].split("x"))
            count = 0
            for frame in container.decode(video=0):
                padded: NDArray[Any] = frame.to_ndarray(format=_DECODED[frame.format.name])
                found = np.ascontiguousarray(padded[:height, :width])
                if f"{crc32(found.tobytes()):08x}" != sums[count]:
                    raise ValueError("another sum")
                count += 1
                yield found
            if count != len(sums):
                raise ValueError("too few frames")
    except (av.FFmpegError, LookupError, ValueError, OSError) as error:
        raise VideoError(damaged) from error
