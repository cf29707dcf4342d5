r"""Clips without captions whose statistics are those of photographs: dead leaves and 1/f noise.

A network of the world alone knows flat shapes on flat grounds. Pictures of anything else differ in
three ways that need no photograph to be learnt: things of every size cover one another, so that
edges are everywhere and at every angle (the dead-leaves model with radii of density
$p(r) \propto r^{-a}$; Lee, Mumford and Huang 2001, "Occlusion models for natural images", section
3); their brightness has an amplitude spectrum of about one over the frequency (Field 1987,
"Relations between the statistics of natural images and the response properties of cortical cells");
and things go their own ways. A network trained on dead leaves restores photographs nearly as well
as one trained on photographs (Achddou, Gousseau and Ladjal 2021, "Synthetic images as a regularity
prior for image restoration neural networks").
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["leaves", "noise"]

Array = NDArray[np.float32]

DENSITY = 130 / 128**2
"""Leaves for every pixel of a frame."""
SMALLEST, LARGEST = 1.5, 0.35
"""Radius of the smallest leaf in pixels; of the largest, as a part of the frame's longer side."""
GROUND = 4
"""Large leaves behind all others."""
STEEPNESS = (1.8, 2.8)
"""Range of the exponent of the radii, drawn for every clip."""
PAN, DRIFT, ZOOM, TURN = 3.0, 1.0, 0.01, 0.02
"""Fastest motion of a clip and spread of a leaf's own, in pixels a frame; fastest zoom, as a part
of the size, and spread of a leaf's turning, in radians, both a frame."""
STILL = 0.25
"""Share of the clips in which nothing moves but the leaves with `DRIFT`."""
CHROMA = 0.08
"""Spread of a leaf's colour around grey."""


def leaves(
    count: int, *, frames: int = 8, size: int | tuple[int, int] = 128, seed: int | Sequence[int] = 0
) -> Float[Tensor, "b 3 f h w"]:
    """Discs, blades, boxes and lines that cover one another, each shaded, grained and on its way.

    Edges are smooth over one pixel, or over more for what is out of focus; nothing is drawn on a
    finer grid and averaged, so that a clip of 128x128 takes about three milliseconds a frame.

    Args:
        count: clips.
        frames: frames of each.
        size: height and width in pixels; one number for both.
        seed: one integer gives clip `i` the seed `seed + i`; a sequence gives every clip its own.

    Returns:
        RGB in [0, 1], on the CPU; a clip depends on its own seed only.
    """
    height, width = (size, size) if isinstance(size, int) else size
    seeds = range(seed, seed + count) if isinstance(seed, int) else seed
    clips = [_leaves(np.random.default_rng([s, 1]), frames, height, width) for s in seeds]
    return torch.from_numpy(np.stack(clips, 0)).clamp_(0, 1)


def noise(
    count: int, *, frames: int = 8, size: int | tuple[int, int] = 128, seed: int | Sequence[int] = 0
) -> Float[Tensor, "b 3 f h w"]:
    """Gaussian noise of amplitude one over the frequency that drifts by fractions of a pixel.

    Half of the clips are passed through a curve with steps in it, which gives them the edges of
    marble or of a coast. Arguments and result are those of `leaves`.
    """
    height, width = (size, size) if isinstance(size, int) else size
    seeds = range(seed, seed + count) if isinstance(seed, int) else seed
    clips = [_clouds(np.random.default_rng([s, 2]), frames, height, width) for s in seeds]
    return torch.from_numpy(np.stack(clips, 0)).clamp_(0, 1)


