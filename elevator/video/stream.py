"""Clips from the files FFmpeg reads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from elevator.video.clip import Clip, Frame, Track
from elevator.video.io import VideoError
from elevator.video.pixels import FULL, LIMITED, RGB, UNKNOWN, Colour, Depth, to_array

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

__all__ = ["StreamClip", "opened"]

_PLAIN = (1, 0, 0, 1)
_ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}  # FFmpeg's own leave alpha out
_ARBITRARY_CLOCKS = {"mpegts", "mpeg", "hls", "rtp", "rtsp"}  # their clocks start anywhere
_UNKNOWN_RATE = Fraction(25)


class StreamClip(Clip):
    """The video stream of a file, decoded from its beginning each time it is asked for."""

    def __init__(self, file: Path) -> None:
        self.path, self.notes = file, []
        with opened(file) as container:
            stream = self._chosen(container)
            self._index = stream.index
            self.rate = stream.average_rate or stream.guessed_rate or _UNKNOWN_RATE
            self.tick = stream.time_base or 1 / self.rate
            self.rate = min(self.rate, 1 / self.tick)
            self.offset = _start(container)
            self.expected = _announced(stream)
            self._end = _length(stream)
            self.tracks = tuple(_tracks(container))
            self._decoder = None
            if stream.metadata.get("alpha_mode", stream.metadata.get("ALPHA_MODE")) == "1":
                self._decoder = _ALPHA_DECODERS.get(stream.codec_context.name)
            aspect = stream.sample_aspect_ratio or Fraction(1)
            context = stream.codec_context
            named = Colour(
                int(context.color_range),
                int(context.color_primaries),
                int(context.color_trc),
                int(context.colorspace),
            )
        first = next(self._decoded(), None)
        if first is None:
            raise VideoError(
                f"no frames in {file}: it is damaged, or coded in a way that cannot be decoded; "
                "copy or download it again, or convert it to H.264 first"
            )
        self._stored = first.width, first.height
        self._turn = _turn(first)
        if self._turn[0] == 0:
            self.height, self.width = self._stored
            aspect = 1 / aspect
        else:
            self.width, self.height = self._stored
        self.aspect = aspect
        bits = max(component.bits for component in first.format.components)
        self.depth: Depth = 8 if bits <= 8 else 10 if bits <= 10 else 16
        self.alpha = any(component.is_alpha for component in first.format.components)
        self.colour = _colour(first, named)
        if not (first.format.is_rgb or self._settled.convertible):
            self.note(
                f"{file.name} uses the colour matrix {self.colour.matrix} of H.273, which cannot "
                "be converted exactly; BT.709 is used both ways"
            )
        if first.interlaced_frame:
            self.note(
                f"{file.name} is interlaced: its frames are taken as they are; "
                "deinterlace it first for a better result"
            )

    def frames(self, start: int = 0) -> Iterator[Frame]:
        before: tuple[VideoFrame, int] | None = None
        index = 0
        for decoded, ticks in self._timed():
            if before is not None:
                if index >= start:
                    yield self._frame(*before, ticks - before[1])
                index += 1
            before = decoded, ticks
        if before is None:
            raise VideoError(f"no frames in {self.path}: it changed or can no longer be read")
        last, ticks = before
        duration = last.duration if last.duration and last.duration > 0 else self._step
        end = (ticks + duration) * self.tick - self.offset
        if self._end is not None and end + 2 / self.rate < self._end:
            self.note(
                f"{self.path.name} ends after {float(end):.3g} of the {float(self._end):.3g} "
                "seconds that it announces: it is truncated, or its end cannot be decoded"
            )
        if index >= start:
            yield self._frame(last, ticks, duration)

    # --- in the file's own units ------------------------------------------------------------------

    @property
    def _settled(self) -> Colour:
        return self.colour.settled(self.width, self.height)

    @property
    def _step(self) -> int:
        """Ticks from frame to frame, where the file does not tell."""
        return max(1, round(1 / (self.rate * self.tick)))

    def _frame(self, decoded: VideoFrame, ticks: int, duration: int) -> Frame:
        pixels = to_array(decoded, self._settled, self._stored, self.depth, self.alpha)
        return Frame(
            _turned(pixels, self._turn), ticks * self.tick - self.offset, duration * self.tick
        )

    def _timed(self) -> Iterator[tuple[VideoFrame, int]]:
        """Frames and their times in ticks, which grow."""
        last: int | None = None
        for frame in self._decoded():
            ticks = frame.pts if frame.pts is not None else frame.dts
            if ticks is None:
                ticks = 0 if last is None else last + self._step
            elif last is not None and ticks <= last:
                ticks = last + 1
                self.note(
                    f"{self.path.name} gives frames times that do not grow; they are kept, each "
                    "just after the one before"
                )
            last = ticks
            yield frame, ticks

    def _decoded(self) -> Iterator[VideoFrame]:
        """Every frame that can be had; what cannot is noted."""
        import av

        broken = damaged = 0
        with opened(self.path) as container:
            stream: Any = container.streams[self._index]
            decoder: Any = stream.codec_context
            if self._decoder is not None:
                decoder = av.CodecContext.create(self._decoder, "r")
                decoder.extradata = stream.codec_context.extradata
            for packet in _packets(container, stream):
                try:
                    found = decoder.decode(packet)
                except EOFError:
                    continue
                except av.FFmpegError:
                    broken += 1
                    continue
                for frame in found:
                    damaged += frame.is_corrupt
                    yield frame
        if broken:
            self.note(
                f"left out: {broken} coded frames of {self.path.name} that cannot be decoded; it "
                "is damaged or truncated"
            )
        if damaged:
            self.note(f"{self.path.name} is damaged, which shows in {damaged} of its frames")

    def _chosen(self, container: InputContainer) -> VideoStream:
        videos = [
            stream
            for stream in container.streams.video
            if not stream.disposition & type(stream.disposition).attached_pic
        ]
        if not videos:
            kinds = sorted({stream.type for stream in container.streams})
            raise VideoError(
                f"no video stream in {self.path}: it is damaged or not a video (it holds "
                f"{' and '.join(kinds) or 'nothing'}); give a file with pictures"
            )
        if videos[0].codec_context is None:
            raise VideoError(
                f"cannot decode {self.path}: its coding is not known to this FFmpeg; "
                "convert it to H.264 first"
            )
        if len(videos) > 1:
            self.note(f"{self.path.name} holds {len(videos)} video streams; the first is read")
        return videos[0]


@contextmanager
def opened(file: Path) -> Iterator[InputContainer]:
    """A file FFmpeg reads, whatever its name.

    Raises:
        VideoError: it is not one.
    """
    import av

    try:
        container = av.open(f"file:{file}", metadata_errors="replace")
    except PermissionError:
        raise
    except (av.FFmpegError, OSError, ValueError) as error:
        index = " (an MP4 that was cut short has lost its index)" if _is_mp4(file) else ""
        raise VideoError(
            f"cannot read {file}: it is damaged or not a video{index}; copy or download it again"
        ) from error
    with container:
        yield container


def _is_mp4(file: Path) -> bool:
    with file.open("rb") as data:
        return data.read(8)[4:] == b"ftyp"


def _packets(container: InputContainer, stream: VideoStream) -> Iterator[Packet[Any] | None]:
    """The packets of a stream, and None, which asks the decoder for what it still holds."""
    import av

    try:
        for packet in container.demux(stream):
            if packet.size:
                yield packet
    except av.FFmpegError:
        pass  # a truncated file: what was read so far is what there is
    yield None


# --- what the file says ---------------------------------------------------------------------------


def _start(container: InputContainer) -> Fraction:
    """When the file's clock starts, for kinds of files where that means nothing."""
    if not {*container.format.name.split(",")} & _ARBITRARY_CLOCKS:
        return Fraction(0)
    starts = [
        stream.start_time * stream.time_base
        for stream in (*container.streams.video, *container.streams.audio)
        if stream.start_time is not None and stream.time_base
    ]
    return Fraction(min(starts, default=0))


