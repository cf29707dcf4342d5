"""Clips to files and folders, frame by frame, whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from os import PathLike, fspath, sep
from pathlib import Path
from typing import Any

from elevator.video.clip import Clip
from elevator.video.coding import ENDINGS
from elevator.video.frames import FolderWriter, StreamWriter, Writer
from elevator.video.io import VideoError, check_place, replacing
from elevator.video.pictures import listed

__all__ = ["Writer", "check_video_target", "create_video"]

_RATE = Fraction(24)


def check_video_target(path: str | Path, like: Clip | None = None) -> None:
    """Find out, before any work is done, whether `create_video` can write there.

    Args:
        path: where to: a file, or a folder (no ending, or a `/` at the end).
        like: the clip it is made from, which is not to be written over.

    Raises:
        VideoError: an ending that is not known, a place that is missing or cannot be written to, a
            folder that holds other things, or the clip itself.
    """
    target, folder = Path(path), _is_folder(path)
    suffix = target.suffix.lower()
    if not folder and suffix not in ENDINGS:
        raise VideoError(
            f"cannot write {fspath(path)} frame by frame: {suffix} is none of "
            f"{', '.join(ENDINGS)}, or no ending for a folder of PNG files"
        )
    if like is not None and target.exists() and target.samefile(like.path):
        raise VideoError(f"cannot write {target}: it is the clip itself; give another name")
    check_place(target, folder)
    if folder and target.exists() and not _replaceable(target, like):
        raise VideoError(
            f"cannot write frames to {target}: it exists and holds other things; "
            "give a new folder, or an ending of .mp4, .mkv, .mov or .webm"
        )


@contextmanager
def create_video(
    path: str | Path,
    like: Clip | None = None,
    width: int | None = None,
    height: int | None = None,
    *,
    crf: float = 17,
    rate: Fraction | float | None = None,
    depth: int | None = None,
    alpha: bool | None = None,
    whole: bool = True,
    metadata: Mapping[str, Any] | None = None,
) -> Iterator[Writer]:
    """Create a video, or a folder of PNG files, that is there when the block ends well.

        with open_video("in.mp4") as clip, create_video("out.mp4", clip, 1280, 720) as out:
            for frame in clip:
                out.write(enlarge(frame.pixels), frame.time, frame.duration)
        print(*out.notes)

    It has as many frames as are written, at their times, of exactly the size asked for. What it
    takes from `like`: the unit of time, rate, depth, alpha, shape of pixels and colour labels;
    and sound and subtitles, copied as they are coded where the kind of file can hold them, with
    title and chapters. The same frames make the same bytes.

    Args:
        path: `.mp4`, `.mkv`, `.mov` or `.webm`, or a folder (no ending, or a `/` at the end).
        like: the clip it is made from.
        width: in pixels; that of `like` without.
        height: likewise.
        crf: constant rate factor on x264's scale, 0 (best) to 51.
        rate: frames a second, on average; that of `like`, else 24.
        depth: bits of a channel: 8, 10 or 16; that of `like`, else 8.
        alpha: whether to keep a fourth channel; as `like`, else not.
        whole: copy sound and subtitles to their end; else up to the end of the last frame, for
            the first part of a clip.
        metadata: anything JSON can hold, for `read_metadata`.

    Raises:
        VideoError: it cannot be written there, or not so; no frames; the disk is full.
    """
    check_video_target(path, like)
    target = Path(path)
    width, height = width or (like.width if like else 0), height or (like.height if like else 0)
    if width < 1 or height < 1:
        raise VideoError(f"cannot write {target}: give the width and height of its frames")
    if not 0 <= crf <= 51:
        raise VideoError(f"crf must be 0 (best) to 51, got {crf:g}")
    speed = (like.rate if like else _RATE) if rate is None else Fraction(rate)
    if speed <= 0:
        raise VideoError(f"frames a second must be more than 0, got {float(speed):g}")
    text = json.dumps(metadata, sort_keys=True) if metadata else ""
    bits = depth or (like.depth if like else 8)
    clear = bool(like and like.alpha) if alpha is None else alpha
    with replacing(target) as aside:
        out: Writer
        if _is_folder(path):
            out = FolderWriter(target, aside, (width, height), like, bits, clear, text)
        else:
            out = StreamWriter(
                target, aside, (width, height), like, bits, clear, text, speed, crf, whole
            )
        try:
            yield out
            out.finish()
        finally:
            out.abandon()


def _is_folder(path: str | PathLike[str]) -> bool:
    return fspath(path).endswith(("/", sep)) or not Path(path).suffix


def _replaceable(folder: Path, like: Clip | None) -> bool:
    """Whether a folder holds nothing but frames: numbered ones, or those of the clip's names."""
    names = {file.name for file in folder.iterdir()}
    stems = {Path(name).stem for name in (like.names or ())} if like else set()
    return names == {*listed(folder)} and all(
        Path(name).suffix == ".png" and (Path(name).stem.isdecimal() or Path(name).stem in stems)
        for name in names
    )
