"""Small, worn clips: every flaw is seen, none where none is wanted, and any size will do."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import interpolate

from elevator.world import Footage, downscale, leaves, shrink
from elevator.world.footage import code

CLEAN = Footage(clean=1.0)


@pytest.mark.parametrize(("factor", "size"), [(2, (18, 26)), (4, (20, 36)), (1, (9, 7))])
def test_any_size_that_the_factor_divides(factor: int, size: tuple[int, int]) -> None:
    clips = leaves(3, frames=2, size=size, seed=1)
    small = shrink(clips, factor, seed=5)
    assert small.shape == (3, 3, 2, size[0] // factor, size[1] // factor)
    assert small.min() >= 0
    assert small.max() <= 1
    assert torch.equal(small, shrink(clips, factor, seed=5))
    assert torch.equal(small[1:], shrink(clips[1:], factor, seed=6))


def test_clean_footage_is_reduced_in_one_of_the_usual_ways() -> None:
    clip = leaves(1, frames=2, size=32, seed=1)
    frames = clip[0].transpose(0, 1)
    usual = {
        "bicubic": downscale(frames, 4),
        "area": interpolate(frames, (8, 8), mode="area"),
        "bilinear": interpolate(frames, (8, 8), mode="bilinear", antialias=True),
    }
    seen = set()
    for seed in range(16):
        small = shrink(clip, 4, footage=CLEAN, seed=seed)[0].transpose(0, 1)
        seen |= {name for name, way in usual.items() if torch.allclose(way, small, atol=1e-6)}
    assert seen == set(usual)


@pytest.mark.parametrize("flaw", ["blur", "noise", "quantum"])
def test_every_flaw_is_seen(flaw: str) -> None:
    clips = leaves(4, frames=2, size=64, seed=1)
    none = {"blur": 0.0, "noise": 0.0, "quantum": 0.0}
    worn = Footage(**{"clean": 0.0, **none, flaw: 4 * getattr(Footage(), flaw)})
    plain = shrink(clips, 4, footage=Footage(clean=0.0, **none), seed=2)
    assert (shrink(clips, 4, footage=worn, seed=2) - plain).abs().mean() > 0.002


def test_compression_of_nothing_changes_nothing_and_even_grey_stays() -> None:
    clip = leaves(1, frames=3, size=(20, 36), seed=1)[0].transpose(0, 1)
    assert code(clip, 0.0) is clip
    assert torch.allclose(code(clip, 1e-6), code(clip, 2e-6), atol=1e-4)
    grey = torch.full((2, 3, 10, 10), 0.5)
    assert torch.allclose(code(grey, 0.02), grey, atol=0.02)


def test_coarser_compression_errs_more() -> None:
    clip = leaves(1, frames=3, size=32, seed=2)[0].transpose(0, 1)
    errors = [float((code(clip, q) - clip).abs().mean()) for q in (0.003, 0.01, 0.03)]
    assert errors == sorted(errors)
    assert errors[0] < 0.02


def test_small_changes_are_left_out_between_frames() -> None:
    still = leaves(1, frames=1, size=32, seed=2)[0].transpose(0, 1).expand(2, -1, -1, -1)
    flickering = (still + torch.tensor([0.0, 0.004])[:, None, None, None]).clamp(0, 1)
    first, second = code(flickering, 0.03)
    assert torch.equal(first, second)


def test_what_no_footage_can_be_is_refused() -> None:
    with pytest.raises(ValueError, match="noise=-1; it must be a number of 0 or more"):
        Footage(noise=-1)
    with pytest.raises(ValueError, match=r"30x32 pixels cannot be reduced by 4.*Crop"):
        shrink(torch.zeros(1, 3, 1, 30, 32), 4)
