"""The ways to make frames larger: against plain oracles, in pieces, and what they say they are."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn

from elevator.errors import CheckError, CheckpointError
from elevator.models import RegressionUpscaler
from elevator.upscale import Bicubic, Lanczos, Regression, Upscaler
from elevator.video.windows import spans, trimmed
from tests.builders import make_latent


def frames_of(count: int, height: int, width: int) -> Tensor:
    return make_latent((count, 3, height, width)).sigmoid()


def network(scale: int = 2, seed: int = 0) -> RegressionUpscaler:
    """As a trained one: its last layer adds something, and neighbouring frames tell."""
    torch.manual_seed(seed)
    made = RegressionUpscaler(scale, width=16, blocks=2).eval()
    nn.init.normal_(made.conv_out.weight, std=0.1)
    for weight in made.trunk.parameters():
        weight.data *= 4
    return made


ALL: list[Upscaler] = [Bicubic(2), Lanczos(2), Regression(network(), "abc", tile=16)]


@pytest.mark.parametrize("upscaler", ALL, ids=lambda one: type(one).__name__)
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 6), (20, 17)])
def test_every_size_and_length(upscaler: Upscaler, size: tuple[int, int]) -> None:
    for count in (1, 3):
        made = upscaler(frames_of(count, *size), 0)
        assert made.shape == (count, 3, 2 * size[0], 2 * size[1])
        assert made.isfinite().all()


@pytest.mark.parametrize("upscaler", ALL, ids=lambda one: type(one).__name__)
def test_a_clip_in_stretches_is_the_clip_in_one(upscaler: Upscaler) -> None:
    """What the reach promises, and a shorter one would not keep."""
    clip = frames_of(14, 6, 7)
    whole = upscaler(clip, 0)
    plan = spans(14, 8, 2 * upscaler.reach)
    assert len(plan) > 1
    for span, keep in zip(plan, trimmed(plan, upscaler.reach), strict=True):
        part = upscaler(clip[span.start : span.stop], span.start)
        inside = part[keep.start - span.start : keep.stop - span.start]
        torch.testing.assert_close(inside, whole[keep.start : keep.stop], atol=1e-5, rtol=0)
    if upscaler.reach:
        cut = upscaler(clip[:8], 0)[8 - upscaler.reach]
        assert (cut - whole[8 - upscaler.reach]).abs().max() > 1e-3


@pytest.mark.parametrize("kind", [Image.Resampling.BICUBIC, Image.Resampling.LANCZOS])
def test_interpolation_is_pillows(kind: Image.Resampling) -> None:
    picture = frames_of(1, 9, 11)
    upscaler = Bicubic(3) if kind == Image.Resampling.BICUBIC else Lanczos(3, amount=0)
    for channel, made in zip(picture[0], upscaler(picture, 0)[0], strict=True):
        wanted = np.array(Image.fromarray(channel.numpy()).resize((33, 27), kind))
        torch.testing.assert_close(made, torch.from_numpy(wanted), atol=2e-6, rtol=0)


def test_once_the_size_is_the_very_same() -> None:
    picture = frames_of(2, 4, 5)
    assert Bicubic(1)(picture, 0) is picture
    torch.testing.assert_close(Lanczos(1, amount=0)(picture, 0), picture)


@given(value=st.floats(0, 1, width=32))
def test_plain_areas_stay(value: float) -> None:
    plain = torch.full((1, 3, 4, 5), value)
    for upscaler in (Bicubic(3), Lanczos(3)):
        torch.testing.assert_close(upscaler(plain, 0), plain.new_full((1, 3, 12, 15), value))


def test_the_unsharp_mask_is_its_equation() -> None:
    """With a blur written out pixel by pixel, whose edge repeats."""
    picture = frames_of(1, 5, 6)
    large = Lanczos(2, amount=0)(picture, 0)
    sigma = 0.4 * 2
    places = range(-round(3 * sigma), round(3 * sigma) + 1)
    weights = [float(np.exp(-0.5 * (place / sigma) ** 2)) for place in places]
    blurred = torch.zeros_like(large)
    for y in range(10):
        for x in range(12):
            for dy, one in zip(places, weights, strict=True):
                for dx, other in zip(places, weights, strict=True):
                    seen = large[..., min(max(y + dy, 0), 9), min(max(x + dx, 0), 11)]
                    blurred[..., y, x] += one * other / sum(weights) ** 2 * seen
    made = Lanczos(2, amount=0.7, radius=0.4)(picture, 0)
    torch.testing.assert_close(made, large + 0.7 * (large - blurred), atol=1e-5, rtol=0)


# --- regression -----------------------------------------------------------------------------------


@pytest.mark.parametrize("tile", [13, 16, 64])
def test_tiles_leave_no_seam(tile: int) -> None:
    made = Regression(network(), "abc", tile=tile)
    clip = frames_of(3, 40, 31)
    with torch.no_grad():
        whole = made.network(clip.transpose(0, 1)[None])[0].transpose(0, 1)
    torch.testing.assert_close(made(clip, 0), whole, atol=2e-6, rtol=0)


def test_bands_are_the_rows_of_the_frames_that_are_asked_for() -> None:
    made = Regression(network(), "abc", tile=16)
    clip = frames_of(5, 40, 31)
    bands = [*made.bands(clip, 0, slice(1, 3))]
    assert max(band.shape[2] for band in bands) <= 2 * 16
    assert torch.equal(torch.cat(bands, 2), made(clip, 0)[1:3])


def test_a_network_from_its_folder(tmp_path: Path) -> None:
    network(seed=1).save_pretrained(tmp_path / "one")
    network(seed=2).save_pretrained(tmp_path / "other")
    one, other = (Regression.load(tmp_path / name) for name in ("one", "other"))
    clip = frames_of(2, 6, 6)
    assert torch.equal(one(clip, 0), Regression(network(seed=1), "")(clip, 0))
    assert one.identity() != other.identity()
    assert one.identity() == Regression.load(tmp_path / "one").identity()
    assert (one.scale, one.reach) == (2, 2)
    assert not one(clip, 0).requires_grad


def test_a_folder_without_a_network_is_told(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no \.safetensors files"):
        Regression.load(tmp_path)
    network().save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot be loaded as a regression upscaler"):
        Regression.load(tmp_path)


# --- identities and numbers -----------------------------------------------------------------------


def test_identities_tell_all_settings_apart() -> None:
    different: list[Upscaler] = [
        *(Bicubic(2), Bicubic(3), Lanczos(2), Lanczos(3), Lanczos(2, 0.4), Lanczos(2, 0.5, 0.6)),
        *(Regression(network(), "a"), Regression(network(), "b"), Regression(network(), "a", 99)),
    ]
    texts = {json.dumps(one.identity(), sort_keys=True) for one in different}
    assert len(texts) == len(different)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Bicubic(0), "a whole factor of at least 1, got 0"),
        (lambda: Lanczos(-1), "a whole factor of at least 1, got -1"),
        (lambda: Lanczos(2, -0.1), "amount >= 0 and radius > 0, got amount -0.1"),
        (lambda: Lanczos(2, 1.0, 0.0), "got amount 1.0 and radius 0.0"),
        (lambda: Regression(network(), "", 12), "larger than their overlap of 12 pixels, got 12"),
    ],
)
def test_numbers_out_of_range_are_told(make: Any, said: str) -> None:
    with pytest.raises(CheckError, match=said):
        make()
