"""Clips of pictures: a folder of them, or one that moves (GIF, WebP)."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, ImageSequence

from elevator.video.clip import Clip, Frame, natural
from elevator.video.io import VideoError
from elevator.video.pixels import FULL, RGB, Colour, of_depth

__all__ = ["PICTURES", "FolderClip", "PictureClip", "listed"]

PICTURES = {".gif", ".webp", ".png", ".jpg", ".jpeg"}

_COLOUR = Colour(range=FULL, primaries=1, transfer=13, matrix=RGB)  # sRGB, in H.273
_BROKEN = OSError, SyntaxError, ValueError, LookupError  # what Pillow raises
_WIDE = b"\x89PNG\r\n\x1a\n", slice(24, 25), b"\x10"  # a PNG's start; its bits, sixteen of them


class FolderClip(Clip):
    """The pictures of a folder, in the natural order of their names, evenly timed."""

    def __init__(self, folder: Path, rate: Fraction) -> None:
        self.path, self.notes = folder, []
        self.names = listed(folder)
        if not self.names:
            raise VideoError(
                f"no frames in {folder}: it is a folder without pictures; "
                "give a video, or a folder of PNG or JPEG files"
            )
        self.rate, self.tick, self.expected = rate, 1 / rate, len(self.names)
        self.colour = _COLOUR
        files = [folder / name for name in self.names]
        self.alpha = any(map(_alpha, files))
        self.depth = 16 if any(map(_wide, files)) else 8
        self.height, self.width = _picture(files[0], self.depth, self.alpha).shape[:2]

    def frames(self, start: int = 0) -> Iterator[Frame]:
        for index, name in enumerate((self.names or ())[start:], start):
            pixels = _picture(self.path / name, self.depth, self.alpha)
            height, width = pixels.shape[:2]
            if (height, width) != (self.height, self.width):
                raise VideoError(
                    f"the frames of {self.path} differ in size: {name} is {width}x{height}, the "
                    f"first {self.width}x{self.height}; give frames of one size"
                )
            yield Frame(pixels, index * self.tick, self.tick)


class PictureClip(Clip):
    """One file Pillow reads: a GIF or WebP that moves, or a single picture."""

    def __init__(self, file: Path, rate: Fraction) -> None:
        self.path, self.notes, self.colour = file, [], _COLOUR
        self.depth = 16 if _wide(file) else 8
        self._still = 1 / rate
        self.tick = Fraction(1, 1000)
        self.alpha = _alpha(file)
        try:
            with Image.open(file) as picture:
                self.expected = getattr(picture, "n_frames", 1)
        except _BROKEN as error:
            raise _damaged(file) from error
        if self.expected == 1:
            self.tick = self._still
        first = next(self.frames())
        self.height, self.width = first.pixels.shape[:2]
        self.rate = 1 / first.duration

    def frames(self, start: int = 0) -> Iterator[Frame]:
        if self.expected == 1:
            if start == 0:
                yield Frame(_picture(self.path, self.depth, self.alpha), Fraction(0), self.tick)
            return
        time = Fraction(0)
        try:
            with Image.open(self.path) as picture:
                for index, one in enumerate(ImageSequence.Iterator(picture)):
                    pixels = _converted(one, self.alpha)  # first: it also tells the duration
                    # Players take a frame without a duration for a tenth of a second.
                    duration = Fraction(round(one.info.get("duration") or 100), 1000)
                    if index >= start:
                        yield Frame(pixels, time, duration)
                    time += duration
        except _BROKEN as error:
            raise _damaged(self.path) from error


def listed(folder: Path) -> tuple[str, ...]:
    """The names of the pictures in a folder, in their natural order."""
    found = (file.name for file in folder.iterdir() if file.suffix.lower() in PICTURES)
    return tuple(sorted((name for name in found if not name.startswith(".")), key=natural))


# --- one picture ----------------------------------------------------------------------------------


def _picture(file: Path, depth: int, alpha: bool) -> NDArray[Any]:
    try:
        if _wide(file):
            return of_depth(_sixteen_bits(file, alpha), depth)
        with Image.open(file) as picture:
            return of_depth(_converted(ImageOps.exif_transpose(picture), alpha), depth)
    except _BROKEN as error:
        raise _damaged(file) from error


def _converted(picture: Image.Image, alpha: bool) -> NDArray[Any]:
    return np.asarray(picture.convert("RGBA" if alpha else "RGB"))


def _sixteen_bits(file: Path, alpha: bool) -> NDArray[Any]:
    """Pillow would give eight of them."""
    import av

    try:
        with file.open("rb") as data, av.open(data, "r") as container:
            frame = next(container.decode(video=0))
            return frame.to_ndarray(format="rgba64le" if alpha else "rgb48le")
    except (av.FFmpegError, StopIteration) as error:
        raise ValueError(str(error)) from error


def _wide(file: Path) -> bool:
    magic, place, sixteen = _WIDE
    try:
        with file.open("rb") as data:
            head = data.read(32)
    except OSError:
        return False  # said when the picture is read
    return head.startswith(magic) and head[place] == sixteen


def _alpha(file: Path) -> bool:
    try:
        with Image.open(file) as picture:
            return picture.has_transparency_data
    except _BROKEN:
        return False  # said when the picture is read


def _damaged(file: Path) -> VideoError:
    return VideoError(
        f"cannot read {file}: it is damaged or not a video; copy or download it again"
    )
