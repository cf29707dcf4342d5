"""What a clip of the procedural world shows, and its caption.

A scene is five words: texture, colour, shape, motion and background; it may also tell of an object
behind the moving one. Position, size and phases are no part of it; they are drawn from a seed when
the scene is rendered. One combination in ten is held out (see `Scene.held_out`), so that a model
can be asked for what it never saw.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from types import MappingProxyType
from typing import Literal, TypeAlias

import numpy as np

__all__ = [
    "ACTIONS",
    "BACKGROUNDS",
    "COLOURS",
    "MOTIONS",
    "SHAPES",
    "TEXTURES",
    "Scene",
    "Split",
    "draw",
    "scenes",
]

Colour: TypeAlias = tuple[float, float, float]
Split: TypeAlias = Literal["train", "held-out", "all"]

TEXTURES: tuple[str, ...] = ("plain", "striped", "checkered", "dotted")
COLOURS: Mapping[str, Colour] = MappingProxyType(
    {
        "red": (0.88, 0.11, 0.12),
        "orange": (0.98, 0.52, 0.05),
        "yellow": (0.97, 0.90, 0.15),
        "green": (0.15, 0.72, 0.20),
        "blue": (0.13, 0.30, 0.92),
        "purple": (0.55, 0.14, 0.75),
        "pink": (0.98, 0.45, 0.72),
        "white": (0.97, 0.97, 0.95),
    }
)
SHAPES: tuple[str, ...] = ("ring", "disc", "square", "triangle", "star", "cross")
MOTIONS: Mapping[str, tuple[int, int]] = MappingProxyType(
    {
        "moving left": (-1, 0),
        "moving right": (1, 0),
        "moving up": (0, -1),
        "moving down": (0, 1),
        "standing still": (0, 0),
    }
)
"""Straight motions with their directions, x to the right and y down: what the zoo's models know."""
ACTIONS: tuple[str, ...] = ("turning around", "going in circles", "growing", "shrinking")
"""Motions that are no straight line."""
BACKGROUNDS: Mapping[str, Colour] = MappingProxyType(
    {
        "teal": (0.05, 0.47, 0.46),
        "brown": (0.42, 0.26, 0.13),
        "grey": (0.50, 0.50, 0.51),
        "navy": (0.08, 0.11, 0.33),
        "sand": (0.83, 0.74, 0.55),
        "lilac": (0.72, 0.65, 0.88),
    }
)
_HELD_OUT_ONE_IN = 10


def _any(words: Mapping[str, object] | tuple[str, ...]) -> str:
    return "(" + "|".join(words) + ")"


_MOTIONS = (*MOTIONS, *ACTIONS)
_BEHIND = re.compile(f"{_any(TEXTURES)} {_any(COLOURS)} {_any(SHAPES)}")
_PATTERN = re.compile(
    f"an? {_BEHIND.pattern} {_any(_MOTIONS)} (?:in front of an? ({_BEHIND.pattern}) )?"
    f"on an? {_any(BACKGROUNDS)} background"
)


@dataclass(frozen=True)
class Scene:
    """One captioned scene.

    Attributes:
        texture: how the object is painted, one of `TEXTURES`.
        colour: its colour, one of `COLOURS` (RGB in [0, 1]).
        shape: one of `SHAPES`.
        motion: one of `MOTIONS` or `ACTIONS`.
        background: colour behind the object, one of `BACKGROUNDS`.
        behind: texture, colour and shape of a second object, which stands still behind the first
            and is partly hidden by it, such as "plain blue disc"; None for none.

    Raises:
        ValueError: a word that the world does not know.

    Example:
        >>> Scene("striped", "red", "ring", "moving left", "teal").caption()
        'a striped red ring moving left on a teal background'
    """

    texture: str
    colour: str
    shape: str
    motion: str
    background: str
    behind: str | None = None

    def __post_init__(self) -> None:
        known = {
            "texture": TEXTURES,
            "colour": COLOURS,
            "shape": SHAPES,
            "motion": _MOTIONS,
            "background": BACKGROUNDS,
        }
        for name, words in known.items():
            given = getattr(self, name)
            if given not in words:
                raise ValueError(
                    f"Scene got {name}={given!r}, which the world cannot draw; "
                    f"use one of: {', '.join(words)}."
                )
        if self.behind is not None and not _BEHIND.fullmatch(self.behind):
            raise ValueError(
                f"Scene got behind={self.behind!r}, which the world cannot draw; "
                "give texture, colour and shape, such as 'plain blue disc'."
            )

    def caption(self) -> str:
        """The sentence that describes the scene."""
        thing = f"a {self.texture} {self.colour} {self.shape}"
        behind = "" if self.behind is None else f" in front of a {self.behind}"
        return f"{thing} {self.motion}{behind} on a {self.background} background"

    @classmethod
    def from_caption(cls, caption: str) -> Scene | None:
        """The scene a caption describes, or None if the sentence is not one of the world's.

        Case, surrounding blanks and a full stop at the end do not matter.
        """
        match = _PATTERN.fullmatch(" ".join(caption.lower().split()).removesuffix("."))
        if match is None:
            return None
        texture, colour, shape, motion, behind, *_, background = match.groups()
        return cls(texture, colour, shape, motion, background, behind)

    @property
    def held_out(self) -> bool:
        """Whether the combination is kept from training: CRC-32 of the caption divisible by ten."""
        return zlib.crc32(self.caption().encode()) % _HELD_OUT_ONE_IN == 0


@cache
def scenes(split: Split = "all", motions: tuple[str, ...] = tuple(MOTIONS)) -> tuple[Scene, ...]:
    """Every scene of one object in a split, in a fixed order.

    Args:
        split: `"train"`, `"held-out"` or `"all"`.
        motions: how objects may move; straight by default, `ACTIONS` for the others.
    """
    if split not in ("train", "held-out", "all"):
        raise ValueError(f"scenes got split={split!r}; use 'train', 'held-out' or 'all'.")
    every = (Scene(*words) for words in product(TEXTURES, COLOURS, SHAPES, motions, BACKGROUNDS))
    return tuple(s for s in every if split == "all" or s.held_out == (split == "held-out"))


def draw(
    count: int,
    *,
    seed: int,
    split: Split = "train",
    motions: tuple[str, ...] = tuple(MOTIONS),
    pairs: bool = False,
) -> list[Scene]:
    """`count` scenes drawn uniformly, with repetition; the same for the same arguments.

    Args:
        count: how many.
        seed: of the draw.
        split: `"train"`, `"held-out"` or `"all"`.
        motions: how objects may move; straight by default, `ACTIONS` for the others.
        pairs: put a second object of another colour behind the first.
    """
    rng = np.random.default_rng(seed)
    if not pairs:
        pool = scenes(split, motions)
        return [pool[i] for i in rng.integers(len(pool), size=count)]
    pool, drawn = scenes("all", motions), list[Scene]()
    while len(drawn) < count:
        front, other = (pool[i] for i in rng.integers(len(pool), size=2))
        pair = replace(front, behind=f"{other.texture} {other.colour} {other.shape}")
        wanted = split == "all" or pair.held_out == (split == "held-out")
        if wanted and front.colour != other.colour:
            drawn.append(pair)
    return drawn
