"""The committed weights: they load whole, share their parts and sample something finite."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

import elevator as el
from benchmarks.bridge import across
from elevator import metrics, world, zoo
from elevator.errors import CheckError
from elevator.hosts.codec import LatentBridge, SameSpace, bridge, codec
from elevator.hosts.latent_space import distance
from elevator.zoo.recogniser import shares
from elevator.zoo.turned import turn
from elevator.zoo.upscaling import psnr as restored
from elevator.zoo.vae import psnr, stills

CAPTION = world.draw(1, seed=0, split="held-out")[0].caption()


@pytest.fixture(scope="module")
def pipes() -> dict[str, Any]:
    loaded = {name: zoo.load(name) for name in zoo.MODELS}
    for pipe in loaded.values():
        pipe.set_progress_bar_config(disable=True)
    return loaded


def test_importing_the_zoo_loads_no_diffusers() -> None:
    code = "import sys, elevator.zoo; sys.exit('diffusers' in sys.modules)"
    root = Path(zoo.__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


def test_unknown_models_are_named() -> None:
    with pytest.raises(CheckError, match=r"'sdxl'.*t2i, t2v, t2v-mild, t2i-ink, .*recogniser"):
        zoo.path("sdxl")


def test_the_recogniser_is_no_pipeline() -> None:
    with pytest.raises(CheckError, match=r"no pipeline 'recogniser'.*call zoo.load_recogniser\(\)"):
        zoo.load("recogniser")


def test_the_recogniser_reads_scenes_nobody_trained_with() -> None:
    judge, scenes = zoo.load_recogniser(), world.draw(128, seed=5, split="held-out")
    assert not judge.training
    clips = world.render(scenes, seed=5)
    for look, least in ((clips, 0.97), (world.degrade(world.lamp(clips)), 0.9)):
        with torch.no_grad():
            right = shares(judge(look), scenes)
        assert all(right[kind].mean() >= least for kind in right), right


def home(name: str) -> Path:
    """The folder of a model."""
    place = zoo.path(name)
    return place if place.is_dir() else place.parent


@pytest.mark.parametrize("name", zoo.names())
def test_no_configuration_tells_where_it_was_made(name: str) -> None:
    for file in home(name).rglob("*.json"):
        assert "_name_or_path" not in file.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", zoo.names())
def test_every_folder_has_its_card_and_is_small(name: str) -> None:
    folder = home(name)
    assert "-m elevator.zoo.train" in (folder / "README.md").read_text(encoding="utf-8")
    assert sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) < 9e6


def same(ours: torch.nn.Module, theirs: torch.nn.Module) -> bool:
    here, there = ours.state_dict(), theirs.state_dict()
    return all(torch.equal(here[key], there[key]) for key in here)


@pytest.fixture(scope="module")
def strange() -> torch.Tensor:
    """Sharp clips of what no model was trained on, in seeds."""
    return world.leaves(4, frames=4, size=64, seed=2**41)


@pytest.mark.parametrize("name", ["upscale-x4", "upscale-x2"])
@torch.no_grad()
def test_regression_upscalers_are_nearer_and_sharper_than_bicubic(
    name: str, strange: torch.Tensor
) -> None:
    made: Any = zoo.load_upscaler(name)
    bicubic, network = restored(made, strange)
    assert network > bicubic + 0.5
    small = world.shrink(strange, made.scale, footage=world.Footage(clean=1.0))
    plain = interpolate(small[:, :, 0], scale_factor=made.scale, mode="bicubic")
    assert metrics.sharpness(made(small)[:, :, 0]).mean() > 1.2 * metrics.sharpness(plain).mean()


def test_unknown_upscalers_are_named() -> None:
    with pytest.raises(CheckError, match=r"no upscaler 't2v'; use one of: upscale-x4, upscale-x2"):
        zoo.load_upscaler("t2v")
    with pytest.raises(CheckError, match=r"call zoo.load_upscaler\('upscaler'\)"):
        zoo.load("upscaler")


@torch.no_grad()
def test_the_diffusion_upscaler_adds_detail_where_it_belongs(strange: torch.Tensor) -> None:
    pipe: Any = zoo.load_upscaler("upscaler")
    pipe.set_progress_bar_config(disable=True)
    small = world.shrink(strange[:1], 4, footage=world.Footage(clean=1.0))
    seen = pipe(
        small * 2 - 1, num_inference_steps=4, guidance_scale=1.0, noise_level=20, output_type="pt",
        propagate=(), generator=torch.Generator().manual_seed(0),
    ).frames  # fmt: skip
    assert seen.shape == (1, 4, 3, 64, 64)
    truth = strange[0].transpose(0, 1)
    plain = interpolate(small[0].transpose(0, 1), scale_factor=4, mode="bicubic")
    assert metrics.sharpness(seen[0]).mean() > 1.2 * metrics.sharpness(plain).mean()
    assert (seen[0] - truth).square().mean() < 2 * (plain - truth).square().mean()


def alike(ours: torch.nn.Module, theirs: torch.nn.Module) -> bool:
    """Whether two networks have the same layers and weights."""
    return ours.state_dict().keys() == theirs.state_dict().keys() and same(ours, theirs)


def test_all_but_one_share_the_encoder_and_t2is_a_decoder(pipes: dict[str, Any]) -> None:
    def sharing(name: str, *parts: str) -> set[str]:
        ours = [getattr(pipes[name].vae, part) for part in parts]
        return {
            other
            for other, pipe in pipes.items()
            if all(alike(a, getattr(pipe.vae, b)) for a, b in zip(ours, parts, strict=True))
        }

    assert sharing("t2i", "encoder", "quant_conv") == pipes.keys() - {"t2v-turned"}
    t2is = {"t2i", "t2i-ink", "t2i-mosaic"}
    assert sharing("t2i", "decoder", "post_quant_conv") == t2is
    assert sharing("t2v", "decoder", "post_quant_conv") == {"t2v", "t2v-mild"}


def test_the_t2is_decoder_is_nearer_and_sharper_than_the_autoencoders_own(
    pipes: dict[str, Any],
) -> None:
    _, frames = stills(64, torch.Generator().manual_seed(1), split="held-out")
    own, sharp = pipes["t2v"].vae, pipes["t2i"].vae
    assert psnr(sharp, frames) > psnr(own, frames)
    assert psnr(sharp, world.mosaic(frames)) > psnr(own, world.mosaic(frames)) + 5
    with torch.no_grad():
        seen = [
            vae.decode(vae.encode(frames * 2 - 1).latent_dist.mean).sample for vae in (own, sharp)
        ]
    sharpness = [float(metrics.sharpness(s / 2 + 0.5).mean()) for s in seen]
    assert sharpness[1] > 1.1 * sharpness[0]


@pytest.mark.parametrize("name", ["t2i-ink", "t2i-mosaic"])
def test_a_personalised_model_shares_text_encoder_and_schedule(
    name: str, pipes: dict[str, Any]
) -> None:
    plain, personalised = pipes["t2i"], pipes[name]
    assert same(plain.text_encoder, personalised.text_encoder)
    assert plain.scheduler.config == personalised.scheduler.config


def test_video_network_shares_layers_and_heads_with_the_image_network(
    pipes: dict[str, Any],
) -> None:
    image, video = (dict(pipes[name].unet.named_modules()) for name in ("t2i", "t2v"))
    shared = {name for name in image.keys() & video.keys() if hasattr(image[name], "heads")}
    assert {image[name].heads for name in shared} == {4}
    assert all(video[name].heads == 4 for name in shared)


def test_the_turned_network_is_the_t2v_in_another_space(pipes: dict[str, Any]) -> None:
    plain, turned, matrix = pipes["t2v"], pipes["t2v-turned"], turn()
    generator = torch.Generator().manual_seed(0)
    x, words = (torch.randn(*s, generator=generator) for s in ((1, 8, 3, 16, 16), (1, 24, 64)))

    def turning(latents: torch.Tensor) -> torch.Tensor:
        return torch.einsum("ij,bjfxy->bifxy", matrix, latents)

    with torch.no_grad():
        wanted = turning(plain.unet(x, 500, encoder_hidden_states=words).sample)
        seen = turned.unet(turning(x), 500, encoder_hidden_states=words).sample
    torch.testing.assert_close(seen, wanted, atol=1e-4, rtol=1e-3)


def test_motion_words_mean_something_to_the_video_model(pipes: dict[str, Any]) -> None:
    pipe = pipes["t2v"]

    def states(motion: str) -> torch.Tensor:
        text = f"a plain red ring {motion} on a teal background"
        ids = pipe.tokenizer(text, padding="max_length", return_tensors="pt").input_ids
        hidden: torch.Tensor = pipe.text_encoder(ids)[0]
        return hidden

    left, right = states("moving left"), states("moving right")
    assert (left - right).norm() > 0.1 * left.norm()


@pytest.mark.parametrize("kind", ["texture", "colour", "shape"])
def test_the_image_model_hears_every_word_of_a_kind(kind: str, pipes: dict[str, Any]) -> None:
    pipe, scene = pipes["t2i"], world.Scene("striped", "red", "ring", "moving left", "teal")
    known = {"texture": world.TEXTURES, "colour": [*world.COLOURS], "shape": world.SHAPES}[kind]
    captions = [replace(scene, **{kind: word}).caption() for word in known]
    ids = pipe.tokenizer(captions, padding="max_length", return_tensors="pt").input_ids
    states = pipe.text_encoder(ids)[0]
    for one, other in combinations(states, 2):
        assert ((one - other).norm(dim=1) / one.norm(dim=1)).max() > 0.1


def test_autoencoder_keeps_edges(pipes: dict[str, Any]) -> None:
    _, frames = stills(32, torch.Generator().manual_seed(1), split="held-out")
    assert psnr(pipes["t2i"].vae, frames) > 28


def test_the_second_autoencoder_is_another_space_and_nearly_as_good(pipes: dict[str, Any]) -> None:
    """What a bridge to it and back loses of crisp clips, measured and stated in its card."""
    t2i, turned = pipes["t2i"], pipes["t2v-turned"]
    _, frames = stills(32, torch.Generator().manual_seed(1), split="held-out")
    assert psnr(turned.vae, frames) > 27
    way, own = bridge(t2i, turned), codec(t2i)
    assert isinstance(way, LatentBridge)
    clean = own.encode(frames.transpose(0, 1)[None] * 2 - 1)
    assert distance(way.across(clean), clean) > 1  # farther than no latents at all
    assert 0.05 < way.loss(clean) < 0.15


def test_a_milder_t2v_is_sharper(pipes: dict[str, Any]) -> None:
    def sharpness(name: str) -> float:
        made = pipes[name](
            CAPTION, num_frames=8, num_inference_steps=10, guidance_scale=4.0, output_type="pt",
            height=64, width=64, generator=torch.Generator().manual_seed(0),
        ).frames  # fmt: skip
        return float(metrics.sharpness(made).mean())

    assert sharpness("t2v-mild") > 1.5 * sharpness("t2v")


@pytest.mark.parametrize("name", ["t2i", "t2i-ink", "t2i-mosaic"])
def test_image_models_sample_stills(name: str, pipes: dict[str, Any]) -> None:
    seen = pipes[name](
        CAPTION, num_inference_steps=3, output_type="np", generator=torch.Generator().manual_seed(0)
    ).images
    assert seen.shape == (1, 64, 64, 3)
    assert np.isfinite(seen).all()
    assert seen.std() > 0.02


def test_elevated_frames_are_sharper_than_the_video_models(pipes: dict[str, Any]) -> None:
    """What the whole library is for, on the built-in models."""
    pipe: Any = el.VideoElevatorPipeline.from_pipelines(pipes["t2i"], pipes["t2v"])
    pipe.set_progress_bar_config(disable=True)

    def sharpness(made_by: Any, **more: Any) -> float:
        generator = torch.Generator().manual_seed(0)
        clip = made_by(
            CAPTION, num_inference_steps=10, generator=generator, output_type="pt", **more
        ).frames
        return float(metrics.sharpness(torch.as_tensor(clip)).mean())

    soft = sharpness(pipe.t2v, num_frames=8, height=64, width=64, guidance_scale=4.0)
    assert sharpness(pipe, preset="world") > 2 * soft


def test_a_t2v_of_another_space_elevates_across_the_bridge(pipes: dict[str, Any]) -> None:
    """What is made in one space is made across the bridge too, but not without it."""
    t2i, scene = pipes["t2i"], world.draw(2, seed=0, split="held-out")[1]

    def made(t2v: str, way: el.Bridge) -> torch.Tensor:
        return across(t2i, pipes[t2v], way, scene, seed=1, steps=4)

    inside, bridged, blind = (
        made("t2v", SameSpace()),
        made("t2v-turned", bridge(t2i, pipes["t2v-turned"])),
        made("t2v-turned", SameSpace()),
    )
    apart = [float((clip - inside).abs().mean()) for clip in (bridged, blind)]
    assert apart[0] < 0.7 * apart[1], apart


def test_video_model_samples_a_clip(pipes: dict[str, Any]) -> None:
    seen = pipes["t2v"](
        CAPTION,
        num_frames=8,
        num_inference_steps=3,
        output_type="np",
        generator=torch.Generator().manual_seed(0),
    ).frames
    assert seen.shape == (1, 8, 64, 64, 3)
    assert np.isfinite(seen).all()
    assert seen.std() > 0.02
