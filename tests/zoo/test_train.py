"""The recipe on a tiny setting: it runs from end to end, and goes on where it was cut."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from elevator.zoo import pipelines
from elevator.zoo.loop import Progress
from elevator.zoo.train import STAGES, train

pytest.importorskip("diffusers")
safetensors = pytest.importorskip("safetensors.torch")


class StopError(Exception):
    """The power went out."""


def tiny(name: str, out: Path, *, stop: int | None = None) -> dict[str, torch.Tensor]:
    """Train for four steps; raise after `stop`."""

    def progress(now: Progress) -> None:
        if now.step == stop:
            raise StopError

    folder = train(name, 4, out, "cpu", progress=progress, batch=2, save_every=0.0)
    return safetensors.load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")


@pytest.mark.parametrize("name", ["t2i", "t2v", "t2i-ink"])
def test_resumed_training_is_the_same_bit_for_bit(name: str, tmp_path: Path) -> None:
    whole = tiny(name, tmp_path / "whole")
    with pytest.raises(StopError):
        tiny(name, tmp_path / "cut", stop=2)
    resumed = tiny(name, tmp_path / "cut")
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


def test_video_training_starts_from_the_snapshot_of_the_image_training(tmp_path: Path) -> None:
    tiny("t2i", tmp_path)
    start = pipelines.read(tmp_path / "t2i-start")
    tiny("t2v", tmp_path)
    film = pipelines.read(tmp_path / "t2v")
    words = start.text_encoder.state_dict()
    assert all(torch.equal(words[k], v) for k, v in film.text_encoder.state_dict().items())


def test_autoencoder_trains_in_stages(tmp_path: Path) -> None:
    seen: list[str] = []
    folder = train("vae", 8, tmp_path, "cpu", progress=lambda p: seen.append(p.name), batch=4)
    assert [*dict.fromkeys(seen)] == [f"vae-{i + 1}" for i in range(len(STAGES))]
    assert (folder / "config.json").exists()


def test_unknown_models_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"name='sdxl'.*vae, t2i, t2v, t2i-ink"):
        train("sdxl", out=tmp_path)
