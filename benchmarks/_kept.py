"""Clips on disk: made one by one, in any order, by any number of processes, and never twice."""

import argparse
import os
from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["digest", "fill", "label", "read", "share"]


def fill(
    place: Path, numbers: Iterable[int], make: Callable[[int], Float[Tensor, "f c h w"]]
) -> None:
    """Make the clips that are missing in a folder, values in [0, 1]; each is written at once.

    Args:
        place: the folder.
        numbers: which clips.
        make: the clip of a number.
    """
    place.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        file = place / f"{number:04d}.npy"
        if not file.exists():
            clip = make(number)
            aside = file.with_suffix(f".{os.getpid()}.part")
            with aside.open("wb") as part:
                np.save(part, (clip * 255).round().to(torch.uint8).numpy())
            aside.rename(file)


def read(place: Path, numbers: Iterable[int]) -> Float[Tensor, "b f c h w"]:
    """Clips that `fill` has written, values in [0, 1]."""
    made = [np.load(place / f"{number:04d}.npy") for number in numbers]
    return torch.from_numpy(np.stack(made)).float() / 255


def digest(settings: str, models: Sequence[Path]) -> str:
    """What tells settings and weights from others: some letters for a folder's name.

    Args:
        settings: all of them, in words.
        models: files, or folders with safetensors in them.
    """
    told = sha256(settings.encode())
    for model in models:
        for file in sorted(model.rglob("*.safetensors")) if model.is_dir() else [model]:
            told.update(file.read_bytes())
    return told.hexdigest()[:12]


def label(name: str) -> str:
    """A name that any file system takes."""
    return "".join(c if c.isalnum() else "-" for c in name)


def share(text: str) -> tuple[int, int]:
    """The I and N of `--make I/N`."""
    first, _, every = text.partition("/")
    if not (first.isdecimal() and every.isdecimal() and int(first) < int(every)):
        raise argparse.ArgumentTypeError(f"{text} is not I/N with 0 <= I < N, such as 0/2")
    return int(first), int(every)
