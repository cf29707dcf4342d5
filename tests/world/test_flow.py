"""The exact flow carries one frame into the next, but for what is hidden."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from elevator.world import ACTIONS, MOTIONS, Scene, draw, flow, layout, occlusion, render

MOVING = Scene("dotted", "white", "square", "moving down", "navy")


def fetched(frames: Tensor, motion: Tensor) -> Tensor:
    """What each pixel finds where its flow leads to."""
    size = frames.shape[-1]
    y, x = torch.meshgrid(torch.arange(float(size)), torch.arange(float(size)), indexing="ij")
    place = torch.stack([x + motion[:, 0], y + motion[:, 1]], -1) * 2 / (size - 1) - 1
    return grid_sample(frames, place, align_corners=True, padding_mode="border")


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("behind", [None, "plain blue disc"])
@pytest.mark.parametrize("motion", [m for m in (*MOTIONS, *ACTIONS) if m != "standing still"])
def test_flow_carries_what_is_not_hidden(
    motion: str, behind: str | None, *, backward: bool
) -> None:
    scene = replace(MOVING, motion=motion, behind=behind)
    clip = render([scene], seed=1)[0]
    first, second = (clip[1:], clip[:-1]) if backward else (clip[:-1], clip[1:])
    moves = flow([scene], seed=1, backward=backward)[0]
    seen = ~occlusion([scene], seed=1, backward=backward)[0]
    wrong = (fetched(second, moves) - first).abs().mean(1)
    moved = (second - first).abs().mean(1)
    assert wrong[seen].mean() < 0.6 * moved.mean()
    if (motion, backward) in {("growing", True), ("shrinking", False)}:
        assert seen.float().mean() > 0.99
    else:
        assert wrong[~seen].mean() > 4 * wrong[seen].mean()


def test_backward_is_the_way_back() -> None:
    scenes = draw(6, seed=0)
    there, back = flow(scenes), flow(scenes, backward=True)
    assert there.shape == back.shape == (6, 7, 2, 64, 64)
    assert torch.allclose(there.amin((-1, -2)), -back.amax((-1, -2)), atol=1e-4)


def test_flow_of_a_straight_motion_is_the_step_of_the_centre() -> None:
    scenes = draw(6, seed=2)
    step = layout(scenes, frames=5, size=64, seed=3).centre.diff(dim=1)
    motion = flow(scenes, frames=5, seed=3)
    strongest = motion.abs().amax((-1, -2))
    assert torch.allclose(strongest, step.abs(), atol=1e-4)


def test_a_turning_object_keeps_its_middle_and_moves_its_rim() -> None:
    scene = replace(MOVING, motion="turning around")
    where = layout([scene], frames=8, size=64, seed=0)
    speed = flow([scene], seed=0)[0, 0].norm(dim=0)
    x, y = where.centre[0, 0].long().tolist()
    assert speed[y, x] < 0.5
    corner = 0.85 * 2**0.5 * float(where.radius[0, 0])
    chord = 2 * float((where.angle.diff(dim=1)[0, 0].abs() / 2).sin()) * corner
    assert speed.max() == pytest.approx(chord, abs=0.35)


def test_a_still_clip_hides_nothing() -> None:
    still = [replace(MOVING, motion="standing still")]
    assert not occlusion(still).any()
    assert not flow(still).any()


def test_a_moving_object_hides_what_it_comes_to_and_shows_what_it_leaves() -> None:
    scene = [replace(MOVING, motion="moving right", behind="plain blue disc")]
    where = layout(scene, frames=8, size=64, seed=4)
    hidden, shown = occlusion(scene, seed=4)[0], occlusion(scene, seed=4, backward=True)[0]
    columns = torch.arange(64.0)
    middle = where.centre[0, :-1, 0]
    assert ((hidden.float().sum(1) @ columns) / hidden.sum((1, 2)) > middle).all()
    assert ((shown.float().sum(1) @ columns) / shown.sum((1, 2)) < middle + 3).all()


def test_one_frame_has_no_motion() -> None:
    with pytest.raises(ValueError, match="frames=1"):
        flow(draw(1, seed=0), frames=1)
