"""Leaves and noise: seeded, each clip on its own, moving, and with the statistics they promise."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from elevator.world import leaves, noise


@pytest.mark.parametrize("make", [leaves, noise])
def test_a_clip_depends_on_its_own_seed_only(make: Callable[..., Tensor]) -> None:
    both = make(2, frames=2, size=(24, 40), seed=7)
    assert both.shape == (2, 3, 2, 24, 40)
    assert both.dtype == torch.float32
    assert torch.equal(both[1:], make(1, frames=2, size=(24, 40), seed=8))
    assert torch.equal(both, make(2, frames=2, size=(24, 40), seed=[7, 8]))
    assert not torch.equal(both[0], both[1])


@pytest.mark.parametrize("make", [leaves, noise])
def test_values_are_colours_and_few_are_cut(make: Callable[..., Tensor]) -> None:
    clips = make(4, frames=1, size=48, seed=1)
    assert clips.min() >= 0
    assert clips.max() <= 1
    assert ((clips == 0) | (clips == 1)).float().mean() < 0.2
    assert clips.std() > 0.08


@pytest.mark.parametrize("make", [leaves, noise])
def test_neighbouring_frames_are_alike_but_not_the_same(make: Callable[..., Tensor]) -> None:
    clips = make(6, frames=6, size=48, seed=3)
    near = (clips[:, :, 1:] - clips[:, :, :-1]).abs().mean((1, 2, 3, 4))
    far = (clips[:, :, 5] - clips[:, :, 0]).abs().mean((1, 2, 3))
    assert (near < far + 1e-6).all()
    assert (far > 0.003).sum() >= 4  # some stand still


@pytest.mark.parametrize("make", [leaves, noise])
def test_amplitudes_fall_about_as_one_over_the_frequency(make: Callable[..., Tensor]) -> None:
    """Between one and a half, as in photographs, which white noise (0) and blobs (2) have not."""
    grey = make(16, frames=1, size=64, seed=11).mean(1)[:, 0]
    window = torch.hann_window(64)
    power = torch.fft.rfft2((grey - grey.mean((1, 2), keepdim=True)) * window * window[:, None])
    y, x = torch.fft.fftfreq(64)[:, None], torch.fft.rfftfreq(64)
    away = (y * y + x * x).sqrt() * 64
    spectrum = power.abs().square().mean(0)
    bands = [4, 6, 9, 13, 19, 28]
    rings = [((away >= a) & (away < b)) for a, b in pairwise(bands)]
    levels = torch.stack([spectrum[ring].mean() for ring in rings]).log()
    middles = torch.tensor([(a * b) ** 0.5 for a, b in pairwise(bands)]).log()
    middles, levels = middles - middles.mean(), levels - levels.mean()
    slope = -float((middles * levels).sum() / middles.square().sum()) / 2
    assert 0.6 < slope < 1.6


def test_leaves_have_sharp_edges_and_even_parts() -> None:
    """Most neighbouring pixels are nearly the same, and some are very different."""
    steps = leaves(6, frames=1, size=64, seed=2).mean(1).diff(dim=-1).abs().flatten()
    assert steps.median() < 0.02
    assert steps.quantile(0.98) > 0.1


def test_noise_drifts_by_fractions_of_a_pixel_without_loss() -> None:
    clip = noise(1, frames=8, size=32, seed=4)[0, :, :, :, :]
    spread = clip.std((2, 3))
    assert torch.allclose(spread, spread[:, :1].expand_as(spread), rtol=0.1)
