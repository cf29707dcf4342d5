"""How much fine detail frames hold."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

__all__ = ["sharpness"]


def sharpness(frames: Float[Tensor, "*batch c h w"]) -> Float[Tensor, "*batch"]:
    r"""Mean absolute Laplacian of the brightness.

    $$\frac{1}{n} \sum_{y, x} \left| 4 g_{y,x} - g_{y-1,x} - g_{y+1,x} - g_{y,x-1} - g_{y,x+1}
      \right|$$

    over the inner pixels of the mean $g$ of the channels.

    Args:
        frames: values in [0, 1], at least 3x3 pixels.
    """
    grey = frames.mean(-3)
    around = grey[..., :-2, 1:-1] + grey[..., 2:, 1:-1] + grey[..., 1:-1, :-2] + grey[..., 1:-1, 2:]
    return (4 * grey[..., 1:-1, 1:-1] - around).abs().mean((-2, -1))
