"""Scenes to frames: drawn at twice the size and averaged down, so edges are sharp and smooth."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import avg_pool2d

from elevator.world.layout import SIZE, Layout, layout
from elevator.world.scene import BACKGROUNDS, COLOURS, SHAPES, TEXTURES, Scene

__all__ = ["cover", "cover_behind", "render"]

OVERSAMPLING = 2
"""Subpixels along each side of a pixel."""
SECOND_TONE = 0.15
"""Brightness of a texture's dark parts relative to the object's colour."""
PERIOD = {"striped": 8.0, "checkered": 10.0, "dotted": 7.5}
"""Length, in pixels of a 64-pixel frame, after which a texture repeats."""
JOINT_PERIOD, JOINT_WIDTH, JOINT_DEPTH = 8, 1, 0.3
"""Distance and width in pixels, and darkness in [0, 1], of the lines on the background."""
SHADE_DEPTH = 0.05
"""Amplitude in [0, 1] of the slow waves over the background."""

Plane: TypeAlias = Float[Tensor, "#n #h #w"]
Mask: TypeAlias = Bool[Tensor, "n h w"]


def render(
    scenes: Sequence[Scene], *, frames: int = 8, size: int = 64, seed: int | Sequence[int] = 0
) -> Float[Tensor, "b f c h w"]:
    """Draw a batch of clips, RGB in [0, 1].

    Args:
        scenes: what to draw, one clip each.
        frames: frames of every clip; 1 gives stills, with the object where a clip might start.
        size: height and width in pixels.
        seed: position, size and phases. One integer gives clip `i` the seed `seed + i`; a sequence
            gives every clip its own. A clip depends on its own scene and seed only.

    Returns:
        The clips on the CPU, in float32.
    """
    where = layout(scenes, frames=frames, size=size, seed=seed)
    clips = _background(scenes, where, size)[:, None]
    pairs = [i for i, scene in enumerate(scenes) if scene.behind is not None]
    if pairs:
        things = [str(scenes[i].behind).split() for i in pairs]
        colour = torch.tensor([COLOURS[thing[1]] for thing in things])[:, None, :, None, None]
        clips[pairs] = _painted(clips[pairs], colour, *cover_behind(scenes, where, size, pairs))
    colour = torch.tensor([COLOURS[s.colour] for s in scenes])[:, None, :, None, None]
    return _painted(clips, colour, *cover(scenes, where, size)).clamp_(0, 1)


def _painted(
    behind: Float[Tensor, "b f2 c h w"],
    colour: Float[Tensor, "b 1 c 1 1"],
    main: Float[Tensor, "b f 1 h w"],
    second: Float[Tensor, "b f 1 h w"],
) -> Float[Tensor, "b f c h w"]:
    """An object in two tones of its colour over what is behind it."""
    clips = behind * (1 - main - second)
    return clips.addcmul_(colour, main).addcmul_(colour * SECOND_TONE, second)


def cover(
    scenes: Sequence[Scene], where: Layout, size: int
) -> tuple[Float[Tensor, "b f 1 h w"], Float[Tensor, "b f 1 h w"]]:
    """How much of every pixel the object's main tone covers, and how much its second tone."""
    count, frames = where.centre.shape[:2]
    main = torch.empty(count, frames, 1, size, size)
    second = torch.empty(count, frames, 1, size, size)
    for i, scene in enumerate(scenes):
        main[i, :, 0], second[i, :, 0] = _drawn(
            *(scene.texture, scene.shape, size),
            *(where.centre[i], where.radius[i], where.angle[i], where.phase[i]),
        )
    return main, second


def cover_behind(
    scenes: Sequence[Scene], where: Layout, size: int, pairs: Sequence[int]
) -> tuple[Float[Tensor, "n 1 1 h w"], Float[Tensor, "n 1 1 h w"]]:
    """As `cover`, of the still objects behind others, in the scenes of these numbers."""
    tones = []
    for i in pairs:
        texture, _, shape = str(scenes[i].behind).split()
        place = (where.behind[i, None], where.behind_radius[i, None], torch.zeros(1))
        tones.append(_drawn(texture, shape, size, *place, where.behind_phase[i]))
    main, second = (torch.stack(tone)[:, :, None] for tone in zip(*tones, strict=True))
    return main, second


