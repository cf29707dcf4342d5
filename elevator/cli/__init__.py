"""The command line: `elevator generate`, `upscale`, `train`, `doctor` and `zoo`.

Only the parser lives here, so that `--help` is quick; every command imports what it needs.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from typing import NoReturn

from elevator.cli.kinds import count, lora, number, positive, seed, share, size
from elevator.cli.upscale_parser import add_upscale
from elevator.errors import ElevatorError

__all__ = ["main"]

_STOPPED = 130  # what a shell reports for Ctrl-C
_WRONG = 2

_GENERATE = """\
Make a video: a text-to-video model gives the motion, a text-to-image model the quality.

With no models given, the small built-in ones draw what they know: plain, striped, dotted and other
shapes that move before a coloured background, 64x64.
"""

_EXAMPLES = """\
examples:
  elevator generate "a striped red ring moving left on a teal background" -o ring.mp4
  elevator generate "a dotted blue star moving up" -o star.gif --style ink --compare
  elevator generate --again ring.mp4
  elevator generate "a green ring moving left" -o green.mp4 --init ring.mp4 --strength 0.6
  elevator generate "a dog swimming" -o dog.mp4 --t2i SG161222/Realistic_Vision_V5.1_noVAE \\
      --t2v guoyww/animatediff-motion-adapter-v1-5-2 --size 512 --device cuda
"""


class _Usage(ElevatorError):
    """The command line cannot be understood."""


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, like every other error of ours."""

    def error(self, message: str) -> NoReturn:
        raise _Usage(f"{message}; see {self.prog} --help")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: arguments after the program's name; the process's own by default.

    Returns:
        Exit status: 0, 1 for a clip of which a part could not be read, 2 for anything that cannot
        be done as asked, 130 for Ctrl-C.
    """
    try:
        given = _parser().parse_args(argv)
        with warnings.catch_warnings():
            if not sys.warnoptions:  # python -W ... shows them
                warnings.simplefilter("ignore")
            return _run(given)
    except KeyboardInterrupt:
        print("elevator: stopped", file=sys.stderr)
        return _STOPPED
    except ElevatorError as error:
        problem = "; ".join(getattr(error, "problems", (str(error),)))
        print(f"elevator: {' '.join(problem.split())}", file=sys.stderr)
        return _WRONG


def _run(given: argparse.Namespace) -> int:
    match given.command:
        case "generate":
            from elevator.cli import generate

            return generate.run(given)
        case "upscale":
            from elevator.cli import upscale

            return upscale.run(given)
        case "train":
            from elevator.cli import train

            return train.run(given)
        case "doctor":
            from elevator.cli import doctor

            return doctor.run()
        case _:
            from elevator.cli import zoo

            return zoo.run(given)


def _parser() -> _Parser:
    parser = _Parser(prog="elevator", description="Training-free quality for diffusion video.")
    parser.add_argument("--version", action="version", version=_version())
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_generate(
        commands.add_parser(
            "generate",
            help="make a video from a prompt",
            description=_GENERATE,
            epilog=_EXAMPLES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
    )
    add_upscale(commands)
    _add_train(commands.add_parser("train", help="train on clips of your own"))
    commands.add_parser("doctor", help="what this machine has, and what is missing")
    zoo = commands.add_parser("zoo", help="the built-in models and their training")
    actions = zoo.add_subparsers(dest="action", required=True, metavar="ACTION")
    actions.add_parser("list", help="names, folders and sizes")
    train = actions.add_parser("train", help="train a built-in model again")
    train.add_argument(
        "name",
        metavar="NAME",
        help="vae, recogniser, t2i-early, t2i-middle, t2i-late, t2i-last, t2i, t2i-ink, "
        "t2i-mosaic, t2v-start, t2v-early, t2v, t2v-mild, t2v-turned, upscale-x4, upscale-x2, "
        "upscaler-vae, upscaler-early, upscaler-still, upscaler-decoder or upscaler",
    )
    train.add_argument("--steps", type=count, help="steps in all (default: as committed)")
    train.add_argument("--out", metavar="DIR", help="checkpoints and results (default: ./zoo)")
    train.add_argument("--device", help="cuda, cpu, ... (default: cuda if there is one)")
    train.add_argument("--seed", type=seed, default=0, help="of weights, data and noise")
    train.add_argument("--no-resume", action="store_true", help="ignore an existing checkpoint")
    report = actions.add_parser("report", help="sample, measure and write a page that shows it")
    report.add_argument(
        "-o", "--out", default="zoo-report.html", help="the .html file (default: zoo-report.html)"
    )
    report.add_argument("--prompts", type=count, default=12, help="captions shown (default: 12)")
    report.add_argument("--seed", type=seed, default=0, help="of captions and noise (default: 0)")
    return parser


def _add_train(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    temporal = actions.add_parser(
        "temporal",
        help="the temporal layers of a diffusion upscaler; all others stand still",
        epilog="on several GPUs: accelerate launch -m elevator train temporal --data FOLDER",
    )
    add = temporal.add_argument
    add("--data", required=True, metavar="DIR", help="clips; NAME.txt is NAME.mp4's caption")
    add("--model", metavar="DIR|zoo:NAME", help="to start from (default: zoo:upscaler)")
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


def _add_generate(parser: argparse.ArgumentParser) -> None:
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
    models.add_argument("--style", help="a built-in personalised T2I: ink or mosaic")
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
    numbers.add_argument(
        "--preset",
        help="zeroscope, lavie, animatelcm, world, world-styled or world-inverted "
        "(default: one that fits)",
    )
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
        help="fewer network calls of the T2I: a third of the inversion's, no correction; for "
        "presets that invert, all but world",
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


def _version() -> str:
    import elevator

    return f"elevator {elevator.__version__}"
