"""`elevator upscale`: a clip or a folder of clips in, larger ones out, however long they are."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from elevator.cli.beside import asked_for, compare, preview_target, targets
from elevator.cli.clips import Pair, is_clip, is_timed, left_out, pairs
from elevator.cli.machine import quiet_libraries
from elevator.cli.methods import choose
from elevator.cli.watching import Line
from elevator.errors import CheckError, ElevatorError
from elevator.upscale import Upscaler
from elevator.video.io import check_image_target
from elevator.video.jobs import Done, forget, upscale_video
from elevator.video.memory import keep_apart
from elevator.video.reader import open_video
from elevator.video.writer import check_video_target

__all__ = ["run"]

_DAMAGED, _WRONG = 1, 2


def run(given: argparse.Namespace) -> int:
    """Do what the command line says; everything that can be checked is, before upscaling."""
    keep_apart()
    method = choose(given)
    todo, one = _todo(given)
    given.method = method.name
    try:
        with quiet_libraries():
            upscaler = method.build(given)
        if one:
            return _DAMAGED if _upscale(todo[0], upscaler, given, keep=False).damage else 0
        return _upscale_all(todo, upscaler, given)
    except KeyboardInterrupt:
        print("elevator: what is finished is kept; the same command goes on", file=sys.stderr)
        raise
    except ElevatorError:
        raise
    except Exception as error:  # unforeseen: one line for it too, as for one clip of many
        _tell(error)
        return _WRONG


def _todo(given: argparse.Namespace) -> tuple[list[Pair], bool]:
    """What goes where, and whether it is one clip and no folder of them."""
    for name, value in (("clip", given.clip), ("-o", given.out)):
        if not value:
            raise CheckError([f"the name given as {name} is empty; write . for this folder"])
    source = Path(given.clip)
    if not source.exists():
        raise CheckError([f"there is no {source}: check the name"])
    one = is_clip(source)
    if one:
        todo = [Pair(source, given.out)]
    else:
        todo = pairs(source, given.out, lambda target: asked_for(target, given))
        for sentence in left_out(source, Path(given.out)):
            print(f"elevator: {sentence}", file=sys.stderr)
    if given.fps is not None and all(map(is_timed, (pair.source for pair in todo))):
        raise CheckError(
            ["--fps is for folders of pictures, and a video has times of its own: drop --fps"]
        )
    return todo, one


def _upscale_all(todo: Sequence[Pair], upscaler: Upscaler, given: argparse.Namespace) -> int:
    """One clip after the other; one that fails does not stop the rest."""
    failed, damaged = [], False
    for pair in todo:
        try:
            damaged |= bool(_upscale(pair, upscaler, given, keep=True).damage)
        except Exception as error:  # of one clip, whatever it is: the others are worth trying
            failed.append(pair.source.name)
            _tell(error)
    if failed:
        print(
            f"elevator: {len(todo) - len(failed)} of {len(todo)} clips are made; "
            f"not {', '.join(failed)}; the same command tries {'them' if failed[1:] else 'it'} "
            "again and nothing else",
            file=sys.stderr,
        )
        return _WRONG
    for pair in todo:
        forget(pair.target)
    if not given.quiet:
        print(f"{given.out}: {len(todo)} clips")
    return _DAMAGED if damaged else 0


def _tell(error: Exception) -> None:
    """In one line; an error that is none of ours with its kind."""
    kind = "" if isinstance(error, ElevatorError) else f"{type(error).__name__}: "
    text = "; ".join(getattr(error, "problems", (f"{kind}{error}",)))
    print(f"elevator: {' '.join(text.split())}", file=sys.stderr)


def _upscale(pair: Pair, upscaler: Upscaler, given: argparse.Namespace, *, keep: bool) -> Done:
    """One clip, and what is to lie beside it."""
    sheet = preview_target(pair.target) if given.preview else None
    if sheet is not None:
        check_image_target(sheet)
    video, page = targets(pair.target)
    for other in asked_for(pair.target, given):
        if Path(other).exists() and pair.source.samefile(other):
            raise CheckError(
                [f"{other} would lie beside {pair.target}, and is the clip itself; give another -o"]
            )
    if given.compare:
        with open_video(pair.source, given.fps) as clip:
            check_video_target(video, clip)
        check_image_target(page)
    started = time.monotonic()
    with Line(str(pair.source), sheet, quiet=given.quiet) as line:
        done = upscale_video(
            pair.source,
            pair.target,
            upscaler,
            crf=given.crf,
            rate=given.fps,
            chunk=given.chunk,
            resume=given.resume,
            keep=keep,
            watcher=line,
        )
    if not given.quiet:
        print(_told(pair.target, done, time.monotonic() - started))
    if given.compare:
        compare(pair.source, pair.target, given.method, rate=given.fps)
        if not given.quiet:
            print(f"{video}: compared with bicubic")
    return done


def _told(target: str, done: Done, seconds: float) -> str:
    """One line on what was made."""
    line = f"{target}: {done.frames} frames of {done.width}x{done.height}"
    if done.found:
        return f"{line}, finished before"
    again = f", {done.reused} of {done.reused + done.computed} stretches from before"
    return f"{line} in {seconds:.0f} s" + (again if done.reused else "")
