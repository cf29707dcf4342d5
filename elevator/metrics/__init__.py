"""How good clips are: detail, steadiness and motion, distance from a truth or between sets.

All of it is plain arithmetic on frames or features, so that the same numbers judge every model.
"""

from elevator.metrics.detail import sharpness
from elevator.metrics.distance import frechet_distance, kernel_distance
from elevator.metrics.restoration import psnr, ssim, warping_error
from elevator.metrics.track import appearance_change, centres, heading, jitter, object_weights

__all__ = [
    "appearance_change",
    "centres",
    "frechet_distance",
    "heading",
    "jitter",
    "kernel_distance",
    "object_weights",
    "psnr",
    "sharpness",
    "ssim",
    "warping_error",
]
