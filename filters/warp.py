r"""Carrying frames along their motion, and where that motion can be trusted.

A flow is a displacement $f(p) = (dx, dy)$ in pixels, x to the right and y down. `warp` fetches what
lies where the flow of a pixel leads to,

$$W(x, f)(p) = x(p + f(p)),$$

and `consistent` tells where the way there and the way back, $g$, end where they began
(Sundaram et al. 2010, "Dense Point Trajectories by GPU-Accelerated Large Displacement Optical
Flow", eq. 5):

$$M(p) = \left[\lvert f + \hat g\rvert^2 < \alpha_1 \left(\lvert f\rvert^2 +
  \lvert\hat g\rvert^2\right) + \alpha_2\right], \qquad \hat g = W(g, f).$$

Everything is computed in float32: positions in half precision are off by up to half a pixel from
1024 pixels on, and $\lvert f\rvert^2$ overflows above 256 pixels.
"""

from typing import Literal, TypeAlias, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import grid_sample

__all__ = ["Interpolation", "Padding", "consistent", "warp"]

Interpolation: TypeAlias = Literal["bilinear", "bicubic", "nearest"]
Padding: TypeAlias = Literal["zeros", "border"]


def warp(
    x: Float[Tensor, "b c *f h w"],
    flow: Float[Tensor, "b 2 *f h w"],
    mode: Interpolation = "bilinear",
    padding: Padding = "zeros",
) -> Float[Tensor, "b c *f h w"]:
    r"""Fetch what lies where the flow leads to: $W(x, f)(p) = x(p + f(p))$.

    Args:
        x: clips `b c f h w` or images `b c h w`, of any floating dtype.
        flow: displacements (dx, dy) in pixels of `x`; one per frame.
        mode: "bilinear"; "bicubic", which blurs less and may overshoot; or "nearest" to mix no
            values: neighbouring latents are no mean of each other.
        padding: what lies outside: "zeros", or the nearest pixel inside ("border").

    Returns:
        Values of x's shape and dtype.

    Raises:
        ValueError: an unknown mode or padding.
    """
    if mode not in get_args(Interpolation) or padding not in get_args(Padding):
        raise ValueError(
            f"warp got mode={mode!r}, padding={padding!r}; expected a mode of "
            f"{get_args(Interpolation)} and a padding of {get_args(Padding)}"
        )
    if x.ndim == 5:
        images, moves = (part.transpose(1, 2).flatten(0, 1) for part in (x, flow))
        carried = warp(images, moves, mode, padding)
        return carried.unflatten(0, (x.shape[0], x.shape[2])).transpose(1, 2)
    height, width = x.shape[-2:]
    # With corners aligned, a side of one pixel has no length to measure positions in.
    aligned = min(height, width) > 1
    places = torch.stack(
        [
            _relative(moves.float() + pixels, side, aligned)
            for moves, pixels, side in (
                (flow[:, 0], torch.arange(width, device=x.device), width),
                (flow[:, 1], torch.arange(height, device=x.device)[:, None], height),
            )
        ],
        dim=-1,
    )
    fetched = grid_sample(x.float(), places, mode, padding, align_corners=aligned)
    return fetched.to(x.dtype)


def consistent(
    forward: Float[Tensor, "b 2 *f h w"],
    backward: Float[Tensor, "b 2 *f h w"],
    alpha1: float = 0.001,
    alpha2: float = 0.05,
) -> Bool[Tensor, "b 1 *f h w"]:
    r"""Where the way there and the way back end where they began.

    What leaves the image has no way back: there $\hat g = 0$, and only flows with
    $\lvert f\rvert^2 < \alpha_2 / (1 - \alpha_1)$ pass.

    Args:
        forward: f, the flow that would be warped with.
        backward: g, the opposite flow between the same two frames, on the other frame's pixels.
        alpha1: squared distance allowed per squared length of the two flows, >= 0.
        alpha2: squared distance in pixels allowed anyhow, >= 0; 0 trusts nothing that stands still.

    Returns:
        True where the flow is to be trusted.
    """
    there = forward.float()
    back = warp(backward.float(), there)
    distance = (there + back).square().sum(1, keepdim=True)
    lengths = (there.square() + back.square()).sum(1, keepdim=True)
    return distance < alpha1 * lengths + alpha2


def _relative(positions: Tensor, side: int, aligned: bool) -> Tensor:
    """Positions in pixels as `grid_sample` counts them."""
    if aligned:
        return 2 * positions / (side - 1) - 1
    return (2 * positions + 1) / side - 1
