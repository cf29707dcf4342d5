"""Videos to files and back to how they were made.

A file is written aside in its own folder and renamed when it is whole: an interruption leaves
nothing behind and never harms what was there before.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from elevator.errors import ElevatorError

__all__ = [
    "VideoError",
    "as_bytes",
    "check_image_target",
    "check_place",
    "check_target",
    "explained",
    "kind_of",
    "png_text",
    "read_metadata",
    "replacing",
    "write_image",
    "write_video",
]

Kind: TypeAlias = Literal["mp4", "gif", "webp", "png"]
Frames: TypeAlias = NDArray[Any] | Sequence[Image.Image]

_CRF = "12"  # of x264, 0 (best) to 51: hardly any loss but in colour; clips are short, often tiny
_NAME = "{:04d}.png"
_STREAMS = {".mp4", ".m4v", ".mov", ".mkv", ".webm"}
_DESCRIPTION = 0x010E  # EXIF ImageDescription
_FASTEST_GIF = 50  # players slow frames of less than 2 hundredths of a second down to 10
_SLOWEST_GIF = 1 / 655  # the format counts hundredths of a second in 16 bits


class VideoError(ElevatorError, ValueError):
    """A video cannot be written or read as asked."""


def kind_of(path: str | Path) -> Kind:
    """What a path asks for: by its ending, "png" (a folder) where it has none or ends in `/`.

    Raises:
        VideoError: an ending that is not known.
    """
    text = os.fspath(path)
    suffix = Path(text).suffix.lower()
    match suffix:
        case ".mp4" | ".gif" | ".webp" if not text.endswith(("/", os.sep)):
            return suffix[1:]  # type: ignore[return-value]
        case "":
            return "png"
        case _ if text.endswith(("/", os.sep)):
            return "png"
    folder = f"; {text[: -len(suffix)]!r} makes a folder of PNG files" if suffix == ".png" else ""
    raise VideoError(
        f"cannot write {text}: {suffix} is none of .mp4, .gif, .webp, "
        f"or no ending for a folder of PNG files{folder}"
    )


def check_target(path: str | Path, fps: float | int | None = None) -> None:
    """Find out, before any work is done, whether a video can be written.

    Args:
        path: where to.
        fps: frames a second; None where nobody asks.

    Raises:
        VideoError: an unknown ending, a folder that is missing or cannot be written to, a folder
            of other things where frames would go, or a speed that the format does not know.
    """
    kind, target = kind_of(path), Path(path)
    if fps is not None and not 0 < fps < float("inf"):
        raise VideoError(f"frames a second must be more than 0, got {fps:g}")
    if fps is not None and kind == "gif" and fps > _FASTEST_GIF:
        raise VideoError(
            f"a GIF shows at most {_FASTEST_GIF} frames a second, got {fps:g}; "
            "give less, or write .mp4 or .webp"
        )
    if fps is not None and kind == "gif" and fps < _SLOWEST_GIF:
        raise VideoError(
            f"a GIF shows a frame for 655 seconds at most, got {fps:g} frames a second; "
            "give more, or write .mp4 or .webp"
        )
    if kind == "png" and target.exists() and not _replaceable(target):
        raise VideoError(
            f"cannot write frames to {target}: it exists and holds other things; "
            "give a new folder, or an ending of .mp4, .gif or .webp"
        )
    check_place(target, folder=kind == "png")


def check_image_target(path: str | Path) -> None:
    """Find out, before any work is done, whether `write_image` can write there.

    Raises:
        VideoError: a folder that is missing or cannot be written to, or an ending but `.png`.
    """
    if Path(path).suffix.lower() != ".png":
        raise VideoError(f"cannot write {path}: an image must end in .png")
    check_place(Path(path), folder=False)


def check_place(target: Path, folder: bool) -> None:
    """Find out whether a file, or a folder, could be written aside and renamed to `target`.

    Raises:
        VideoError: it could not; with what to do instead.
    """
    if target.name in ("", ".."):
        raise VideoError(f"cannot write to {target}: give a name of its own, such as ring.mp4")
    if not target.parent.is_dir():
        raise VideoError(f"cannot write {target}: make the folder {target.parent} first")
    if not folder and target.is_dir():
        raise VideoError(f"cannot write {target}: it is a folder; give another name")
    try:
        with suppress(FileNotFoundError):
            os.lstat(_aside(target))  # the system says whether a name is too long
        with TemporaryFile(dir=target.parent):
            pass  # has no name where the system can: a kill leaves nothing behind
    except OSError as error:
        raise VideoError(
            f"cannot write {target}: {error.strerror}; give a place that can be written to"
        ) from error


def as_bytes(frames: Frames) -> NDArray[np.uint8]:
    """Frames as (F, H, W, 3) bytes.

    Args:
        frames: PIL images, or an array (F, H, W, 3) of floats in [0, 1] or of bytes.
    """
    if not isinstance(frames, np.ndarray):
        frames = np.stack([np.asarray(frame.convert("RGB")) for frame in frames])
    if frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
        raise VideoError(f"frames must be (F, H, W, 3) and at least one, got {frames.shape}")
    if frames.dtype == np.uint8:
        return frames
    if not np.isfinite(frames).all():
        raise VideoError(
            "the frames hold numbers that are not finite; "
            "half precision overflowed, so sample in float32 or bfloat16"
        )
    return (frames.clip(0, 1) * 255).round().astype(np.uint8)


def write_video(
    frames: Frames,
    path: str | Path,
    fps: float | int = 8,
    metadata: Mapping[str, Any] | None = None,
) -> Path:
    """Write a video, and how it was made, as the ending of `path` says.

    `.mp4` is H.264 in yuv420p, which every player shows; the format knows even sizes only, so an
    odd one repeats its last row or column. `.gif` has 256 colours a frame. `.webp` and a folder of
    PNG files (a path without ending, or ending in `/`) keep the frames exactly.

    Args:
        frames: PIL images, or an array (F, H, W, 3) of floats in [0, 1] or of bytes.
        path: where to; a file, or a folder of frames, that is there already is replaced.
        fps: frames a second.
        metadata: anything JSON can hold, for `read_metadata`.

    Returns:
        The path.

    Raises:
        VideoError: the video cannot be written there, or not so.
    """
    check_target(path, fps)
    pixels, target = as_bytes(frames), Path(path)
    text = json.dumps(metadata) if metadata else ""
    match kind_of(path):
        case "mp4":
            _replace(target, lambda aside: _write_mp4(pixels, aside, fps, text))
        case "gif":
            _replace(target, lambda aside: _write_gif(pixels, aside, fps, text))
        case "webp":
            _replace(target, lambda aside: _write_webp(pixels, aside, fps, text))
        case "png":
            _replace(target, lambda aside: _write_folder(pixels, aside, text))
    return target


def write_image(
    image: Image.Image, path: str | Path, metadata: Mapping[str, Any] | None = None
) -> Path:
    """Write one PNG, and how it was made, as `write_video` writes videos."""
    check_image_target(path)
    text = json.dumps(metadata) if metadata else ""
    _replace(Path(path), lambda aside: image.save(aside, format="PNG", pnginfo=png_text(text)))
    return Path(path)


def read_metadata(path: str | Path) -> dict[str, Any]:
    """What `write_video` was given as metadata; empty for a file that carries none.

    Args:
        path: an mp4, mov, mkv, webm, gif, webp or png, or a folder of frames.

    Raises:
        VideoError: no such file, or one that cannot be read.
    """
    file = Path(path)
    if file.is_dir():
        frames = sorted(file.glob("*.png"))
        if not frames:
            raise VideoError(f"no frames in {file}: give a video or a folder of PNG files")
        file = frames[0]
    if not file.is_file():
        raise VideoError(f"no file {file}: check the name")
    try:
        text = _stream_text(file) if file.suffix.lower() in _STREAMS else _picture_text(file)
    except (OSError, SyntaxError, ValueError) as error:
        raise VideoError(f"cannot read {file}: it is damaged or not a video") from error
    try:
        metadata = json.loads(text)
    except ValueError:
        return {}
    return metadata if isinstance(metadata, dict) else {}


# --- aside and rename -----------------------------------------------------------------------------


def _aside(target: Path, what: str = "part") -> Path:
    return target.with_name(f".{target.name}.{os.getpid()}.{what}")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _replaceable(folder: Path) -> bool:
    """Whether a folder holds nothing but numbered frames."""
    return folder.is_dir() and all(re.fullmatch(r"\d{4,}\.png", p.name) for p in folder.iterdir())


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A place aside for a file or folder, put in the place of `target` when the block ends well.

    A block that raises leaves nothing behind, and what was at `target` as it was.

    Raises:
        VideoError: it cannot be put there.
    """
    aside, old = _aside(target), _aside(target, "old")
    try:
        yield aside
        with explained(target):
            if target.is_dir():  # a folder cannot be renamed over one that holds frames
                target.rename(old)
            aside.rename(target)
    except BaseException:
        _remove(aside)
        if old.exists() and not target.exists():
            old.rename(target)
        raise
    finally:
        if target.exists():
            _remove(old)


