"""Learned or patched network parts, one part of a paper per file."""

import importlib
from typing import TYPE_CHECKING, Any

from elevator.models.inflate import CrossFrameAttention
from elevator.models.windows import FrameWindows

if TYPE_CHECKING:
    from elevator.models.raft import RAFT
    from elevator.models.regression import RegressionUpscaler
    from elevator.models.temporal_unet import TemporalUNet
    from elevator.models.video_vae import VideoVAE

__all__ = [
    "RAFT",
    "CrossFrameAttention",
    "FrameWindows",
    "RegressionUpscaler",
    "TemporalUNet",
    "VideoVAE",
]

# Networks are diffusers' kind of module, which loads on first use.
_LAZY = {
    "RAFT": "elevator.models.raft",
    "RegressionUpscaler": "elevator.models.regression",
    "TemporalUNet": "elevator.models.temporal_unet",
    "VideoVAE": "elevator.models.video_vae",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'elevator.models' has no attribute {name!r}")
