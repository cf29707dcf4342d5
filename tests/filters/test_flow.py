"""Flows on other grids, and DIS against motion that is known."""

from __future__ import annotations

import sys
from typing import Any

import jaxtyping
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import interpolate

import elevator.world
from elevator.errors import LayoutError
from elevator.filters import DIS, Flow, consistent, warp
from tests.builders import make_latent

sides = st.integers(1, 12)


def texture(height: int, width: int, frames: int = 1, seed: int = 0) -> Tensor:
    """Frames of smooth noise in [-1, 1], one unlike the other."""
    coarse = make_latent((3, frames, height // 4 + 2, width // 4 + 2), seed)
    return interpolate(coarse, (height, width), mode="bicubic").clamp(-2, 2)[None] / 2


def shifted(height: int, width: int, dx: int, dy: int) -> Tensor:
    """Two frames; what the first shows at (x, y), the second shows at (x + dx, y + dy)."""
    whole = texture(height + 32, width + 32)
    inner = [
        whole[..., 16 - i * dy : 16 - i * dy + height, 16 - i * dx : 16 - i * dx + width]
        for i in (0, 1)
    ]
    return torch.cat(inner, 2)


# --- other grids ----------------------------------------------------------------------------------


@given(sides, sides, sides, sides, st.sampled_from(["area", "bilinear"]))
def test_vectors_of_an_even_flow_scale_by_component(
    h: int, w: int, height: int, width: int, mode: Any
) -> None:
    vector = torch.tensor([3.0, -2.0])[None, :, None, None, None]
    even = Flow(*(sign * vector.expand(2, 2, 3, h, w) for sign in (1, -1)))
    wanted = vector * torch.tensor([width / w, height / h])[None, :, None, None, None]
    forward, backward = even.resize(height, width, mode)
    assert forward.shape == (2, 2, 3, height, width)
    torch.testing.assert_close(forward, wanted.expand_as(forward))
    torch.testing.assert_close(backward, -forward)


def test_a_shorter_side_is_the_mean_of_what_it_covers() -> None:
    flow = Flow(make_latent((1, 2, 2, 6, 8)), make_latent((1, 2, 2, 6, 8), 1))
    got = flow.resize(3, 4).forward
    means = flow.forward.unflatten(-2, (3, 2)).unflatten(-1, (4, 2)).mean((-3, -1)) / 2
    torch.testing.assert_close(got, means)
    one_way = flow.resize(3, 16).forward
    assert one_way.shape == (1, 2, 2, 3, 16)
    columns = flow.forward.unflatten(-2, (3, 2)).mean(-2)
    torch.testing.assert_close(one_way[:, 0, ..., 0], 2 * columns[:, 0, ..., 0])


def test_bilinear_takes_the_value_at_the_centre() -> None:
    flow = Flow(make_latent((1, 2, 1, 9, 9)), make_latent((1, 2, 1, 9, 9), 1))
    got = flow.resize(3, 3, "bilinear").forward
    torch.testing.assert_close(got, flow.forward[..., 1::3, 1::3] / 3)


def test_the_same_size_is_the_same_flow() -> None:
    flow = Flow(make_latent((1, 2, 1, 4, 5)), make_latent((1, 2, 1, 4, 5), 1))
    assert flow.resize(4, 5) is flow


def test_no_pairs_on_another_grid() -> None:
    nothing = Flow(torch.empty(2, 2, 0, 8, 8), torch.empty(2, 2, 0, 8, 8))
    assert nothing.resize(4, 12).backward.shape == (2, 2, 0, 4, 12)


# --- DIS ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", ["ultrafast", "fast", "medium"])
@pytest.mark.parametrize("size", [(64, 48), (40, 200), (36, 33)])
def test_a_shift_is_found(preset: Any, size: tuple[int, int]) -> None:
    flow = DIS(preset)(shifted(*size, dx=3, dy=-2))
    assert flow.forward.shape == flow.backward.shape == (1, 2, 1, *size)
    assert flow.forward.dtype == torch.float32
    inner = flow.forward[..., 6:-6, 6:-6].mean((-2, -1)).flatten()
    torch.testing.assert_close(inner, torch.tensor([3.0, -2.0]), atol=0.15, rtol=0)
    inner = flow.backward[..., 6:-6, 6:-6].mean((-2, -1)).flatten()
    torch.testing.assert_close(inner, torch.tensor([-3.0, 2.0]), atol=0.15, rtol=0)


@pytest.mark.parametrize("size", [(16, 16), (12, 20), (20, 64)])
def test_a_shift_is_found_in_small_frames(size: tuple[int, int]) -> None:
    flow = DIS()(shifted(*size, dx=1, dy=1)).forward
    inner = flow[..., 3:-3, 3:-3].mean((-2, -1)).flatten()
    torch.testing.assert_close(inner, torch.ones(2), atol=0.25, rtol=0)


@pytest.mark.parametrize("size", [(1, 1), (1, 64), (3, 5), (7, 8), (8, 64), (64, 9), (31, 400)])
def test_any_size_will_do(size: tuple[int, int]) -> None:
    clips = torch.cat([texture(*size, 3), texture(*size, 3, seed=1)])
    for part in DIS()(clips):
        assert part.shape == (2, 2, 2, *size)
        assert part.isfinite().all()


def test_frames_that_stand_still() -> None:
    still = texture(24, 40).repeat(1, 1, 3, 1, 1)
    flow = DIS()(still)
    assert flow.forward.abs().max() < 0.01
    assert flow.backward.abs().max() < 0.01


def test_one_frame_has_no_flow() -> None:
    for size in ((16, 24), (64, 64)):
        flow = DIS()(texture(*size))
        assert flow.forward.shape == flow.backward.shape == (1, 2, 0, *size)


def test_no_frames_are_an_error() -> None:
    with pytest.raises(LayoutError, match=r"no frames \(shape \(1, 3, 0, 8, 8\)\); give one or"):
        DIS()(torch.empty(1, 3, 0, 8, 8))


def test_pairs_and_clips_keep_their_order() -> None:
    """Frames that move ever faster, and a clip that runs the other way."""
    whole = texture(48 + 32, 48 + 32)
    clip = torch.cat([whole[..., 16 : 16 + 48, 16 - s : 16 - s + 48] for s in (0, 1, 3, 6)], 2)
    flow = DIS()(torch.cat([clip, clip.flip(2)]))
    speeds = flow.forward[..., 8:-8, 8:-8].mean((-2, -1))[:, 0]
    wanted = torch.tensor([[1.0, 2.0, 3.0], [-3.0, -2.0, -1.0]])
    torch.testing.assert_close(speeds, wanted, atol=0.2, rtol=0)
    back = flow.backward[..., 8:-8, 8:-8].mean((-2, -1))[:, 0]
    torch.testing.assert_close(back, -wanted, atol=0.2, rtol=0)


def test_dtypes_and_brightness_out_of_range() -> None:
    clip = shifted(48, 48, 2, 0)
    assert DIS()(clip.bfloat16()).forward.dtype == torch.float32
    wild = DIS()(1e4 * clip)
    assert wild.forward.isfinite().all()


def test_against_the_exact_flow_of_the_world() -> None:
    """Off by about a tenth of a moving pixel's way, where what it shows stays in sight."""
    scenes = elevator.world.draw(12, seed=0)
    clips = elevator.world.render(scenes, seed=0).transpose(1, 2) * 2 - 1
    found = DIS()(clips)
    for part, backward in zip(found, (False, True), strict=True):
        exact = elevator.world.flow(scenes, seed=0, backward=backward).transpose(1, 2)
        hidden = elevator.world.occlusion(scenes, seed=0, backward=backward)
        error, way = (part - exact).norm(dim=1), exact.norm(dim=1)
        moving = (way > 0) & ~hidden
        assert error[moving].mean() < 0.15 * way[moving].mean()
    # Where it contradicts itself it is wrong more often.
    trusted = consistent(*found)[:, 0]
    exact = elevator.world.flow(scenes, seed=0).transpose(1, 2)
    error = (found.forward - exact).norm(dim=1)
    assert error[~trusted].mean() > 5 * error[trusted].mean()
    # And frames carried along it agree better than frames as they are.
    first, second = clips[:, :, :-1], clips[:, :, 1:]
    carried = (warp(second, found.forward) - first).abs() * trusted[:, None]
    assert carried.mean() < 0.25 * ((second - first).abs() * trusted[:, None]).mean()


# --- errors ---------------------------------------------------------------------------------------


def test_an_unknown_preset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as for users
    preset: Any = "slow"
    with pytest.raises(ValueError, match="preset='slow'; expected one of"):
        DIS(preset)


def test_without_opencv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ImportError, match="pip install opencv-python-headless, or give another"):
        DIS()(texture(16, 16))
