"""The T2I's decoder, trained on what the T2I paints: what learns, from what, and how much."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from elevator import zoo
from elevator.zoo import decoder
from elevator.zoo.decoder import Sharpening
from elevator.zoo.diffusion import Parts
from elevator.zoo.train import train


def sharpening(batch: int = 8) -> Sharpening:
    torch.manual_seed(0)
    pipe = zoo.load("t2i")
    return Sharpening(Parts(pipe.vae, pipe.text_encoder, pipe.tokenizer), pipe.unet, batch)


def seeded(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def norm(parameters: Any) -> float:
    return sum(float(p.grad.norm()) for p in parameters if p.grad is not None)


def test_only_the_decoder_changes(tmp_path: Path) -> None:
    shutil.copytree(zoo.path("t2i"), tmp_path / "t2i-last")
    train("t2i", 4, tmp_path, "cpu", batch=8)
    for part in ("unet", "text_encoder", "vae"):
        name = "model" if part == "text_encoder" else "diffusion_pytorch_model"
        before, after = (
            load_file(place / part / f"{name}.safetensors")
            for place in (zoo.path("t2i"), tmp_path / "t2i")
        )
        changed = {key.split(".")[0] for key in before if not torch.equal(before[key], after[key])}
        assert changed == ({"decoder", "post_quant_conv"} if part == "vae" else set())


@pytest.mark.parametrize(
    ("step", "critic_learns"), [(0, False), (decoder.ALONE, True), (decoder.LEARNING, True)]
)
def test_the_critic_learns_when_its_time_has_come(step: int, critic_learns: bool) -> None:
    task = sharpening()
    task.loss(step, seeded()).backward()
    assert norm(task.parts.vae.decoder.parameters()) > 0
    assert (norm(task.critic.parameters()) > 0) == critic_learns


def test_decoder_and_critic_do_not_learn_from_each_others_loss() -> None:
    gradients: dict[int, list[torch.Tensor]] = {}
    for step in (decoder.ALONE + 1, decoder.LEARNING + 1):  # no step with the penalty on the slope
        task = sharpening()
        task.loss(step, seeded()).backward()
        gradients[step] = [p.grad.clone() for p in task.critic.parameters() if p.grad is not None]
    # The verdict against decoded pictures, which the second has beside, is not the critic's aim.
    early, late = gradients.values()
    assert all(torch.equal(a, b) for a, b in zip(early, late, strict=True))
    alone, beside = sharpening(), sharpening()
    alone.loss(0, seeded()).backward()
    beside.loss(decoder.ALONE + 1, seeded()).backward()
    for a, b in zip(alone.parts.vae.parameters(), beside.parts.vae.parameters(), strict=True):
        assert (a.grad is None and b.grad is None) or torch.equal(a.grad, b.grad)


def test_the_verdict_is_as_strong_as_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    task = sharpening()
    for p in task.critic.parameters():  # a fresh critic is too faint to be brought to its share
        p.data.mul_(8)
    last = task.parts.vae.decoder.conv_out.weight

    def gradient(step: int) -> torch.Tensor:
        last.grad = None
        task.loss(step, seeded()).backward()
        assert last.grad is not None
        return last.grad.clone()

    errors = gradient(decoder.ALONE + 1)
    verdict = gradient(decoder.LEARNING + 1) - errors
    assert float(verdict.norm() / errors.norm()) == pytest.approx(decoder.SHARE, rel=0.05)


def test_crisp_stills_come_from_estimates_and_all_others_from_the_encoder() -> None:
    task = sharpening()
    pixels, latents = task._examples(seeded())
    seen = task.parts.latents(pixels / 2 + 0.5) / task.parts.vae.config.scaling_factor
    apart = (latents - seen).abs().amax((1, 2, 3))
    assert (apart[:3] < 1e-4).all()
    assert (apart[3:] > 1e-2).all()
    # Estimates of the same scenes, not others: nearer to them than their own spread.
    assert float((latents - seen)[3:].square().mean()) < 0.3 * float(seen[3:].square().mean())
