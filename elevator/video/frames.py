"""What takes the frames of a clip that is written, one writer for each kind of place."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from elevator.video.clip import Clip
from elevator.video.coding import ENDINGS, choose
from elevator.video.copying import Copy
from elevator.video.io import VideoError, explained, png_text
from elevator.video.pixels import FULL, LIMITED, Colour, of_depth, to_frame

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.stream import VideoStream

__all__ = ["FolderWriter", "StreamWriter", "Writer"]

_MILLI = Fraction(1, 1000)
_COARSE = {"matroska", "webm"}  # these count milliseconds


class Writer(ABC):
    """Takes the frames of a clip.

    Attributes:
        path: where they are in the end.
        width: in pixels.
        height: in pixels.
        count: frames so far.
        notes: sentences on what the file could not take; complete when it is closed.
    """

    def __init__(self, path: Path, size: tuple[int, int]) -> None:
        self.path, (self.width, self.height) = path, size
        self.notes: list[str] = []
        self.count = 0
        self._last: Fraction | None = None

    def write(self, pixels: NDArray[Any], time: Fraction, duration: Fraction | None = None) -> None:
        """Append a frame.

        Args:
            pixels: (H, W, 3), or (H, W, 4) with alpha; uint8, or uint16 over 0 ... 65535.
            time: when it is shown, in seconds; later than the frame before.
            duration: for how long; only the last frame's matters.

        Raises:
            VideoError: pixels of another shape or type, a time that does not grow, or a file that
                cannot be written on.
        """
        shapes = [(self.height, self.width, channels) for channels in (3, 4)]
        if pixels.shape not in shapes or pixels.dtype not in (np.uint8, np.uint16):
            raise VideoError(
                f"frames of {self.path} must be ({self.height}, {self.width}, 3 or 4) of uint8 or "
                f"uint16, got {pixels.shape} of {pixels.dtype}"
            )
        if self._last is not None and time <= self._last:
            raise VideoError(
                f"frames must come in the order of their times: frame {self.count} at "
                f"{float(time):g} s follows one at {float(self._last):g} s"
            )
        self._write(pixels, Fraction(time), duration)
        self._last = Fraction(time)
        self.count += 1

    def finish(self) -> None:
        """Write what is held back.

        Raises:
            VideoError: there were no frames, or the file cannot be written on.
        """
        if self.count == 0:
            raise VideoError(f"cannot write {self.path}: it was given no frames")
        self._finish()

    def note(self, sentence: str) -> None:
        """Add to the notes what is not among them yet."""
        if sentence not in self.notes:
            self.notes.append(sentence)

    @abstractmethod
    def _write(self, pixels: NDArray[Any], time: Fraction, duration: Fraction | None) -> None: ...

    @abstractmethod
    def _finish(self) -> None: ...

    @abstractmethod
    def abandon(self) -> None:
        """Let go of everything open; after `finish` too."""


class StreamWriter(Writer):
    """Frames to a video file."""

    def __init__(
        self,
        path: Path,
        aside: Path,
        size: tuple[int, int],
        like: Clip | None,
        depth: int,
        alpha: bool,
        text: str,
        rate: Fraction,
        crf: float,
        whole: bool,
    ) -> None:
        import av

        super().__init__(path, size)
        form = ENDINGS[path.suffix.lower()]
        self._coding = choose(form, *size, depth, alpha, crf)
        self.notes.extend(self._coding.notes)
        self._colour = (like.colour if like else Colour()).settled(*_size_of(like, size))
        if not self._coding.full:
            self._colour = self._colour._replace(range=LIMITED)
        self._coarse, self._whole, self._step = form in _COARSE, whole, 1 / rate
        self._tick = like.tick if like else 1 / rate
        self._copy: Copy | None = None
        self._durations: dict[int, int] = {}  # of the frames that the encoder holds, by their ticks
        # Nothing of the machine or the moment may get into the file.
        options = {"fflags": "+bitexact"}
        if form in ("mp4", "mov"):
            units = str(_timescale(self._tick))
            options["movflags"] = "+faststart+write_colr"
            options["video_track_timescale"] = options["movie_timescale"] = units
        with self._explained():
            self._container = av.open(f"file:{aside}", "w", format=form, container_options=options)
        with self._explained():
            if text:
                self._container.metadata["comment"] = text
            stream = self._container.add_stream(
                self._coding.codec,
                rate=rate.limit_denominator(1_000_000),
                options=dict(self._coding.options),
            )
            self._stream = cast("VideoStream", stream)
            self._stream.width, self._stream.height = size
            self._stream.pix_fmt = self._coding.form
            self._stream.time_base = self._tick
            context = self._stream.codec_context
            context.time_base = self._tick
            aspect = like.aspect if like else Fraction(1)
            context.sample_aspect_ratio = aspect
            if aspect != 1 and self._coding.codec == "libvpx-vp9":
                self.note(
                    f"the shape of pixels ({aspect.numerator}:{aspect.denominator}) was left out: "
                    "VP9 does not hold it; write .mp4 or .mov to keep it"
                )
            context.color_range, context.colorspace = self._colour.range, self._colour.matrix
            context.color_primaries = self._colour.primaries
            context.color_trc = self._colour.transfer
            if self._coding.tag:
                context.codec_tag = self._coding.tag
            if self._coding.alpha and self._coding.codec == "libvpx-vp9":
                self._stream.metadata["alpha_mode"] = "1"
            if like is not None:
                self._copy = Copy(like, self._container, form)
            self._container.start_encoding()

    def _write(self, pixels: NDArray[Any], time: Fraction, duration: Fraction | None) -> None:
        ticks = round(time / self._tick)
        if ticks * self._tick != time or (self._coarse and time % _MILLI):
            unit = _MILLI if self._coarse else self._tick
            self.note(
                f"times were rounded: this file counts in units of {float(unit * 1000):.3g} ms"
                + ("; write .mp4 to keep them exactly" if self._coarse else "")
            )
        frame = to_frame(
            _channels(pixels, self._coding.alpha, self._coding.depth),
            self._coding.form,
            self._colour,
        )
        frame.pts, frame.time_base = ticks, self._tick
        self._end = time + (duration or self._step)
        frame.duration = max(1, round((duration or self._step) / self._tick))
        self._durations[ticks] = frame.duration
        with self._explained():
            if self._copy:
                self._copy.until(time)
            self._mux(self._stream.encode(frame))

    def _mux(self, packets: list[Packet[Any]]) -> None:
        for packet in packets:
            packet.duration = self._durations.pop(packet.pts or 0, 0)
            self._container.mux(packet)

    def _finish(self) -> None:
        with self._explained():
            self._mux(self._stream.encode(None))
            if self._copy:
                self._copy.until(None if self._whole else self._end)
            self._container.close()
        for sentence in self._copy.notes if self._copy else ():
            self.note(sentence)

    def abandon(self) -> None:
        if self._copy:
            self._copy.close()
        with suppress(Exception):  # the file is thrown away, or closed already
            self._container.close()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        import av

        with explained(self.path):
            try:
                yield
            except av.FFmpegError as error:
                if isinstance(error, OSError):
                    raise
                raise VideoError(f"cannot write {self.path}: {error.strerror}") from error


class FolderWriter(Writer):
    """Frames to a folder of PNG files, which keep them exactly."""

    def __init__(
        self,
        path: Path,
        aside: Path,
        size: tuple[int, int],
        like: Clip | None,
        depth: int,
        alpha: bool,
        text: str,
    ) -> None:
        super().__init__(path, size)
        self._aside, self._depth, self._alpha, self._text = aside, depth, alpha, text
        self._names = _renamed(like.names) if like and like.names else None
        if like is not None and like.tracks:
            kinds = {"audio": "sound", "subtitle": "subtitles"}
            held = " and ".join(sorted({kinds[track.kind] for track in like.tracks}))
            self.note(f"left out: the {held} of the clip, as a folder holds pictures only")
        self._steps: set[Fraction] = set()
        with explained(path):
            aside.mkdir()

    def _write(self, pixels: NDArray[Any], time: Fraction, duration: Fraction | None) -> None:
        if self._last is not None:
            self._steps.add(time - self._last)
        names = self._names
        name = names[self.count] if names and self.count < len(names) else f"{self.count:04d}.png"
        made = _channels(pixels, self._alpha, self._depth)
        with explained(self.path):
            if made.dtype == np.uint8:
                picture = Image.fromarray(made)
                picture.save(self._aside / name, format="PNG", pnginfo=png_text(self._text))
            else:
                (self._aside / name).write_bytes(_sixteen_bits(made))

    def _finish(self) -> None:
        if len(self._steps) > 1:
            self.note("the frames of the clip are not evenly timed; a folder does not keep that")

    def abandon(self) -> None:
        pass


def _size_of(like: Clip | None, size: tuple[int, int]) -> tuple[int, int]:
    """The size by which unlabelled colours are told: the clip's own where it holds Y'CbCr."""
    return (like.width, like.height) if like and like.colour.matrix else size


def _timescale(tick: Fraction) -> int:
    """Units a second for an MP4, of which every tick is a whole number."""
    return tick.denominator * -(-10_000 // tick.denominator)


def _channels(pixels: NDArray[Any], alpha: bool, depth: int) -> NDArray[Any]:
    """Pixels with alpha, opaque if they had none, or without, over black; of a depth."""
    most = np.iinfo(pixels.dtype).max
    if alpha and pixels.shape[-1] == 3:
        pixels = np.pad(pixels, ((0, 0), (0, 0), (0, 1)), constant_values=most)
    elif not alpha and pixels.shape[-1] == 4:
        shown = pixels[..., :3].astype(np.uint32) * pixels[..., 3:]
        pixels = ((shown + most // 2) // most).astype(pixels.dtype)
    return of_depth(pixels, depth)


def _renamed(names: tuple[str, ...]) -> list[str]:
    """The names of pictures, as PNG files; whole where two differ in their endings only."""
    stems = [Path(name).stem for name in names]
    clash = len({stem.lower() for stem in stems}) < len(stems)
    return [f"{whole if clash else stem}.png" for whole, stem in zip(names, stems, strict=True)]


def _sixteen_bits(pixels: NDArray[Any]) -> bytes:
    """A PNG of uint16, which Pillow would not write."""
    import av

    height, width, channels = pixels.shape
    context = av.CodecContext.create("png", "w")
    context.width, context.height = width, height
    context.pix_fmt = "rgba64be" if channels == 4 else "rgb48be"
    context.time_base = Fraction(1)
    context.color_range = FULL
    name = "rgba64be" if channels == 4 else "rgb48be"
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format=name)
    return b"".join(bytes(packet) for packet in (*context.encode(frame), *context.encode(None)))
