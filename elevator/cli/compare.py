"""`--compare`: each model alone beside the elevated video, as a video and as a contact sheet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from elevator.cli.record import Record, Settings
from elevator.video.clips import fit
from elevator.video.io import as_bytes, kind_of, write_image, write_video
from elevator.video.sheet import GAP, INK, PAPER, contact_sheet, enlarge, font_for

if TYPE_CHECKING:
    from elevator.pipelines.video_elevator import VideoElevatorPipeline

__all__ = ["side_by_side", "targets", "write"]

_AT_ONCE = 4  # stills painted at once


class _Strip(NamedTuple):
    label: str
    frames: NDArray[np.uint8]


def targets(out: str) -> tuple[str, str]:
    """Where the side-by-side video and the contact sheet go: next to `out`."""
    path = Path(out)
    folder = kind_of(out) == "png"
    stem = path.name if folder else path.stem
    video = path.with_name(f"{stem}-compare" + ("" if folder else path.suffix))
    # A folder's name may hold a dot: the slash keeps it a folder.
    return str(video) + ("/" if folder else ""), str(path.with_name(f"{stem}-compare.png"))


def write(
    pipe: VideoElevatorPipeline,
    settings: Settings,
    frames: NDArray[Any],
    out: str,
    record: Record,
    *,
    quiet: bool = False,
    init: NDArray[np.uint8] | None = None,
) -> tuple[str, str]:
    """Sample both models alone, as the elevated video was, and write the comparison.

    A clip that was started from is shown first.

    Returns:
        The two files written.
    """
    height, width = frames.shape[1:3]
    strips = [
        *([] if init is None else [_Strip("start", fit(init, width, height))]),
        _Strip("T2V", as_bytes(_film(pipe, settings, frames, quiet))),
        _Strip("T2I, frame by frame", as_bytes(_paint(pipe, settings, frames, quiet))),
        _Strip("elevated", as_bytes(frames)),
    ]
    video, sheet = targets(out)
    made = record.to_json()
    write_video(side_by_side(strips), video, settings.fps, {"compares": made})
    write_image(contact_sheet(strips, settings.prompt), sheet, {"compares": made})
    return video, sheet


def _film(
    pipe: VideoElevatorPipeline, settings: Settings, frames: NDArray[Any], quiet: bool
) -> NDArray[Any]:
    """The T2V's own video of the same length, size and number of steps."""
    numbers = _numbers(pipe, settings)
    view = pipe.t2v
    view.set_progress_bar_config(disable=quiet, desc="T2V alone")
    count, height, width = frames.shape[:3]
    made: Any = view(
        settings.prompt,
        negative_prompt=settings.negative,
        height=height,
        width=width,
        num_frames=count,
        num_inference_steps=settings.steps or numbers.steps,
        guidance_scale=numbers.video_guidance,
        generator=torch.Generator().manual_seed(settings.seed),
        output_type="np",
    )
    return made.frames[0]


def _paint(
    pipe: VideoElevatorPipeline, settings: Settings, frames: NDArray[Any], quiet: bool
) -> NDArray[Any]:
    """As many stills of the T2I, which know nothing of each other."""
    numbers = _numbers(pipe, settings)
    view = pipe.t2i
    count, height, width = frames.shape[:3]
    generator = torch.Generator().manual_seed(settings.seed)
    stills = []
    for first in range(0, count, _AT_ONCE):
        last = min(first + _AT_ONCE, count)
        view.set_progress_bar_config(disable=quiet, desc=f"T2I alone {last}/{count}")
        stills.append(
            view(
                [settings.prompt] * (last - first),
                negative_prompt=None
                if settings.negative is None
                else [settings.negative] * (last - first),
                height=height,
                width=width,
                num_inference_steps=settings.steps or numbers.steps,
                guidance_scale=numbers.guidance if settings.guidance is None else settings.guidance,
                generator=generator,
                output_type="np",
            ).images
        )
    return np.concatenate(stills)


def _numbers(pipe: VideoElevatorPipeline, settings: Settings) -> Any:
    from elevator.recipes import preset_for

    return preset_for(settings.fitting_preset or pipe.preset)


# --- drawing --------------------------------------------------------------------------------------


def side_by_side(strips: Sequence[tuple[str, NDArray[np.uint8]]]) -> NDArray[np.uint8]:
    """Frames that show all strips in a row, labelled; (F, H, W, 3) with even sides."""
    panels = [(label, enlarge(frames)) for label, frames in strips]
    height, width = panels[0][1].shape[1:3]
    font = font_for(width)
    top = round(1.8 * font.size)
    size = (len(panels) * (width + GAP) + GAP, top + height + GAP)
    size = (size[0] + size[0] % 2, size[1] + size[1] % 2)
    made = []
    for index in range(len(panels[0][1])):
        page = Image.new("RGB", size, PAPER)
        draw = ImageDraw.Draw(page)
        for place, (label, frames) in enumerate(panels):
            left = GAP + place * (width + GAP)
            draw.text((left, top / 2), label, INK, font, anchor="lm")
            page.paste(Image.fromarray(frames[index]), (left, top))
        made.append(np.asarray(page))
    return np.stack(made)
