"""Which clips a folder holds, and where each goes."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from elevator.errors import CheckError
from elevator.video.coding import ENDINGS
from elevator.video.pictures import PICTURES, listed

__all__ = ["Pair", "is_clip", "pairs"]

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


def pairs(folder: Path, out: Path) -> list[Pair]:
    """The videos of a folder and its folders of pictures, and where they go.

    A video keeps its name, and its kind where that can be written; others become Matroska, moving
    pictures MP4. A folder of pictures becomes one of PNG files.

    Raises:
        CheckError: there are none, two would go to the same place, or `out` cannot be the place.
    """
    if out.exists() and not out.is_dir():
        raise CheckError([f"cannot write the clips of a folder to {out}: it is a file"])
    if out.resolve() == folder.resolve():
        raise CheckError([f"clips of {folder} would lie beside their originals; give another -o"])
    sources = [
        path
        for path in sorted(folder.iterdir())
        if path.resolve() != out.resolve()
        and (_is_video(path) or (path.is_dir() and _has_pictures(path)))
    ]
    if not sources:
        raise CheckError([f"there are neither videos nor pictures in {folder}"])
    found = [Pair(path, f"{out / _name(path)}{'/' if path.is_dir() else ''}") for path in sources]
    same = defaultdict(list)
    for pair in found:
        same[Path(pair.target).name.casefold()].append(pair.source.name)
    collisions = [names for names in same.values() if len(names) > 1]
    if collisions:
        raise CheckError(
            f"{' and '.join(names)} would both become {name}; rename one of them"
            for names in collisions
            for name in [_name(folder / names[0])]
        )
    try:
        out.mkdir(exist_ok=True)
    except OSError as error:
        raise CheckError([f"cannot make the folder {out}: {error.strerror}"]) from error
    return found


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in _VIDEOS and not path.name.startswith(".") and not path.is_dir()


def _has_pictures(folder: Path) -> bool:
    return any(Path(name).suffix.lower() in PICTURES - _MOVING for name in listed(folder))


def _name(path: Path) -> str:
    suffix = path.suffix.lower()
    if path.is_dir() or suffix in ENDINGS:
        return path.name
    return f"{path.stem}.{'mp4' if suffix in _MOVING else 'mkv'}"
