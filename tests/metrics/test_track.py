"""Where the object is: against clips of the world, whose layout is known."""

from __future__ import annotations

import pytest
import torch

from elevator import world
from elevator.metrics import appearance_change, centres, heading, jitter, sharpness

SCENES = world.draw(40, seed=11)


@pytest.mark.parametrize("look", ["crisp", "degraded", "unevenly lit"])
def test_objects_are_found_and_their_motion_is_named(look: str) -> None:
    clips = world.render(SCENES, seed=3)
    if look == "unevenly lit":
        clips = world.lamp(clips)
    if look != "crisp":
        clips = world.degrade(clips)
    where = world.layout(SCENES, frames=8, size=64, seed=3).centre
    paths = torch.stack([centres(clip) for clip in clips])
    assert (paths - where).norm(dim=-1).median() < 2
    named = [heading(path) == scene.motion for path, scene in zip(paths, SCENES, strict=True)]
    assert sum(named) >= 39


def test_even_motion_has_no_jitter_and_a_shaken_path_has() -> None:
    path = torch.arange(8.0)[:, None] * torch.tensor([2.0, -1.0])
    assert jitter(path) == pytest.approx(0, abs=1e-5)
    shaken = path + torch.tensor([1.0, -1.0]).repeat(4)[:, None]
    assert jitter(shaken) == pytest.approx(4, rel=1e-5)


def test_heading_knows_rest_and_the_four_ways() -> None:
    times = torch.arange(8.0)[:, None]
    for name, way in world.MOTIONS.items():
        assert heading(times * torch.tensor(way, dtype=torch.float32) + 9) == name
    assert heading(times * torch.tensor([0.3, 0.3])) == "standing still"


def test_appearance_is_steady_along_the_track_and_changes_where_frames_are_mixed() -> None:
    scene = world.Scene("plain", "red", "disc", "moving left", "navy")
    other = world.Scene("plain", "yellow", "cross", "moving left", "navy")
    clip, mixed = (world.degrade(c) for c in world.render([scene, other], seed=[5, 5]))
    mixed = torch.where((torch.arange(8) % 2 == 0)[:, None, None, None], clip, mixed)
    assert appearance_change(clip) < 0.2 * appearance_change(mixed)


def test_sharpness_is_the_mean_laplacian() -> None:
    frame = torch.zeros(1, 5, 5)
    frame[0, 2, 2] = 0.9
    assert sharpness(frame) == pytest.approx(0.9 * 8 / 9)  # 4 in the middle, 1 at four sides
    ramp = torch.arange(8.0).expand(3, 8, 8) / 8
    assert sharpness(ramp) == pytest.approx(0, abs=1e-6)
