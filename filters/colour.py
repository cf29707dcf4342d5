r"""Colours of one clip, detail of another: what an upscaler shifted is brought back.

`adain` gives every frame the reference's mean and spread, channel by channel (Huang & Belongie
2017, arXiv 1703.06868, eq. 8, on pixels):

$$y = \sigma(r)\, \frac{x - \mu(x)}{\sigma(x)} + \mu(r), \qquad
  \sigma^2 = \mathrm{var} + 10^{-5}.$$

`wavelet` exchanges only what is coarse: with $L$ the reference's blur at the last of `levels`
scales of an à trous wavelet transform (kernel $[1\; 2\; 1]/4$ along each side, holes of
$1, 2, 4, \ldots$ pixels),

$$y = (x - L(x)) + L(r).$$

Both are what Upscale-A-Video's code offers. Frames are the batch axis; values are in any one range
and are not clamped. Computed in float32.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import conv2d, pad

__all__ = ["adain", "low_frequencies", "wavelet"]

_FLOOR = 1e-5
"""Added to variances, so that even frames have a spread to divide by."""


def adain(
    frames: Float[Tensor, "f c h w"], reference: Float[Tensor, "f c hr wr"]
) -> Float[Tensor, "f c h w"]:
    """Give every frame the mean and the spread of its reference, channel by channel.

    Args:
        frames: what to correct.
        reference: the colours to have, in the same range; of any size.

    Returns:
        Frames of their own dtype.
    """
    mean, spread = _statistics(frames)
    wanted, width = _statistics(reference)
    return ((frames.float() - mean) / spread * width + wanted).to(frames.dtype)


def wavelet(
    frames: Float[Tensor, "f c h w"], reference: Float[Tensor, "f c h w"], levels: int = 5
) -> Float[Tensor, "f c h w"]:
    """Exchange what is coarser than about 2^levels pixels for the reference's.

    Args:
        frames: what to correct.
        reference: the colours to have, in the same range, already at the size of the frames.
        levels: scales that stay the frames' own, >= 0; with 0 the reference is all that is left.

    Returns:
        Frames of their own dtype.

    Raises:
        ValueError: a negative number of levels.
    """
    detail = frames.float() - low_frequencies(frames, levels)
    return (detail + low_frequencies(reference, levels)).to(frames.dtype)


def low_frequencies(frames: Float[Tensor, "f c h w"], levels: int = 5) -> Float[Tensor, "f c h w"]:
    """Blur by `levels` à trous steps, edges repeated: what `wavelet` takes from the reference.

    Args:
        frames: any frames.
        levels: steps, >= 0; step i mixes pixels 2^i apart.

    Returns:
        The blurred frames, float32.

    Raises:
        ValueError: a negative number of levels.
    """
    if levels < 0:
        raise ValueError(f"levels={levels} is no number of scales; give 0 or more (5 is usual)")
    planes = frames.float().flatten(0, 1)[:, None]
    ticks = torch.tensor([1.0, 2.0, 1.0], device=frames.device) / 4
    kernel = (ticks[:, None] * ticks)[None, None]
    for level in range(levels):
        hole = 2**level
        planes = conv2d(pad(planes, (hole,) * 4, mode="replicate"), kernel, dilation=hole)
    return planes[:, 0].unflatten(0, frames.shape[:2])


def _statistics(frames: Tensor) -> tuple[Float[Tensor, "f c 1 1"], Float[Tensor, "f c 1 1"]]:
    """Mean and spread of every channel of a frame; a single pixel has a variance of zero."""
    many = frames.shape[-2:].numel() > 1
    variance, mean = torch.var_mean(
        frames.float(), dim=(-2, -1), correction=1 if many else 0, keepdim=True
    )
    return mean, (variance + _FLOOR).sqrt()
