"""Noise of a long clip: the order of the frames, statistics, generators, errors."""

from typing import Any

import pytest
import torch
from diffusers.pipelines import free_noise_utils
from diffusers.pipelines.free_noise_utils import AnimateDiffFreeNoiseMixin
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from elevator.samplers import mixed_noise, rescheduled_noise


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _order(noise: Tensor, window: int) -> list[int]:
    """Which of the first window's frames each frame is."""
    frames = noise[0].transpose(0, 1)
    same = (frames[:, None] == frames[None, :window]).flatten(2).all(2)
    assert bool((same.sum(1) == 1).all()), "every frame is one of the first window's"
    return [int(place) for place in same.int().argmax(1)]


@given(
    frames=st.integers(1, 40),
    window=st.integers(1, 12),
    part=st.integers(1, 12),
    seed=st.integers(0, 99),
)
def test_every_unit_is_the_one_a_window_before_in_another_order(
    frames: int, window: int, part: int, seed: int
) -> None:
    stride = min(part, window)
    noise = rescheduled_noise((1, 2, frames, 4, 4), window, stride, _generator(seed))
    assert noise.shape == (1, 2, frames, 4, 4)
    order = _order(noise, window)
    assert order[:window] == list(range(min(window, frames)))
    for start in range(window, frames - stride + 1, stride):
        before = order[start - window : start - window + stride]
        assert sorted(order[start : start + stride]) == sorted(before)
    for start in range(0, frames - window + 1, stride):  # a window holds each of them once
        if window % stride == 0:
            assert sorted(order[start : start + window]) == list(range(window))


def test_units_are_shuffled() -> None:
    order = _order(rescheduled_noise((1, 2, 64, 4, 4), 16, 4, _generator()), 16)
    assert order != [frame % 16 for frame in range(64)]
    assert len({tuple(order[start : start + 4]) for start in range(0, 64, 16)}) > 1


def test_short_clips_have_noise_of_their_own() -> None:
    shape = (1, 4, 6, 5, 5)
    wanted = mixed_noise(shape, 0.0, _generator())
    generator = _generator()
    torch.randn(1, 4, 5, 5, generator=generator)  # mixed noise draws the shared part first
    assert torch.equal(rescheduled_noise(shape, 8, 4, generator), wanted)


def test_as_diffusers_orders_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same draws, reversed for shuffled in both."""

    def reverse(count: int, **_: Any) -> Tensor:
        return torch.arange(count - 1, -1, -1)

    monkeypatch.setattr(torch, "randperm", reverse)
    for frames, window, stride in ((24, 16, 4), (25, 8, 4), (15, 6, 2), (22, 8, 3)):
        ours = rescheduled_noise((1, 2, frames, 4, 4), window, stride, _generator())
        start = torch.zeros(1, 2, frames, 4, 4)
        start[:, :, :window] = ours[:, :, :window]
        monkeypatch.setattr(free_noise_utils, "randn_tensor", lambda *_, s=start, **__: s)
        theirs = AnimateDiffFreeNoiseMixin()
        vars(theirs).update(
            vae_scale_factor=1,
            _free_noise_context_length=window,
            _free_noise_context_stride=stride,
            _free_noise_noise_type="shuffle_context",
        )
        wanted = theirs._prepare_latents_free_noise(1, 2, frames, 4, 4, torch.float32, "cpu")
        assert torch.equal(ours, wanted), (frames, window, stride)


def test_a_seed_decides_clip_by_clip() -> None:
    both = rescheduled_noise((2, 2, 9, 4, 4), 4, 2, [_generator(1), _generator(2)])
    assert torch.equal(both[1:], rescheduled_noise((1, 2, 9, 4, 4), 4, 2, _generator(2)))
    one = rescheduled_noise((2, 2, 9, 4, 4), 4, 2, _generator(1))
    assert torch.equal(one[0], both[0])
    assert not torch.equal(one[1], both[0])
    half = rescheduled_noise((1, 2, 9, 4, 4), 4, 2, dtype=torch.float16)
    assert half.dtype == torch.float16


@pytest.mark.parametrize(("window", "stride"), [(4, 5), (4, 0), (0, 0)])
def test_bad_arguments(window: int, stride: int) -> None:
    with pytest.raises(ValueError, match=f"got stride {stride} and window {window}"):
        rescheduled_noise((1, 2, 9, 4, 4), window, stride)
