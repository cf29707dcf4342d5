"""Clips from files of any kind and from folders of pictures, frame by frame."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

from elevator.video.clip import Clip, Frame, Track
from elevator.video.io import VideoError
from elevator.video.pictures import PICTURES, FolderClip, PictureClip
from elevator.video.stream import StreamClip

__all__ = ["Clip", "Frame", "Track", "open_video"]

_RATE = Fraction(24)  # of a folder, which holds none


def open_video(path: str | Path, rate: Fraction | int | float | None = None) -> Clip:
    """Open a clip and look at its first frame.

        with open_video("in.mp4") as clip:
            for frame in clip:
                frame.pixels, frame.time

    Frames come as they are shown (a display matrix is applied), with the times of the file, and
    as many as can be decoded: what a truncated file still holds is given, and `clip.notes` says
    what is missing. Colours are converted with the matrix and range the file names; where it names
    none, with those that players assume (BT.601 up to 1279x576, else BT.709, limited).

    Args:
        path: a video of any kind FFmpeg reads, a GIF, a WebP or another picture, or a folder of
            pictures, taken in the natural order of their names (2 before 10).
        rate: frames a second of a folder of pictures, 24 without; files have their own.

    Raises:
        VideoError: no such file, one that cannot be opened or decoded, one without a video stream
            or without a frame.
    """
    file = Path(path)
    speed = _RATE if rate is None else Fraction(rate).limit_denominator(1001)
    if speed <= 0:
        raise VideoError(f"frames a second must be more than 0, got {rate}")
    try:
        if not file.exists():
            raise VideoError(f"no file {file}: check the name")
        if file.is_dir():
            return FolderClip(file, speed)
        if not file.is_file():
            raise VideoError(f"cannot read {file}: it is neither a file nor a folder")
        if not os.access(file, os.R_OK):
            raise PermissionError(13, "permission denied")
        if file.stat().st_size == 0:
            raise VideoError(f"no frames in {file}: it is empty; copy or download it again")
        if file.suffix.lower() in PICTURES:
            return PictureClip(file, speed)
        return StreamClip(file)
    except PermissionError as error:
        raise VideoError(
            f"cannot read {file}: permission denied; make it readable, or copy it"
        ) from error
