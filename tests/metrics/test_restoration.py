import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from elevator import metrics, world
from elevator.filters import Flow
from elevator.metrics.distance import MetricError


@given(st.floats(0.001, 0.5))
def test_psnr_of_an_offset_is_its_formula(offset: float) -> None:
    truth = torch.rand(3, 3, 5, 7) / 2
    assert metrics.psnr(truth + offset, truth) == pytest.approx(-20 * math.log10(offset), abs=1e-3)


def test_psnr_pools_the_error_over_the_clip() -> None:
    truth, clip = torch.zeros(2, 1, 4, 4), torch.zeros(2, 1, 4, 4)
    clip[0] = 0.2  # mean squared error 0.02 over both frames
    assert metrics.psnr(clip, truth) == pytest.approx(-10 * math.log10(0.02), abs=1e-5)
    assert metrics.psnr(truth, truth) == math.inf


def test_ssim_of_an_offset_is_its_luminance_term() -> None:
    flat = torch.full((1, 1, 16, 16), 0.5)
    # No structure: contrast and structure are 1, what is left is the comparison of the means.
    wanted = (2 * 0.5 * 0.7 + 1e-4) / (0.5**2 + 0.7**2 + 1e-4)
    assert metrics.ssim(flat, flat + 0.2) == pytest.approx(wanted, abs=1e-6)
    noisy = torch.rand(2, 3, 16, 16)
    assert metrics.ssim(noisy, noisy) == pytest.approx(1)
    assert metrics.ssim(noisy, noisy.flip(3)) < 0.5


def exact(scenes: list[world.Scene], seed: int) -> tuple[Flow, torch.Tensor]:
    both = [world.flow(scenes, seed=seed, backward=back).transpose(1, 2) for back in (False, True)]
    return Flow(*both), ~world.occlusion(scenes, seed=seed)[0]


def test_true_clips_are_steady_and_shaken_ones_are_not() -> None:
    scenes = world.draw(1, seed=5)
    clip = world.render(scenes, seed=5)[0]
    flow, seen = exact(scenes, 5)
    steady = metrics.warping_error(clip, flow, seen)
    shaken = clip + 0.1 * torch.randn(len(clip), 1, 1, 1)
    assert steady < 0.02
    assert metrics.warping_error(shaken, flow, seen) > steady + 0.01


def test_the_warping_error_is_the_mean_over_what_is_seen() -> None:
    clip = torch.zeros(2, 3, 4, 4)
    clip[1] = 0.5
    still = Flow(*(torch.zeros(1, 2, 1, 4, 4) for _ in range(2)))
    assert metrics.warping_error(clip, still) == pytest.approx(0.75)
    seen = torch.zeros(1, 4, 4, dtype=torch.bool)
    seen[0, 0] = True
    clip[1, :, 0] = 0.1
    assert metrics.warping_error(clip, still, seen) == pytest.approx(0.03)
    assert metrics.warping_error(clip, still, torch.zeros_like(seen)) == 0


def test_shapes_are_asked_for_in_words() -> None:
    clip = torch.rand(2, 3, 16, 16)
    with pytest.raises(MetricError, match=r"\(2, 3, 16, 16\) cannot be compared with one of shape"):
        metrics.psnr(clip, clip[:1])
    with pytest.raises(MetricError, match="at least 11x11 pixels"):
        metrics.ssim(clip[..., :8], clip[..., :8])
    still = Flow(*(torch.zeros(1, 2, 1, 8, 8) for _ in range(2)))
    with pytest.raises(MetricError, match=r"see Flow\.resize"):
        metrics.warping_error(clip, still)
    assert np.isfinite(metrics.ssim(clip, clip))
