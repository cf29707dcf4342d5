"""The changed looks: web video, ink and neon."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from elevator.world import Scene, degrade, draw, ink, lamp, neon, render


def sharpness(frames: Tensor) -> Tensor:
    """Mean absolute second difference."""
    return frames.diff(n=2, dim=-1).abs().mean() + frames.diff(n=2, dim=-2).abs().mean()


@pytest.mark.parametrize("look", [degrade, ink, neon])
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


def test_neon_lights_the_edges_of_the_object_in_the_dark() -> None:
    scene = Scene("plain", "red", "disc", "standing still", "sand")
    seen = neon(render([scene], frames=1)[:, 0])[0]
    assert seen.median() < 0.3
    brightest = seen.sum(0).flatten().argmax()
    red, green, blue = seen.flatten(1)[:, brightest].tolist()
    assert red > 0.9
    assert max(green, blue) < 0.5


def test_the_lamp_tells_left_from_right_up_from_down_and_early_from_late() -> None:
    grey = torch.full((2, 8, 3, 64, 64), 0.5)
    seen = lamp(grey)
    assert seen.shape == grey.shape
    assert (seen[..., 0] > seen[..., -1]).all()
    warm = seen[..., 0, :, :] - seen[..., 2, :, :]
    assert (warm[..., 0, :] > warm[..., -1, :]).all()
    assert (seen.mean((2, 3, 4)).diff(dim=1) > 0).all()
    assert seen[:, -1].mean() == pytest.approx(0.5, abs=0.01)
