"""Training of the upscalers on a tiny setting: from end to end, and on from where it was cut."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from elevator.errors import CheckError
from elevator.models import RegressionUpscaler, TemporalUNet
from elevator.zoo import upscaling, video_upscaling
from elevator.zoo.loop import Progress
from elevator.zoo.train import train
from elevator.zoo.upscalers import UPSCALERS, _task
from elevator.zoo.upscaling import footage, psnr, started
from elevator.zoo.video_upscaling import Examples, Steadying, examples

CPU = torch.device("cpu")


class StopError(Exception):
    """The power went out."""


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small clips; the networks are as they are."""
    for name, number in {"CROP": 8, "FRAMES": 2}.items():
        monkeypatch.setattr(upscaling, name, number)
    for name, number in {"CLIP_FRAMES": 2, "CODED_FRAMES": 2, "SIZE": 32, "CODED_SIZE": 16}.items():
        monkeypatch.setattr(video_upscaling, name, number)


def tiny(name: str, out: Path, *, stop: int | None = None) -> dict[str, torch.Tensor]:
    """Train for four steps; raise after `stop`."""

    def progress(now: Progress) -> None:
        if now.step == stop:
            raise StopError

    folder = train(name, 4, out, "cpu", progress=progress, batch=1, save_every=0.0)
    place = folder / "unet" if (folder / "unet").exists() else folder
    return load_file(place / "diffusion_pytorch_model.safetensors")


def test_resumed_trainings_are_the_same_bit_for_bit_each_on_the_one_before(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for name in UPSCALERS:
        if whole.exists():
            shutil.copytree(whole, cut, dirs_exist_ok=True)
        at_once = tiny(name, whole)
        with pytest.raises(StopError):
            tiny(name, cut, stop=2)
        resumed = tiny(name, cut)
        assert at_once.keys() == resumed.keys()
        assert all(torch.equal(at_once[key], resumed[key]) for key in at_once), name


def test_a_training_without_its_start_says_what_to_train_first(tmp_path: Path) -> None:
    with pytest.raises(CheckError, match="to start from; train upscaler-decoder first"):
        train("upscaler", 4, tmp_path, "cpu")


def test_upscaling_by_two_starts_from_the_other_trunk(tmp_path: Path) -> None:
    other = RegressionUpscaler(4)
    other.save_pretrained(tmp_path / "upscale-x4")
    made = started("upscale-x2", tmp_path, "upscale-x4")
    assert made.scale == 2
    assert torch.equal(made.conv_in.weight, other.conv_in.weight)
    assert not made.conv_out.weight.any()


def test_only_the_decoder_learns_on_estimates(tmp_path: Path) -> None:
    for name in ("upscaler-vae", "upscaler-still"):
        network, _ = _task(name, tmp_path, CPU, 4, 1, 0)
        network.save_pretrained(tmp_path / name)
    vae, task = _task("upscaler-decoder", tmp_path, CPU, 4, 1, 0)
    task.loss(1, torch.Generator().manual_seed(0)).backward()
    moved = {name for name, p in vae.named_parameters() if p.grad is not None and p.grad.any()}
    assert moved
    assert all(name.startswith(("decoder.", "post_quant_conv.")) for name in moved)


def test_only_temporal_layers_learn_on_clips(tmp_path: Path) -> None:
    for name in ("upscaler-vae", "upscaler-decoder", "upscaler-still"):
        network, _ = _task(name.replace("decoder", "vae"), tmp_path, CPU, 4, 1, 0)
        network.save_pretrained(tmp_path / name)
    unet, task = _task("upscaler", tmp_path, CPU, 4, 1, 0)
    assert isinstance(unet, TemporalUNet)
    task.loss(0, torch.Generator().manual_seed(0)).backward()
    new = {name for name, _ in unet.temporal_parameters()}
    learning = {name for name, p in unet.named_parameters() if p.requires_grad}
    moved = {name for name, p in unet.named_parameters() if p.grad is not None and p.grad.any()}
    assert learning == new
    assert moved
    assert moved <= new
    before = network.state_dict()
    assert all(
        torch.equal(before[name], x) for name, x in unet.state_dict().items() if name in before
    )


def test_clips_of_others_are_drawn_anew_for_every_step(tmp_path: Path) -> None:
    drawn: list[torch.Generator] = []

    def source(count: int, frames: int, size: int, generator: torch.Generator) -> Examples:
        drawn.append(generator)
        return examples(count, frames, size, generator)

    for name in ("upscaler-vae", "upscaler-decoder", "upscaler-still"):
        network, _ = _task(name.replace("decoder", "vae"), tmp_path, CPU, 4, 1, 0)
        network.save_pretrained(tmp_path / name)
    unet, task = _task("upscaler", tmp_path, CPU, 4, 1, 0)
    assert isinstance(task, Steadying)
    other = Steadying(task.parts, unet, 1, size=16, source=source)
    for step in range(2):
        generator = torch.Generator().manual_seed(step)
        assert other.loss(step, generator).isfinite()
        assert drawn[-1] is generator


def test_examples_are_captioned_where_they_show_the_world() -> None:
    made = examples(24, 2, 16, torch.Generator().manual_seed(1))
    assert made.sharp.shape == (24, 3, 2, 16, 16)
    assert made.small.shape == (24, 3, 2, 4, 4)
    captioned = [bool(caption) for caption in made.captions]
    assert captioned == sorted(captioned, reverse=True)
    assert 3 < sum(captioned) < 18
    again = examples(24, 2, 16, torch.Generator().manual_seed(1))
    assert torch.equal(made.small, again.small)


def test_a_new_regression_upscaler_is_as_good_as_bicubic() -> None:
    clips = footage(3, 2, 32, torch.Generator().manual_seed(0))
    assert clips.shape == (3, 3, 2, 32, 32)
    bicubic, network = psnr(RegressionUpscaler(4, width=16, blocks=1), clips)
    assert bicubic == pytest.approx(network, abs=1e-4)
    assert 10 < bicubic < 40
