"""Where a long run keeps what is finished, and how only one run at a time is there."""

from __future__ import annotations

import hashlib
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import final

from filelock import FileLock, Timeout

from elevator.video.io import VideoError

__all__ = ["Workplace", "content_hash", "peak_memory", "put"]

_ROOT = ".elevator"
_LOCK = "lock"
_WORTH = ("0*.mkv", "done.json")  # finished stretches, and the word that all is done


@final
class Workplace:
    """The folder `.elevator/NAME` beside a target NAME, with a folder for each run's settings.

    Args:
        target: the file or folder that is made; its own folder is there already.
    """

    def __init__(self, target: Path) -> None:
        self.target, self.root = target, target.parent / _ROOT / target.name

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Be the only process at work here; the system ends that with the process, however it ends.

        Raises:
            VideoError: another one is, or the folder cannot be made.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.root / _LOCK)
            lock.acquire(timeout=0)
        except Timeout as error:
            raise VideoError(
                f"another process is making {self.target} at this moment; wait for it to end, or "
                "write somewhere else"
            ) from error
        except OSError as error:
            raise VideoError(f"cannot write to {self.root}: {error.strerror or error}") from error
        try:
            yield
        finally:
            self._tidy()
            lock.release()

    def folder(self, key: str) -> Path:
        """The folder of a run, made where it is not there."""
        made = self.root / key
        made.mkdir(exist_ok=True)
        return made

    def others(self, key: str) -> list[Path]:
        """The folders of runs with other settings."""
        found = (path for path in self.root.iterdir() if path.is_dir() and path.name != key)
        return sorted(found)

    def clear(self) -> None:
        """Remove what all runs have kept."""
        for folder in self.others(""):
            shutil.rmtree(folder)

    def _tidy(self) -> None:
        """Leave no folder behind that holds nothing worth while; without any, no lock either."""
        for folder in self.others(""):
            if not any(True for worth in _WORTH for _ in folder.glob(worth)):
                shutil.rmtree(folder, ignore_errors=True)
        if self.others(""):
            return
        with suppress(OSError):  # another process may have come, or the system holds on to the lock
            (self.root / _LOCK).unlink(missing_ok=True)
            self.root.rmdir()
            self.root.parent.rmdir()


def put(made: Path, target: Path) -> None:
    """Move a file or a folder into its place, over what is there.

    Raises:
        VideoError: it cannot be put there; what was there is there again.
    """
    old = made.with_name(made.name + ".old")
    try:
        if (
            made.is_dir() and target.is_dir()
        ):  # no system renames over a folder that holds something
            target.rename(old)
        made.replace(target)
    except OSError as error:
        if old.exists():
            old.rename(target)
        raise VideoError(f"cannot write {target}: {error.strerror or error}") from error
    shutil.rmtree(old, ignore_errors=True)


def content_hash(path: Path, names: Sequence[str] | None = None) -> str:
    """SHA-256 of a file, or of a folder's files and their names.

    Args:
        path: the file or folder; where it lies does not matter.
        names: those of a folder's files that count; all of its own without.
    """
    if not path.is_dir():
        with path.open("rb") as data:
            return hashlib.file_digest(data, "sha256").hexdigest()
    listed = names or sorted(file.name for file in path.iterdir() if file.is_file())
    lines = "".join(f"{content_hash(path / name)}  {name}\n" for name in listed)
    return hashlib.sha256(lines.encode(errors="surrogateescape")).hexdigest()


def peak_memory() -> int | None:
    """Most bytes this process has held in memory; None where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
