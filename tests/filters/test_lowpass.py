"""LowPass: its properties, its equation, and a plain-loop oracle."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from elevator.filters import LowPass
from tests.builders import make_latent, make_run, make_step
from tests.reference import freeinit_filter

KINDS = ("gaussian", "butterworth", "ideal", "box")
Shape = tuple[int, int, int, int, int]

stops = st.one_of(st.just(0.0), st.floats(0.05, 1.5), st.sampled_from([0.25, 0.4, 0.5, 1.0]))
sizes = st.integers(1, 9)
shapes = st.tuples(st.integers(1, 2), st.integers(1, 3), sizes, sizes, sizes)


@st.composite
def lowpasses(draw: st.DrawFn, kinds: tuple[str, ...] = KINDS) -> LowPass:
    """Any filter of the default convention that filters something."""
    kind: Any = draw(st.sampled_from(kinds))
    temporal, spatial = draw(
        st.tuples(st.none() | stops, st.none() | stops).filter(lambda two: two != (None, None))
    )
    order = draw(st.integers(1, 6))
    return LowPass(kind, temporal=temporal, spatial=spatial, order=order)


def apply(hook: LowPass, latent: Tensor) -> Tensor:
    run = make_run(tuple(latent.shape))  # type: ignore[arg-type]
    return hook.update(latent, make_step(run), hook.init(run))[0]


# --- properties -----------------------------------------------------------------------------------


@given(lowpasses(), shapes, st.floats(-3, 3))
def test_constants_are_kept_at_every_size(hook: LowPass, shape: Shape, value: float) -> None:
    constant = torch.full(shape, value)
    torch.testing.assert_close(apply(hook, constant), constant, rtol=1e-5, atol=1e-6)


@given(lowpasses(), shapes, st.floats(-2, 2))
def test_it_is_linear(hook: LowPass, shape: Shape, factor: float) -> None:
    x, y = make_latent(shape, 1), make_latent(shape, 2)
    torch.testing.assert_close(
        apply(hook, x + factor * y),
        apply(hook, x) + factor * apply(hook, y),
        rtol=1e-4,
        atol=1e-5,
    )


@given(lowpasses(), shapes)
def test_energy_is_never_added(hook: LowPass, shape: Shape) -> None:
    x = make_latent(shape)
    assert apply(hook, x).norm() <= x.norm() * (1 + 1e-5)


@given(lowpasses(("ideal", "box")), shapes)
def test_all_or_nothing_masks_are_idempotent(hook: LowPass, shape: Shape) -> None:
    once = apply(hook, make_latent(shape))
    torch.testing.assert_close(apply(hook, once), once, rtol=1e-4, atol=1e-5)


@given(lowpasses(), shapes)
def test_the_full_complex_spectrum_gives_the_same_and_is_real(hook: LowPass, shape: Shape) -> None:
    x = make_latent(shape).double()
    spectrum = np.fft.fftn(x.numpy(), axes=(2, 3, 4)) * equation(hook, shape[2:]).numpy()
    filtered = np.fft.ifftn(spectrum, axes=(2, 3, 4))
    assert np.abs(filtered.imag).max() <= 1e-12
    np.testing.assert_allclose(apply(hook, x).numpy(), filtered.real, rtol=1e-5, atol=1e-6)


def equation(hook: LowPass, shape: tuple[int, ...]) -> Tensor:
    """The docstring's mask, bin by bin, in the order of a full FFT."""
    mask = torch.zeros(*shape, dtype=torch.float64)
    for bins in np.ndindex(*shape):
        # Signed frequency of bin k of n, in integers: no rounding can hide at the edges.
        u_f, u_h, u_w = (
            2 * (k if 2 * k < n else k - n) / n for k, n in zip(bins, shape, strict=True)
        )
        mask[bins] = gain(hook, abs(u_f), abs(u_h), abs(u_w))
    return mask


