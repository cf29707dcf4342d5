"""How a long run goes, in one line on the terminal and in a contact sheet."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from elevator.video.io import write_image
from elevator.video.jobs import Stage
from elevator.video.pixels import of_depth
from elevator.video.sheet import contact_sheet, evenly
from elevator.video.workplace import peak_memory

__all__ = ["Line", "as_shown"]

_OFTEN = 0.2  # seconds between two looks of the line
_SHOWN = 4  # frames in the sheet
_LARGE = 480  # pixels; larger ones are shown smaller


@final
class Line:
    """A line on a terminal that tells frames, time left and memory; elsewhere only notes.

    Args:
        name: of the clip.
        sheet: a `.png` that shows the stretch finished last; None for none.
        quiet: notes only.
    """

    def __init__(self, name: str, sheet: str | None = None, *, quiet: bool = False) -> None:
        self._name, self._sheet = name, sheet
        self._shown = not quiet and sys.stderr.isatty()
        self._stage: Stage | None = None
        self._start, self._from, self._last, self._width = 0.0, 0, 0.0, 0

    def progress(self, stage: Stage, done: int, total: int | None) -> None:
        now = time.monotonic()
        if stage != self._stage:
            self._stage, self._start, self._from = stage, now, done
        elif now - self._last < _OFTEN and done != total:
            return
        self._last = now
        if self._shown:
            self._write(self._text(stage, done, total, now))

    def note(self, sentence: str) -> None:
        self._clear()
        print(f"elevator: {sentence}", file=sys.stderr)

    def finished(
        self, first_frame: int, given: Sequence[NDArray[Any]], made: Sequence[NDArray[Any]]
    ) -> None:
        if self._sheet is None:
            return
        chosen = evenly(len(made), _SHOWN)
        after = np.stack([as_shown(made[index]) for index in chosen])
        size = after.shape[2], after.shape[1]
        before = np.stack(
            [np.asarray(Image.fromarray(as_shown(given[i])).resize(size)) for i in chosen]
        )
        strips = [("before, by interpolation", before), ("after", after)]
        numbers = [first_frame + index for index in chosen]
        write_image(contact_sheet(strips, Path(self._name).name, numbers=numbers), self._sheet)

    def __enter__(self) -> Line:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._clear()

    def _text(self, stage: Stage, done: int, total: int | None, now: float) -> str:
        text = f"{self._name}: {stage} {done}{'' if total is None else f'/{total}'} frames"
        if total is not None and done > self._from:
            seconds = round((now - self._start) * (total - done) / (done - self._from))
            hours, minutes = seconds // 3600, seconds // 60 % 60
            text += f", {hours}:{minutes:02}:{seconds % 60:02} left"
        memory = peak_memory()
        return text if memory is None else f"{text}, {memory / 2**20:.0f} MB"

    def _write(self, text: str) -> None:
        print(f"\r{text:{self._width}}", end="", file=sys.stderr, flush=True)
        self._width = len(text)

    def _clear(self) -> None:
        if self._width:
            self._write("")
            print("\r", end="", file=sys.stderr, flush=True)
            self._width = 0


def as_shown(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """A frame as bytes without alpha, no larger than is looked at."""
    picture = Image.fromarray(of_depth(pixels, 8)[..., :3])
    picture.thumbnail((_LARGE, _LARGE))
    return np.asarray(picture)
