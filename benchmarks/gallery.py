"""The README's picture: each model alone and both together, on captions nobody trained with.

Writes `results/gallery.png`: per caption three rows of frames, the text-to-video model alone, the
text-to-image model frame by frame, and VideoElevator, all from the same seed.
"""

import numpy as np
import torch
from PIL import Image, ImageDraw

import elevator as el
from benchmarks._measure import RESULTS, arguments
from benchmarks.videoelevator import clips_of
from elevator import world, zoo
from elevator.recipes import PRESETS

CAPTIONS = (
    "a striped red ring moving left on a teal background",
    "a checkered yellow square moving up on a navy background",
)
ROWS = ("T2V", "T2I, frame by frame", "VideoElevator")
SCALE, MARGIN, LINE = 2, 4, 14


def main() -> None:
    """Sample, draw and save."""
    options = arguments(__doc__ or "")
    pipe = el.VideoElevatorPipeline.from_pretrained(t2i=zoo.path("t2i"), t2v=zoo.path("t2v"))
    pipe.set_progress_bar_config(disable=True)
    captions = CAPTIONS[:1] if options.tiny else CAPTIONS
    steps = 4 if options.tiny else PRESETS["world"].steps
    blocks = []
    for caption in captions:
        scene = world.Scene.from_caption(caption)
        assert scene is not None
        blocks.append(_block(caption, clips_of(pipe, scene, options.seed, steps)))
    sheet = Image.fromarray(np.concatenate([np.asarray(block) for block in blocks]))
    if options.tiny:
        print(f"a sheet of {sheet.width}x{sheet.height} pixels, not saved")
        return
    RESULTS.mkdir(exist_ok=True)
    sheet.save(RESULTS / "gallery.png", optimize=True)
    print(RESULTS / "gallery.png")


def _block(caption: str, clips: dict[str, torch.Tensor]) -> Image.Image:
    """One caption: a line of text, then a labelled row of frames per model."""
    frames, side = len(clips[ROWS[0]]), clips[ROWS[0]].shape[-1] * SCALE
    width = MARGIN + frames * (side + MARGIN)
    height = LINE + len(ROWS) * (LINE + side + MARGIN)
    block = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(block)
    pen.text((MARGIN, 1), caption, "black")
    for row, name in enumerate(ROWS):
        top = LINE + row * (LINE + side + MARGIN)
        pen.text((MARGIN, top + 1), name, "grey")
        for column, frame in enumerate(clips[name]):
            pixels = (frame.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
            picture = Image.fromarray(pixels).resize((side, side), Image.Resampling.NEAREST)
            block.paste(picture, (MARGIN + column * (side + MARGIN), top + LINE))
    return block


if __name__ == "__main__":
    main()
