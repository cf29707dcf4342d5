"""Training-free sampling-step hooks that lift the quality of diffusion video.

A sampling-step hook is a map from clean latents to clean latents; `attach` puts one inside any
diffusers pipeline. Importing this package loads no diffusers.
"""

import importlib
from typing import TYPE_CHECKING, Any

from elevator.attach import attach as attach
from elevator.attach import check as check
from elevator.cite import cite as cite
from elevator.combine import Wrapper as Wrapper
from elevator.combine import at as at
from elevator.combine import between as between
from elevator.combine import blend as blend
from elevator.combine import chain as chain
from elevator.combine import every as every
from elevator.combine import identity as identity
from elevator.combine import stateless as stateless
from elevator.combine import when as when
from elevator.denoise import Denoiser as Denoiser
from elevator.errors import CheckError as CheckError
from elevator.errors import CheckpointError as CheckpointError
from elevator.errors import ElevatorError as ElevatorError
from elevator.errors import HookError as HookError
from elevator.errors import LayoutError as LayoutError
from elevator.hook import Hook as Hook
from elevator.hook import Host as Host
from elevator.hook import Run as Run
from elevator.hook import Step as Step
from elevator.latent import Latent as Latent
from elevator.latent import current_frames as current_frames
from elevator.level import Level as Level
from elevator.level import Prediction as Prediction
from elevator.noise import KeyedNoise as KeyedNoise
from elevator.noise import RecordedNoise as RecordedNoise
from elevator.noise import StreamedNoise as StreamedNoise
from elevator.patch import Patch as Patch
from elevator.plan import plan as plan
from elevator.renoise import FreshNoise as FreshNoise
from elevator.renoise import KeepNoise as KeepNoise
from elevator.renoise import Renoise as Renoise
from elevator.renoise import renoise as renoise
from elevator.schedule import Schedule as Schedule
from elevator.through import Bridge as Bridge
from elevator.through import through as through

if TYPE_CHECKING:
    from elevator.hosts.callback import HookCallback as HookCallback
    from elevator.hosts.codec import bridge as bridge
    from elevator.hosts.codec import codec as codec
    from elevator.hosts.denoiser import denoiser as denoiser
    from elevator.hosts.modular import HookBlock as HookBlock
    from elevator.hosts.modular import insert as insert
    from elevator.pipelines.video_elevator import VideoElevatorPipeline as VideoElevatorPipeline
    from elevator.pipelines.video_upscale import VideoUpscalePipeline as VideoUpscalePipeline

__version__ = "0.1.0"

_PRIVATE = {"Any", "TYPE_CHECKING", "importlib"}

# Names that need diffusers load on first use.
_LAZY = {
    "HookBlock": "elevator.hosts.modular",
    "HookCallback": "elevator.hosts.callback",
    "bridge": "elevator.hosts.codec",
    "codec": "elevator.hosts.codec",
    "denoiser": "elevator.hosts.denoiser",
    "insert": "elevator.hosts.modular",
    "VideoElevatorPipeline": "elevator.pipelines.video_elevator",
    "VideoUpscalePipeline": "elevator.pipelines.video_upscale",
}


_MODULES = (
    *("filters", "metrics", "models", "preview", "recipes", "samplers", "upscale", "world", "zoo"),
)


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"elevator.{name}")
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'elevator' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*(name for name in globals() if name not in _PRIVATE), *_LAZY, *_MODULES])
