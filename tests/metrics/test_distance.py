"""Distances between sets of features, against closed forms and plain loops."""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch

from elevator.metrics import frechet_distance, kernel_distance


def cloud(seed: int, rows: int = 400, columns: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, columns))


def test_a_set_is_no_way_from_itself() -> None:
    x = cloud(0)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-6)


def test_moved_sets_are_apart_by_the_square_of_the_way() -> None:
    x, way = cloud(1), np.array([3.0, 0, 0, 4.0, 0])
    assert frechet_distance(x, x + way) == pytest.approx(25, rel=1e-6)


def test_stretched_sets_are_apart_by_their_spreads() -> None:
    x = cloud(2, columns=1)
    spread = x.std(ddof=1)
    assert (
        frechet_distance(
            np.hstack([x, cloud(3, columns=1)]), np.hstack([3 * x, cloud(3, columns=1)])
        )
        >= (2 * spread) ** 2 * 0.9
    )


def test_commuting_covariances_have_a_closed_form() -> None:
    rng = np.random.default_rng(4)
    q = rng.normal(size=(200, 3))
    q, _ = np.linalg.qr(q - q.mean(0))  # columns orthonormal, each of mean zero
    a, b = np.array([1.0, 2.0, 3.0]), np.array([4.0, 1.0, 0.5])
    expected = (np.square(a - b) / 199).sum()
    assert frechet_distance(q * a, q * b) == pytest.approx(expected, rel=1e-5)


def test_kernel_distance_is_the_sum_over_pairs() -> None:
    x, y = cloud(5, rows=6, columns=3), cloud(6, rows=7, columns=3) + 0.5

    def k(a: np.ndarray, b: np.ndarray) -> float:
        return float((a @ b / 3 + 1) ** 3)

    within_x = np.mean([k(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j])
    within_y = np.mean([k(a, b) for i, a in enumerate(y) for j, b in enumerate(y) if i != j])
    between = np.mean([k(a, b) for a in x for b in y])
    assert kernel_distance(x, y) == pytest.approx(within_x + within_y - 2 * between)


def test_kernel_distance_is_unbiased() -> None:
    same = [kernel_distance(cloud(s, rows=40), cloud(s + 1000, rows=40)) for s in range(60)]
    assert abs(np.mean(same)) < 3 * np.std(same) / np.sqrt(len(same))
    assert kernel_distance(cloud(0), cloud(1) + 1) > 10 * np.std(same)


def test_tensors_and_arrays_are_alike() -> None:
    x, y = cloud(7), cloud(8)
    assert frechet_distance(torch.from_numpy(x), y) == frechet_distance(x, y)


@pytest.mark.parametrize("measure", [frechet_distance, kernel_distance])
@pytest.mark.parametrize("shapes", [((4, 3), (4, 2)), ((1, 3), (4, 3)), ((4,), (4,))])
def test_what_cannot_be_compared_is_refused(
    measure: Callable[..., float], shapes: tuple[tuple[int, ...], tuple[int, ...]]
) -> None:
    with pytest.raises(ValueError, match=r"cannot be compared; give two matrices"):
        measure(np.zeros(shapes[0]), np.zeros(shapes[1]))


def test_without_scipy_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.linalg", None)
    with pytest.raises(ImportError, match=r"pip install 'elevator\[metrics\]'"):
        frechet_distance(cloud(0), cloud(1))
