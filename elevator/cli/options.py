"""The options of the commands that have many."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from elevator.cli.values import (
    count,
    crf,
    indices,
    lora,
    number,
    positive,
    seed,
    share,
    size,
    whole,
)

__all__ = ["add_generate", "add_train", "add_upscale"]


def add_train(parser: argparse.ArgumentParser) -> None:
    """`elevator train`."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    temporal = actions.add_parser(
        "temporal",
        help="the temporal layers of a diffusion upscaler; all others stand still",
        epilog="on several GPUs: accelerate launch -m elevator train temporal --data FOLDER",
    )
    add = temporal.add_argument
    add("--data", required=True, metavar="DIR", help="clips; NAME.txt is NAME.mp4's caption")
    add("--model", metavar="DIR", help="pipeline to start from (default: zoo:upscaler)")
    add("--out", default="trained", metavar="DIR", help="(default: ./trained)")
    add("--steps", type=count, default=2000, help="steps in all (default: 2000)")
    add("--batch", type=count, default=1, help="clips a step and process (default: 1)")
    add("--shards", type=count, default=1, help="batches a step (default: as many as processes)")
    add("--frames", type=count, default=8, help="of a clip (default: 8)")
    add("--size", type=count, default=128, help="side of the cuts in pixels (default: 128)")
    add("--rate", type=positive, default=1e-4, help="highest learning rate (default: 1e-4)")
    add("--seed", type=seed, default=0, help="of cuts and noise (default: 0)")
    add("--device", help="cuda, cpu, ... (default: cuda if there is one)")
    add("--no-resume", action="store_true", help="ignore an existing checkpoint")


def add_generate(parser: argparse.ArgumentParser) -> None:
    """`elevator generate`."""
    # No defaults here: --again must know what was given.
    add = parser.add_argument
    add("prompt", nargs="?", metavar="PROMPT", help="what to show")
    add(
        "-o",
        "--out",
        help=".mp4, .gif, .webp, or no ending for a folder of PNG files (default with --again: "
        "ring-again.mp4 beside ring.mp4)",
    )
    add("--again", metavar="FILE", help="make the same frames as FILE, which tells how")
    add("--negative", metavar="TEXT", help="what to avoid")
    models = parser.add_argument_group("models (folder, .safetensors file, hub id or zoo:NAME)")
    models.add_argument("--t2i", metavar="PATH|ID", help="text to image (default: zoo:t2i)")
    models.add_argument(
        "--t2i-config",
        metavar="DIR",
        help="for a T2I in a single file, offline: any pipeline folder of its family",
    )
    models.add_argument("--t2v", metavar="PATH|ID", help="text to video (default: zoo:t2v)")
    models.add_argument(
        "--lora",
        action="append",
        type=lora,
        metavar="FILE[:SCALE]",
        help="LoRA for the T2I; may be given more than once",
    )
    models.add_argument("--style", help="a built-in personalised T2I: ink or neon")
    init = parser.add_argument_group("start from a clip")
    init.add_argument(
        "--init",
        metavar="FILE",
        help="a video, GIF or WebP, or a folder of pictures: its first frames, scaled to cover the "
        "size and cut around their middle",
    )
    init.add_argument(
        "--init-every",
        type=count,
        metavar="N",
        help="take every Nth of its frames (default: 1)",
    )
    init.add_argument(
        "--strength",
        type=share,
        help="above 0, next to which it is kept, to 1, where nothing of it is left (default: 0.6)",
    )
    numbers = parser.add_argument_group("numbers")
    numbers.add_argument("--preset", help="zeroscope, lavie, animatelcm, world (default: it fits)")
    numbers.add_argument("--steps", type=count, help="sampling steps (default: the preset's)")
    numbers.add_argument("--frames", type=count, help="length (default: the preset's)")
    numbers.add_argument(
        "--size", type=size, metavar="N|WxH", help="in pixels (default: the T2I's own)"
    )
    numbers.add_argument("--seed", type=seed, help="same seed, same video (default: 0)")
    numbers.add_argument("--guidance", type=number, help="of the T2I (default: the preset's)")
    numbers.add_argument("--fps", type=positive, help="frames a second (default: 8)")
    numbers.add_argument(
        "--fast",
        action="store_true",
        default=None,
        help="fewer network calls of the T2I: a third of the inversion's, no correction",
    )
    machine = parser.add_argument_group("machine and output")
    machine.add_argument("--device", help="cuda, cpu, ... (default: cuda if there is one)")
    machine.add_argument(
        "--dtype", choices=("fp32", "fp16", "bf16"), help="(default: fp32, on CUDA fp16)"
    )
    machine.add_argument(
        "--compare",
        action="store_true",
        help="also write T2V, T2I and result side by side: OUT-compare as video and .png",
    )
    machine.add_argument("--quiet", action="store_true", help="print nothing but errors")


