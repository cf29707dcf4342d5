"""A bilinear warp, pixel by pixel."""

import math

import torch
from torch import Tensor


def warp_pixel_by_pixel(x: Tensor, flow: Tensor, padding: str) -> Tensor:
    """Weigh the four pixels around the place that the flow of a pixel leads to.

    Args:
        x: images `n c h w`.
        flow: displacements `n 2 h w`.
        padding: "zeros" outside, or "border", where places outside move to the nearest inside.
    """
    n, _, h, w = x.shape
    out = torch.zeros_like(x)
    for image in range(n):
        for row in range(h):
            for column in range(w):
                dx, dy = flow[image, :, row, column].tolist()
                px, py = column + dx, row + dy
                if padding == "border":
                    px, py = min(max(px, 0), w - 1), min(max(py, 0), h - 1)
                left, top = math.floor(px), math.floor(py)
                for q in (top, top + 1):
                    for p in (left, left + 1):
                        weight = (1 - abs(px - p)) * (1 - abs(py - q))
                        if 0 <= p < w and 0 <= q < h:
                            out[image, :, row, column] += weight * x[image, :, q, p]
    return out
