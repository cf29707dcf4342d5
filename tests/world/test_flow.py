"""The exact flow: it carries one frame into the next."""

from __future__ import annotations

import pytest
import torch

from elevator.world import Scene, draw, flow, layout, render


def test_flow_carries_the_object_along() -> None:
    scene = Scene("dotted", "white", "square", "moving down", "navy")
    clip, motion = render([scene], seed=1)[0], flow([scene], seed=1)[0]
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    for i in range(7):
        body = motion[i].abs().sum(0) > 0
        place = torch.stack([x + motion[i, 0], y + motion[i, 1]], -1) * 2 / 63 - 1
        there = torch.nn.functional.grid_sample(
            clip[i + 1][None], place[None], align_corners=True, padding_mode="border"
        )[0]
        inside = body & body.roll(1, 0) & body.roll(-1, 0) & body.roll(1, 1) & body.roll(-1, 1)
        assert inside.sum() > 200
        still = (clip[i + 1] - clip[i]).abs().mean(0)[inside].mean()
        assert (there - clip[i]).abs().mean(0)[inside].mean() < 0.5 * still


def test_backward_is_the_way_back() -> None:
    scenes = draw(6, seed=0)
    there, back = flow(scenes), flow(scenes, backward=True)
    assert there.shape == back.shape == (6, 7, 2, 64, 64)
    assert torch.allclose(there.amin((-1, -2)), -back.amax((-1, -2)), atol=1e-5)


def test_flow_is_the_step_of_the_centre() -> None:
    scenes = draw(6, seed=2)
    step = layout(scenes, frames=5, size=64, seed=3).centre.diff(dim=1)
    motion = flow(scenes, frames=5, seed=3)
    strongest = motion.abs().amax((-1, -2))
    assert torch.allclose(strongest, step.abs(), atol=1e-5)


def test_one_frame_has_no_motion() -> None:
    with pytest.raises(ValueError, match="frames=1"):
        flow(draw(1, seed=0), frames=1)
