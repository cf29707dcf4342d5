"""Contact sheets: strips of frames on one page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

__all__ = ["GAP", "INK", "PAPER", "contact_sheet", "enlarge", "evenly", "font_for"]

GAP = 8
"""Pixels between pictures."""
PAPER, INK = (255, 255, 255), (20, 20, 20)
_FAINT = (110, 110, 110)
_TINY = 256  # pixels; smaller frames are enlarged by a whole factor
_SHEET = 2400  # pixels; widest contact sheet
_MOST = 8  # frames in one row of it


def contact_sheet(
    strips: Sequence[tuple[str, NDArray[np.uint8]]],
    title: str,
    *,
    numbers: Sequence[int] | None = None,
    least: int = _TINY,
) -> Image.Image:
    """One row of frames per strip, labelled, below the title.

    Args:
        strips: label and frames (F, H, W, 3) of each; all of the first one's size.
        title: cut to the width of the page.
        numbers: what the frames are called; all are shown. None: some, evenly chosen, by index.
        least: frames with a side of fewer pixels are enlarged, by a whole factor.
    """
    panels = [(label, enlarge(frames, least)) for label, frames in strips]
    count, height, width = panels[0][1].shape[:3]
    fitting = min(_MOST, _SHEET // (width + GAP))
    chosen = evenly(count, fitting) if numbers is None else list(range(count))
    names = chosen if numbers is None else numbers
    font = font_for(width)
    line = round(1.8 * font.size)
    size = (len(chosen) * (width + GAP) + GAP, 2 * line + len(panels) * (line + height + GAP))
    page = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(page)
    draw.text((GAP, line / 2), _fit(title, font, size[0] - 2 * GAP), INK, font, anchor="lm")
    for column, name in enumerate(names):
        left = GAP + column * (width + GAP)
        draw.text((left, 1.5 * line), f"frame {name}", _FAINT, font, anchor="lm")
    for row, (label, frames) in enumerate(panels):
        top = 2 * line + row * (line + height + GAP)
        draw.text((GAP, top + line / 2), label, INK, font, anchor="lm")
        for column, frame in enumerate(chosen):
            left = GAP + column * (width + GAP)
            page.paste(Image.fromarray(frames[frame]), (left, top + line))
    return page


def evenly(count: int, most: int) -> list[int]:
    """At most `most` (at least one) of `count` indices, evenly spread, first and last included."""
    return [int(i) for i in np.linspace(0, count - 1, max(1, min(count, most))).round()]


def enlarge(frames: NDArray[np.uint8], least: int = _TINY) -> NDArray[np.uint8]:
    """Frames of under `least` pixels by a whole factor, pixel by pixel: nothing is invented."""
    times = max(1, least // min(frames.shape[1:3]))
    return frames.repeat(times, axis=1).repeat(times, axis=2)


def font_for(width: int) -> Any:
    """Pillow's own font, so that a label of the longest kind fits a panel."""
    return ImageFont.load_default(max(10, min(28, width // 14)))


def _fit(text: str, font: Any, width: int) -> str:
    """A text cut to a width."""
    text = " ".join(text.split())
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + " ...") > width:
        text = text[:-1]
    return text + " ..."
