"""The arguments of `elevator upscale`."""

from __future__ import annotations

import argparse
from typing import Any

from elevator.cli.kinds import count, crf, indices, number, positive, seed, share

__all__ = ["add_upscale"]

_TEXT = """\
Make a clip larger, or every clip of a folder, with its frames' times, its sound and subtitles.

Finished stretches are kept beside the output, in the folder .elevator, until it is there: after an
interruption of any kind the same command goes on where it was and ends in the same bytes.
"""

_EXAMPLES = """\
examples:
  elevator upscale old.mp4 -o large.mp4
  elevator upscale clips -o large --scale 2 --method lanczos
  elevator upscale frames -o large.mp4 --fps 25 --compare
  elevator upscale cat.mp4 -o large.mp4 --method diffusion --prompt "a cat on a sofa" --preset aigc
  elevator upscale cat.mp4 -o large.mp4 --pipe stabilityai/stable-diffusion-x4-upscaler
"""


def add_upscale(commands: Any) -> None:
    """Add the command to a parser's subparsers."""
    # What only some methods take has no default: given to others, it is refused.
    parser = commands.add_parser(
        "upscale",
        help="make a clip larger",
        description=_TEXT,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("clip", metavar="CLIP|FOLDER", help="a video, a folder of pictures, or one of such clips")
    add(
        "-o",
        "--out",
        required=True,
        help=".mp4, .mkv, .mov, .webm, or no ending for a folder: of PNG files, or of clips",
    )
    add("--scale", type=count, metavar="N", help="times as large (default: 4, or the pipeline's)")
    add(
        "--method",
        choices=("regression", "diffusion", "lanczos", "bicubic"),
        help="regression is a trained network, diffusion makes up what fits; lanczos (sharpened) "
        "and bicubic interpolate (default: diffusion with --pipe, else regression where there is a "
        "network for the scale, else lanczos)",
    )
    network = parser.add_argument_group("regression and diffusion")
    network.add_argument("--tile", type=count, metavar="N", help="side of a tile in pixels")
    network.add_argument("--device", help="cuda, cpu, ... (default: cuda if there is one)")
    _add_diffusion(parser.add_argument_group("diffusion"))
    files = parser.add_argument_group("files and memory")
    files.add_argument(
        "--crf", type=crf, default=17.0, help="0 (best) to 51 (smallest file) (default: 17)"
    )
    files.add_argument(
        "--fps", type=positive, help="frames a second of a folder of pictures (default: 24)"
    )
    files.add_argument(
        "--chunk",
        type=count,
        metavar="N",
        help="frames held in memory at once (default: 32, or as many as make 1 GiB, but twice as "
        "many as two stretches share)",
    )
    files.add_argument(
        "--resume",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="go on where an earlier run ended; --no-resume removes what it has kept",
    )
    files.add_argument(
        "--compare",
        action="store_true",
        help="also write bicubic and result side by side: OUT-compare as video and .png",
    )
    files.add_argument(
        "--preview", action="store_true", help="show the stretch finished last: OUT-preview.png"
    )
    files.add_argument("--quiet", action="store_true", help="print nothing but errors and warnings")


def _add_diffusion(group: Any) -> None:
    add = group.add_argument
    add(
        "--pipe",
        metavar="PATH|ID",
        help="an upscaler of clips, or any image upscaler or image-to-image pipeline, which is "
        "taken frame by frame: a folder, hub id or zoo:NAME (default: zoo:upscaler)",
    )
    add(
        "--video-vae",
        action="store_true",
        default=None,
        help="of the published Upscale-A-Video as --pipe, the autoencoder that sees the clip too, "
        "which --preset animation is meant with (default: the plain one)",
    )
    add("--prompt", metavar="TEXT", help="what the clip shows")
    add("--caption", metavar="FILE", help="a text file that says it, instead of --prompt")
    add("--negative", metavar="TEXT", help="what to avoid")
    add("--preset", help="aigc, old-video, old-movie or animation (default: the pipeline's own)")
    add("--noise-level", type=seed, metavar="N", help="0 to 350: more is more made up")
    add(
        "--strength",
        type=share,
        help="of an image-to-image pipeline, above 0 to 1: more is more made up (default: 0.3)",
    )
    add("--guidance", type=number, help="how much the prompt counts; 1 or less: not at all")
    add("--steps", type=count, help="sampling steps (default: the preset's)")
    add(
        "--propagate",
        type=indices,
        metavar="N,N,...",
        help="steps at which frames are carried into each other, from 0, or none",
    )
    add("--window", type=count, metavar="N", help="frames the network sees at once (default: 8)")
    add("--overlap", type=seed, metavar="N", help="frames two windows share (default: 2)")
    add(
        "--colour", choices=("none", "adain", "wavelet"), help="taken from the clip (default: none)"
    )
    add("--seed", type=seed, help="same seed, same clip (default: 0)")
    add("--dtype", choices=("fp32", "fp16", "bf16"), help="(default: fp32, on CUDA fp16)")
