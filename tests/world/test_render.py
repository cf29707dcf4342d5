"""Clips: seeded, in view, and moving as their captions say."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from elevator.world import MOTIONS, SHAPES, TEXTURES, Scene, draw, layout, render


def centroid(clip: Tensor, background: Tensor) -> Tensor:
    """Mean place `(x, y)` of what is not background, in every frame."""
    weight = ((clip - background[:, None, None]).abs().amax(1) > 0.3).float()
    ticks = torch.arange(clip.shape[-1], dtype=torch.float32)
    total = weight.sum((1, 2))
    return torch.stack([weight.sum(1) @ ticks, weight.sum(2) @ ticks], -1) / total[:, None]


def test_clips_are_rgb_in_range() -> None:
    clips = render(draw(16, seed=0), seed=0)
    assert clips.shape == (16, 8, 3, 64, 64)
    assert clips.dtype == torch.float32
    assert clips.min() >= 0
    assert clips.max() <= 1


def test_same_seed_same_bits() -> None:
    scenes = draw(4, seed=1)
    assert torch.equal(render(scenes, seed=7), render(scenes, seed=7))
    assert not torch.equal(render(scenes, seed=7), render(scenes, seed=11))


def test_batch_of_two_is_two_of_one() -> None:
    one, two = draw(2, seed=2)
    both = render([one, two], seed=5)
    assert torch.equal(both[:1], render([one], seed=5))
    assert torch.equal(both[1:], render([two], seed=6))
    assert torch.equal(both, render([one, two], seed=[5, 6]))


@pytest.mark.parametrize("motion", MOTIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_objects_move_as_captioned(motion: str, shape: str) -> None:
    clip = render([Scene("plain", "white", shape, motion, "navy")], seed=3)[0]
    track = centroid(clip, torch.tensor((0.08, 0.11, 0.33)))
    steps = track.diff(dim=0)
    direction = torch.tensor(MOTIONS[motion], dtype=torch.float32)
    speed = 2.4 if direction.any() else 0.0
    assert torch.allclose(steps, direction * steps.norm(dim=1, keepdim=True), atol=0.25)
    assert steps.norm(dim=1).mean() == pytest.approx(speed, abs=0.45)


@pytest.mark.parametrize("frames", [1, 2, 8, 40])
@pytest.mark.parametrize("size", [32, 64, 96])
def test_objects_stay_in_view(frames: int, size: int) -> None:
    where = layout(draw(64, seed=4), frames=frames, size=size, seed=0)
    reach = where.radius[:, None, None]
    assert (where.centre - reach > 0).all()
    assert (where.centre + reach < size).all()


@pytest.mark.parametrize("texture", TEXTURES)
def test_textures_move_with_their_object(texture: str) -> None:
    scene = Scene(texture, "white", "square", "moving right", "navy")
    where = layout([scene], frames=8, size=64, seed=0)
    clip = render([scene], seed=0)[0]
    crops = []
    for frame in (0, 7):
        x, y = (where.centre[0, frame] - 6).round().int().tolist()
        crops.append(clip[frame, 0, y : y + 12, x : x + 12])
    assert (crops[0] - crops[1]).abs().mean() < 0.15


def test_a_still_is_one_frame() -> None:
    assert render(draw(3, seed=5), frames=1, size=48).shape == (3, 1, 3, 48, 48)


@pytest.mark.parametrize(("frames", "size"), [(0, 64), (8, 8)])
def test_impossible_clips_are_named(frames: int, size: int) -> None:
    with pytest.raises(ValueError, match=rf"frames={frames}, size={size}"):
        render(draw(1, seed=0), frames=frames, size=size)


def test_seeds_must_match_scenes() -> None:
    with pytest.raises(ValueError, match="3 seeds for 2 scenes"):
        render(draw(2, seed=0), seed=[1, 2, 3])
