"""Frames kept on disk between two steps of a job, without any loss."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elevator.video.io import VideoError, explained, replacing

__all__ = ["read_frames", "write_frames"]

_COUNT = "ELEVATOR_FRAMES"
_ARRAYS = {
    (np.dtype(np.uint8), 3): ("rgb24", "bgr0"),
    (np.dtype(np.uint8), 4): ("rgba", "bgra"),
    (np.dtype(np.uint16), 3): ("rgb48le", "rgb48le"),
    (np.dtype(np.uint16), 4): ("rgba64le", "rgba64le"),
}
_BACK = {stored: array for array, stored in _ARRAYS.values()}
_FORMS = {"gbrp16le": "rgb48le", "gbrap16le": "rgba64le"}


def write_frames(path: str | Path, frames: NDArray[Any]) -> None:
    """Write frames so that `read_frames` gives the same numbers; FFV1 in Matroska.

    The file is there when it is whole, and the same frames make the same bytes.

    Args:
        path: where to; what is there is replaced.
        frames: (F, H, W, 3 or 4) of uint8 or uint16, at least one.

    Raises:
        VideoError: frames of another kind, or a file that cannot be written.
    """
    import av

    target = Path(path)
    kind = _ARRAYS.get((frames.dtype, frames.shape[-1])) if frames.ndim == 4 else None
    if kind is None or 0 in frames.shape:
        raise VideoError(
            "frames must be (F, H, W, 3 or 4) of uint8 or uint16 and at least one, "
            f"got {frames.shape} of {frames.dtype}"
        )
    height, width = frames.shape[1:3]
    # Slices are what FFV1 works at side by side; each has its checksum.
    options = {"level": "3", "slicecrc": "1", "threads": "4", "coder": "1", "context": "0"}
    if min(height, width) >= 64:
        options["slices"] = "4"
    try:
        with (
            replacing(target) as aside,
            explained(target),
            av.open(
                f"file:{aside}", "w", format="matroska", container_options={"fflags": "+bitexact"}
            ) as container,
        ):
            container.metadata[_COUNT] = str(len(frames))
            stream = container.add_stream("ffv1", rate=Fraction(25), options=options)
            stream.width, stream.height, stream.pix_fmt = width, height, kind[1]
            for one in frames:
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(one), format=kind[0])
                container.mux(stream.encode(frame.reformat(format=kind[1])))
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
            stream = container.streams.video[0]
            stream.codec_context.options = {"err_detect": "crccheck+explode"}
            wanted, count = int(container.metadata.get(_COUNT, -1)), 0
            for frame in container.decode(stream):
                if frame.is_corrupt:
                    raise VideoError(damaged)
                yield frame.to_ndarray(
                    format=_BACK.get(frame.format.name) or _FORMS[frame.format.name]
                )
                count += 1
    except (av.FFmpegError, LookupError, ValueError, OSError) as error:
        if isinstance(error, VideoError):
            raise
        raise VideoError(damaged) from error
    if count != wanted:
        raise VideoError(damaged)
