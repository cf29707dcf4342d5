"""What refines a clip keeps its colours: mean and spread stay, what is where changes."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import elevator as el
from elevator.filters import KeepColours
from elevator.hook import parts
from elevator.recipes import PRESETS, videoelevator
from elevator.samplers import SDEdit
from tests.builders import FakeDenoiser, make_latent, make_run, make_step, unvetted


def flipped(clean: torch.Tensor, step: el.Step) -> torch.Tensor:
    """Elsewhere, brighter and flatter."""
    return 0.3 * clean.flip(-1) + 2


def averaged(clean: torch.Tensor, step: el.Step) -> torch.Tensor:
    """All frames of all clips alike."""
    return clean.mean((0, 2), keepdim=True).expand_as(clean)


def applied(hook: el.Hook[Any], clean: torch.Tensor) -> torch.Tensor:
    b, c, f, h, w = clean.shape
    run = make_run((b, c, f, h, w))
    return hook.update(clean, make_step(run), hook.init(run))[0]


@given(st.integers(1, 3), st.integers(1, 4), st.integers(2, 6), st.integers(0, 99))
def test_frames_keep_mean_and_spread_and_take_the_rest(
    b: int, f: int, side: int, seed: int
) -> None:
    clean = make_latent((b, 3, f, side, side + 1), seed)
    kept = applied(KeepColours(el.stateless(flipped)), clean)
    # Flipped, brighter and flatter, in the old colours: that is only flipped.
    torch.testing.assert_close(kept, clean.flip(-1), rtol=2e-3, atol=2e-3)


def test_every_frame_and_clip_has_colours_of_its_own() -> None:
    clean = make_latent((2, 3, 4, 5, 6), 0) + torch.arange(8.0).view(2, 1, 4, 1, 1)
    kept = applied(KeepColours(el.stateless(averaged)), clean)
    torch.testing.assert_close(kept.mean((-2, -1)), clean.mean((-2, -1)), rtol=1e-3, atol=1e-3)


def test_a_preset_may_keep_the_colours_of_refined_frames() -> None:
    for keep in (False, True):
        preset = replace(PRESETS["lavie"], keep_colours=keep)
        found = parts(videoelevator(FakeDenoiser(), None, preset=preset).hook)
        around = [hook for hook in found if isinstance(hook, KeepColours)]
        assert [type(hook.hook) for hook in around] == ([SDEdit] if keep else [])


def test_only_hooks_go_inside() -> None:
    with pytest.raises(TypeError, match=r"KeepColours takes hooks, got .*; lift a plain function"):
        unvetted(KeepColours, hook=flipped).__post_init__()