def _drawn(
    texture: str,
    shape: str,
    size: int,
    centre: Float[Tensor, "f 2"],
    radius: Float[Tensor, " f"],
    angle: Float[Tensor, " f"],
    phase: Float[Tensor, " two"],
) -> tuple[Float[Tensor, "f h w"], Float[Tensor, "f h w"]]:
    """Both tones of one object, frame by frame."""
    fine = size * OVERSAMPLING
    ticks = (torch.arange(fine, dtype=torch.float32) + 0.5) / OVERSAMPLING
    x = (ticks - centre[:, 0, None])[:, None, :]
    y = (ticks - centre[:, 1, None])[:, :, None]
    if angle.any():
        cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
        x, y = x * cos + y * sin, y * cos - x * sin
    inside = _INSIDE[shape](x / radius[:, None, None], y / radius[:, None, None])
    if texture == "plain":
        main = avg_pool2d(inside.float(), OVERSAMPLING)
        return main, torch.zeros_like(main)
    period = PERIOD[texture] * size / SIZE * (radius / radius.max())[:, None, None]
    painted = _PAINTED[texture](x / period + phase[0], y / period + phase[1])
    return (
        avg_pool2d((inside & painted).float(), OVERSAMPLING),
        avg_pool2d((inside & ~painted).float(), OVERSAMPLING),
    )


def _background(scenes: Sequence[Scene], where: Layout, size: int) -> Float[Tensor, "b c h w"]:
    """A colour under crisp joints (boards or tiles) and a faint slow shading."""
    unit = size / SIZE
    period, width = max(2, round(JOINT_PERIOD * unit)), max(1, round(JOINT_WIDTH * unit))
    pixels = torch.arange(size)
    start = (where.offset * period).long()
    lines = ((pixels + start[:, :, None]) % period < width).float()
    across = lines[:, 1, :, None] * (where.joints != 1)[:, None, None]
    along = lines[:, 0, None, :] * (where.joints != 0)[:, None, None]
    tone = 1 - JOINT_DEPTH * torch.maximum(across, along)
    turns = (pixels + 0.5) / size
    for wave in range(2):
        fx, fy, phase = where.shade[:, wave].unbind(1)
        angle = (fx * 2 - 1)[:, None, None] * turns + (fy * 2 - 1)[:, None, None] * turns[:, None]
        tone = tone + SHADE_DEPTH * torch.sin(2 * math.pi * (angle + phase[:, None, None]))
    base = torch.tensor([BACKGROUNDS[s.background] for s in scenes])
    return (base[:, :, None, None] * tone[:, None]).clamp(0, 1)


def _ring(x: Plane, y: Plane) -> Mask:
    square = x * x + y * y
    return (square <= 1) & (square >= 0.5**2)


def _disc(x: Plane, y: Plane) -> Mask:
    return x * x + y * y <= 1


def _square(x: Plane, y: Plane) -> Mask:
    return (x.abs() <= 0.85) & (y.abs() <= 0.85)


def _triangle(x: Plane, y: Plane) -> Mask:
    return (y <= 0.8) & (x.abs() <= (y + 1) * (0.98 / 1.8))


def _star(x: Plane, y: Plane) -> Mask:
    fold = 2 * math.pi / 5
    angle = torch.atan2(x, -y)
    away = torch.remainder(angle + fold / 2, fold).sub_(fold / 2).abs_()
    distance = torch.sqrt(x * x + y * y)
    inner_x, inner_y = 0.45 * math.cos(fold / 2), 0.45 * math.sin(fold / 2)
    px, py = distance * torch.cos(away), distance * torch.sin(away)
    return (1 - inner_x) * py + inner_y * px <= inner_y


def _cross(x: Plane, y: Plane) -> Mask:
    x, y = x.abs(), y.abs()
    return ((x <= 0.33) & (y <= 0.97)) | ((y <= 0.33) & (x <= 0.97))


def _striped(x: Plane, y: Plane) -> Mask:
    return torch.frac(x * math.sqrt(0.5) + y * math.sqrt(0.5) + 64) < 0.5


def _checkered(x: Plane, y: Plane) -> Mask:
    return (torch.frac(x + 64) < 0.5) ^ (torch.frac(y + 64) < 0.5)


def _dotted(x: Plane, y: Plane) -> Mask:
    dx, dy = torch.frac(x + 64) - 0.5, torch.frac(y + 64) - 0.5
    return dx * dx + dy * dy > 0.31**2


_INSIDE: Mapping[str, Callable[[Plane, Plane], Mask]] = dict(
    zip(SHAPES, (_ring, _disc, _square, _triangle, _star, _cross), strict=True)
)
_PAINTED: Mapping[str, Callable[[Plane, Plane], Mask]] = dict(
    zip(TEXTURES[1:], (_striped, _checkered, _dotted), strict=True)
)
