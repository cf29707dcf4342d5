r"""Distances between two sets of features.

Fréchet distance of two Gaussians (Heusel et al. 2017, arXiv 1706.08500, section 3):

$$d^2 = \lVert\mu_1 - \mu_2\rVert^2 + \operatorname{tr}\left(\Sigma_1 + \Sigma_2 -
  2 (\Sigma_1 \Sigma_2)^{1/2}\right).$$

Kernel distance, the unbiased squared maximum mean discrepancy with the kernel
$k(x, y) = (x \cdot y / d + 1)^3$ in $d$ dimensions (Bińkowski et al. 2018, arXiv 1801.01401,
section 3.1):

$$\frac{1}{m(m-1)} \sum_{i \ne j} k(x_i, x_j) + \frac{1}{n(n-1)} \sum_{i \ne j} k(y_i, y_j) -
  \frac{2}{mn} \sum_{i, j} k(x_i, y_j).$$
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64
from numpy.typing import NDArray
from torch import Tensor

from elevator.errors import ElevatorError

__all__ = ["MetricError", "frechet_distance", "kernel_distance"]

Features = NDArray[np.floating] | Tensor


class MetricError(ElevatorError, ValueError):
    """A measure cannot be taken of what was given."""


def frechet_distance(first: Features, second: Features) -> float:
    """Squared Fréchet distance between Gaussians fitted to two sets of features.

    The estimate is biased upwards for small sets; compare sets of equal size.

    Args:
        first: features, n x d, n > d for a covariance of full rank.
        second: features, m x d.

    Raises:
        MetricError: fewer than two rows, or different numbers of columns.
        ImportError: scipy, which takes the root of the matrix, is not installed.
    """
    try:
        from scipy.linalg import sqrtm
    except ImportError as error:
        raise ImportError(
            "frechet_distance needs scipy: pip install 'elevator[metrics]'"
        ) from error
    x, y = _pair(first, second)
    root = sqrtm(np.cov(x, rowvar=False) @ np.cov(y, rowvar=False))
    spread = np.trace(np.cov(x, rowvar=False) + np.cov(y, rowvar=False) - 2 * root.real)
    return float(np.square(x.mean(0) - y.mean(0)).sum() + spread)


def kernel_distance(first: Features, second: Features) -> float:
    """Unbiased squared maximum mean discrepancy; may fall below 0 for sets that are alike.

    Args:
        first: features, n x d.
        second: features, m x d.

    Raises:
        MetricError: fewer than two rows, or different numbers of columns.
    """
    x, y = _pair(first, second)

    def within(rows: Float64[np.ndarray, "n d"]) -> float:
        kernel, count = _kernel(rows, rows), len(rows)
        return float((kernel.sum() - np.trace(kernel)) / (count * (count - 1)))

    return within(x) + within(y) - 2 * float(_kernel(x, y).mean())


def _kernel(
    x: Float64[np.ndarray, "n d"], y: Float64[np.ndarray, "m d"]
) -> Float64[np.ndarray, "n m"]:
    return np.asarray((x @ y.T / x.shape[1] + 1) ** 3)


def _pair(
    first: Features, second: Features
) -> tuple[Float64[np.ndarray, "n d"], Float64[np.ndarray, "m d"]]:
    x, y = (np.asarray(rows, dtype=np.float64) for rows in (first, second))
    if x.ndim != 2 or y.ndim != 2 or x.shape[1:] != y.shape[1:] or min(len(x), len(y)) < 2:
        raise MetricError(
            f"features of shapes {x.shape} and {y.shape} cannot be compared; give two matrices "
            "with at least two rows each and the same number of columns"
        )
    return x, y
