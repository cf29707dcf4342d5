r"""How well a clip was restored: distance from the truth, and steadiness along the true motion.

PSNR pools the squared error over a whole clip; SSIM is scikit-image's, with the settings of its
paper (Wang et al. 2004, "Image Quality Assessment: From Error Visibility to Structural Similarity",
section III-B). The warping error (Lai et al. 2018, "Learning Blind Video Temporal Consistency",
arXiv 1808.00449, section 4.1) carries each next frame back along the flow,

$$E = \frac{\sum_{i, p} M_i(p) \lVert x_i(p) - W(x_{i+1}, f_i)(p) \rVert^2}{\sum_{i, p} M_i(p)},$$

where $M$ leaves out what is hidden in the next frame.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from elevator.filters import Flow, consistent, warp
from elevator.metrics.distance import MetricError

__all__ = ["psnr", "ssim", "warping_error"]


def psnr(clip: Float[Tensor, "f c h w"], truth: Float[Tensor, "n c y x"]) -> float:
    r"""Peak signal-to-noise ratio in dB, $-10 \log_{10}$ of the clip's mean squared error.

    Args:
        clip: values in [0, 1].
        truth: the clip it should be.

    Returns:
        Infinity where the two are equal.

    Raises:
        MetricError: the clips differ in shape.
    """
    _alike(clip, truth)
    error = float((clip.double() - truth.double()).square().mean())
    return -10 * math.log10(error) if error else math.inf


def ssim(clip: Float[Tensor, "f c h w"], truth: Float[Tensor, "n c y x"]) -> float:
    """Structural similarity, from -1 to 1 (equal), mean over frames and channels.

    Args:
        clip: values in [0, 1], at least 11x11 pixels.
        truth: the clip it should be.

    Raises:
        MetricError: the clips differ in shape, or are smaller than the window.
        ImportError: scikit-image is not installed.
    """
    try:
        from skimage.metrics import structural_similarity
    except ImportError as error:
        raise ImportError("ssim needs scikit-image: pip install 'elevator[metrics]'") from error
    _alike(clip, truth)
    if min(clip.shape[-2:]) < 11:
        raise MetricError(f"ssim needs frames of at least 11x11 pixels, got {[*clip.shape[-2:]]}")
    return float(
        np.mean(
            [
                structural_similarity(
                    one.double().numpy(),
                    other.double().numpy(),
                    channel_axis=0,
                    data_range=1.0,
                    gaussian_weights=True,
                    sigma=1.5,
                    use_sample_covariance=False,
                )
                for one, other in zip(clip, truth, strict=True)
            ]
        )
    )


def warping_error(
    clip: Float[Tensor, "f c h w"],
    flow: Flow,
    seen: Bool[Tensor, "e h w"] | None = None,
) -> float:
    """Mean squared difference of neighbouring frames along the motion; 0 for a steady clip.

    Args:
        clip: values in [0, 1], at least two frames.
        flow: the true motion, or that estimated on the truth, batch 1, at the clip's size. Not one
            estimated on the clip itself, which follows its faults.
        seen: where what a pixel shows can be seen in the next frame; by default where the flow's
            two ways are consistent.

    Raises:
        MetricError: one frame only, or a flow of another size.
    """
    wanted = (1, 2, clip.shape[0] - 1, *clip.shape[-2:])
    if clip.shape[0] < 2 or tuple(flow.forward.shape) != wanted:
        raise MetricError(
            f"warping_error needs two frames or more and flow of shape {wanted} for a clip of "
            f"shape {tuple(clip.shape)}, got {tuple(flow.forward.shape)}; see Flow.resize"
        )
    there = flow.forward[0].transpose(0, 1)
    if seen is None:
        seen = consistent(there, flow.backward[0].transpose(0, 1))[:, 0]
    carried = warp(clip[1:], there, padding="border")
    error = (clip[:-1] - carried).square().sum(1)
    return float((error * seen).sum() / seen.sum().clamp_min(1))


def _alike(clip: Tensor, truth: Tensor) -> None:
    if clip.shape != truth.shape:
        raise MetricError(
            f"a clip of shape {tuple(clip.shape)} cannot be compared with one of shape "
            f"{tuple(truth.shape)}; give two of one shape"
        )
