"""What `elevator generate` was asked, and the record of it that every file carries."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elevator.errors import CheckpointError, ElevatorError
from elevator.video.io import read_metadata

__all__ = ["Record", "RecordError", "Settings", "hash_frames", "hashes", "resolve", "versions"]

_MADE_BY = "elevator generate"
_BUILTIN = "zoo:"
_WORLD, _STYLED = "world", "world-styled"  # the presets of the built-in models
_CONFIG = "t2i config"
_INIT = "init"


_LATER = {"init": None, "init_every": 1, "strength": None}


class RecordError(ElevatorError, ValueError):
    """A file does not say how it was made, or it cannot be made again here."""


@dataclass(frozen=True)
class Settings:
    """Everything that decides the frames, and how fast they play.

    None leaves a number to the preset, and the preset to the models.
    """

    prompt: str
    negative: str | None = None
    t2i: str = "zoo:t2i"
    t2i_config: str | None = None
    t2v: str = "zoo:t2v"
    lora: tuple[tuple[str, float], ...] = ()
    preset: str | None = None
    steps: int | None = None
    frames: int | None = None
    width: int | None = None
    height: int | None = None
    seed: int = 0
    guidance: float | None = None
    fps: float = 8.0
    fast: bool = False
    init: str | None = None
    init_every: int = 1
    strength: float | None = None
    device: str = "cpu"
    dtype: str = "fp32"
    threads: int = 1

    @property
    def checkpoints(self) -> Iterator[tuple[str, str]]:
        """Role and source of everything frames are made from: models, and a clip."""
        yield "t2i", self.t2i
        if self.t2i_config is not None:
            yield _CONFIG, self.t2i_config
        yield "t2v", self.t2v
        for number, (file, _) in enumerate(self.lora):
            yield f"lora {number}", file
        if self.init is not None:
            yield _INIT, self.init

    @property
    def fitting_preset(self) -> str | None:
        """The preset asked for; for the built-in T2V one made for it; else the models' own."""
        if self.preset is not None or self.t2v != Settings.t2v:
            return self.preset
        return _STYLED if self.lora or self.t2i != Settings.t2i else _WORLD


@dataclass(frozen=True)
class Record:
    """How a video was made.

    Attributes:
        settings: what was asked.
        sha256: hash of every checkpoint and of the clip to start from, by its role.
        versions: of Python and of the packages that compute.
        hook: the composition, as its `repr`.
        frames_sha256: hash of the frames before they were encoded.
    """

    settings: Settings
    sha256: dict[str, str]
    versions: dict[str, str]
    hook: str
    frames_sha256: str

    def to_json(self) -> dict[str, Any]:
        """For the file's metadata."""
        return {"made_by": _MADE_BY, **asdict(self)}

    @classmethod
    def read(cls, path: str | Path) -> Record:
        """The record a file carries.

        Raises:
            VideoError: the file cannot be read.
            RecordError: it carries no record.
        """
        found = read_metadata(path)
        try:
            if found["made_by"] != _MADE_BY:
                raise ValueError
            return cls(
                settings=_settings(found["settings"]),
                sha256=_texts(found["sha256"]),
                versions=_texts(found["versions"]),
                hook=str(found["hook"]),
                frames_sha256=str(found["frames_sha256"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise RecordError(
                f"{path} does not tell how it was made; give a file that `elevator generate` "
                "wrote and that no other program has changed"
            ) from error


def _settings(found: Mapping[str, Any]) -> Settings:
    """Settings from JSON; every value must have the type of its field.

    What a file made before there was such a setting does not tell has its default.
    """
    kinds = {
        "str": str,
        "str | None": str,
        "int": int,
        "int | None": int,
        "float": (int, float),
        "float | None": (int, float),
        "bool": bool,
    }
    values = {**_LATER, **found}
    values["lora"] = tuple((str(file), float(scale)) for file, scale in values["lora"])
    for field in fields(Settings):
        value, kind = values[field.name], str(field.type)
        if field.name == "lora" or (value is None and kind.endswith("None")):
            continue
        if not isinstance(value, kinds[kind]):  # type: ignore[arg-type]
            raise ValueError(field.name)
    return Settings(**values)


def _texts(found: Mapping[str, Any]) -> dict[str, str]:
    return {str(key): str(value) for key, value in found.items()}


def resolve(source: str) -> str:
    """Where a checkpoint is: `zoo:NAME` is a built-in folder or file, anything else itself.

    Raises:
        CheckpointError: there is no such built-in model, or it has no weights yet.
    """
    if not source.startswith(_BUILTIN):
        return source
    from elevator import zoo

    name = source.removeprefix(_BUILTIN)
    # Of the T2Vs, those that lie there whole: diffusers cannot put the others together.
    usable = [one for one, model in zoo.MODELS.items() if model.base != "t2v"]
    if name not in usable:
        known = ", ".join(_BUILTIN + one for one in usable)
        raise CheckpointError(f"there is no built-in model {source}; choose one of {known}")
    place = zoo.path(name)
    if not place.exists():
        raise CheckpointError(
            f"the built-in model {name} has no weights at {place}; install elevator again, "
            f"or train it with `elevator zoo train {name}`"
        )
    return str(place)


def hashes(settings: Settings) -> dict[str, str]:
    """SHA-256 of every checkpoint and clip, by its role; all are on this disk by now."""
    from elevator.hosts.checkpoints import fingerprint

    found = {}
    for role, source in settings.checkpoints:
        place = resolve(source)
        if role == _INIT:
            found[role] = _hash_clip(Path(source))
            continue
        if role == _CONFIG:
            found[role] = _hash_config(Path(place))
            continue
        found[role] = fingerprint(place) or fingerprint(_downloaded(place)) or ""
    return found


def _hash_config(folder: Path) -> str:
    """SHA-256 of a folder's configurations and tokenizer; its weights are never read.

    Empty for a hub id: what the cache holds of it grows with other uses.
    """
    if not folder.is_dir():
        return ""
    files = sorted(file for kind in ("*.json", "*.txt") for file in folder.rglob(kind))
    return _hash_files(files, folder)


def _hash_clip(path: Path) -> str:
    """SHA-256 of a video, or of a folder's files and their names."""
    if path.is_file():
        return hashlib.sha256(path.read_bytes()).hexdigest()
    return _hash_files(sorted(file for file in path.iterdir() if file.is_file()), path)


def _hash_files(files: Sequence[Path], folder: Path) -> str:
    digest = hashlib.sha256()
    for file in files:
        content = hashlib.sha256(file.read_bytes()).hexdigest()
        digest.update(f"{content}  {file.relative_to(folder).as_posix()}\n".encode())
    return digest.hexdigest()


def _downloaded(hub_id: str) -> str:
    """The folder a hub id was downloaded to."""
    from huggingface_hub import snapshot_download

    return str(snapshot_download(hub_id, local_files_only=True))


def hash_frames(frames: NDArray[Any]) -> str:
    """SHA-256 of the numbers of frames, with their shape and type."""
    digest = hashlib.sha256(f"{frames.dtype} {frames.shape}".encode())
    digest.update(np.ascontiguousarray(frames).data)
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """Versions of everything that computes frames."""
    import torch

    import elevator

    return {
        "elevator": elevator.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        **{name: version(name) for name in ("diffusers", "transformers", "numpy")},
    }
