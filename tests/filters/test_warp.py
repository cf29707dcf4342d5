"""Warps against a slow loop over pixels, and masks against flows whose way back is known."""

from typing import Any

import jaxtyping
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from elevator.filters import consistent, warp
from elevator.filters.warp import Interpolation, Padding
from tests.builders import make_latent
from tests.reference.warp import warp_pixel_by_pixel

sides = st.integers(1, 5)


@given(st.integers(1, 2), sides, sides, st.sampled_from(["zeros", "border"]), st.integers(0, 99))
def test_bilinear_is_its_definition(n: int, h: int, w: int, padding: Padding, seed: int) -> None:
    x = make_latent((n, 3, h, w), seed)
    flow = 2 * make_latent((n, 2, h, w), seed + 100)
    wanted = warp_pixel_by_pixel(x, flow, padding)
    torch.testing.assert_close(warp(x, flow, "bilinear", padding), wanted, rtol=1e-4, atol=1e-5)


@given(sides, sides, st.integers(-5, 5), st.integers(-5, 5), st.sampled_from([0.0, 0.3, -0.4]))
def test_whole_pixels_move_by_indexing(h: int, w: int, dx: int, dy: int, off: float) -> None:
    """To nearest pixels an offset under a half is none."""
    x = make_latent((1, 2, h, w))
    wanted = torch.zeros_like(x)
    for row in range(h):
        for column in range(w):
            if 0 <= row + dy < h and 0 <= column + dx < w:
                wanted[..., row, column] = x[..., row + dy, column + dx]
    flow = torch.tensor([float(dx), float(dy)])[None, :, None, None].expand(1, 2, h, w)
    torch.testing.assert_close(warp(x, flow + off, "nearest"), wanted)
    torch.testing.assert_close(warp(x, flow, "bilinear"), wanted, rtol=1e-4, atol=1e-5)


def test_bicubic_blurs_a_wave_less() -> None:
    places = torch.arange(32.0).expand(1, 1, 4, 32)
    half = torch.tensor([0.5, 0.0])[None, :, None, None].expand(1, 2, 4, 32)
    off = [
        (warp(places.sin(), half, mode) - (places + 0.5).sin())[..., 2:-2].abs().max()
        for mode in ("bilinear", "bicubic")
    ]
    assert off[1] < 0.4 * off[0]


@pytest.mark.parametrize("mode", ["bilinear", "bicubic", "nearest"])
def test_no_motion_moves_nothing(mode: Interpolation) -> None:
    x = make_latent((2, 3, 4, 6, 5))
    still = torch.zeros(2, 2, 4, 6, 5)
    torch.testing.assert_close(warp(x, still, mode), x, rtol=0, atol=1e-5)


def test_a_clip_is_warped_frame_by_frame() -> None:
    x, flow = make_latent((2, 3, 4, 6, 5)), make_latent((2, 2, 4, 6, 5), 1)
    got = warp(x, flow)
    for frame in range(4):
        assert torch.equal(got[:, :, frame], warp(x[:, :, frame], flow[:, :, frame]))
    assert warp(x[:, :, :0], flow[:, :, :0]).shape == (2, 3, 0, 6, 5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_positions_are_exact_in_any_dtype(dtype: torch.dtype) -> None:
    """In half precision there is no pixel 2049, and in bfloat16 no pixel 257."""
    x = torch.arange(4096).remainder(2).to(dtype)[None, None, None]
    one = torch.zeros(1, 2, 1, 4096, dtype=dtype)
    one[:, 0] = 1
    got = warp(x, one, "nearest")
    assert got.dtype == dtype
    assert torch.equal(got[..., :-1], x[..., 1:])
    assert got[..., -1] == 0


def _moved(by: tuple[float, float], h: int = 8, w: int = 10) -> Tensor:
    return torch.tensor(by)[None, :, None, None].expand(1, 2, h, w)


def test_a_shift_and_its_way_back_agree_but_at_the_edge() -> None:
    mask = consistent(_moved((3.0, 0.0)), _moved((-3.0, 0.0)))
    assert mask.dtype == torch.bool
    assert mask.shape == (1, 1, 8, 10)
    assert bool(mask[..., :7].all())
    assert not bool(mask[..., 7:].any()), "what leaves the image has no way back"


def test_allowed_distance_is_exclusive_and_grows_with_the_flow() -> None:
    still = _moved((0.0, 0.0))
    assert not bool(consistent(still, still, alpha1=1.0, alpha2=0.0).any())
    assert bool(consistent(still, _moved((0.2, 0.0)), alpha1=0.0, alpha2=0.05).all())
    assert not bool(consistent(still, _moved((0.23, 0.0)), alpha1=0.0, alpha2=0.05).any())
    fast, back = _moved((0.0, 2.0)), _moved((0.0, -1.5))
    inside = (..., slice(0, 6), slice(None))
    assert bool(consistent(fast, back, alpha1=0.05, alpha2=0.0)[inside].all())
    assert not bool(consistent(fast, back, alpha1=0.03, alpha2=0.0)[inside].any())


def test_flows_that_are_no_numbers_are_not_trusted() -> None:
    still, lost = _moved((0.0, 0.0)), _moved((float("nan"), 0.0))
    assert not bool(consistent(lost, still).any())
    assert not bool(consistent(still, lost).any())


def test_long_flows_in_half_precision_do_not_overflow() -> None:
    there = torch.zeros(1, 2, 1, 2048, dtype=torch.float16)
    there[:, 0] = 1000
    back = there.where(there == 0, -there)
    assert bool(consistent(there, back)[..., :1047].all())
    assert not bool(consistent(there, -back).any())


@pytest.mark.parametrize("given", [{"mode": "cubic"}, {"padding": "reflect"}])
def test_unknown_ways(monkeypatch: pytest.MonkeyPatch, given: dict[str, Any]) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as for users
    with pytest.raises(ValueError, match="expected a mode of"):
        warp(make_latent((1, 1, 2, 2)), torch.zeros(1, 2, 2, 2), **given)
