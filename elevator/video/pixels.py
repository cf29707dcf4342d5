"""Pixels as arrays and tensors, and to and from the colours a file holds.

Arrays are (H, W, 3) or, with alpha, (H, W, 4): uint8 over 0 ... 255, or uint16 over 0 ... 65535
whatever the depth of the file, so that a number means the same in every one of them.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from elevator.video.io import VideoError

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

__all__ = ["Colour", "Depth", "as_float", "as_pixels", "of_depth", "to_array", "to_frame"]

Depth: TypeAlias = Literal[8, 10, 16]
Pixels: TypeAlias = NDArray[Any]  # of uint8 or uint16

LIMITED, FULL = 1, 2  # FFmpeg's numbers of the two ranges
UNKNOWN = 2  # of primaries, transfer and matrix, in ITU-T H.273
BT709, BT601, RGB = 1, 6, 0  # matrices, in H.273
_KNOWN = {1, 4, 5, 6, 7, 9}  # the matrices swscale converts with
_LARGE = 1280, 576  # from this width, or above this height, what is unlabelled is BT.709


class Colour(NamedTuple):
    """What the numbers of a video stand for.

    Attributes:
        range: 1 for limited (16 ... 235 of 255), 2 for full.
        primaries: as ITU-T H.273 numbers them; 2 is unknown. So for `transfer`.
        transfer: the curve from light to numbers.
        matrix: from R'G'B' to Y'CbCr; 0 for a file that holds R'G'B' itself.
    """

    range: int = LIMITED
    primaries: int = UNKNOWN
    transfer: int = UNKNOWN
    matrix: int = UNKNOWN

    def settled(self, width: int, height: int) -> Colour:
        """As Y'CbCr, with a matrix and a range: those that players assume where none is named."""
        large = width >= _LARGE[0] or height > _LARGE[1]
        matrix = (BT709 if large else BT601) if self.matrix in (UNKNOWN, RGB) else self.matrix
        span = LIMITED if self.matrix == RGB else self.range or LIMITED
        return self._replace(range=span, matrix=matrix)

    @property
    def convertible(self) -> bool:
        """Whether the matrix is one that can be converted with."""
        return self.matrix in _KNOWN


def as_float(pixels: Pixels) -> Float[Tensor, "f c h w"]:
    """Frames (F, H, W, C) of bytes or of 16-bit numbers, as floats in [0, 1]."""
    if pixels.ndim != 4 or pixels.dtype not in (np.uint8, np.uint16):
        raise VideoError(
            f"pixels must be (F, H, W, C) of uint8 or uint16, got {pixels.shape} of {pixels.dtype}"
        )
    most = np.iinfo(pixels.dtype).max
    floats = torch.from_numpy(pixels.astype(np.float32))
    return floats.div_(most).permute(0, 3, 1, 2).contiguous()


def as_pixels(frames: Float[Tensor, "f c h w"], depth: int = 8) -> Pixels:
    """Floats in [0, 1] as the nearest numbers, (F, H, W, C); what lies outside is clipped.

    Args:
        frames: of any device and precision.
        depth: uint8 for 8, else uint16.

    Raises:
        VideoError: numbers that are not finite.
    """
    if not torch.isfinite(frames).all():
        raise VideoError(
            "the frames hold numbers that are not finite; "
            "half precision overflowed, so compute in float32 or bfloat16"
        )
    kind = np.uint8 if depth == 8 else np.uint16
    most = np.iinfo(kind).max
    numbers = frames.detach().float().clamp(0, 1).mul(most).round_()
    return numbers.permute(0, 2, 3, 1).contiguous().cpu().numpy().astype(kind)


def of_depth(pixels: Pixels, depth: int) -> Pixels:
    """The same picture in the numbers of a depth: uint8 for 8, else uint16; the nearest ones."""
    wide = pixels.dtype == np.uint16
    if wide == (depth > 8):
        return pixels
    if wide:
        return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return pixels.astype(np.uint16) * np.uint16(257)


def to_array(
    frame: VideoFrame, colour: Colour, size: tuple[int, int], depth: int, alpha: bool
) -> NDArray[Any]:
    """The pixels of a decoded frame, as it lies in the file: not turned.

    Args:
        frame: of any format FFmpeg knows.
        colour: what its numbers stand for, settled.
        size: width and height; a frame of another size is scaled.
        depth: uint8 for 8, else uint16.
        alpha: four channels.
    """
    form = ("rgba" if alpha else "rgb24") if depth == 8 else ("rgba64le" if alpha else "rgb48le")
    if not frame.format.is_rgb:
        frame.colorspace = colour.matrix if colour.convertible else BT709
        frame.color_range = colour.range
    made = frame.reformat(
        size[0], size[1], form, interpolation=_exact(), dst_color_range=FULL, threads=1
    )
    return made.to_ndarray()


def to_frame(pixels: Pixels, form: str, colour: Colour) -> VideoFrame:
    """A frame to encode, of a format and in the colours of a file, from (H, W, 3 or 4)."""
    import av

    wide, alpha = pixels.dtype == np.uint16, pixels.shape[-1] == 4
    name = ("rgba64le" if alpha else "rgb48le") if wide else ("rgba" if alpha else "rgb24")
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format=name)
    frame.color_range = FULL
    target = colour.matrix if colour.convertible else BT709
    made = frame.reformat(
        format=form,
        interpolation=_exact(),
        dst_colorspace=5 if target == BT601 else target,  # swscale's number for BT.601
        dst_color_range=colour.range,
        threads=1,
    )
    made.colorspace, made.color_range = colour.matrix, colour.range
    made.color_primaries, made.color_trc = colour.primaries, colour.transfer
    return made


@cache
def _exact() -> int:
    """The flags of swscale for the nearest numbers, the same on every processor."""
    from av.video.reformatter import Interpolation as How

    return int(
        How.BICUBIC | How.FULL_CHR_H_INT | How.FULL_CHR_H_INP | How.ACCURATE_RND | How.BITEXACT
    )
