"""The README's picture: each model alone, both together, and in two styles, on held-out captions.

Writes `results/gallery.png`: per caption rows of frames of the text-to-video model alone, the
text-to-image model frame by frame, VideoElevator, and VideoElevator with the personalised
text-to-image models, all from the same seed. The captions are chosen; `elevator zoo report` shows
the first dozen as they come.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from PIL import Image, ImageDraw

from benchmarks._measure import RESULTS, arguments
from elevator import world
from elevator.zoo.sampling import NUMBERS, compare, pair

CAPTIONS = (
    "a checkered blue triangle moving right on a grey background",
    "a plain red star moving up on a brown background",
)
SCALE, MARGIN, LINE = 2, 4, 14


def main() -> None:
    """Sample, draw and save."""
    options = arguments(__doc__ or "")
    torch.set_grad_enabled(False)
    plain, styled = pair(), {style: pair(f"t2i-{style}") for style in ("ink", "mosaic")}
    numbers = replace(NUMBERS, steps=4, refine=(4, 3), steady=(1,)) if options.tiny else NUMBERS
    captions = CAPTIONS[:1] if options.tiny else CAPTIONS
    blocks = []
    for caption in captions:
        scene = world.Scene.from_caption(caption)
        assert scene is not None
        assert scene.held_out
        clips = compare(plain, styled, caption, options.seed, numbers=numbers)
        blocks.append(_block(caption, clips))
    sheet = Image.fromarray(np.concatenate([np.asarray(block) for block in blocks]))
    if options.tiny:
        print(f"a sheet of {sheet.width}x{sheet.height} pixels, not saved")
        return
    RESULTS.mkdir(exist_ok=True)
    sheet.save(RESULTS / "gallery.png", optimize=True)
    print(RESULTS / "gallery.png")


def _block(caption: str, clips: Mapping[str, torch.Tensor]) -> Image.Image:
    """One caption: a line of text, then a labelled row of frames per model."""
    frames, side = len(clips["T2V"]), clips["T2V"].shape[-1] * SCALE
    width = MARGIN + frames * (side + MARGIN)
    height = LINE + len(clips) * (LINE + side + MARGIN)
    block = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(block)
    pen.text((MARGIN, 1), caption, "black")
    for row, (name, clip) in enumerate(clips.items()):
        top = LINE + row * (LINE + side + MARGIN)
        pen.text((MARGIN, top + 1), name, "grey")
        for column, frame in enumerate(clip):
            pixels = (frame.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
            picture = Image.fromarray(pixels).resize((side, side), Image.Resampling.NEAREST)
            block.paste(picture, (MARGIN + column * (side + MARGIN), top + LINE))
    return block


if __name__ == "__main__":
    main()
