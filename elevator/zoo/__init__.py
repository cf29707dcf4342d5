"""Small trained checkpoints in diffusers format, and the recipe that trained them.

Three models of the procedural world (`elevator.world`): `t2i` paints crisp stills, `t2v` films soft
ones that move as told, `t2i-ink` is a personalised `t2i`. They share the autoencoder, as
VideoElevator asks of a T2I and a T2V; like many real ones, the T2V has its own text encoder.

Example:
    >>> from elevator import zoo
    >>> pipe = zoo.load("t2i")  # doctest: +SKIP
    >>> pipe("a striped red ring moving left on a teal background").images  # doctest: +SKIP
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

__all__ = ["load", "names", "path"]

_WEIGHTS = Path(__file__).parent / "weights"


def names() -> tuple[str, ...]:
    """The models there are."""
    return ("t2i", "t2v", "t2i-ink")


def path(name: str) -> Path:
    """Folder of a model, for any `from_pretrained`.

    Raises:
        ValueError: no such model.
    """
    if name not in names():
        raise ValueError(f"The zoo has no model {name!r}; use one of: {', '.join(names())}.")
    return _WEIGHTS / name


def load(name: str, dtype: torch.dtype = torch.float32) -> DiffusionPipeline:
    """A model as a diffusers pipeline, on the CPU.

    `t2v` is a `TextToVideoSDPipeline`, the others are a `StableDiffusionPipeline`.

    Args:
        name: one of `names()`.
        dtype: of the weights, which are stored in float16.
    """
    from elevator.zoo import pipelines

    return pipelines.read(path(name), dtype)
