"""Numbers of pixels, and the colours they stand for."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from elevator.video.io import VideoError
from elevator.video.pixels import Colour, as_float, as_pixels, of_depth, to_array, to_frame

# Luma of red and of blue, by the matrix's number in ITU-T H.273, from the standards themselves.
LUMA = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 6: (0.299, 0.114), 9: (0.2627, 0.0593)}


def ycbcr(rgb: NDArray[Any], colour: Colour, bits: int) -> NDArray[Any]:
    """The equations of BT.601, BT.709 and BT.2020, in floats."""
    kr, kb = LUMA[colour.matrix]
    red, green, blue = np.moveaxis(rgb / np.iinfo(rgb.dtype).max, -1, 0)
    y = kr * red + (1 - kr - kb) * green + kb * blue
    cb, cr = (blue - y) / (2 - 2 * kb), (red - y) / (2 - 2 * kr)
    unit, most = 2 ** (bits - 8), 2**bits - 1
    if colour.range == 1:
        return unit * np.stack([16 + 219 * y, 128 + 224 * cb, 128 + 224 * cr])
    return np.stack([most * y, most * cb + 128 * unit, most * cr + 128 * unit])


@pytest.mark.parametrize("matrix", LUMA)
@pytest.mark.parametrize("span", [1, 2], ids=["limited", "full"])
@pytest.mark.parametrize(("kind", "form", "bits"), [
    (np.uint8, "yuv444p", 8), (np.uint16, "yuv444p10le", 10)
])  # fmt: skip
def test_colours_are_those_of_the_standard(
    matrix: int, span: int, kind: type[np.unsignedinteger[Any]], form: str, bits: int
) -> None:
    most = np.iinfo(kind).max
    rgb = np.random.default_rng(0).integers(0, most, (32, 32, 3), dtype=kind, endpoint=True)
    colour = Colour(span, 1, 1, matrix)
    frame = to_frame(rgb, form, colour)
    assert (frame.color_range, frame.color_primaries, frame.color_trc) == (span, 1, 1)
    assert frame.colorspace == matrix
    planes = [np.frombuffer(bytes(plane), "u1" if bits == 8 else "<u2") for plane in frame.planes]
    found = np.stack([plane.reshape(32, -1)[:, :32] for plane in planes])
    assert np.abs(found - ycbcr(rgb, colour, bits)).max() < (1.1 if bits == 8 else 4.5)
    back = to_array(frame, colour, (32, 32), bits, alpha=False)
    assert np.abs(back.astype(int) - rgb).max() <= 2 * (1 if bits == 8 else 160)
    wrong = to_array(frame, colour._replace(range=3 - span), (32, 32), bits, alpha=False)
    assert np.abs(wrong.astype(int) - rgb).max() > 10 * (1 if bits == 8 else 257)


def test_an_unlabelled_file_is_taken_for_what_players_take_it_for() -> None:
    assert Colour(0, 2, 2, 2).settled(720, 576) == Colour(1, 2, 2, 6)
    assert Colour(0, 2, 2, 2).settled(1280, 576).matrix == 1
    assert Colour(0, 2, 2, 2).settled(720, 577).matrix == 1
    assert Colour(2, 9, 16, 9).settled(64, 64) == Colour(2, 9, 16, 9)
    assert Colour(2, 1, 13, 0).settled(64, 64) == Colour(1, 1, 13, 6)  # R'G'B' was full


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_floats_and_back_is_the_same(kind: type[np.unsignedinteger[Any]]) -> None:
    numbers = np.arange(np.iinfo(kind).max + 1, dtype=kind)[None, None, :, None].repeat(3, -1)
    floats = as_float(numbers)
    assert floats.shape == (1, 3, 1, numbers.shape[2])
    assert floats.dtype == torch.float32
    assert (float(floats.min()), float(floats.max())) == (0.0, 1.0)
    assert np.array_equal(as_pixels(floats, 8 if kind == np.uint8 else 10), numbers)


def test_the_nearest_number_is_taken() -> None:
    values = torch.tensor([-1.0, 0.49 / 255, 0.51 / 255, 254.49 / 255, 2.0]).view(1, 1, 1, 5)
    assert as_pixels(values).ravel().tolist() == [0, 0, 1, 254, 255]
    assert as_pixels(values.bfloat16()).dtype == np.uint8
    assert as_pixels(torch.full((1, 3, 1, 1), 0.5), 16).ravel().tolist() == [32768] * 3
    numbers = np.arange(65536, dtype=np.uint16)
    assert np.array_equal(of_depth(numbers, 8), np.round(numbers / 257).astype(np.uint8))
    assert np.array_equal(of_depth(of_depth(numbers[:256].astype(np.uint8), 10), 8), range(256))
    assert of_depth(numbers, 16) is numbers


def test_what_is_refused() -> None:
    with pytest.raises(VideoError, match="not finite; half precision overflowed"):
        as_pixels(torch.full((1, 3, 1, 1), float("nan")))
    with pytest.raises(VideoError, match=r"uint8 or uint16, got \(2, 2, 3\) of float64"):
        as_float(np.zeros((2, 2, 3)))
