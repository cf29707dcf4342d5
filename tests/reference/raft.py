"""Two steps of RAFT in plain loops: looking similarities up, and enlarging a coarse flow."""

import math

import torch
from torch import Tensor


def at(plane: Tensor, x: float, y: float) -> float:
    """Bilinear value of a plane, zero outside."""
    height, width = plane.shape
    value = 0.0
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            if 0 <= row < height and 0 <= column < width:
                value += (1 - abs(x - column)) * (1 - abs(y - row)) * float(plane[row, column])
    return value


def look_up(first: Tensor, second: Tensor, places: Tensor, levels: int, radius: int) -> Tensor:
    """Similarities around a place of the second image, for every place of the first.

    Args:
        first: features `c h w`.
        second: features `c h w`.
        places: (x, y) in the second image, `2 h w`.
        levels: halvings of the second image, and one.
        radius: how far is looked in each direction.
    """
    channels, height, width = first.shape
    found = torch.zeros(levels * (2 * radius + 1) ** 2, height, width)
    for row in range(height):
        for column in range(width):
            alike = torch.einsum("c,chw->hw", first[:, row, column], second) / math.sqrt(channels)
            x, y = places[:, row, column].tolist()
            number = 0
            for level in range(levels):
                if level:
                    rows, columns = (side // 2 * 2 for side in alike.shape)
                    squares = alike[:rows, :columns].unfold(0, 2, 2).unfold(1, 2, 2)
                    alike = squares.mean((-2, -1))
                for right in range(-radius, radius + 1):
                    for down in range(-radius, radius + 1):
                        scale = 2**level
                        found[number, row, column] = at(alike, x / scale + right, y / scale + down)
                        number += 1
    return found


def enlarge(flow: Tensor, weights: Tensor, factor: int) -> Tensor:
    """Every pixel a convex mixture of nine coarse flows, in pixels.

    Args:
        flow: `2 h w`, zero outside.
        weights: `(9 factor factor) h w`, before the softmax over the nine.
        factor: pixels of a coarse one, along each side.
    """
    _, height, width = flow.shape
    shares = weights.view(9, factor, factor, height, width).softmax(0)
    large = torch.zeros(2, factor * height, factor * width)
    for row in range(factor * height):
        for column in range(factor * width):
            i, j = row // factor, column // factor
            for neighbour in range(9):
                y, x = i + neighbour // 3 - 1, j + neighbour % 3 - 1
                if 0 <= y < height and 0 <= x < width:
                    share = shares[neighbour, row % factor, column % factor, i, j]
                    large[:, row, column] += factor * share * flow[:, y, x]
    return large
