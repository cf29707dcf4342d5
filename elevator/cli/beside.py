"""What lies beside an upscaled clip: the comparison with bicubic interpolation, and the preview."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np

from elevator.cli.compare import side_by_side
from elevator.cli.watching import as_shown
from elevator.upscale import Bicubic
from elevator.video.io import write_image
from elevator.video.pixels import as_float, as_pixels, of_depth
from elevator.video.reader import open_video
from elevator.video.sheet import contact_sheet, evenly
from elevator.video.writer import create_video

__all__ = ["asked_for", "compare", "preview_target", "targets"]

_SHOWN = 6  # frames in the contact sheet
_CRF = 12


def targets(out: str) -> tuple[str, str]:
    """Where the side-by-side video and its contact sheet go: next to `out`."""
    path, stem, folder = Path(out), *_stem(out)
    video = path.with_name(f"{stem}-compare" + ("" if folder else path.suffix))
    return f"{video}{'/' if folder else ''}", str(path.with_name(f"{stem}-compare.png"))


def preview_target(out: str) -> str:
    """Where the contact sheet goes that shows how far a run is: next to `out`."""
    return str(Path(out).with_name(f"{_stem(out)[0]}-preview.png"))


def asked_for(out: str, given: argparse.Namespace) -> list[str]:
    """Where all goes that a command line wants next to `out`."""
    return [
        *(targets(out) if given.compare else ()),
        *([preview_target(out)] if given.preview else ()),
    ]


def _stem(out: str) -> tuple[str, bool]:
    """A target's name without its ending, and whether it is a folder."""
    path = Path(out)
    folder = out.endswith(("/", os.sep)) or not path.suffix
    return (path.name if folder else path.stem), folder


def compare(source: Path, out: str, method: str, *, rate: float | None) -> None:
    """Show what was made beside bicubic interpolation, frame by frame, and some frames on a page.

    Args:
        source: the clip.
        out: what was made of it.
        method: what it is called.
        rate: frames a second of a folder of pictures.
    """
    video, page = targets(out)
    labels = ("bicubic", method)
    with open_video(source, rate) as before, open_video(out, rate) as after:
        upscaler = Bicubic(after.width // before.width)
        chosen = evenly(sum(1 for _ in after.frames()), _SHOWN)
        blank = np.zeros((1, after.height, after.width, 3), np.uint8)
        height, width = side_by_side([(label, blank) for label in labels]).shape[1:3]
        rows = []
        with create_video(video, before, width, height, crf=_CRF, depth=8, alpha=False) as written:
            frames = zip(before.frames(), after.frames(), strict=True)
            for index, (given, made) in enumerate(frames):
                small = as_float(given.pixels[None, ..., :3])
                interpolated = as_pixels(upscaler(small, index)).astype(np.uint8)
                both = interpolated, of_depth(made.pixels, 8)[None, ..., :3].astype(np.uint8)
                shown = side_by_side([*zip(labels, both, strict=True)])[0]
                written.write(shown, given.time, given.duration)
                if index in chosen:
                    rows.append([as_shown(one[0]) for one in both])
    strips = [(label, np.stack(column)) for label, *column in zip(labels, *rows, strict=True)]
    write_image(contact_sheet(strips, source.name, numbers=chosen), page)