def gain(hook: LowPass, u_f: float, u_h: float, u_w: float) -> float:
    def distance(u: float, stop: float | None) -> float:
        if stop is None or u == 0:
            return 0.0
        return u / stop if stop > 0 else math.inf

    parts = [distance(u_f, hook.temporal), distance(u_h, hook.spatial), distance(u_w, hook.spatial)]
    d = math.hypot(*parts)
    match hook.kind:
        case "gaussian":
            return math.exp(-(d**2) / 2)
        case "butterworth":
            return 0.0 if math.isinf(d) else 1 / (1 + d ** (2 * hook.order))
        case "ideal":
            return float(d <= 1 + 1e-12)
        case "box":
            return float(max(parts) <= 1 + 1e-12)


@given(lowpasses(), shapes)
def test_temporal_alone_never_mixes_pixels(hook: LowPass, shape: Shape) -> None:
    hook = dataclasses.replace(hook, spatial=None, temporal=hook.temporal or 0.4)
    x = make_latent(shape)
    changed = x.clone()
    changed[..., 0, 0] += 1 + make_latent((*shape[:3], 1, 1), 1)[..., 0, 0]
    before, after = apply(hook, x), apply(hook, changed)
    assert torch.equal(before[..., 1:, :], after[..., 1:, :])
    assert torch.equal(before[..., 0, 1:], after[..., 0, 1:])


@given(lowpasses(), shapes)
def test_spatial_alone_never_mixes_frames(hook: LowPass, shape: Shape) -> None:
    hook = dataclasses.replace(hook, temporal=None, spatial=hook.spatial or 0.4)
    x = make_latent(shape)
    for frame in range(shape[2]):
        alone = apply(hook, x[:, :, frame : frame + 1])
        torch.testing.assert_close(apply(hook, x)[:, :, frame : frame + 1], alone)


@given(shapes, st.sampled_from(KINDS))
def test_a_stop_of_zero_keeps_the_mean_of_its_axes(shape: Shape, kind: Any) -> None:
    x = make_latent(shape)
    over_frames = x.mean(2, keepdim=True).expand_as(x)
    torch.testing.assert_close(
        apply(LowPass(kind, temporal=0.0), x), over_frames, rtol=1e-4, atol=1e-5
    )
    in_space = x.mean((3, 4), keepdim=True).expand_as(x)
    torch.testing.assert_close(
        apply(LowPass(kind, temporal=None, spatial=0.0), x), in_space, rtol=1e-4, atol=1e-5
    )


# --- what it is for -------------------------------------------------------------------------------


def test_flicker_is_damped_and_slow_motion_kept() -> None:
    frame = torch.arange(16.0).view(1, 1, 16, 1, 1)
    flicker = torch.cos(torch.pi * frame).expand(1, 1, 16, 4, 4)
    slow = torch.cos(2 * torch.pi * frame / 16).expand(1, 1, 16, 4, 4)
    hook = LowPass("gaussian", temporal=0.4)
    damped = apply(hook, slow + flicker)
    expected = math.exp(-((2 / 16 / 0.4) ** 2) / 2) * slow + math.exp(-(2.5**2) / 2) * flicker
    torch.testing.assert_close(damped, expected, rtol=1e-5, atol=1e-6)


def test_a_bin_on_the_stop_frequency_passes() -> None:
    for frames, bin_ in ((10, 2), (10, 3), (7, 1), (30, 9), (49, 11)):
        frame = torch.arange(float(frames)).view(1, 1, frames, 1, 1)
        wave = torch.cos(2 * torch.pi * bin_ * frame / frames)
        for kind in ("ideal", "box"):
            kept = apply(LowPass(kind, temporal=2 * bin_ / frames), wave)
            torch.testing.assert_close(kept, wave, rtol=1e-4, atol=1e-5)
            lost = apply(LowPass(kind, temporal=2 * (bin_ - 0.01) / frames), wave)
            assert lost.abs().max() < 1e-5


