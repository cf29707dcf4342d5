"""The machinery of the upscaling benchmarks: clips, ways, measures, counts and verdicts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel

from benchmarks._kept import digest, fill, label, read
from benchmarks._upscale_claims import claims, growth
from benchmarks._upscaling import (
    ATTENTION,
    CHAIN,
    CHANGED,
    CONVOLUTIONS,
    NUMBERS,
    RIVALS,
    Judge,
    Trial,
    Upscalers,
    conversed,
    upscaled,
    without,
)
from benchmarks.speed_upscale import counted
from elevator import metrics, world
from elevator.models import TemporalUNet
from elevator.noise import KeyedNoise
from elevator.zoo import networks
from tests.builders import make_latent
from tests.tiny_upscaler import tiny_upscaler

TRIAL = Trial(frames=3, size=64)


# --- clips ----------------------------------------------------------------------------------------


def test_clips_are_always_the_same_and_unlike_each_other() -> None:
    assert TRIAL.fingerprint(3) == Trial(frames=3, size=64).fingerprint(3)
    assert TRIAL.fingerprint(3) != TRIAL.fingerprint(2)
    assert TRIAL.fingerprint(3) != replace(TRIAL, seed=1).fingerprint(3)


def test_half_of_the_clips_are_of_the_world_with_held_out_captions() -> None:
    samples = [TRIAL.sample(number) for number in range(8)]
    captions = [sample.caption for sample in samples]
    assert [bool(caption) for caption in captions] == [True, False] * 4
    for sample in samples:
        assert sample.truth.shape == (3, 3, 64, 64)
        assert sample.small.shape == (3, 3, 16, 16)
        assert torch.equal((sample.small * 255).round() / 255, sample.small)
        assert sample.caption != sample.wrong
        for caption in filter(None, (sample.caption, sample.wrong)):
            scene = world.Scene.from_caption(caption)
            assert scene is not None
            assert scene.held_out


def test_the_truth_is_steady_along_the_motion_that_is_told() -> None:
    for number in range(8):
        sample = TRIAL.sample(number)
        still = sample.flow._replace(forward=torch.zeros_like(sample.flow.forward))
        moved = metrics.warping_error(sample.truth, sample.flow, sample.seen)
        assert moved <= metrics.warping_error(sample.truth, still, sample.seen)
        assert moved < 0.01


# --- ways -----------------------------------------------------------------------------------------


@pytest.fixture
def models() -> Upscalers:
    """The diffusion upscaler with weights drawn at random."""
    models = Upscalers(replace(NUMBERS, steps=2, propagate=(1,)))
    models.__dict__["pipe"] = tiny_upscaler()
    return models


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def test_without_its_layers_for_time_a_network_is_the_image_network() -> None:
    torch.manual_seed(0)
    still = networks.upscaler_unet2d().eval()
    assert isinstance(still, UNet2DConditionModel)
    network = TemporalUNet.from_unet2d(still).eval()
    for _, parameter in network.temporal_parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    clip, text, labels = make_latent((1, 11, 2, 8, 8), 0), make_latent((1, 3, 64), 1), [20]
    level = torch.tensor(labels)
    frames = clip[0].transpose(0, 1)
    image = still(frames, 7, text.expand(2, -1, -1), class_labels=level.expand(2)).sample

    def said(*kinds: Any) -> torch.Tensor:
        with without(network, kinds):
            return network(clip, 7, text, class_labels=level).sample[0].transpose(0, 1)

    torch.testing.assert_close(said(*CONVOLUTIONS, *ATTENTION), image, atol=1e-4, rtol=1e-4)
    for kinds in ((), CONVOLUTIONS, ATTENTION):
        assert not torch.allclose(said(*kinds), image, atol=1e-2)
    assert not torch.allclose(said(*ATTENTION), said(), atol=1e-3)
    assert torch.equal(said(), said())


def test_ways_are_what_the_pipeline_has_arguments_for(models: Upscalers) -> None:
    sample = TRIAL.sample(0)
    plain = upscaled(models, sample, 5)
    assert plain.shape == sample.truth.shape
    assert torch.equal(plain, conversed(models, sample, 5))
    for colour in ("adain", "wavelet"):
        here, there = (
            upscaled(models, sample, 5, colour=colour),
            conversed(models, sample, 5, colour=colour),
        )
        torch.testing.assert_close(here, there, atol=1e-5, rtol=1e-5)
    assert len(models.made) == 1
    low = (sample.small * 2 - 1).transpose(0, 1)[None]
    asked = models.pipe(
        low,
        sample.wrong,
        preset=models.numbers,
        noise=KeyedNoise((5,)),
        output_type="pt",
    )
    assert torch.equal(conversed(models, sample, 5, prompt="wrong"), asked.frames[0])


def test_every_way_but_the_rivals_needs_the_networks_and_has_its_own_name(
    models: Upscalers,
) -> None:
    sample = replace(TRIAL, frames=2).sample(0)
    made = {name: way(models, sample, 5) for name, way in {**CHAIN, **CHANGED}.items()}
    whole = made["+ propagation"]
    same = {name for name, clip in made.items() if torch.equal(clip, whole)}
    assert same == {"+ propagation"}
    assert not set(RIVALS) & set(made)
    assert len({str(way) for way in (*RIVALS.values(), *CHAIN.values(), *CHANGED.values())}) == len(
        RIVALS
    ) + len(made)


def test_calls_are_counted(models: Upscalers) -> None:
    sample = Trial(frames=9, size=64).sample(1)
    with counted(models.pipe) as calls:
        conversed(models, sample, 0, flow=calls)
    assert vars(calls) == {
        "unet": 4,  # two windows, two steps
        "unet_frames": 4 * 8,  # and no guidance
        "text": 1,
        "decodes": 3,
        "decoded_frames": 9,
        "flow": 1,
    }
    before = vars(calls).copy()
    conversed(models, sample, 0)
    assert vars(calls) == before


# --- what is kept ---------------------------------------------------------------------------------


def test_clips_come_back_as_bytes_and_are_not_made_twice(tmp_path: Path) -> None:
    made: list[int] = []

    def make(number: int) -> torch.Tensor:
        made.append(number)
        return torch.full((2, 3, 4, 4), number / 255)

    fill(tmp_path / "a", (1, 3), make)
    fill(tmp_path / "a", (1, 2, 3), make)
    assert made == [1, 3, 2]
    assert read(tmp_path / "a", (3, 1))[:, 0, 0, 0, 0].tolist() == pytest.approx([3 / 255, 1 / 255])


def test_folders_are_named_after_settings_and_weights(tmp_path: Path) -> None:
    (tmp_path / "one.safetensors").write_bytes(b"1")
    first = digest("settings", [tmp_path])
    assert first == digest("settings", [tmp_path])
    assert first != digest("others", [tmp_path])
    (tmp_path / "one.safetensors").write_bytes(b"2")
    assert first != digest("settings", [tmp_path])
    assert label("+ 3-D, x") == "--3-D--x"


# --- verdicts -------------------------------------------------------------------------------------


def test_the_truth_is_perfect_and_what_is_wrong_shows() -> None:
    samples = [TRIAL.sample(number) for number in range(2)]
    judge = Judge()
    right = judge.rows([sample.truth for sample in samples], samples)
    for name, value in {"PSNR": np.inf, "SSIM": 1, "distance": 0, "flicker": 0}.items():
        assert right[name] == pytest.approx(np.full(2, value))
    assert right["sharpness"] == pytest.approx(np.ones(2))
    assert right["captioned"].tolist() == [1, 0]
    soft = judge.rows([RIVALS["bicubic"](None, sample, 0) for sample in samples], samples)
    assert (soft["sharpness"] < 1).all()
    assert (soft["blur"] > right["blur"]).all()
    rng = torch.Generator().manual_seed(0)
    grainy = [(s.truth + 0.1 * torch.randn(s.truth.shape, generator=rng)) for s in samples]
    noisy = judge.rows([clip.clamp(0, 1) for clip in grainy], samples)
    for name in ("flicker", "warping", "distance", "sharpness"):
        assert (noisy[name] > right[name]).all()


def _rows(better: float) -> dict[str, Any]:
    """Rows in which every way after the first is better by as much, in all measures."""
    names = [*RIVALS, *CHAIN, *CHANGED]
    noise = np.random.default_rng(0).normal(size=8)
    return {
        name: {
            "PSNR": 20 + noise + better * i,
            "distance": 50 + noise - better * i,
            "warping": 50 + noise - better * i,
            "flicker": 50 + noise - better * i,
            "sharpness": noise + better * i,
            "captioned": np.array([1.0, 0.0] * 4),
        }
        for i, name in enumerate(names)
    }


def test_claims_have_verdicts_that_turn_with_the_numbers() -> None:
    up, none, down = ([*claims(_rows(better))] for better in (0.5, 0.0, -0.5))
    assert len(up) == len({claim.sentence for claim in up})
    assert not any(claim.holds for claim in none)
    verdicts = {a.sentence: (a.holds, b.holds) for a, b in zip(up, down, strict=True)}
    assert verdicts["propagation lowers the warping error"] == (True, False)
    assert verdicts["noise level 20 is truer than 200"] == (False, True)
    assert verdicts["noise level 200 is sharper than 20"] == (True, False)
    growing = "without it PSNR falls with the steps"
    assert all(a != b for name, (a, b) in verdicts.items() if name != growing)


def test_growth_is_what_more_steps_cost_without_the_mask_beside_with_it() -> None:
    levels = {
        "+ propagation": 20.0,
        "propagation at all steps": 19.5,
        "without the mask": 19.0,
        "at all steps, without the mask": 16.5,
    }
    rows = {name: {"PSNR": np.full(4, level)} for name, level in levels.items()}
    assert growth(rows)["value"] == pytest.approx(-2.0)
