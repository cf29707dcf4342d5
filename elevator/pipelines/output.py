"""What the calls of our pipelines return."""

from dataclasses import dataclass

import numpy as np
import PIL.Image
from diffusers.utils import BaseOutput
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["VideoElevatorOutput", "VideoUpscaleOutput"]


@dataclass
class _Output(BaseOutput):
    """Clips in the form that was asked for.

    Attributes:
        frames: by `output_type`: `pil` lists of images per clip; `np` (b, f, H, W, 3) and `pt`
            (b, f, 3, H, W) in [0, 1]; `latent` (b, c, f, h, w).
    """

    frames: list[list[PIL.Image.Image]] | NDArray[np.float32] | Tensor


class VideoElevatorOutput(_Output):
    """What a call of `VideoElevatorPipeline` returns; `frames` by `output_type`."""


class VideoUpscaleOutput(_Output):
    """What a call of `VideoUpscalePipeline` returns; `frames` by `output_type`."""
