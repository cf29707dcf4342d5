"""Which clips a folder holds, and where each goes."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from elevator.errors import CheckError
from elevator.video.coding import ENDINGS
from elevator.video.pictures import PICTURES, listed

__all__ = ["Pair", "is_clip", "is_timed", "left_out", "pairs"]

_MOVING = {".gif", ".webp"}
_VIDEOS = {
    *ENDINGS,
    *_MOVING,
    *(".avi", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".vob", ".flv", ".wmv", ".asf", ".ogv"),
    *(".3gp", ".mxf", ".y4m", ".dv"),
}


class Pair(NamedTuple):
    """A clip, and where it goes: a folder where that ends in `/`."""

    source: Path
    target: str


def is_clip(path: Path) -> bool:
    """Whether a path is one clip: a file, or a folder of pictures and no videos."""
    return not path.is_dir() or (_has_pictures(path) and not any(map(_is_video, path.iterdir())))


def is_timed(path: Path) -> bool:
    """Whether a clip says how fast it plays: neither a folder nor a single still."""
    return not path.is_dir() and path.suffix.lower() not in PICTURES - _MOVING


def pairs(
    folder: Path, target: str, beside: Callable[[str], Sequence[str]] = lambda target: ()
) -> list[Pair]:
    """The videos of a folder and its folders of pictures, and where they go.

    A video keeps its name, and its kind where that can be written; others become Matroska, moving
    pictures MP4. A folder of pictures becomes one of PNG files.

    Args:
        folder: whose clips.
        target: the folder they go to.
        beside: what else is written along with a target.

    Raises:
        CheckError: there are none, two would go to the same place, or `target` cannot be it.
    """
    out = Path(target)
    if out.exists() and not out.is_dir():
        raise CheckError([f"cannot write the clips of a folder to {out}: it is a file"])
    if not out.exists() and out.suffix.lower() in _VIDEOS and not target.endswith(("/", os.sep)):
        raise CheckError(
            [
                f"{folder} is a folder of clips, and so would be {out}; give -o a name without "
                f"an ending, or {out}/ if it is to be a folder's"
            ]
        )
    if out.resolve() == folder.resolve():
        raise CheckError([f"clips of {folder} would lie beside their originals; give another -o"])
    sources = [
        path
        for path in sorted(folder.iterdir())
        if path.resolve() != out.resolve()
        and (_is_video(path) or (path.is_dir() and _has_pictures(path)))
    ]
    if not sources:
        raise CheckError(
            [f"there are neither videos nor pictures in {folder}", *left_out(folder, out)]
        )
    found = [Pair(path, f"{out / _name(path)}{'/' if path.is_dir() else ''}") for path in sources]
    _require_apart(found, beside)
    try:
        out.mkdir(exist_ok=True)
    except OSError as error:
        raise CheckError([f"cannot make the folder {out}: {error.strerror}"]) from error
    return found


def left_out(folder: Path, out: Path) -> list[str]:
    """Sentences on what of a folder of clips is none of its clips, though it looks like some."""
    told = []
    loose = [name for name in listed(folder) if Path(name).suffix.lower() not in _MOVING]
    if loose:
        told.append(
            f"left out: {loose[0]}{f' and {len(loose) - 1} more' if loose[1:] else ''} beside the "
            f"videos of {folder}; put the pictures of a clip into a folder of their own"
        )
    for path in sorted(folder.iterdir()):
        if not path.is_dir() or path.name.startswith(".") or path.resolve() == out.resolve():
            continue
        if any(map(_is_video, path.iterdir())):
            told.append(f"left out: the videos in {path}; a folder in the folder is given itself")
    return told


def _require_apart(found: Sequence[Pair], beside: Callable[[str], Sequence[str]]) -> None:
    """Refuse clips of which one would be written over what is made of another."""
    made, more = defaultdict(list), set()
    for source, target in found:
        made[Path(target).name.casefold()].append((source.name, Path(target).name))
        for other in beside(target):
            made[Path(other).name.casefold()].append((source.name, Path(other).name))
            more.add(Path(other).name.casefold())
    problems = []
    for key, writers in made.items():
        if len(writers) > 1:
            names, name = [source for source, _ in writers], writers[0][1]
            problems.append(
                f"{' and '.join(names)} would both become {name}; rename one of them"
                if key not in more
                else f"{name} would be written for {' and '.join(names)}; rename one of them, or "
                "drop --compare and --preview"
            )
    if problems:
        raise CheckError(problems)


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in _VIDEOS and not path.name.startswith(".") and not path.is_dir()


def _has_pictures(folder: Path) -> bool:
    return any(Path(name).suffix.lower() in PICTURES - _MOVING for name in listed(folder))


def _name(path: Path) -> str:
    suffix = path.suffix.lower()
    if path.is_dir() or suffix in ENDINGS:
        return path.name
    return f"{path.stem}.{'mp4' if suffix in _MOVING else 'mkv'}"
