"""The two changed looks: web video and ink."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from elevator.world import Scene, degrade, draw, ink, render


def sharpness(frames: Tensor) -> Tensor:
    """Mean absolute second difference."""
    return frames.diff(n=2, dim=-1).abs().mean() + frames.diff(n=2, dim=-2).abs().mean()


@pytest.mark.parametrize("look", [degrade, ink])
def test_looks_keep_shape_range_and_input(look: Callable[[Tensor], Tensor]) -> None:
    clips = render(draw(3, seed=0), frames=2)
    before = clips.clone()
    seen = look(clips)
    assert seen.shape == clips.shape
    assert seen.min() >= 0
    assert seen.max() <= 1
    assert torch.equal(clips, before)
    assert torch.equal(seen, look(clips))
    assert torch.allclose(seen[1, 1], look(clips[1:2, 1])[0], atol=1e-6)


def test_degraded_clips_are_soft_and_flat() -> None:
    clips = render(draw(16, seed=1))
    seen = degrade(clips)
    assert sharpness(seen) < 0.2 * sharpness(clips)
    assert seen.std() < 0.75 * clips.std()


def test_a_grey_frame_stays_grey() -> None:
    grey = torch.full((1, 3, 64, 64), 0.5)
    assert torch.allclose(degrade(grey), grey, atol=0.02)


def test_odd_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"63x64 pixels.*multiples of 8"):
        degrade(torch.zeros(1, 3, 63, 64))


def test_ink_puts_the_object_on_light_paper() -> None:
    scenes = [Scene("plain", "red", "disc", "standing still", b) for b in ("navy", "brown", "sand")]
    seen = ink(render(scenes, frames=1)[:, 0])
    assert (seen.median(-1).values.median(-1).values > 0.75).all()
    assert (seen.amin((-1, -2)) < 0.3).all()
