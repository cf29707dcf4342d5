"""The committed weights: they load whole, share their parts and sample something finite."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from elevator import world, zoo
from elevator.zoo.vae import psnr, stills

CAPTION = world.draw(1, seed=0, split="held-out")[0].caption()


@pytest.fixture(scope="module")
def pipes() -> dict[str, Any]:
    loaded = {name: zoo.load(name) for name in zoo.names()}
    for pipe in loaded.values():
        pipe.set_progress_bar_config(disable=True)
    return loaded


def test_importing_the_zoo_loads_no_diffusers() -> None:
    code = "import sys, elevator.zoo; sys.exit('diffusers' in sys.modules)"
    root = Path(zoo.__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


def test_unknown_models_are_named() -> None:
    with pytest.raises(ValueError, match=r"'sdxl'.*t2i, t2v, t2i-ink"):
        zoo.path("sdxl")


@pytest.mark.parametrize("name", zoo.names())
def test_no_configuration_tells_where_it_was_made(name: str) -> None:
    for file in zoo.path(name).rglob("*.json"):
        assert "_name_or_path" not in file.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", zoo.names())
def test_every_folder_has_its_card_and_is_small(name: str) -> None:
    folder = zoo.path(name)
    assert "-m elevator.zoo.train" in (folder / "README.md").read_text(encoding="utf-8")
    assert sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) < 8e6


def same(ours: torch.nn.Module, theirs: torch.nn.Module) -> bool:
    here, there = ours.state_dict(), theirs.state_dict()
    return all(torch.equal(here[key], there[key]) for key in here)


def test_all_share_the_autoencoder(pipes: dict[str, Any]) -> None:
    first, *others = pipes.values()
    assert all(same(first.vae, other.vae) for other in others)


def test_a_personalised_model_shares_text_encoder_and_schedule(pipes: dict[str, Any]) -> None:
    plain, ink = pipes["t2i"], pipes["t2i-ink"]
    assert same(plain.text_encoder, ink.text_encoder)
    assert plain.scheduler.config == ink.scheduler.config


def test_video_network_shares_layers_and_heads_with_the_image_network(
    pipes: dict[str, Any],
) -> None:
    image, video = (dict(pipes[name].unet.named_modules()) for name in ("t2i", "t2v"))
    shared = {name for name in image.keys() & video.keys() if hasattr(image[name], "heads")}
    assert {image[name].heads for name in shared} == {4}
    assert all(video[name].heads == 4 for name in shared)


def test_motion_words_mean_something_to_the_video_model(pipes: dict[str, Any]) -> None:
    pipe = pipes["t2v"]

    def states(motion: str) -> torch.Tensor:
        text = f"a plain red ring {motion} on a teal background"
        ids = pipe.tokenizer(text, padding="max_length", return_tensors="pt").input_ids
        hidden: torch.Tensor = pipe.text_encoder(ids)[0]
        return hidden

    left, right = states("moving left"), states("moving right")
    assert (left - right).norm() > 0.1 * left.norm()


def test_autoencoder_keeps_edges(pipes: dict[str, Any]) -> None:
    _, frames = stills(32, torch.Generator().manual_seed(1), split="held-out")
    assert psnr(pipes["t2i"].vae, frames) > 28


@pytest.mark.parametrize("name", ["t2i", "t2i-ink"])
def test_image_models_sample_stills(name: str, pipes: dict[str, Any]) -> None:
    seen = pipes[name](
        CAPTION, num_inference_steps=3, output_type="np", generator=torch.Generator().manual_seed(0)
    ).images
    assert seen.shape == (1, 64, 64, 3)
    assert np.isfinite(seen).all()
    assert seen.std() > 0.02


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
