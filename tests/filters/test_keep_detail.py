"""What refines a clip keeps its detail: only the coarse part of a change arrives."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import elevator as el
from elevator.errors import CheckError
from elevator.filters import KeepColours, KeepDetail, LowPass
from elevator.hook import parts
from elevator.recipes import PRESETS, videoelevator
from elevator.samplers import SDEdit
from tests.builders import FakeDenoiser, make_latent, make_run, make_step, unvetted

STOP = 0.5
COARSE = LowPass("ideal", temporal=None, spatial=STOP)


def turned(clean: torch.Tensor, step: el.Step) -> torch.Tensor:
    """Something else altogether."""
    return clean.flip(-1, 2) * 2 + 1


def applied(hook: el.Hook[Any], clean: torch.Tensor) -> torch.Tensor:
    b, c, f, h, w = clean.shape
    run = make_run((b, c, f, h, w))
    return hook.update(clean, make_step(run), hook.init(run))[0]


@given(
    st.integers(1, 2), st.integers(1, 4), st.integers(2, 9), st.integers(2, 9), st.integers(0, 9)
)
def test_low_frequencies_are_the_hooks_and_high_ones_the_estimates(
    b: int, f: int, h: int, w: int, seed: int
) -> None:
    clean = make_latent((b, 3, f, h, w), seed)
    kept = applied(KeepDetail(el.stateless(turned), COARSE), clean)
    u = 2 * torch.fft.fftfreq(h)[:, None]
    v = 2 * torch.fft.fftfreq(w)
    low = u**2 + v**2 <= STOP**2 + 1e-6
    expected = torch.where(
        low, torch.fft.fft2(turned(clean, make_step(make_run()))), torch.fft.fft2(clean)
    )
    torch.testing.assert_close(torch.fft.fft2(kept), expected, rtol=1e-4, atol=1e-3)


def test_a_filter_that_passes_everything_leaves_the_hook_as_it_is() -> None:
    clean = make_latent((1, 3, 4, 8, 8), 0)
    plain = applied(el.stateless(turned), clean)
    kept = applied(KeepDetail(el.stateless(turned), LowPass(temporal=None)), clean)
    torch.testing.assert_close(kept, plain, rtol=0, atol=0)


def test_both_hooks_are_cited_and_checked() -> None:
    inside = el.stateless(turned)
    assert KeepDetail(inside, COARSE).inner() == (inside, COARSE)
    assert "wu2023freeinit" in el.cite(KeepDetail(inside, COARSE))


@pytest.mark.parametrize("colours", [False, True])
def test_a_preset_may_keep_the_detail_of_refined_frames(colours: bool) -> None:
    preset = replace(PRESETS["zeroscope"], keep_detail=0.6, keep_colours=colours, fresh_noise=1.0)
    hook = videoelevator(FakeDenoiser(), None, preset=preset).hook
    (kept,) = [part for part in parts(hook) if isinstance(part, KeepDetail)]
    assert isinstance(kept.hook, SDEdit)
    assert kept.lowpass == LowPass("butterworth", temporal=None, spatial=0.6)
    around = [part for part in parts(hook) if isinstance(part, KeepColours)]
    assert [part.hook for part in around] == [kept] * colours


@pytest.mark.parametrize("stop", [-0.1, float("inf"), float("nan")])
def test_a_preset_with_a_stop_frequency_that_is_none_is_refused(stop: float) -> None:
    preset = replace(PRESETS["world"], keep_detail=stop, steady=())
    with pytest.raises(CheckError, match=r"keep_detail is .* give a number from 0 up"):
        videoelevator(FakeDenoiser(), None, preset=preset)


def test_published_presets_take_the_t2vs_frames_whole() -> None:
    for name in ("zeroscope", "lavie", "animatelcm"):
        hook = videoelevator(FakeDenoiser(), None, preset=name).hook
        assert not any(isinstance(part, KeepDetail) for part in parts(hook))


def test_only_hooks_go_inside_and_only_low_pass_filters_choose() -> None:
    wrong = unvetted(KeepDetail, hook=el.identity(), lowpass=el.identity())
    with pytest.raises(TypeError, match=r'takes a LowPass .* got identity\(\); give LowPass\("'):
        wrong.__post_init__()
    wrong = unvetted(KeepDetail, hook=turned, lowpass=COARSE)
    with pytest.raises(TypeError, match=r"KeepDetail takes hooks, got .*; lift a plain function"):
        wrong.__post_init__()
