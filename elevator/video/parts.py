"""Finished stretches of a long run on disk: losslessly, and whole or not there at all."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from elevator.video.chunks import read_frames, write_frames
from elevator.video.io import VideoError

__all__ = ["Parts", "write_whole"]

_HASH = 16  # hex digits of a SHA-256 in a part's name
_ASIDE = "aside"


@final
class Parts:
    """The parts of one run, each in a file of a folder.

    A part's name holds the hash of its bytes: one that was damaged since is no part any more.

    Args:
        folder: there already. What an interrupted write left in it is removed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for left in (*folder.glob(f"{_ASIDE}*"), *folder.glob(f".{_ASIDE}*")):
            left.unlink()

    def has(self, index: int) -> bool:
        """Whether a part is there, byte for byte as it was written."""
        return self._find(index) is not None

    def write(self, index: int, frames: NDArray[Any] | Sequence[NDArray[Any]]) -> None:
        """Store a part; it is there once this returns.

        Args:
            index: its place among the parts, >= 0.
            frames: (H, W, C) of uint8 or uint16, at least one; an array is not copied.

        Raises:
            VideoError: it cannot be written, such as for want of room.
        """
        aside = self.folder / f"{_ASIDE}.mkv"
        write_frames(aside, frames if isinstance(frames, np.ndarray) else np.stack(frames))
        with _kept(self.folder):
            _settle(aside, self.folder / f"{index:06d}.{_digest(aside)}.mkv")

    def read(self, index: int) -> Iterator[NDArray[Any]]:
        """The frames of a part, one by one.

        Raises:
            VideoError: it is not there any more, or not whole.
        """
        file = self._find(index)
        if file is None:
            raise VideoError(
                f"part {index} in {self.folder} was removed or damaged; give the same command again"
            )
        yield from read_frames(file)

    def clear(self) -> None:
        """Remove all parts."""
        for file in self.folder.glob("*.mkv"):
            file.unlink()

    def _find(self, index: int) -> Path | None:
        for file in self.folder.glob(f"{index:06d}.*.mkv"):
            if file.name.split(".")[1] == _digest(file):
                return file
            file.unlink()
        return None


def write_whole(file: Path, text: str) -> None:
    """Write a file so that it is there whole or not at all, whenever the machine stops.

    Raises:
        VideoError: it cannot be written.
    """
    aside = file.with_name(f"{_ASIDE}.{file.name}")
    with _kept(file.parent):
        aside.write_text(text, encoding="utf-8")
        _settle(aside, file)


@contextmanager
def _kept(folder: Path) -> Iterator[None]:
    """Turn what the system refuses into one line."""
    try:
        yield
    except OSError as error:
        raise VideoError(
            f"cannot write to {folder}: {error.strerror or error}; what is finished is kept: "
            "give the same command again when that is mended"
        ) from error


def _settle(aside: Path, file: Path) -> None:
    """Give a file its name once its bytes are on the disk."""
    with aside.open("rb+") as written:
        os.fsync(written.fileno())
    aside.replace(file)


def _digest(file: Path) -> str:
    with file.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()[:_HASH]
