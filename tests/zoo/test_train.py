"""The recipe on a tiny setting: it runs from end to end, and goes on where it was cut."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file

from elevator import zoo
from elevator.errors import CheckpointError
from elevator.hosts.latent_space import distance
from elevator.zoo import pipelines
from elevator.zoo.diffusion import Painting, Parts
from elevator.zoo.loop import Progress
from elevator.zoo.train import RECIPES, STAGES, _task, train
from elevator.zoo.turned import TURNED, turn
from elevator.zoo.vae import stills


class StopError(Exception):
    """The power went out."""


def tiny(name: str, out: Path, *, stop: int | None = None) -> dict[str, torch.Tensor]:
    """Train for four steps; raise after `stop`."""

    def progress(now: Progress) -> None:
        if now.step == stop:
            raise StopError

    folder = train(name, 4, out, "cpu", progress=progress, batch=2, save_every=0.0)
    if name in zoo.MODELS and zoo.MODELS[name].file:
        return load_file(folder / zoo.MODELS[name].file)
    part = "vae" if name == "t2i" else "unet"
    return load_file(folder / part / "diffusion_pytorch_model.safetensors")


@pytest.mark.parametrize("name", RECIPES)
def test_resumed_training_is_the_same_bit_for_bit(name: str, tmp_path: Path) -> None:
    unkept = {
        "t2i-middle": ["t2i-early"],
        "t2i-late": ["t2i-early", "t2i-middle"],
        "t2i-last": ["t2i-early", "t2i-middle", "t2i-late"],
        "t2i": ["t2i-early", "t2i-middle", "t2i-late", "t2i-last"],
        "t2v-start": ["t2i-early"],
        "t2v-early": ["t2i-early", "t2v-start"],
        "t2v": ["t2i-early", "t2v-start", "t2v-early"],
    }
    for needed in unkept.get(name, []):
        tiny(needed, tmp_path / "whole")
        shutil.copytree(tmp_path / "whole" / needed, tmp_path / "cut" / needed)
    whole = tiny(name, tmp_path / "whole")
    with pytest.raises(StopError):
        tiny(name, tmp_path / "cut", stop=2)
    resumed = tiny(name, tmp_path / "cut")
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


def weights(name: str, folder: Path) -> torch.nn.ModuleDict:
    """The networks of a training before its first step."""
    return _task(name, folder, torch.device("cpu"), 4, 2).weights


def test_every_video_training_starts_from_the_one_before(tmp_path: Path) -> None:
    shutil.copytree(zoo.path("t2i"), tmp_path / RECIPES["t2v-start"].needs)
    for name in ("t2v-start", "t2v-early", "t2v"):
        start = pipelines.read(tmp_path / RECIPES[name].needs)
        before, after = start.unet.state_dict(), weights(name, tmp_path)["unet"].state_dict()
        shared = before.keys() & after.keys()
        assert len(shared) > len(before) / 2
        assert all(torch.equal(before[key], after[key]) for key in shared)
        tiny(name, tmp_path)


def test_the_words_of_motion_start_anew(tmp_path: Path) -> None:
    shutil.copytree(zoo.path("t2i"), tmp_path / RECIPES["t2v-start"].needs)
    image, text = zoo.load("t2i"), weights("t2v-start", tmp_path)["text"]

    def embedding(text_encoder: Any, word: str) -> torch.Tensor:
        row: torch.Tensor = text_encoder.get_input_embeddings().weight[
            image.tokenizer(word).input_ids[1]
        ]
        return row

    for word, kept in {"red": True, "ring": True, "left": False, "still": False}.items():
        old, new = embedding(image.text_encoder, word), embedding(text, word)
        assert torch.equal(old, new) == kept


@pytest.mark.parametrize(("name", "renewed"), [("t2i-late", True), ("t2i-last", False)])
def test_the_word_that_was_not_heard_starts_anew_once(
    name: str, renewed: bool, tmp_path: Path
) -> None:
    shutil.copytree(zoo.path("t2i"), tmp_path / RECIPES[name].needs)
    before: Any = zoo.load("t2i")
    after: Any = weights(name, tmp_path)["text"]
    known = before.text_encoder.get_input_embeddings().weight
    now = after.get_input_embeddings().weight
    other = (known != now).any(dim=1).nonzero().flatten().tolist()
    assert other == before.tokenizer("checkered").input_ids[1:-1] * renewed
    assert all(p.requires_grad for p in after.parameters())


@pytest.mark.parametrize(("lean", "share"), [(0.5, 0.75), (1.0, 0.5), (2.0, 0.2929)])
def test_levels_lean_to_clean_or_noisy_ones(lean: float, share: float) -> None:
    seen: list[torch.Tensor] = []

    class Network(torch.nn.Module):
        def forward(self, noisy: torch.Tensor, levels: torch.Tensor, **_: object) -> Any:
            seen.append(levels)
            return SimpleNamespace(sample=noisy)

    pipe = zoo.load("t2i")
    parts = Parts(pipe.vae, pipe.text_encoder, pipe.tokenizer)
    painting = Painting(parts, Network(), 32, lean=lean)
    for step in range(8):
        painting.loss(step, torch.Generator().manual_seed(step))
    assert float((torch.cat(seen) < 500).float().mean()) == pytest.approx(share, abs=0.12)


def test_a_training_without_its_start_says_what_to_train_first(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="train t2v-early first"):
        train("t2v", 4, tmp_path, "cpu")


def test_video_training_does_not_compute_a_layer_that_changes_nothing(tmp_path: Path) -> None:
    shutil.copytree(zoo.path("t2i"), tmp_path / RECIPES["t2v-start"].needs)
    tiny("t2v-start", tmp_path)
    unet: Any = weights("t2v-early", tmp_path)["unet"]
    x, words = torch.randn(1, 8, 3, 16, 16), torch.randn(1, 24, 64)
    with torch.no_grad():
        cut = unet(x, 500, encoder_hidden_states=words).sample
        del unet.transformer_in.forward
        assert torch.equal(cut, unet(x, 500, encoder_hidden_states=words).sample)


def test_a_milder_t2v_is_the_t2v_with_a_lora_on_its_spatial_layers(tmp_path: Path) -> None:
    factors = tiny("t2v-mild", tmp_path)
    assert not [name for name in factors if "temp_" in name or "transformer_in" in name]
    file = tmp_path / "t2v-mild" / zoo.MODELS["t2v-mild"].file
    plain, mild = zoo.load("t2v").unet, pipelines.read_video_lora(zoo.path("t2v"), file).unet
    changed = {
        name
        for name, weight in mild.state_dict().items()
        if not torch.equal(weight, plain.state_dict()[name])
    }
    assert changed == {
        name.removeprefix("unet.").replace("lora_B.", "") for name in factors if "lora_B" in name
    }
    trained = _task("t2v-mild", tmp_path, torch.device("cpu"), 4, 2).weights["unet"]
    put_back = {name: factors[f"unet.{name.replace('.default', '')}"] for name in _lora(trained)}
    trained.load_state_dict(put_back, strict=False)
    x, words = torch.randn(1, 8, 3, 16, 16), torch.randn(1, 24, 64)
    with torch.no_grad():
        wanted = trained(x, 500, encoder_hidden_states=words).sample
        seen = mild(x, 500, encoder_hidden_states=words).sample
        assert torch.allclose(seen, wanted, atol=1e-4)
        assert not torch.allclose(seen, plain(x, 500, encoder_hidden_states=words).sample)


def _lora(module: torch.nn.Module) -> list[str]:
    return [name for name in module.state_dict() if "lora_" in name]


def test_a_lora_for_another_network_is_refused(tmp_path: Path) -> None:
    save_file({"unet.nowhere.lora_A.weight": torch.zeros(1, 1)}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match=r"factors without layer or pair in .*t2v: .*nowhere"):
        pipelines.read_video_lora(zoo.path("t2v"), tmp_path / "x.safetensors")


def test_autoencoder_trains_in_stages(tmp_path: Path) -> None:
    seen: list[str] = []
    folder = train("vae", 8, tmp_path, "cpu", progress=lambda p: seen.append(p.name), batch=4)
    assert [*dict.fromkeys(seen)] == [f"vae-{i + 1}" for i in range(len(STAGES))]
    assert (folder / "config.json").exists()


def test_the_second_autoencoder_learns_the_first_ones_latents_turned(tmp_path: Path) -> None:
    first, matrix = zoo.load("t2i").vae, turn()
    _, frames = stills(16, torch.Generator().manual_seed(1))
    scale = first.config.scaling_factor
    with torch.no_grad():
        latents = first.encode(frames * 2 - 1).latent_dist.mean * scale
        wanted = torch.einsum("ij,bjxy->bixy", matrix, latents)

    def apart(steps: int) -> float:
        folder = train("t2v-turned", steps, tmp_path / str(steps), "cpu", batch=4)
        vae = AutoencoderKL.from_pretrained(folder)
        with torch.no_grad():
            return distance(vae.encode(frames * 2 - 1).latent_dist.mean, wanted)

    assert apart(48) < 0.9 * apart(2)
    stages = {f"t2v-turned-{i + 1}.checkpoint.pt" for i in range(len(TURNED))}
    assert {file.name for file in (tmp_path / "2").glob("*.pt")} == stages


def test_unknown_models_are_named(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError,
        match=r"name=.sdxl..*recogniser, t2i-early.*, t2i-late, t2i-last, t2i, t2v.*upscale-x4",
    ):
        train("sdxl", out=tmp_path)