def _leaves(random: np.random.Generator, frames: int, height: int, width: int) -> Array:
    """One clip, painted from the back to the front."""
    longer = max(height, width)
    count = max(8, round(DENSITY * height * width))
    power = random.uniform(*STEEPNESS)
    smallest, largest = SMALLEST, max(2 * SMALLEST, LARGEST * longer)
    share = random.random(count)
    low, high = smallest ** (1 - power), largest ** (1 - power)
    radius = (low + share * (high - low)) ** (1 / (1 - power))
    radius[:GROUND] = largest * random.uniform(0.7, 1.5, GROUND)  # so that little is bare
    times = np.arange(frames) - (frames - 1) / 2
    still = random.random() < STILL
    pan = np.zeros(2) if still else random.uniform(-PAN, PAN, 2)
    zoom = 0.0 if still else random.uniform(-ZOOM, ZOOM)
    drift = DRIFT * random.standard_normal((count, 2)) * (random.random((count, 1)) < 0.5)
    spin = TURN * random.standard_normal(count)
    middle = np.array([height / 2, width / 2])
    start = random.random((count, 2)) * 1.2 - 0.1
    path = start[:, None] * [height, width] - middle + times[:, None] * (pan + drift)[:, None]
    grown = np.exp(zoom * times)
    path = path * grown[:, None] + middle
    light = 0.25 + 0.5 * random.random()
    contrast = random.uniform(0.1, 0.35)
    tint = CHROMA * random.standard_normal(3)
    clip = np.empty((3, frames, height, width), np.float32)
    clip[:] = (light + tint)[:, None, None, None]
    angle = random.uniform(0, math.pi, count)
    for i in range(count):
        colour = light + contrast * random.standard_normal() + tint
        colour = colour + CHROMA * random.standard_normal(3)
        turned = (angle[i] + spin[i] * times).astype(np.float32)
        radii = (radius[i] * grown).astype(np.float32)
        _paint(clip, random, path[i], radii, turned, colour.astype(np.float32))
    if random.random() < 0.6:
        grain = _field(random, frames, height, width, random.uniform(0.6, 1.2), pan)
        clip += np.float32(random.uniform(0.01, 0.08)) * grain
    return clip


def _paint(
    clip: Array,
    random: np.random.Generator,
    path: NDArray[np.float64],
    radii: Array,
    angles: Array,
    colour: Array,
) -> None:
    """Lay one leaf over every frame of a clip."""
    height, width = clip.shape[-2:]
    soft = random.uniform(1.5, 5.0) if random.random() < 0.15 else 1.0
    reach = math.ceil(float(radii.max()) + soft) + 1
    corner = np.floor(path).astype(int) - reach
    side = 2 * reach + 1
    ticks = np.arange(side, dtype=np.float32)
    # Only what lies inside the frame in some frame is computed.
    top, left = (max(0, -int(corner[:, a].max())) for a in (0, 1))
    bottom = min(side, height - int(corner[:, 0].min()))
    right = min(side, width - int(corner[:, 1].min()))
    if top >= bottom or left >= right:
        return
    offset = (path - corner - 0.5).astype(np.float32)
    y, x = ticks[top:bottom] - offset[:, :1], ticks[left:right] - offset[:, 1:]
    cos, sin = np.cos(angles)[:, None, None], np.sin(angles)[:, None, None]
    u = x[:, None] * cos + y[:, :, None] * sin
    v = y[:, :, None] * cos - x[:, None] * sin
    inside = _inside(random, u, v, radii[:, None, None])
    cover = np.clip(np.float32(0.5) + inside / np.float32(soft), 0, 1)
    tone = _shade(random, u, v, radii[:, None, None])
    for frame, (down, across) in enumerate(corner + np.array([top, left])):
        y0, x0 = max(0, -down), max(0, -across)
        y1, x1 = min(bottom - top, height - down), min(right - left, width - across)
        if y0 >= y1 or x0 >= x1:
            continue
        part = clip[:, frame, down + y0 : down + y1, across + x0 : across + x1]
        painted = colour[:, None, None] + tone[frame, y0:y1, x0:x1] - part
        part += cover[frame, y0:y1, x0:x1] * painted


