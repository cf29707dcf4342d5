"""The command line: `elevator generate`, `upscale`, `train`, `doctor` and `zoo`.

Only the parser lives here and in `options`, so that `--help` is quick; every command imports what
it needs.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from typing import NoReturn

from elevator.cli.options import add_generate, add_train, add_upscale
from elevator.cli.values import count, seed, version
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


_UPSCALE = """\
Make a clip larger, or every clip of a folder, with its frames' times, its sound and subtitles.

Finished stretches are kept beside the output, in the folder .elevator, until it is there: after an
interruption of any kind the same command goes on where it was and ends in the same bytes.
"""

_UPSCALE_EXAMPLES = """\
examples:
  elevator upscale old.mp4 -o large.mp4
  elevator upscale clips -o large --scale 2
  elevator upscale fox.mp4 -o large.mp4 --method diffusion --prompt "a fox in snow" --preset aigc
  elevator upscale fox.mp4 -o large.mp4 --pipe stabilityai/stable-diffusion-x4-upscaler
  elevator upscale frames -o large.mp4 --fps 25 --compare
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
        case "train":
            from elevator.cli import train

            return train.run(given)
        case "upscale":
            from elevator.cli import upscale

            return upscale.run(given)
        case "doctor":
            from elevator.cli import doctor

            return doctor.run()
        case _:
            from elevator.cli import zoo

            return zoo.run(given)


def _parser() -> _Parser:
    parser = _Parser(prog="elevator", description="Training-free quality for diffusion video.")
    parser.add_argument("--version", action="version", version=version())
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add_generate(
        commands.add_parser(
            "generate",
            help="make a video from a prompt",
            description=_GENERATE,
            epilog=_EXAMPLES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
    )
    add_upscale(
        commands.add_parser(
            "upscale",
            help="make a clip larger",
            description=_UPSCALE,
            epilog=_UPSCALE_EXAMPLES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
    )
    add_train(commands.add_parser("train", help="train on clips of your own"))
    commands.add_parser("doctor", help="what this machine has, and what is missing")
    zoo = commands.add_parser("zoo", help="the built-in models and their training")
    actions = zoo.add_subparsers(dest="action", required=True, metavar="ACTION")
    actions.add_parser("list", help="names, folders and sizes")
    train = actions.add_parser("train", help="train a built-in model again")
    train.add_argument(
        "name",
        metavar="NAME",
        help="vae, recogniser, t2i, t2i-ink, t2i-neon, t2v-start, t2v-early, t2v, t2v-mild, "
        "t2v-turned, upscale-x4, upscale-x2, upscaler-vae, upscaler-still, upscaler-decoder or "
        "upscaler",
    )
    train.add_argument("--steps", type=count, help="steps in all (default: as committed)")
    train.add_argument("--out", metavar="DIR", help="checkpoints and results (default: ./zoo)")
    train.add_argument("--device", help="cuda, cpu, ... (default: cuda if there is one)")
    train.add_argument("--no-resume", action="store_true", help="ignore an existing checkpoint")
    report = actions.add_parser("report", help="sample, measure and write a page that shows it")
    report.add_argument(
        "-o", "--out", default="zoo-report.html", help="the .html file (default: zoo-report.html)"
    )
    report.add_argument("--prompts", type=count, default=12, help="captions shown (default: 12)")
    report.add_argument("--seed", type=seed, default=0, help="of captions and noise (default: 0)")
    return parser
