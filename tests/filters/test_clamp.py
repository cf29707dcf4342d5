"""Clamp and DynamicThreshold: their equations, what they leave alone, diffusers' own rule."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import elevator as el
from elevator.filters import Clamp, DynamicThreshold
from elevator.filters.clamp import Bound
from elevator.hook import Hook
from tests.builders import ddim, make_latent, make_run, make_step, sample, tiny_sd

sizes = st.integers(1, 5)
shapes = st.tuples(st.integers(1, 2), st.just(3), sizes, sizes, sizes)
numbers = st.floats(0.1, 3.0)
limits = numbers | st.tuples(numbers, numbers, numbers)


def apply(hook: Hook[Any], latent: Tensor) -> Tensor:
    run = make_run(tuple(latent.shape))  # type: ignore[arg-type]
    return hook.update(latent, make_step(run), hook.init(run))[0]


def spread(bound: Bound, channels: int) -> list[float]:
    return list(bound) if isinstance(bound, tuple) else [bound] * channels


# --- Clamp ----------------------------------------------------------------------------------------


@given(shapes, limits, limits, st.integers(0, 99))
def test_clamp_is_its_equation_channel_by_channel(
    shape: Any, low: Any, high: Any, seed: int
) -> None:
    low = tuple(-value for value in low) if isinstance(low, tuple) else -low
    latent = 2 * make_latent(shape, seed)
    got = apply(Clamp(low, high), latent)
    bounds = zip(spread(low, 3), spread(high, 3), strict=True)
    for channel, (lowest, highest) in enumerate(bounds):
        wanted = [min(max(value, lowest), highest) for value in latent[:, channel].flatten()]
        torch.testing.assert_close(got[:, channel].flatten(), torch.tensor(wanted))
    assert apply(Clamp(low, high), got) is got, "clamping twice is clamping once"


def test_one_side_may_be_open() -> None:
    latent = make_latent((1, 3, 2, 4, 4))
    assert apply(Clamp(low=-0.5), latent).min() == -0.5
    assert apply(Clamp(low=-0.5), latent).max() == latent.max()
    assert apply(Clamp(high=0.5), latent).max() == 0.5
    only_second = Clamp(high=(math.inf, 0.5, math.inf))
    assert torch.equal(apply(only_second, latent)[:, ::2], latent[:, ::2])
    assert apply(only_second, latent)[:, 1].max() == 0.5


def test_what_lies_inside_is_the_same_object() -> None:
    latent = make_latent((1, 3, 2, 4, 4))
    most = float(latent.abs().max())
    assert apply(Clamp(), latent) is latent
    assert apply(Clamp(-most, most), latent) is latent
    assert apply(DynamicThreshold(most), latent) is latent
    assert apply(DynamicThreshold((most, most, math.inf)), latent) is latent
    assert apply(Clamp(-most, 0.99 * float(latent.max())), latent) is not latent


def test_hooks_without_bounds_act_nowhere() -> None:
    assert not Clamp().acts_at(5)
    assert not Clamp(low=(-math.inf, -math.inf)).acts_at(5)
    assert not DynamicThreshold(math.inf).acts_at(5)
    assert Clamp(high=(1.0, math.inf)).acts_at(5) == frozenset(range(5))
    assert DynamicThreshold(2.0).acts_at(5) == frozenset(range(5))


# --- DynamicThreshold -----------------------------------------------------------------------------


@given(shapes, limits, st.floats(0.3, 1.0), st.booleans(), st.integers(0, 99))
def test_dynamic_threshold_is_its_equation_clip_by_clip(
    shape: Any, limit: Any, quantile: float, rescale: bool, seed: int
) -> None:
    latent = 2 * make_latent(shape, seed)
    got = apply(DynamicThreshold(limit, quantile, rescale), latent)
    wide = torch.tensor(spread(limit, 3))[:, None, None, None]
    for clip, mine in zip(latent, got, strict=True):
        units = clip / wide
        threshold = max(1.0, float(units.abs().flatten().quantile(quantile)))
        wanted = units.clamp(-threshold, threshold) * wide
        wanted = wanted / threshold if rescale else wanted
        torch.testing.assert_close(mine, wanted)
        if rescale:
            assert bool((mine.abs() <= wide * 1.00001).all())


@pytest.mark.parametrize("scale", [0.3, 1.0, 4.0])
def test_it_is_the_thresholding_of_diffusers_on_pixels(scale: float) -> None:
    """Their limit is 1, and `sample_max_value` only caps the threshold."""
    scheduler = ddim(thresholding=True, dynamic_thresholding_ratio=0.9, sample_max_value=1e6)
    latent = scale * make_latent((2, 3, 4, 5, 6))
    wanted = scheduler._threshold_sample(latent)
    torch.testing.assert_close(apply(DynamicThreshold(1.0, 0.9), latent), wanted)


def test_the_whole_quantile_only_scales() -> None:
    latent = 3 * make_latent((1, 3, 2, 4, 4))
    got = apply(DynamicThreshold(1.5, 1.0), latent)
    torch.testing.assert_close(got, latent * 1.5 / latent.abs().max())
    assert apply(DynamicThreshold(1.5, 1.0, rescale=False), latent) is latent


def test_frames_are_scaled_together() -> None:
    """A bright frame dims the whole clip: frame by frame it would flicker."""
    latent = torch.ones(1, 2, 3, 4, 4)
    latent[:, :, 1] = 4
    got = apply(DynamicThreshold(1.0, 1.0), latent)
    assert torch.equal(got, latent / 4)


def test_clips_longer_than_torch_takes_quantiles_of() -> None:
    latent = torch.arange(2**24 + 1).float().view(1, 1, 1, 1, -1)
    with pytest.raises(RuntimeError, match="too large"):
        latent.flatten().quantile(0.5)
    got = apply(DynamicThreshold(1.0, 0.5), latent)
    assert got.max() == 1
    assert got[..., 2**22] == pytest.approx(0.5)


def test_inside_a_pipeline_the_estimate_ends_in_range() -> None:
    pipe = tiny_sd(ddim(set_alpha_to_one=True))
    plain = sample(pipe, guidance=12.0)
    with el.attach(pipe, Clamp(-0.5, 0.5), frames=3):
        assert sample(pipe, guidance=12.0).abs().max() == pytest.approx(0.5, abs=1e-5)
    with el.attach(pipe, DynamicThreshold(0.5), frames=3):
        assert sample(pipe, guidance=12.0).abs().max() == pytest.approx(0.5, abs=1e-5)
    assert plain.abs().max() > 1


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high"),
    [(1.0, -1.0), ((-1.0, 2.0), 1.0), (math.nan, 1.0), (math.inf, None), (None, -math.inf)],
)
def test_a_clamp_without_range(low: Any, high: Any) -> None:
    with pytest.raises(ValueError, match="leaves no range; give numbers with low <= high, or None"):
        Clamp(low, high)


def test_bounds_for_different_channels() -> None:
    with pytest.raises(ValueError, match=r"2 numbers for low and 3 for high; give one per channel"):
        Clamp((-1.0, -1.0), (1.0, 1.0, 1.0))


@pytest.mark.parametrize("limit", [0.0, -1.0, (1.0, 0.0), math.nan])
def test_a_limit_that_leaves_nothing(limit: Any) -> None:
    with pytest.raises(ValueError, match="leaves no range; give numbers above 0"):
        DynamicThreshold(limit)


@pytest.mark.parametrize("quantile", [0.0, -0.1, 1.1, math.nan])
def test_a_quantile_out_of_range(quantile: float) -> None:
    with pytest.raises(ValueError, match="is no share of the values; give a number above 0 and at"):
        DynamicThreshold(1.0, quantile)


@pytest.mark.parametrize("hook", [Clamp(high=(1.0, 1.0)), DynamicThreshold((1.0, 1.0))])
def test_bounds_for_other_channels_than_the_latents(hook: Any) -> None:
    name = type(hook).__name__
    message = f"{name} was given bounds for 2 channels, but the latents have 4; give 4, or one"
    with pytest.raises(el.CheckError, match=message):
        hook.init(make_run())
    with (
        pytest.raises(el.CheckError, match=message),
        el.attach(pipe := tiny_sd(), hook, frames=3),
    ):
        sample(pipe)
    with pytest.raises(el.CheckError, match=message):
        el.plan(tiny_sd(), hook, frames=3)
