"""The regression upscaler: bicubic at the start, any size, and only as far-sighted as it says."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import interpolate

from elevator.errors import CheckError
from elevator.models import RegressionUpscaler


def network(scale: int = 2, blocks: int = 2) -> RegressionUpscaler:
    """A small one that does something."""
    torch.manual_seed(0)
    made = RegressionUpscaler(scale, width=16, blocks=blocks).eval()
    nn.init.normal_(made.conv_out.weight, std=0.05)
    return made


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_a_new_one_is_bicubic_exactly(scale: int) -> None:
    frames = torch.rand(2, 3, 3, 6, 9)
    seen = RegressionUpscaler(scale, width=16, blocks=2)(frames)
    flat = frames.transpose(1, 2).flatten(0, 1)
    wanted = interpolate(flat, scale_factor=scale, mode="bicubic")
    assert torch.equal(seen.transpose(1, 2).flatten(0, 1), wanted)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 7, 2), (4, 1, 5), (2, 3, 3)])
def test_any_size(shape: tuple[int, int, int]) -> None:
    frames, height, width = shape
    seen = network()(torch.rand(1, 3, frames, height, width))
    assert seen.shape == (1, 3, frames, 2 * height, 2 * width)
    assert seen.isfinite().all()


def test_clips_of_a_batch_do_not_see_each_other() -> None:
    frames, made = torch.rand(2, 3, 3, 5, 5), network()
    assert torch.allclose(made(frames)[1:], made(frames[1:]), atol=1e-6)


@torch.no_grad()
def test_a_frame_sees_as_far_as_told_and_no_further() -> None:
    made = network(blocks=2)
    assert made.reach == 2
    frames = torch.rand(1, 3, 9, 5, 5)
    other = frames.clone()
    other[:, :, 4] = torch.rand(1, 3, 5, 5)
    changed = (made(frames) - made(other)).abs().amax((0, 1, 3, 4)) > 1e-7
    assert changed.tolist() == [2 <= i <= 6 for i in range(9)]


@torch.no_grad()
def test_a_clip_in_parts_that_overlap_is_the_clip() -> None:
    made, frames = network(), torch.rand(1, 3, 8, 5, 5)
    whole = made(frames)
    first, second = made(frames[:, :, :6])[:, :, :4], made(frames[:, :, 2:])[:, :, 2:]
    assert torch.allclose(torch.cat([first, second], 2), whole, atol=1e-6)


@torch.no_grad()
def test_a_still_clip_is_upscaled_as_one_frame() -> None:
    made, frame = network(), torch.rand(1, 3, 1, 5, 5)
    assert torch.allclose(made(frame.expand(-1, -1, 4, -1, -1))[:, :, :1], made(frame), atol=1e-6)


def test_it_is_saved_and_loaded(tmp_path: object) -> None:
    made = network()
    made.save_pretrained(str(tmp_path))
    again = RegressionUpscaler.from_pretrained(str(tmp_path))
    frames = torch.rand(1, 3, 2, 4, 4)
    assert torch.equal(made(frames), again(frames))
    assert again.scale == 2


@pytest.mark.parametrize("wrong", [{"scale": 1}, {"width": 24}, {"blocks": 0}])
def test_what_cannot_be_built_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(CheckError, match="RegressionUpscaler got"):
        RegressionUpscaler(**wrong)
