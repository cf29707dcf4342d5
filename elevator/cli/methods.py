"""The values of `elevator upscale --method`, and what each makes of the options."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from elevator import zoo
from elevator.cli.doctor import require_device
from elevator.cli.machine import be_repeatable
from elevator.cli.record import resolve
from elevator.errors import CheckError, CheckpointError
from elevator.upscale import Bicubic, Lanczos, Regression, Upscaler

if TYPE_CHECKING:
    from elevator.pipelines.upscalers import PipelineUpscaler

__all__ = ["METHODS", "Method", "choose"]

_SCALE = 4
_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class Method(NamedTuple):
    """A way to upscale.

    Attributes:
        name: its own.
        build: makes the upscaler of what was given.
        options: those that mean something to it, and not to every method.
    """

    name: str
    build: Callable[[argparse.Namespace], Upscaler]
    options: frozenset[str] = frozenset()


def choose(given: argparse.Namespace) -> Method:
    """The method asked for, or the one that suits pipeline or scale.

    Raises:
        CheckError: an option that means nothing to it.
    """
    network = f"upscale-x{given.scale or _SCALE}" in zoo.names()
    fitting = "diffusion" if given.pipe else "regression" if network else "lanczos"
    method = METHODS[given.method or fitting]
    for option in sorted(frozenset().union(*(one.options for one in METHODS.values()))):
        if getattr(given, option) is not None and option not in method.options:
            users = [name for name, one in METHODS.items() if option in one.options]
            raise _useless(option, f"--method {method.name}", f"choose {' or '.join(users)}")
    return method


def _useless(option: str, to: str, otherwise: str) -> CheckError:
    flag = f"--{option.replace('_', '-')}"
    return CheckError([f"{flag} means nothing to {to}; drop it, or {otherwise}"])


def _builtin(name: str) -> Path:
    """The folder of a built-in upscaler."""
    if name not in zoo.names():
        known = ", ".join(one for one in zoo.names() if one.startswith("upscale"))
        raise CheckpointError(
            f"there is no built-in {name} (there is {known}); choose another --scale, or "
            "--method lanczos"
        )
    place = zoo.path(name)
    if not place.exists():
        raise CheckpointError(
            f"the built-in model {name} has no weights at {place}; install elevator again, "
            f"or train it with `elevator zoo train {name}`"
        )
    return place


def _device(given: argparse.Namespace) -> torch.device:
    device = require_device(given.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type == "cuda":
        be_repeatable()
    return device


def _regression(given: argparse.Namespace) -> Upscaler:
    made = Regression.load(_builtin(f"upscale-x{given.scale or _SCALE}"), _device(given))
    return made if given.tile is None else replace(made, tile=given.tile)


# --- diffusion ------------------------------------------------------------------------------------

_OF_CLIPS = {
    "negative": "negative_prompt",
    "guidance": "guidance_scale",
    "noise_level": "noise_level",
    "steps": "num_inference_steps",
    **{name: name for name in ("preset", "propagate", "window", "overlap", "tile", "colour")},
}
"""Options of the pipeline for clips, and its names of them."""
_OF_FRAMES = {
    **{name: name for name in ("negative", "guidance", "noise_level", "steps", "propagate")},
    "window": "chunk",
    "overlap": "overlap",
    "strength": "strength",
}
"""Options of pipelines taken frame by frame, and their names of them."""


_ALWAYS = {"pipe", "video_vae", "prompt", "caption", "seed", "device", "dtype"}
"""Options of both."""
_REFINING = "give an image-to-image pipeline as --pipe"
_PUBLISHED = "give the folder of the published Upscale-A-Video as --pipe"
_TILE_OVERLAP = 64  # pixels, or a quarter of smaller tiles


def _diffusion(given: argparse.Namespace) -> Upscaler:
    from elevator.pipelines.published_tree import is_published
    from elevator.pipelines.upscalers import ClipUpscaler, load_upscaler
    from elevator.recipes import upscale_preset_for

    if given.preset is not None:
        upscale_preset_for(given.preset)  # raises for a name that is none
    prompt, device = _prompt(given), _device(given)
    source = resolve(given.pipe) if given.pipe else str(_builtin("upscaler"))
    dtype = given.dtype or ("fp16" if device.type == "cuda" else "fp32")
    if given.video_vae and not is_published(source):
        raise _useless("video_vae", given.pipe or "zoo:upscaler", _PUBLISHED)
    made = load_upscaler(source, device=device, dtype=_DTYPES[dtype], video_vae=given.video_vae)
    of_clips = isinstance(made, ClipUpscaler)
    more: dict[str, Any] = {"seed": given.seed or 0}
    if prompt is not None:
        more["prompt"] = prompt
    if isinstance(made, ClipUpscaler):
        made.pipeline.set_progress_bar_config(disable=True)
        if given.strength is not None:
            raise _useless("strength", f"a {type(made.pipeline).__name__}", _REFINING)
        more["settings"] = dict(_named(given, _OF_CLIPS))
        if given.tile is not None:
            more["settings"]["tile_overlap"] = min(_TILE_OVERLAP, given.tile // 4)
    else:
        _require_fitting(given, made)
        more |= dict(_named(given, _OF_FRAMES))
        if made.refines and given.scale is not None:
            more["enlarge"] = given.scale
    made = replace(made, **more)
    if given.scale not in (None, made.scale):
        kind = "clips" if of_clips else "pictures"
        raise CheckError(
            [f"{source} makes {kind} {made.scale} times as large, not {given.scale}; drop --scale"]
        )
    return made


def _prompt(given: argparse.Namespace) -> str | None:
    """What the clip shows, by --prompt or from a file."""
    if given.caption is None:
        prompt: str | None = given.prompt
        return prompt
    if given.prompt is not None:
        raise CheckError(["--caption is a prompt from a file; give it or --prompt, not both"])
    try:
        return " ".join(Path(given.caption).read_text(encoding="utf-8").split())
    except (OSError, ValueError) as error:
        raise CheckError([f"cannot read --caption {given.caption}: {error}"]) from error


def _named(given: argparse.Namespace, names: Mapping[str, str]) -> Iterable[tuple[str, Any]]:
    """What was given, by the pipeline's names."""
    for option, name in names.items():
        value = getattr(given, option)
        if value is not None:
            yield name, value


def _require_fitting(given: argparse.Namespace, made: PipelineUpscaler) -> None:
    """Refuse what a pipeline taken frame by frame has no use for."""
    kind = type(made.pipeline).__name__
    for option in _OF_CLIPS:
        if getattr(given, option) is None:
            continue
        if option not in _OF_FRAMES or (option == "noise_level" and made.refines):
            raise _useless(option, f"a {kind}", "give an upscaler of clips as --pipe")
    if given.strength is not None and not made.refines:
        raise _useless("strength", f"a {kind}", _REFINING)


METHODS: Mapping[str, Method] = MappingProxyType(
    {
        method.name: method
        for method in (
            Method("regression", _regression, frozenset({"tile", "device"})),
            Method(
                "diffusion",
                _diffusion,
                frozenset({*_OF_CLIPS, *_OF_FRAMES, *_ALWAYS}),
            ),
            Method("lanczos", lambda given: Lanczos(given.scale or _SCALE)),
            Method("bicubic", lambda given: Bicubic(given.scale or _SCALE)),
        )
    }
)
"""Every method by its name."""
