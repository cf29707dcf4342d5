"""What `elevator upscale --method` may be, and the upscaler each makes of the command line."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch

from elevator.cli.doctor import require_device
from elevator.errors import CheckError
from elevator.upscale import Bicubic, Lanczos, Regression, Upscaler

__all__ = ["METHODS", "Method", "chosen"]

_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_SCALES = (2, 4)


class Method(NamedTuple):
    """A way to upscale.

    Attributes:
        build: makes the upscaler of what was given.
        options: those that mean something to it, and not to every method.
    """

    build: Callable[[argparse.Namespace], Upscaler]
    options: frozenset[str] = frozenset()


def chosen(given: argparse.Namespace) -> str:
    """The method asked for: a pipeline means diffusion, nothing means regression."""
    return given.method or ("diffusion" if given.pipe is not None else "regression")


def _regression(given: argparse.Namespace) -> Upscaler:
    from elevator import zoo

    if given.scale not in _SCALES:
        raise CheckError(
            [
                f"the built-in networks make clips 2 or 4 times as large, not {given.scale}; give "
                "--scale 2 or 4, or --method lanczos"
            ]
        )
    made = Regression.load(zoo.path(f"upscale-x{given.scale}"), _device(given))
    return Regression(made.network, made.weights, given.tile or Regression.tile)


def _diffusion(given: argparse.Namespace) -> Upscaler:
    from elevator import zoo
    from elevator.pipelines.upscalers import ClipUpscaler, load_upscaler

    device = _device(given)
    dtype = given.dtype or ("fp16" if device.type == "cuda" else "fp32")
    source = zoo.path("upscaler") if given.pipe is None else given.pipe
    loaded = load_upscaler(source, device=device, dtype=_DTYPES[dtype])
    told = _of_clips if isinstance(loaded, ClipUpscaler) else _of_frames
    made = told(loaded, given)
    if made.scale != given.scale:
        raise CheckError(
            [
                f"{source} makes clips {made.scale} times as large, not {given.scale}; give "
                f"--scale {made.scale}"
            ]
        )
    return made


def _of_clips(made: Any, given: argparse.Namespace) -> Upscaler:
    """A pipeline of clips, with what was given beside its preset."""
    settings = _given(
        preset=given.preset,
        negative_prompt=given.negative,
        guidance_scale=given.guidance,
        noise_level=given.noise_level,
        num_inference_steps=given.steps,
        propagate=given.propagate,
        window=given.window,
        overlap=given.overlap,
        tile=given.tile,
        colour=given.colour,
    )
    made.pipeline.set_progress_bar_config(disable=True)
    return replace(made, settings=settings, **_given(prompt=_prompt(given), seed=given.seed))


def _of_frames(made: Any, given: argparse.Namespace) -> Upscaler:
    """A pipeline of images, frame by frame.

    Raises:
        CheckError: an option that only pipelines of clips have.
    """
    clips_only = [name for name in ("preset", "tile", "colour") if getattr(given, name) is not None]
    if clips_only:
        raise CheckError(
            [
                f"--{name} means nothing to {type(made.pipeline).__name__}, which takes a clip "
                "frame by frame; drop it"
                for name in clips_only
            ]
        )
    return replace(
        made,
        **_given(
            prompt=_prompt(given),
            negative=given.negative,
            guidance=given.guidance,
            noise_level=given.noise_level,
            steps=given.steps,
            propagate=given.propagate,
            chunk=given.window,
            overlap=given.overlap,
            seed=given.seed,
            **({"enlarge": given.scale} if made.refines else {}),
        ),
    )


def _given(**options: Any) -> dict[str, Any]:
    """Those that were given."""
    return {name: value for name, value in options.items() if value is not None}


def _prompt(given: argparse.Namespace) -> str | None:
    """The words of --prompt, or those in the file of --caption.

    Raises:
        CheckError: both, or a file that cannot be read.
    """
    if given.caption is None:
        prompt: str | None = given.prompt
        return prompt
    if given.prompt is not None:
        raise CheckError(["--prompt and --caption both say what the clip shows; give one of them"])
    try:
        return " ".join(Path(given.caption).read_text("utf-8").split())
    except (OSError, UnicodeError) as error:
        raise CheckError(
            [f"the caption {given.caption} cannot be read ({error}); give a text file"]
        ) from error


def _device(given: argparse.Namespace) -> torch.device:
    return require_device(given.device or ("cuda" if torch.cuda.is_available() else "cpu"))


METHODS: Mapping[str, Method] = MappingProxyType(
    {
        "regression": Method(_regression, frozenset({"tile", "device"})),
        "diffusion": Method(
            _diffusion,
            frozenset(
                {"pipe", "preset", "prompt", "caption", "negative", "noise_level", "guidance"}
                | {"steps", "propagate", "window", "overlap", "tile", "colour", "seed"}
                | {"device", "dtype"}
            ),
        ),
        "bicubic": Method(lambda given: Bicubic(given.scale)),
        "lanczos": Method(lambda given: Lanczos(given.scale)),
    }
)
"""The values of `--method`."""
