"""Small trained checkpoints in diffusers format, and the recipe that trained them.

Models of the procedural world (`elevator.world`): `t2i` paints crisp stills, `t2v` films soft clips
that move as told, `t2v-mild` clips half as soft. Two personalised T2Is come as such are shared:
`t2i-ink` is a LoRA file for `t2i`, `t2i-mosaic` a single-file checkpoint in the original (LDM)
layout. All share the autoencoder, as VideoElevator asks of a T2I and a T2V, but for `t2v-turned`:
the T2V in another latent space, with a second, smaller autoencoder, to try bridges on. Like many
real ones, the T2Vs have their own text encoder. `recogniser` reads from a clip what is in it, to
judge the others.

Three models enlarge clips of anything, as they learnt from dead leaves and 1/f noise beside the
world: `upscale-x4` and `upscale-x2` by regression, `upscaler` by diffusion, in Upscale-A-Video's
design.

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

    from elevator.models import RegressionUpscaler
    from elevator.pipelines.video_upscale import VideoUpscalePipeline
    from elevator.zoo.recogniser import Recogniser

__all__ = [
    "MODELS",
    "UPSCALERS",
    "Model",
    "load",
    "load_recogniser",
    "load_upscaler",
    "names",
    "path",
]

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
        "t2i-mosaic": Model("mosaic.safetensors", "t2i"),
        "t2v-turned": Model(base="t2v", turned=True),
    }
)
"""The pipelines there are that make pictures and clips from words."""
UPSCALERS = ("upscale-x4", "upscale-x2", "upscaler")
"""The models that enlarge clips."""


def names() -> tuple[str, ...]:
    """The models there are: the pipelines of `MODELS`, `UPSCALERS`, and the recogniser."""
    return (*MODELS, *UPSCALERS, "recogniser")


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
        loaders = {"recogniser": "zoo.load_recogniser()"}
        loaders |= {upscaler: f"zoo.load_upscaler({upscaler!r})" for upscaler in UPSCALERS}
        remedy = f"; call {loaders[name]}" if name in loaders else ""
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


def load_upscaler(name: str = "upscale-x4") -> RegressionUpscaler | VideoUpscalePipeline:
    """A model that enlarges clips, in float32 on the CPU.

    Args:
        name: one of `UPSCALERS`: a `RegressionUpscaler` or, for `upscaler`, a
            `VideoUpscalePipeline`.

    Raises:
        CheckError: no such upscaler.
    """
    if name not in UPSCALERS:
        known = ", ".join(UPSCALERS)
        raise CheckError([f"the zoo has no upscaler {name!r}; use one of: {known}"])
    if name == "upscaler":
        from elevator.zoo import pipelines

        return pipelines.read_upscaler(path(name))
    from elevator.models import RegressionUpscaler

    made: RegressionUpscaler = RegressionUpscaler.from_pretrained(
        path(name), torch_dtype=torch.float32
    )
    return made.eval()