def _inside(random: np.random.Generator, u: Array, v: Array, radius: Array) -> Array:
    """About how many pixels a point is within the edge of a shape."""
    kind = random.random()
    if kind < 0.35:
        return radius - np.sqrt(u * u + v * v)
    flat = np.float32(random.uniform(0.15, 0.9))
    if kind < 0.6:
        away = np.sqrt(u * u + (v / flat) ** 2)
        return (radius - away) * flat
    if kind < 0.9:
        thin = np.float32(random.uniform(0.4, 1.5)) if kind > 0.8 else radius * flat
        return np.minimum(radius * np.float32(0.8) - np.abs(u), thin - np.abs(v))
    away = np.maximum(-v, np.abs(u) * np.float32(0.87) + v * np.float32(0.5))
    return radius * np.float32(0.5) - away


def _shade(random: np.random.Generator, u: Array, v: Array, radius: Array) -> Array:
    """What makes a leaf lighter or darker than its colour: a slope, and waves on half of them."""
    slope = (0.12 * random.standard_normal(2)).astype(np.float32)
    tone: Array = (slope[0] * u + slope[1] * v) / radius
    if random.random() < 0.5:
        return tone
    first = float(radius[0, 0, 0])
    period = math.exp(random.uniform(math.log(2.2), math.log(max(3.0, first))))
    turns = np.float32(2 * math.pi * first / period) / radius
    way, phase = random.uniform(0, 2 * math.pi, 2)
    along = np.float32(math.cos(way)) * u + np.float32(math.sin(way)) * v
    wave = np.sin(turns * along + np.float32(phase))
    if random.random() < 0.5:
        wave = np.clip(np.float32(period / 6) * wave, -1, 1)
    return tone + np.float32(random.uniform(0.03, 0.25)) * wave


def _clouds(random: np.random.Generator, frames: int, height: int, width: int) -> Array:
    """One clip of brightness and two fainter fields of colour."""
    pan = random.uniform(-PAN, PAN, 2) * (random.random() >= STILL)
    steepness = random.uniform(0.8, 1.6)
    light = _field(random, frames, height, width, steepness, pan)
    if random.random() < 0.5:
        edges = np.sort(random.uniform(-1.5, 1.5, random.integers(1, 5))).astype(np.float32)
        rough = _field(random, frames, height, width, random.uniform(1.5, 2.2), pan)
        heights = random.uniform(-1, 1, len(edges)).astype(np.float32)
        sharp = np.float32(height / random.uniform(3, 8))
        steps = sum(
            h * np.clip(sharp * (rough - e), -1, 1) for e, h in zip(edges, heights, strict=True)
        )
        light = np.float32(0.3) * light + steps
    clip = np.empty((3, frames, height, width), np.float32)
    clip[:] = np.float32(random.uniform(0.08, 0.25)) * light
    for _ in range(2):
        tint = (random.uniform(0, 0.6) * CHROMA * random.standard_normal(3)).astype(np.float32)
        clip += tint[:, None, None, None] * _field(random, frames, height, width, 1.5, pan)
    clip += random.uniform(0.25, 0.75, (3, 1, 1, 1)).astype(np.float32)
    return clip


def _field(
    random: np.random.Generator,
    frames: int,
    height: int,
    width: int,
    steepness: float,
    pan: NDArray[np.float64],
) -> Array:
    """Frames of noise, of mean 0 and spread 1, that drift by `pan` pixels a frame, and wrap."""
    y, x = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)
    away = np.sqrt(y * y + x * x)
    away[0, 0] = 1.0
    spectrum = np.fft.rfft2(random.standard_normal((height, width))) * away**-steepness
    spectrum[0, 0] = 0.0
    times = np.arange(frames)[:, None, None]
    moved = spectrum * np.exp(-2j * math.pi * times * (pan[0] * y + pan[1] * x))
    field = torch.fft.irfft2(torch.from_numpy(moved.astype(np.complex64)), (height, width)).numpy()
    spread = float(field[0].std())
    return np.asarray(field / max(spread, 1e-6), np.float32)
