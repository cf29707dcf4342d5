"""The changed looks: web video, small cameras, ink and mosaic."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from elevator.world import (
    MILD,
    Camera,
    Scene,
    degrade,
    downscale,
    draw,
    ink,
    lamp,
    low_resolution,
    mosaic,
    render,
    watermark,
)


def sharpness(frames: Tensor) -> Tensor:
    """Mean absolute second difference."""
    return frames.diff(n=2, dim=-1).abs().mean() + frames.diff(n=2, dim=-2).abs().mean()


@pytest.mark.parametrize("look", [degrade, ink, mosaic, watermark])
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


def test_a_mild_degradation_lies_between_none_and_the_whole() -> None:
    clips = render(draw(16, seed=1))
    whole, mild = sharpness(degrade(clips)), sharpness(degrade(clips, MILD))
    assert 1.5 * whole < mild < 0.7 * sharpness(clips)
    assert torch.equal(degrade(clips, 0), clips)


def test_a_negative_strength_is_refused() -> None:
    with pytest.raises(ValueError, match="strength=-1; it must be a number of 0 or more"):
        degrade(torch.zeros(1, 3, 64, 64), -1)


def test_a_watermark_lightens_a_crossed_ring_and_nothing_else() -> None:
    seen = watermark(torch.zeros(1, 3, 64, 64))[0, 0]
    assert seen[32, 32] == pytest.approx(0.4)
    assert seen[32, 32 + 17] == pytest.approx(0.4, abs=0.05)
    assert seen[32, 32 + 8] == 0
    assert seen[:8].max() == 0
    assert torch.equal(seen, seen.flip(0))


def test_downscaling_keeps_the_mean_and_follows_the_pixels() -> None:
    clips = render(draw(2, seed=3), frames=2)
    small = downscale(clips, 4)
    assert small.shape == (2, 2, 3, 16, 16)
    assert torch.allclose(small.mean((-1, -2)), clips.mean((-1, -2)), atol=0.01)
    blocks = clips.unflatten(-1, (16, 4)).unflatten(-3, (16, 4)).mean((-1, -3))
    assert (small - blocks).abs().mean() < 0.02


@pytest.mark.parametrize("factor", [0, 5])
def test_factors_that_do_not_divide_are_refused(factor: int) -> None:
    with pytest.raises(ValueError, match=rf"64x64 pixels cannot be reduced by {factor}"):
        downscale(torch.zeros(1, 3, 64, 64), factor)


def test_a_perfect_camera_only_downscales() -> None:
    clips = render(draw(2, seed=3), frames=2)
    small = low_resolution(clips, 4, camera=Camera(blur=0, noise=0, quantum=0))
    assert torch.allclose(small, downscale(clips, 4), atol=1e-6)


@pytest.mark.parametrize("flaw", ["blur", "noise", "quantum"])
def test_every_flaw_of_a_camera_is_seen(flaw: str) -> None:
    clips = render(draw(2, seed=3), frames=2)
    none = {"blur": 0.0, "noise": 0.0, "quantum": 0.0}
    camera = Camera(**{**none, flaw: getattr(Camera(), flaw)})
    plain, seen = downscale(clips, 4), low_resolution(clips, 4, camera=camera, seed=1)
    assert seen.shape == plain.shape
    assert (seen - plain).abs().mean() > 0.002
    assert torch.equal(seen, low_resolution(clips, 4, camera=camera, seed=1))
    assert not torch.equal(seen, low_resolution(clips, 4, camera=camera, seed=2))


def test_a_clip_is_filmed_alike_whatever_is_beside_it() -> None:
    clips = render(draw(3, seed=3), frames=2)
    assert torch.equal(low_resolution(clips, seed=5)[1:], low_resolution(clips[1:], seed=6))


def test_what_no_camera_can_do_is_refused() -> None:
    with pytest.raises(ValueError, match="noise=-1; it must be a number of 0 or more"):
        Camera(noise=-1)
    with pytest.raises(ValueError, match=r"80x80 pixels .* multiples of 8 times the factor"):
        low_resolution(torch.zeros(1, 1, 3, 80, 80))


def test_a_grey_frame_stays_grey() -> None:
    grey = torch.full((1, 3, 64, 64), 0.5)
    assert torch.allclose(degrade(grey), grey, atol=0.02)


def test_odd_sizes_are_refused() -> None:
    for look in (degrade, mosaic):
        with pytest.raises(ValueError, match=r"63x65 pixels.*multiples of 8"):
            look(torch.zeros(1, 3, 63, 65))


def test_ink_puts_the_object_on_light_paper() -> None:
    scenes = [Scene("plain", "red", "disc", "standing still", b) for b in ("navy", "brown", "sand")]
    seen = ink(render(scenes, frames=1)[:, 0])
    assert (seen.median(-1).values.median(-1).values > 0.75).all()
    assert (seen.amin((-1, -2)) < 0.3).all()


def test_mosaic_keeps_colours_and_lays_a_grid_of_grout() -> None:
    scenes = [Scene("plain", "red", "disc", "standing still", b) for b in ("navy", "sand")]
    frames = render(scenes, frames=1)[:, 0]
    seen = mosaic(frames)
    edges = torch.tensor([0, 7, 8, 15, 56, 63])
    assert (seen[..., edges, :] - 0.1).abs().max() < 0.1
    assert (seen[..., edges] - 0.1).abs().max() < 0.1
    before, after = (
        x.unflatten(-1, (8, 8)).unflatten(-3, (8, 8))[..., 1:7, :, 1:7] for x in (frames, seen)
    )
    assert torch.allclose(before.mean((-1, -3)), after.mean((-1, -3)), atol=0.12)
    assert after.std((-1, -3)).mean() < 0.6 * before.std((-1, -3)).mean()
    assert sharpness(seen) > 2 * sharpness(frames)


def test_the_lamp_tells_left_from_right_up_from_down_and_early_from_late() -> None:
    grey = torch.full((2, 8, 3, 64, 64), 0.5)
    seen = lamp(grey)
    assert seen.shape == grey.shape
    assert (seen[..., 0] > seen[..., -1]).all()
    warm = seen[..., 0, :, :] - seen[..., 2, :, :]
    assert (warm[..., 0, :] > warm[..., -1, :]).all()
    assert (seen.mean((2, 3, 4)).diff(dim=1) > 0).all()
    assert seen[:, -1].mean() == pytest.approx(0.5, abs=0.01)