def test_float64_is_not_rounded_and_halves_come_back_as_halves() -> None:
    x = make_latent((1, 2, 6, 5, 4))
    hook = LowPass("gaussian", temporal=0.4, spatial=1.0)
    exact = apply(hook, x.double())
    assert exact.dtype == torch.float64
    assert apply(hook, x.half()).dtype == torch.float16
    torch.testing.assert_close(apply(hook, x.half()).double(), exact, rtol=2e-3, atol=2e-3)


def test_the_mask_is_made_once_and_half_a_spectrum() -> None:
    run = make_run((1, 4, 6, 8, 10))
    both = LowPass(temporal=0.4, spatial=1.0).init(run)
    frames = LowPass(temporal=0.4).init(run)
    space = LowPass(temporal=None, spatial=1.0).init(run)
    assert both is not None
    assert both.shape == (6, 8, 6)
    assert frames is not None
    assert frames.shape == (4, 1, 1)
    assert space is not None
    assert space.shape == (8, 6)
    for mask in (both, frames, space):
        assert mask.dtype == torch.float32


# --- the published code ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["gaussian", "butterworth"])
@pytest.mark.parametrize("shape", [(1, 2, 4, 6, 8), (2, 1, 8, 4, 2), (1, 1, 2, 10, 4)])
@pytest.mark.parametrize(("spatial", "temporal"), [(1.0, 0.4), (0.25, 0.25), (0.6, 1.2)])
def test_equals_the_published_filter_at_even_sizes(
    kind: Any, shape: Shape, spatial: float, temporal: float
) -> None:
    x = make_latent(shape)
    mask = freeinit_filter.mask(kind, shape[2:], spatial, temporal, n=3)
    expected = freeinit_filter.low_pass(x.double().numpy(), mask)
    for convention in ("nyquist", "freeinit"):
        hook = LowPass(kind, spatial=spatial, temporal=temporal, order=3, convention=convention)
        np.testing.assert_allclose(apply(hook, x).numpy(), expected, rtol=1e-4, atol=1e-5)


@given(st.sampled_from(KINDS), shapes, stops, stops, st.integers(1, 5))
def test_freeinit_convention_equals_the_published_filter_at_every_size(
    kind: Any, shape: Shape, spatial: float, temporal: float, order: int
) -> None:
    x = make_latent(shape)
    mask = freeinit_filter.mask(kind, shape[2:], spatial, temporal, order)
    expected = freeinit_filter.low_pass(x.double().numpy(), mask)
    hook = LowPass(kind, spatial=spatial, temporal=temporal, order=order, convention="freeinit")
    np.testing.assert_allclose(apply(hook, x).numpy(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "published_gain"), [((5, 7, 9), 0.868), ((3, 8, 8), 0.707), ((1, 8, 8), 0.044)]
)
def test_the_published_filter_is_off_centre_at_odd_sizes_and_ours_is_not(
    shape: tuple[int, int, int], published_gain: float
) -> None:
    constant = torch.ones(1, 1, *shape)
    published = LowPass("gaussian", spatial=1.0, temporal=0.4, convention="freeinit")
    torch.testing.assert_close(
        apply(published, constant), constant * published_gain, rtol=0, atol=5e-4
    )
    ours = dataclasses.replace(published, convention="nyquist")
    torch.testing.assert_close(apply(ours, constant), constant)


# --- configuration --------------------------------------------------------------------------------


def test_repr_reads_like_the_call() -> None:
    assert repr(LowPass("gaussian", spatial=1.0, temporal=0.4)) == (
        "LowPass('gaussian', spatial=1.0, temporal=0.4)"
    )
    assert repr(LowPass("butterworth", temporal=None, order=2)) == (
        "LowPass('butterworth', temporal=None, order=2)"
    )
    assert repr(LowPass("box", temporal=0.5, spatial=0.25, convention="freeinit")) == (
        "LowPass('box', spatial=0.25, temporal=0.5, convention='freeinit')"
    )


