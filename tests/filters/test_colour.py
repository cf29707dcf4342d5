"""Colour correction: statistics that are exchanged, detail that stays."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from elevator.filters import adain, wavelet
from elevator.filters.colour import low_frequencies
from tests.builders import make_latent

sides = st.integers(2, 9)


def blurred(image: Tensor, hole: int) -> Tensor:
    """One à trous step on a plane, pixel by pixel."""
    h, w = image.shape
    out = torch.zeros_like(image)
    for row in range(h):
        for column in range(w):
            for i, down in zip((-hole, 0, hole), (0.25, 0.5, 0.25), strict=True):
                for j, right in zip((-hole, 0, hole), (0.25, 0.5, 0.25), strict=True):
                    y, x = min(max(row + i, 0), h - 1), min(max(column + j, 0), w - 1)
                    out[row, column] += down * right * image[y, x]
    return out


@given(st.integers(1, 3), sides, sides, st.integers(0, 99))
def test_adain_has_the_mean_and_spread_of_the_reference(f: int, h: int, w: int, seed: int) -> None:
    frames = 3 * make_latent((f, 3, h, w), seed) + 1
    reference = 0.5 * make_latent((f, 3, h + 2, w), seed + 1) - 2
    got = adain(frames, reference)
    torch.testing.assert_close(got.mean((-2, -1)), reference.mean((-2, -1)), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(got.std((-2, -1)), reference.std((-2, -1)), rtol=0.02, atol=0.02)
    order = frames.flatten(2).argsort(-1)
    assert bool((got.flatten(2).gather(2, order).diff(dim=-1) >= -1e-5).all()), "order is kept"


def test_adain_of_even_frames_and_single_pixels() -> None:
    grey, colour = torch.full((2, 3, 4, 4), 0.5), make_latent((2, 3, 4, 4))
    torch.testing.assert_close(
        adain(grey, colour), colour.mean((-2, -1), keepdim=True).expand_as(grey)
    )
    pixel = adain(torch.ones(1, 3, 1, 1), torch.zeros(1, 3, 1, 1))
    assert torch.equal(pixel, torch.zeros(1, 3, 1, 1))


@pytest.mark.parametrize("levels", [0, 1, 3])
def test_low_frequencies_are_steps_with_ever_wider_holes(levels: int) -> None:
    frames = make_latent((2, 3, 6, 7))
    wanted = frames.clone()
    for level in range(levels):
        for f in range(2):
            for c in range(3):
                wanted[f, c] = blurred(wanted[f, c], 2**level)
    torch.testing.assert_close(low_frequencies(frames, levels), wanted)


def test_wavelet_keeps_detail_and_takes_colour() -> None:
    frames, tint = make_latent((2, 3, 40, 48)), torch.tensor([0.3, -0.2, 0.1])[:, None, None]
    reference = low_frequencies(frames, 2) + tint
    got = wavelet(frames, reference)
    detail = frames - low_frequencies(frames)
    torch.testing.assert_close(got - low_frequencies(reference), detail)
    torch.testing.assert_close(wavelet(frames, frames), frames)
    shifted = wavelet(frames + 5, frames)
    torch.testing.assert_close(shifted, frames, rtol=1e-4, atol=1e-4)
    assert torch.equal(wavelet(frames, reference, 0), reference)


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (8, 40)])
def test_frames_smaller_than_the_holes(size: tuple[int, int]) -> None:
    frames, reference = make_latent((2, 3, *size)), make_latent((2, 3, *size), 1)
    for got in (adain(frames, reference), wavelet(frames, reference)):
        assert got.shape == frames.shape
        assert got.isfinite().all()


@pytest.mark.parametrize("correct", [adain, wavelet])
def test_dtypes_come_back_and_single_precision_computes(correct: object) -> None:
    assert callable(correct)
    frames, reference = make_latent((1, 3, 64, 64)), make_latent((1, 3, 64, 64), 1)
    half = correct(frames.bfloat16(), reference.bfloat16())
    assert half.dtype == torch.bfloat16
    wanted = correct(frames.bfloat16().float(), reference.bfloat16().float())
    assert torch.equal(half, wanted.bfloat16())


def test_a_negative_number_of_levels() -> None:
    with pytest.raises(ValueError, match="levels=-1 is no number of scales; give 0 or more"):
        wavelet(make_latent((1, 3, 4, 4)), make_latent((1, 3, 4, 4)), -1)
