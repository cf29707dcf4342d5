"""What a clip is to those who read one, whatever it lies in."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, NamedTuple

from numpy.typing import NDArray

from elevator.video.pixels import Colour, Depth

__all__ = ["Clip", "Frame", "Track", "natural"]


class Frame(NamedTuple):
    """One frame.

    Attributes:
        pixels: (H, W, 3), or (H, W, 4) where the clip has alpha; uint8 over 0 ... 255, or uint16
            over 0 ... 65535 where its depth is more than 8.
        time: when it is shown, in seconds, exactly.
        duration: for how long, in seconds, exactly.
    """

    pixels: NDArray[Any]
    time: Fraction
    duration: Fraction


class Track(NamedTuple):
    """A stream beside the video's.

    Attributes:
        kind: what it holds.
        stream: which stream of the file it is.
        codec: FFmpeg's name of its coding; "unknown" where FFmpeg has no decoder for it.
    """

    kind: Literal["audio", "subtitle"]
    stream: int
    codec: str


class Clip(AbstractContextManager["Clip"]):
    """Frames in their order, read one by one: memory does not depend on how many there are.

    Attributes:
        path: the file or folder.
        width: in pixels, as shown: a phone's clip that is stored lying is given standing.
        height: likewise.
        rate: frames a second on average, as the file announces it.
        expected: how many frames the file announces; None where it does not. A guess: only
            reading tells.
        depth: bits of a channel: 8, 10 (for 9 and 10) or 16 (for more).
        alpha: whether frames have a fourth channel, how opaque they are; colours are not
            multiplied by it.
        aspect: width of a pixel by its height, as shown.
        colour: what the numbers in the file stand for.
        tick: every time is a whole multiple of it, in seconds.
        offset: when the file's own clock starts; subtracted from every time.
        tracks: the audio and subtitles beside the video.
        names: of the pictures, where the clip is a folder.
        notes: sentences on what is unusual about the clip; more may come as it is read.
    """

    path: Path
    width: int
    height: int
    rate: Fraction
    expected: int | None
    depth: Depth
    alpha: bool
    aspect: Fraction = Fraction(1)
    colour: Colour
    tick: Fraction
    offset: Fraction = Fraction(0)
    tracks: tuple[Track, ...] = ()
    names: tuple[str, ...] | None = None
    notes: list[str]

    @abstractmethod
    def frames(self, start: int = 0) -> Iterator[Frame]:
        """The frames from the one with index `start` on; each call begins anew.

        Raises:
            VideoError: a frame that cannot be read and not be left out either.
        """

    def __iter__(self) -> Iterator[Frame]:
        return self.frames()

    @property
    def audio(self) -> tuple[Track, ...]:
        """The streams of sound."""
        return tuple(track for track in self.tracks if track.kind == "audio")

    @property
    def subtitles(self) -> tuple[Track, ...]:
        """The streams of subtitles."""
        return tuple(track for track in self.tracks if track.kind == "subtitle")

    def note(self, sentence: str) -> None:
        """Add to the notes what is not among them yet."""
        if sentence not in self.notes:
            self.notes.append(sentence)

    def __exit__(self, *error: object) -> None:
        """Nothing stays open between frames."""


def natural(name: str) -> list[tuple[int, int, str]]:
    """A key that sorts names as people do: frame2 before frame10."""
    return [
        (0, int(part), part) if part.isdecimal() else (1, 0, part.lower())
        for part in re.split(r"(\d+)", name)
        if part
    ]