def test_where_nothing_is_filtered_the_same_object_comes_back() -> None:
    x = make_latent((1, 2, 5, 4, 4))
    for hook in (
        LowPass(temporal=None),
        LowPass("ideal", temporal=1.0),
        LowPass("box", temporal=1.0, spatial=1.0),
        LowPass("ideal", temporal=2.0, spatial=2.0),
    ):
        assert apply(hook, x) is x
    one_frame = make_latent((1, 2, 1, 4, 4))
    assert apply(LowPass(temporal=0.25), one_frame) is one_frame


def test_it_claims_no_step_where_it_does_nothing() -> None:
    assert LowPass(temporal=None).acts_at(4) == frozenset()
    assert LowPass(temporal=0.5).acts_at(4) == frozenset(range(4))
    assert LowPass(temporal=None, spatial=0.5).acts_at(4) == frozenset(range(4))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"kind": "sinc", "temporal": 0.4},
            "LowPass kind 'sinc' is unknown; choose one of gaussian, butterworth, ideal, box",
        ),
        (
            {"temporal": 0.4, "convention": "scipy"},
            "LowPass convention 'scipy' is unknown; choose one of nyquist, freeinit",
        ),
        (
            {"temporal": -0.1},
            "LowPass temporal=-0.1 is no stop frequency; give a number from 0 up (Nyquist = 1), "
            "or None to leave that axis unfiltered",
        ),
        (
            {"temporal": None, "spatial": math.nan},
            "LowPass spatial=nan is no stop frequency; give a number from 0 up (Nyquist = 1), "
            "or None to leave that axis unfiltered",
        ),
        (
            {"temporal": math.inf},
            "LowPass temporal=inf is no stop frequency; give a number from 0 up (Nyquist = 1), "
            "or None to leave that axis unfiltered",
        ),
        (
            {"kind": "butterworth", "temporal": 0.4, "order": 0},
            "LowPass order=0 would not fall off; give an integer from 1 up (4 is usual)",
        ),
        (
            {"temporal": 2.0, "fps": 0.0},
            "LowPass fps=0.0 with temporal=2.0 is no rate for a stop frequency in cycles per "
            "second; give both, fps above 0, or leave fps out",
        ),
        (
            {"temporal": None, "fps": 8.0},
            "LowPass fps=8.0 with temporal=None is no rate for a stop frequency in cycles per "
            "second; give both, fps above 0, or leave fps out",
        ),
        (
            {"temporal": 0.4, "convention": "freeinit"},
            "LowPass convention='freeinit' filters frames and space together, as the published "
            "code does; give both temporal=... and spatial=..., or drop the convention",
        ),
    ],
)
def test_errors_name_the_remedy(arguments: dict[str, Any], message: str) -> None:
    hook = object.__new__(LowPass)  # past the type checks of the test run, which users do not have
    for name, value in {**vars(LowPass(temporal=None)), **arguments}.items():
        object.__setattr__(hook, name, value)
    with pytest.raises(ValueError, match="LowPass") as error:
        hook.__post_init__()
    assert str(error.value) == message


@pytest.mark.parametrize("pictures", [1, 4])
@pytest.mark.parametrize("more", [{}, {"spatial": 0.5, "convention": "freeinit"}])
def test_a_stop_frequency_may_be_in_cycles_per_second(pictures: int, more: dict[str, Any]) -> None:
    """At 16 pictures a second Nyquist is 8 cycles; of one latent in four pictures, 2."""
    run = dataclasses.replace(make_run((1, 4, 8, 8, 8)), pictures=pictures)
    nyquist = 8.0 / pictures
    hook, same = LowPass(temporal=1.0, fps=16.0, **more), LowPass(temporal=1 / nyquist, **more)
    clean = make_latent(run.shape)
    got, _ = hook.update(clean, make_step(run), hook.init(run))
    expected, _ = same.update(clean, make_step(run), same.init(run))
    assert torch.equal(got, expected)
    assert "fps=16.0" in repr(hook)


def test_errors_are_raised_when_it_is_made() -> None:
    with pytest.raises(ValueError, match="no stop frequency"):
        LowPass(temporal=-1.0)


def test_it_cites_its_paper() -> None:
    assert LowPass.paper is not None
    assert "2312.07537" in LowPass.paper