def _length(stream: VideoStream) -> Fraction | None:
    """Seconds that a file announces, by its index or by Matroska's tag."""
    if stream.duration and stream.time_base:
        return stream.duration * stream.time_base
    try:
        hours, minutes, seconds = stream.metadata.get("DURATION", "").split(":")
        return int(hours) * 3600 + int(minutes) * 60 + Fraction(seconds)
    except ValueError:
        return None


def _announced(stream: VideoStream) -> int | None:
    """How many frames; of an edited clip the index counts those cut away, the length does not."""
    length, rate = _length(stream), stream.guessed_rate
    guesses = [stream.frames] if stream.frames else []
    if length and rate:
        guesses.append(max(1, round(length * rate)))
    return min(guesses, default=None)


def _tracks(container: InputContainer) -> Iterator[Track]:
    for stream in container.streams:
        if stream.type in ("audio", "subtitle"):
            context: Any = stream.codec_context  # None where there is no decoder
            codec = context.name if context else "unknown"
            yield Track(stream.type, stream.index, codec)


def _colour(frame: VideoFrame, named: Colour) -> Colour:
    """What a frame says, and for what it does not say, the file."""
    primaries, transfer, matrix = (
        int(of_file if of_frame == UNKNOWN else of_frame)
        for of_frame, of_file in (
            (frame.color_primaries, named.primaries),
            (frame.color_trc, named.transfer),
            (frame.colorspace, named.matrix),
        )
    )
    if frame.format.is_rgb:
        return Colour(FULL, primaries, transfer, RGB)
    full = frame.format.name.startswith(("yuvj", "gray", "ya"))
    span = int(frame.color_range) or named.range or (FULL if full else LIMITED)
    return Colour(span, primaries, transfer, matrix)


# --- the way up -----------------------------------------------------------------------------------


def _turn(frame: VideoFrame) -> tuple[int, int, int, int]:
    """The signs of the display matrix's quarter, nearest to a turn by right angles.

    x' = a x + c y, y' = b x + d y, both down and to the right; (a, b, c, d).
    """
    pieces: Any = frame.side_data
    for data in pieces:
        if data.type.name == "DISPLAYMATRIX":
            matrix = np.frombuffer(bytes(data), np.int32, 9)
            a, b, c, d = (int(matrix[index]) for index in (0, 1, 3, 4))
            if abs(a) + abs(d) >= abs(b) + abs(c):
                return (-1 if a < 0 else 1), 0, 0, (-1 if d < 0 else 1)
            return 0, (-1 if b < 0 else 1), (-1 if c < 0 else 1), 0
    return _PLAIN


def _turned(pixels: NDArray[Any], turn: tuple[int, int, int, int]) -> NDArray[Any]:
    a, b, c, d = turn
    if a == 0:
        pixels = pixels.swapaxes(0, 1)
    pixels = pixels[:, ::-1] if a + c < 0 else pixels
    pixels = pixels[::-1] if b + d < 0 else pixels
    return np.ascontiguousarray(pixels)
