"""FreeInit's low-pass filters in plain loops: slow, readable, faults and all.

The spectrum is shifted so that frequency zero is in the middle, multiplied bin by bin and shifted
back; the imaginary part of the result is dropped. The coordinate of bin i of n is 2 i / n - 1.
"""

import itertools
import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def mask(kind: str, shape: tuple[int, int, int], d_s: float, d_t: float, n: int = 4) -> Array:
    """The mask over the shifted spectrum of (frames, height, width)."""
    result = np.zeros(shape)
    if d_s == 0 or d_t == 0:
        return result
    for bins in itertools.product(*map(range, shape)):
        if kind == "box":
            result[bins] = _box(bins, shape, d_s, d_t)
        else:
            u_t, u_h, u_w = (2 * i / size - 1 for i, size in zip(bins, shape, strict=True))
            result[bins] = _gain(kind, u_t, u_h, u_w, d_s, d_t, n)
    return result


def _gain(kind: str, u_t: float, u_h: float, u_w: float, d_s: float, d_t: float, n: int) -> float:
    squared = (d_s / d_t * u_t) ** 2 + u_h**2 + u_w**2
    if kind == "gaussian":
        return math.exp(-squared / (2 * d_s**2))
    if kind == "butterworth":
        return 1 / (1 + (squared / d_s**2) ** n)
    assert kind == "ideal"
    return 1.0 if squared <= d_s * 2 else 0.0


def _box(bins: tuple[int, ...], shape: tuple[int, int, int], d_s: float, d_t: float) -> float:
    space = round(int(shape[1] // 2) * d_s)
    reaches = (round(shape[0] // 2 * d_t), space, space)
    for i, size, reach in zip(bins, shape, reaches, strict=True):
        if not size // 2 - reach <= i < size // 2 + reach:
            return 0.0
    return 1.0


def low_pass(x: Array, mask: Array) -> Array:
    """Filter the last three axes of `x`."""
    axes = (-3, -2, -1)
    spectrum = np.fft.fftshift(np.fft.fftn(x, axes=axes), axes=axes)
    return np.fft.ifftn(np.fft.ifftshift(spectrum * mask, axes=axes), axes=axes).real