@contextmanager
def explained(target: Path) -> Iterator[None]:
    """Turn what the system refuses into a `VideoError` that names the file."""
    try:
        yield
    except ElevatorError:
        raise
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        advice = "; free some space, or write to another place" if full else ""
        raise VideoError(f"cannot write {target}: {error.strerror or error}{advice}") from error


def _replace(target: Path, write: Callable[[Path], None]) -> None:
    with replacing(target) as aside, explained(target):
        write(aside)


# --- one writer and one reader per format ---------------------------------------------------------


def _write_mp4(pixels: NDArray[np.uint8], aside: Path, fps: float | int, text: str) -> None:
    import av

    height, width = pixels.shape[1:3]
    pixels = np.pad(pixels, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    rate = Fraction(fps).limit_denominator(1001)  # 29.97 is 2997 / 100
    with av.open(str(aside), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        if text:
            container.metadata["comment"] = text
        # One thread: x264's bytes depend on how many there are.
        told = {"crf": _CRF, "threads": "1", "x264-params": "cpu-independent=1"}
        stream = container.add_stream("libx264", rate=rate, options=told)
        stream.height, stream.width = pixels.shape[1:3]
        stream.pix_fmt = "yuv420p"
        # Say which YUV it is. BT.601 is also what readers that ignore the label assume.
        context = stream.codec_context
        context.colorspace = context.color_primaries = context.color_trc = 6
        context.color_range = 1
        for one in pixels:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(one), format="rgb24")
            frame = frame.reformat(
                format="yuv420p", dst_colorspace="ITU601", dst_color_range="MPEG"
            )
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _stream_text(file: Path) -> str:
    import av

    with av.open(str(file)) as container:
        return container.metadata.get("comment", container.metadata.get("COMMENT", ""))


def _write_gif(pixels: NDArray[np.uint8], aside: Path, fps: float | int, text: str) -> None:
    # A GIF counts hundredths of a second: frame by frame rounding keeps the length of the whole.
    ends = [round(100 * (i + 1) / fps) for i in range(len(pixels))]
    durations = [10 * (end - start) for start, end in zip([0, *ends], ends, strict=False)]
    pictures = [Image.fromarray(one).quantize(256, dither=Image.Dither.NONE) for one in pixels]
    more = {"comment": text.encode()} if text else {}
    pictures[0].save(
        aside,
        format="GIF",
        save_all=True,
        append_images=pictures[1:],
        duration=durations,
        loop=0,
        disposal=1,
        **more,
    )


def _write_webp(pixels: NDArray[np.uint8], aside: Path, fps: float | int, text: str) -> None:
    ends = [round(1000 * (i + 1) / fps) for i in range(len(pixels))]
    durations = [end - start for start, end in zip([0, *ends], ends, strict=False)]
    exif = Image.Exif()
    if text:
        exif[_DESCRIPTION] = text
    pictures = [Image.fromarray(one) for one in pixels]
    pictures[0].save(
        aside,
        format="WEBP",
        save_all=True,
        append_images=pictures[1:],
        duration=durations,
        loop=0,
        lossless=True,
        exif=exif.tobytes() if text else b"",
    )


def _write_folder(pixels: NDArray[np.uint8], aside: Path, text: str) -> None:
    aside.mkdir()
    for index, one in enumerate(pixels):
        Image.fromarray(one).save(aside / _NAME.format(index), pnginfo=png_text(text))


def png_text(text: str) -> PngImagePlugin.PngInfo:
    """A text for a PNG file to carry, where `read_metadata` finds it."""
    info = PngImagePlugin.PngInfo()
    if text:
        info.add_text("elevator", text)
    return info


def _picture_text(file: Path) -> str:
    with Image.open(file) as picture:
        match picture.format:
            case "GIF":
                comment = picture.info.get("comment", b"")
                return comment.decode() if isinstance(comment, bytes) else str(comment)
            case "PNG":
                return str(picture.info.get("elevator", ""))
            case _:
                return str(picture.getexif().get(_DESCRIPTION, ""))