def add_upscale(parser: argparse.ArgumentParser) -> None:
    """`elevator upscale`."""
    # What only some methods take has no default: given to others, it is refused.
    add = parser.add_argument
    add(
        "clip",
        metavar="CLIP|FOLDER",
        help="a video, a folder of pictures, or a folder of such clips",
    )
    add(
        "-o",
        "--out",
        required=True,
        help=".mp4, .mkv, .mov, .webm, or no ending for a folder: of PNG files, or of clips",
    )
    add("--scale", type=count, default=4, metavar="N", help="times as large (default: 4)")
    add(
        "--method",
        choices=("regression", "diffusion", "bicubic", "lanczos"),
        help="regression: a trained network, one pass; diffusion: makes detail up, led by words; "
        "bicubic and lanczos (sharpened) interpolate (default: regression, with --pipe diffusion)",
    )
    add("--crf", type=crf, default=17.0, help="0 (best) to 51 (smallest file) (default: 17)")
    add("--fps", type=positive, help="frames a second of a folder of pictures (default: 24)")
    add(
        "--chunk",
        type=count,
        metavar="N",
        help="frames held in memory at once (default: 32, fewer if large)",
    )
    add(
        "--resume",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="go on where an earlier run ended; --no-resume removes what it has kept",
    )
    add(
        "--compare",
        action="store_true",
        help="also write bicubic and result side by side: OUT-compare as video and .png",
    )
    add("--preview", action="store_true", help="show the stretch finished last: OUT-preview.png")
    add("--quiet", action="store_true", help="print nothing but errors and warnings")
    _add_networks(parser.add_argument_group("networks").add_argument)
    _add_diffusion(parser.add_argument_group("diffusion").add_argument)


def _add_networks(add: Callable[..., object]) -> None:
    add("--tile", type=count, metavar="N", help="pixels of a tile of the input (default: it fits)")
    add("--device", help="cuda, cpu, ... (default: cuda if there is one)")


def _add_diffusion(add: Callable[..., object]) -> None:
    add(
        "--pipe",
        metavar="PATH|ID",
        help="a saved VideoUpscalePipeline, the published Upscale-A-Video, any image upscaler or "
        "image-to-image pipeline of diffusers (default: the built-in one)",
    )
    add("--preset", choices=("default", "aigc", "old-video", "old-movie", "animation"))
    add("--prompt", metavar="TEXT", help="what the clip shows")
    add("--caption", metavar="FILE", help="a text file that says it")
    add("--negative", metavar="TEXT", help="what to avoid")
    add("--noise-level", type=whole, metavar="N", help="0 to 350: more is more made up")
    add("--guidance", type=number, help="how closely to follow the words; 1 or less: not at all")
    add("--steps", type=count, help="sampling steps")
    add(
        "--propagate",
        type=indices,
        metavar="I,J,...",
        help="steps, from 0, at which frames are carried along their motion; '' for none",
    )
    add("--window", type=count, metavar="N", help="frames the network sees at once")
    add("--overlap", type=whole, metavar="N", help="frames two windows share")
    add("--colour", choices=("none", "adain", "wavelet"), help="correct colours by the input's")
    add("--seed", type=seed, help="same seed, same clip (default: 0)")
    add("--dtype", choices=("fp32", "fp16", "bf16"), help="(default: fp32, on CUDA fp16)")
