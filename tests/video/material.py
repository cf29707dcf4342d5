"""Small files for the tests of reading and writing, made with FFmpeg's libraries directly."""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

RATE = Fraction(24000, 1001)


def picture(height: int = 32, width: int = 48, channels: int = 3) -> NDArray[Any]:
    """A soft gradient without symmetry; alpha falls from left to right."""
    y, x = np.mgrid[0:height, 0:width]
    planes = [40 + 160 * x / width, 60 + 120 * y / height, 180 - 100 * x * y / height / width]
    planes.append(250 - 200 * x / width)
    return np.stack(planes[:channels], -1).round().astype(np.uint8)


def moving(frames: int, height: int = 32, width: int = 48) -> NDArray[Any]:
    """The gradient, each frame a little lighter: frames can be told apart after coding."""
    first = picture(height, width).astype(int)
    return np.stack([(first + 8 * (index % 8)).clip(0, 255) for index in range(frames)]).astype(
        np.uint8
    )


def make(
    path: Path,
    pixels: Sequence[NDArray[Any]] | NDArray[Any],
    times: Sequence[Fraction] | None = None,
    *,
    tick: Fraction | None = None,
    codec: str = "libx264",
    form: str = "yuv444p",
    options: Mapping[str, str] | None = None,
    colour: tuple[int, int, int, int] = (1, 2, 2, 6),
    aspect: Fraction | None = None,
    turn: tuple[float, bool] | None = None,
    sound: tuple[str, float, float] | None = None,
    words: str | None = None,
    container: Mapping[str, str] | None = None,
) -> Path:
    """A file; `sound` is a codec, its start and its length, `words` a subtitle in Matroska."""
    rate = 1 / tick if tick else RATE
    tick = tick or 1 / RATE
    times = times or [index / rate for index in range(len(pixels))]
    height, width = pixels[0].shape[:2]
    spare = options if options is not None else {"crf": "1", "g": "6"}
    with av.open(str(path), "w", options=dict(container or {})) as out:
        stream: Any = out.add_stream(codec, rate=rate.limit_denominator(9999), options=dict(spare))
        stream.width, stream.height, stream.pix_fmt = width, height, form
        stream.codec_context.time_base = stream.time_base = tick
        context = stream.codec_context
        context.color_range, context.color_primaries, context.color_trc, context.colorspace = colour
        if aspect:
            context.sample_aspect_ratio = aspect
        if turn:
            stream.set_display_rotation(turn[0], hflip=turn[1])
        voice = _voice(out, sound[0]) if sound else None
        text = out.add_mux_stream("subrip") if words is not None else None
        if text is not None:
            text.time_base = Fraction(1, 1000)
        out.start_encoding()
        for one, time in zip(pixels, times, strict=True):
            name = {3: "rgb24", 4: "rgba"}[one.shape[-1]]
            name = (
                {"rgb24": "rgb48le", "rgba": "rgba64le"}[name] if one.dtype.itemsize > 1 else name
            )
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(one), format=name)
            matrix = 5 if colour[3] == 6 else colour[3]
            frame = frame.reformat(format=form, dst_colorspace=matrix, dst_color_range=colour[0])
            frame.pts, frame.time_base = round(time / tick), tick
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
        if sound and voice is not None:
            _speak(out, voice, *sound[1:])
        if text is not None and words is not None:
            packet = av.Packet(words.encode())
            packet.stream, packet.time_base = text, Fraction(1, 1000)
            packet.pts = packet.dts = 100
            packet.duration = 200
            out.mux(packet)
    return path


def _voice(out: Any, codec: str) -> Any:
    stream = out.add_stream(codec, rate=48000)
    stream.layout = "mono"
    return stream


def _speak(out: Any, stream: Any, start: float, length: float) -> None:
    at = np.arange(round(length * 48000)) / 48000
    wave = (0.3 * np.sin(2 * np.pi * 440 * at)).astype(np.float32)
    size = stream.codec_context.frame_size or 1024
    for begin in range(0, len(wave), size):
        frame = av.AudioFrame.from_ndarray(wave[None, begin : begin + size], "fltp", "mono")
        frame.rate, frame.time_base = 48000, Fraction(1, 48000)
        frame.pts = round(start * 48000) + begin
        out.mux(stream.encode(frame))
    out.mux(stream.encode(None))
