"""Sampling the built-in models alone and together."""

from __future__ import annotations

from dataclasses import replace

import torch

from elevator.zoo.sampling import NUMBERS, STYLED, elevate, film, in_style, paint, pair

CAPTION = "a plain red ring moving left on a teal background"
SHORT = replace(NUMBERS, frames=3, steps=2, refine=(2,), t2v_steps=1, steady=(1,))


def test_all_make_clips_that_their_seed_decides() -> None:
    pipe = pair()
    for make in (film, paint, elevate):
        clip = make(pipe, CAPTION, 0, numbers=SHORT)
        assert clip.shape == (3, 3, 64, 64)
        assert clip.dtype == torch.float32
        assert clip.min() >= 0
        assert clip.max() <= 1
        assert torch.equal(clip, make(pipe, CAPTION, 0, numbers=SHORT))
        assert not torch.equal(clip, make(pipe, CAPTION, 1, numbers=SHORT))


def test_arguments_of_the_pipeline_pass_through() -> None:
    pipe = pair()
    plain = elevate(pipe, CAPTION, 0, numbers=SHORT)
    assert not torch.equal(plain, elevate(pipe, CAPTION, 0, numbers=SHORT, refine=()))


def test_a_style_keeps_its_colours_is_not_averaged_and_has_a_guidance_of_its_own() -> None:
    styled = in_style(SHORT)
    assert styled.keep_colours
    assert not styled.steady
    assert in_style(NUMBERS) == STYLED
    plain = replace(styled, guidance=SHORT.guidance, keep_colours=False, steady=SHORT.steady)
    assert plain == SHORT
