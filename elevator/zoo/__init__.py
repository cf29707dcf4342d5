"""Small trained checkpoints in diffusers format, and the recipe that trained them.

Models of the procedural world (`elevator.world`): `t2i` paints crisp stills, `t2v` films soft clips
that move as told. Two personalised T2Is come as such are shared: `t2i-ink` is a LoRA file for
`t2i`, `t2i-neon` a single-file checkpoint in the original (LDM) layout. All share the autoencoder,
as VideoElevator asks of a T2I and a T2V; like many real ones, the T2V has its own text encoder.

Example:
    >>> from elevator import zoo
    >>> pipe = zoo.load("t2i")  # doctest: +SKIP
    >>> pipe("a striped red ring moving left on a teal background").images  # doctest: +SKIP
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from elevator.errors import CheckError

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

__all__ = ["load", "names", "path"]

_WEIGHTS = Path(__file__).parent / "weights"
_FILES = {"t2i-ink": "ink.safetensors", "t2i-neon": "neon.safetensors"}


def names() -> tuple[str, ...]:
    """The models there are."""
    return ("t2i", "t2v", *_FILES)


def path(name: str) -> Path:
    """Where a model is: a folder for any `from_pretrained`, or a style's one file.

    Raises:
        CheckError: no such model.
    """
    if name not in names():
        raise CheckError([f"the zoo has no model {name!r}; use one of: {', '.join(names())}"])
    return _WEIGHTS / name / _FILES.get(name, "")


def load(name: str, dtype: torch.dtype = torch.float32) -> DiffusionPipeline:
    """A model as a diffusers pipeline, on the CPU.

    `t2v` is a `TextToVideoSDPipeline`, the others are a `StableDiffusionPipeline`.

    Args:
        name: one of `names()`.
        dtype: of the weights, which are stored in float16.
    """
    from elevator.zoo import pipelines

    if name == "t2i-ink":
        return pipelines.read_lora(path("t2i"), path(name), dtype)
    if name == "t2i-neon":
        return pipelines.read_file(path(name), path("t2i"), dtype)
    return pipelines.read(path(name), dtype)
