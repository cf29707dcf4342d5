r"""Clips of any length made larger: in stretches, each kept once it is finished.

Beside the target, in `.elevator/NAME/KEY`, lie the finished stretches of a run. KEY is a hash of
all that they depend on: the content of the clip, the settings, the weights, the code. Whenever a
run ends before its time, by `kill -9` too, the same call finds what is finished and goes on to the
same bytes; other settings have another key. The file is encoded from the stretches alone, inside
that folder, and renamed into its place.

Nothing grows with the length of the clip but that folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from fractions import Fraction
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias, final, runtime_checkable

import numpy as np
from numpy.typing import NDArray

import elevator
from elevator.errors import CheckError
from elevator.upscale import Upscaler
from elevator.video.clip import Clip
from elevator.video.memory import give_back
from elevator.video.parts import Parts, write_whole
from elevator.video.reader import open_video
from elevator.video.stretches import crossfaded, following, larger, stretches
from elevator.video.windows import spans, trimmed
from elevator.video.workplace import Workplace, content_hash, put
from elevator.video.writer import check_video_target, create_video

__all__ = ["CHUNK", "Done", "Stage", "Watcher", "forget", "upscale_video"]

Pixels: TypeAlias = NDArray[Any]
Stage: TypeAlias = Literal["counting", "upscaling", "encoding"]

CHUNK = 32
"""Frames of a stretch, where they are small enough."""
_ROOM = 2**30  # bytes of floats that a stretch of more than the fewest frames makes, at the most
_PIXELS = 88_000_000  # of a frame: FFV1 gives frames of 88 million back, of 112 million not
_FORM = 1  # of what lies in a run's folder


@runtime_checkable
class Watcher(Protocol):
    """Is told how a run goes."""

    def progress(self, stage: Stage, done: int, total: int | None) -> None:
        """So many frames are finished in a stage; the first call of a stage has those found so.

        The clip is gone through once to count its frames, which have no total then.
        """

    def note(self, sentence: str) -> None:
        """Something the user should know, and that stops nothing."""

    def finished(self, first_frame: int, given: Sequence[Pixels], made: Sequence[Pixels]) -> None:
        """A stretch is finished: its frames (H, W, C) before and after."""


class Done(NamedTuple):
    """What a run made.

    Attributes:
        frames: how many.
        width: in pixels.
        height: in pixels.
        computed: stretches made by this run.
        reused: stretches found finished.
        damage: what of the clip could not be read, a sentence each; the rest was made larger.
        found: whether the target itself was finished before, so that nothing was done.
    """

    frames: int
    width: int
    height: int
    computed: int
    reused: int
    damage: tuple[str, ...]
    found: bool = False


def upscale_video(
    source: str | Path,
    target: str | Path,
    upscaler: Upscaler,
    *,
    crf: float = 17,
    rate: float | None = None,
    chunk: int | None = None,
    resume: bool = True,
    keep: bool = False,
    watcher: Watcher | None = None,
) -> Done:
    """Make a clip larger, going on where an earlier run with the same settings ended.

    The target has as many frames as can be read of the clip, at their times, and its sound and
    subtitles; it is there whole or, where this raises, as it was before.

    Args:
        source: a file FFmpeg reads, or a folder of pictures.
        target: `.mp4`, `.mkv`, `.mov`, `.webm`, or a folder (no ending, or a `/` at the end).
        upscaler: how.
        crf: constant rate factor on x264's scale, 0 (best) to 51. Finished stretches stay good
            when it changes.
        rate: frames a second of a folder of pictures, 24 without.
        chunk: frames of a stretch, more than the upscaler has stretches share; by default `CHUNK`,
            or as many as are 1 GiB of floats, but at least twice as many as stretches share.
        resume: False removes what earlier runs for this target have kept.
        keep: remember that it is done, until `forget`: the same call then does nothing.
        watcher: is told how it goes.

    Raises:
        VideoError: the clip cannot be read, the target not be written, or another process is at it.
        CheckError: a number out of range, or frames larger than any video.
        ElevatorError: not enough memory.
    """
    told = watcher or _Silent()
    with open_video(source, rate) as clip:
        check_video_target(target, clip)
        width, height = clip.width * upscaler.scale, clip.height * upscaler.scale
        _require_size(clip, upscaler.scale)
        shared = 2 * upscaler.reach + upscaler.fade
        length = _length(chunk, shared, width * height)
        place = Workplace(Path(target))
        with place.locked():
            if not resume:
                place.clear()
            settings = {
                "upscaler": dict(upscaler.identity()),
                "clip": content_hash(clip.path, clip.names),
                "rate": str(clip.rate),
                "stretches": [length, upscaler.reach, upscaler.fade],
                "code": _code(),
                "form": _FORM,
            }
            text = json.dumps(settings, sort_keys=True)
            key = hashlib.sha256(text.encode()).hexdigest()[:16]
            for other in place.others(key):
                told.note(
                    f"{other} keeps what another run for {target} has finished, with other "
                    "settings or another clip; remove it, or start anew with --no-resume"
                )
            folder = place.folder(key)
            count, damage = _counted(folder, clip, settings, told)
            for sentence in (*clip.notes, *damage):
                told.note(sentence)
            plan = spans(count, length, shared)
            made = Done(count, width, height, 0, len(plan), damage)
            done = folder / "done.json"
            if done.exists() and _read(done) == _finished(Path(target), crf):
                return made._replace(found=True)
            parts = Parts(folder)
            encoding = folder / "encoding"
            shutil.rmtree(encoding, ignore_errors=True)
            encoding.mkdir()
            missing = [index for index in range(len(plan)) if not parts.has(index)]
            if missing:
                _rehearse(encoding, target, clip, (width, height), crf)
                _make(clip, plan, missing, parts, upscaler, told)
            kept = trimmed(plan, upscaler.reach)
            _encode(encoding, target, clip, (width, height), crf, parts, kept, told)
            put(encoding / Path(target).name, Path(target))
            if keep:
                write_whole(done, json.dumps(_finished(Path(target), crf)))
                parts.clear()
            else:
                shutil.rmtree(folder)
            return made._replace(computed=len(missing), reused=len(plan) - len(missing))


def forget(target: str | Path) -> None:
    """Remove what runs for a target have kept.

    Raises:
        VideoError: a process is at it.
    """
    place = Workplace(Path(target))
    if place.root.is_dir():
        with place.locked():
            place.clear()


@final
class _Silent:
    """Tells nobody."""

    def progress(self, stage: Stage, done: int, total: int | None) -> None: ...

    def note(self, sentence: str) -> None: ...

    def finished(
        self, first_frame: int, given: Sequence[Pixels], made: Sequence[Pixels]
    ) -> None: ...


# --- before anything is made ----------------------------------------------------------------------


def _require_size(clip: Clip, scale: int) -> None:
    width, height = scale * clip.width, scale * clip.height
    if width * height > _PIXELS:
        raise CheckError(
            [
                f"frames of {clip.width}x{clip.height} would become {width}x{height}, larger than "
                f"the {_PIXELS // 10**6} million pixels of a frame that can be stored; choose a "
                "smaller scale, or make the clip smaller first"
            ]
        )


def _length(chunk: int | None, shared: int, pixels: int) -> int:
    """Frames of a stretch."""
    if chunk is None:
        return max(2 * shared, min(CHUNK, _ROOM // (3 * 4 * pixels)), 1)
    if chunk <= shared:
        raise CheckError(
            [f"stretches share {shared} frames and must be longer than that, got {chunk}"]
        )
    return chunk


@cache
def _code() -> dict[str, str]:
    """What computes the frames: the source of this package, and versions of others."""
    digest = hashlib.sha256()
    folder = Path(elevator.__file__).parent
    for part in (folder, folder / "samplers", folder / "filters"):  # links in a checkout
        for file in sorted(part.rglob("*.py")):
            digest.update(f"{file.relative_to(folder)}\n".encode() + file.read_bytes())
    others = ("torch", "numpy", "pillow", "av", "diffusers")
    return {"elevator": digest.hexdigest(), **{name: version(name) for name in others}}


def _counted(
    folder: Path, clip: Clip, settings: dict[str, Any], told: Watcher
) -> tuple[int, tuple[str, ...]]:
    """How many frames can be read, which only reading tells, and what was amiss in doing so."""
    known = folder / "run.json"
    found = _read(known)
    if found is not None:
        return found["frames"], tuple(found["damage"])
    before = len(clip.notes)
    count = 0
    for count, _ in enumerate(clip.frames(), 1):
        told.progress("counting", count, None)
    damage = tuple(clip.notes[before:])
    del clip.notes[before:]
    text = json.dumps({"frames": count, "damage": damage, "settings": settings}, indent=1)
    write_whole(known, text)
    return count, damage


def _read(file: Path) -> Any:
    return json.loads(file.read_text()) if file.exists() else None


def _finished(target: Path, crf: float) -> dict[str, Any] | None:
    """What tells that a target is what a run has made of it."""
    return {"target": content_hash(target), "crf": crf} if target.exists() else None


# --- making it ------------------------------------------------------------------------------------


def _make(
    clip: Clip,
    plan: Sequence[range],
    missing: Sequence[int],
    parts: Parts,
    upscaler: Upscaler,
    told: Watcher,
) -> None:
    """Make the stretches that are missing, in order."""
    kept, count = trimmed(plan, upscaler.reach), plan[-1].stop
    told.progress("upscaling", _frames_without(plan, missing), count)
    for place, (index, given) in enumerate(stretches(clip, plan, missing), 1):
        first = plan[index].start
        keep = slice(kept[index].start - first, kept[index].stop - first)
        made = larger(given, first, keep, upscaler, clip.depth)
        parts.write(index, made)
        told.finished(kept[index].start, given[keep], list(made))
        told.progress("upscaling", _frames_without(plan, missing[place:]), count)
        del given, made
        give_back()


def _frames_without(plan: Sequence[range], missing: Sequence[int]) -> int:
    """Frames that are made; what two stretches share counts with the later one."""
    ends = [*(span.start for span in plan[1:]), plan[-1].stop]
    return plan[-1].stop - sum(ends[index] - plan[index].start for index in missing)


def _rehearse(
    encoding: Path, target: str | Path, clip: Clip, size: tuple[int, int], crf: float
) -> None:
    """Encode a black frame: what an encoder refuses is known before hours of work."""
    black = np.zeros(
        (size[1], size[0], 4 if clip.alpha else 3), np.uint8 if clip.depth == 8 else np.uint16
    )
    with create_video(_inside(encoding, target), clip, *size, crf=crf, whole=False) as out:
        out.write(black, Fraction(0))
    shutil.rmtree(encoding)
    encoding.mkdir()


def _encode(
    encoding: Path,
    target: str | Path,
    clip: Clip,
    size: tuple[int, int],
    crf: float,
    parts: Parts,
    kept: Sequence[range],
    told: Watcher,
) -> None:
    """Encode the stretches, cross-faded, at the times of the clip's own frames."""
    total = kept[-1].stop
    told.progress("encoding", 0, total)
    stored = (parts.read(index) for index in range(len(kept)))
    with create_video(_inside(encoding, target), clip, *size, crf=crf) as out:
        frames = clip.frames()
        for done, pixels in enumerate(crossfaded(stored, kept), 1):
            frame = following(frames, clip)
            out.write(pixels, frame.time, frame.duration)
            told.progress("encoding", done, total)
    for sentence in out.notes:
        told.note(sentence)


def _inside(encoding: Path, target: str | Path) -> str:
    """Where a target is made; the slash keeps a folder whose name holds a dot a folder."""
    slash = "/" if str(target).endswith(("/", os.sep)) else ""
    return f"{encoding / Path(target).name}{slash}"
