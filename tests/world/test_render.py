"""Clips: seeded, in view, and moving as their captions say."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from elevator.world import ACTIONS, MOTIONS, SHAPES, TEXTURES, Scene, draw, layout, render


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
    scenes = draw(64, seed=4) + draw(64, seed=4, motions=ACTIONS)
    where = layout(scenes, frames=frames, size=size, seed=0)
    reach = where.radius[..., None]
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


def test_what_turns_is_the_same_turned() -> None:
    scene = Scene("plain", "white", "square", "turning around", "navy")
    where = layout([scene], frames=8, size=64, seed=2)
    assert where.centre.diff(dim=1).abs().max() == 0
    steps = where.angle.diff(dim=1)[0]
    assert torch.allclose(steps, steps[:1].expand(7), atol=1e-5)
    assert 0.2 <= steps[0].abs() <= 0.4
    clip = render([scene], seed=2)[0]
    area = (clip - clip[0, :, 0, 0, None, None]).abs().amax(1).gt(0.3).sum((1, 2)).float()
    assert area.std() < 0.05 * area.mean()
    assert (clip[0] - clip[2]).abs().max() > 0.5


@pytest.mark.parametrize(("motion", "sign"), [("growing", 1), ("shrinking", -1)])
def test_what_grows_or_shrinks_does_so_evenly(motion: str, sign: int) -> None:
    scenes = [Scene("striped", "white", "star", motion, "navy")]
    steps = sign * layout(scenes, frames=8, size=64, seed=2).radius.diff(dim=1)
    assert steps.min() > 0.5
    assert torch.allclose(steps, steps[:, :1].expand(1, 7), atol=1e-4)


def test_circles_are_round() -> None:
    scenes = [Scene("plain", "white", "disc", "going in circles", "navy")] * 3
    way = layout(scenes, frames=40, size=64, seed=5).centre
    middle = (way.amax(1) + way.amin(1)) / 2
    away = (way - middle[:, None]).norm(dim=2)
    assert away.std(1).max() < 0.05 * away.mean()
    assert (away.mean(1) >= 5.9).all()
    assert (away.mean(1) <= 9.1).all()


def test_the_object_in_front_hides_the_one_behind() -> None:
    scene = Scene("plain", "white", "square", "standing still", "navy", "plain red disc")
    where = layout([scene], frames=1, size=64, seed=1)
    frame = render([scene], frames=1, seed=1)[0, 0]
    alone = render([replace(scene, behind=None)], frames=1, seed=1)[0, 0]
    x, y = where.centre[0, 0].long().tolist()
    assert torch.equal(frame[:, y, x], alone[:, y, x])
    red = (frame[0] > 0.8) & (frame[1] < 0.2)
    assert 20 < red.sum() < torch.pi * float(where.behind_radius[0]) ** 2


def test_motions_beyond_straight_ones_change_no_other_clip() -> None:
    straight, pair = draw(2, seed=2), draw(1, seed=3, motions=ACTIONS, pairs=True)
    both = render([*straight, *pair], seed=5)
    assert torch.equal(both[:2], render(straight, seed=5))
    assert torch.equal(both[2:], render(pair, seed=7))
