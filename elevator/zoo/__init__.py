"""Small trained checkpoints in diffusers format, and the recipe that trained them.

Models of the procedural world (`elevator.world`): `t2i` paints crisp stills, `t2v` films soft clips
that move as told, `t2v-mild` clips half as soft. Two personalised T2Is come as such are shared:
`t2i-ink` is a LoRA file for `t2i`, `t2i-neon` a single-file checkpoint in the original (LDM)
layout. All share the autoencoder, as VideoElevator asks of a T2I and a T2V, but for `t2v-turned`:
the T2V in another latent space, with a second, smaller autoencoder, to try bridges on. Like many
real ones, the T2Vs have their own text encoder. `recogniser` reads from a clip what is in it, to
judge the others.

Example:
    >>> from elevator import zoo
    >>> pipe = zoo.load("t2i")  # doctest: +SKIP
    >>> pipe("a striped red ring moving left on a teal background").images  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch

from elevator.errors import CheckError

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

    from elevator.zoo.recogniser import Recogniser

__all__ = ["MODELS", "Model", "load", "load_recogniser", "names", "path"]

_WEIGHTS = Path(__file__).parent / "weights"


@dataclass(frozen=True)
class Model:
    """How a model is stored.

    Attributes:
        file: its one file; empty for a folder that `from_pretrained` takes.
        base: the model whose configuration the file goes by.
        lora: the file holds low-rank factors that go on top of the base.
        turned: the folder holds an autoencoder whose latents are the base's, turned
            (`elevator.zoo.turned`); the base's network turns with them.
    """

    file: str = ""
    base: str = ""
    lora: bool = False
    turned: bool = False


MODELS: Mapping[str, Model] = MappingProxyType(
    {
        "t2i": Model(),
        "t2v": Model(),
        "t2v-mild": Model("mild.safetensors", "t2v", lora=True),
        "t2i-ink": Model("ink.safetensors", "t2i", lora=True),
        "t2i-neon": Model("neon.safetensors", "t2i"),
        "t2v-turned": Model(base="t2v", turned=True),
    }
)
"""The pipelines there are."""


def names() -> tuple[str, ...]:
    """The models there are: the pipelines of `MODELS`, and the recogniser."""
    return (*MODELS, "recogniser")


def path(name: str) -> Path:
    """Where a model is: a folder for any `from_pretrained`, or its one file (`MODELS`).

    Raises:
        CheckError: no such model.
    """
    if name not in names():
        raise CheckError([f"the zoo has no model {name!r}; use one of: {', '.join(names())}"])
    return _WEIGHTS / name / (MODELS[name].file if name in MODELS else "")


def load(name: str, dtype: torch.dtype = torch.float32) -> DiffusionPipeline:
    """A model as a diffusers pipeline, on the CPU.

    T2Vs are a `TextToVideoSDPipeline`, T2Is a `StableDiffusionPipeline`.

    Args:
        name: one of `MODELS`.
        dtype: of the weights, which are stored in float16.

    Raises:
        CheckError: no such pipeline.
    """
    from elevator.zoo import pipelines, turned

    if name not in MODELS:
        remedy = "; call zoo.load_recogniser()" if name == "recogniser" else ""
        known = ", ".join(MODELS)
        raise CheckError([f"the zoo has no pipeline {name!r}; use one of: {known}{remedy}"])
    model = MODELS[name]
    if model.turned:
        return turned.read(path(model.base), path(name), dtype)
    if not model.file:
        return pipelines.read(path(name), dtype)
    if not model.lora:
        return pipelines.read_file(path(name), path(model.base), dtype)
    read = pipelines.read_video_lora if model.base == "t2v" else pipelines.read_lora
    return read(path(model.base), path(name), dtype)


def load_recogniser() -> Recogniser:
    """The judge, in float32 on the CPU: it reads the words of a caption from a clip."""
    from elevator.zoo.recogniser import Recogniser

    judge: Recogniser = Recogniser.from_pretrained(path("recogniser"), torch_dtype=torch.float32)
    return judge.eval()
