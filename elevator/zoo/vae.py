"""Training of the autoencoder, on crisp, degraded and ink stills: one latent space for all."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import mse_loss

from elevator import world
from elevator.zoo import networks
from elevator.zoo.loop import Rates

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

__all__ = ["Autoencoding", "Stage", "psnr", "save", "stills"]

DIVERGENCE = 1e-4
"""Weight of the Kullback-Leibler term, per latent element."""
AGREEMENT = 1.0
"""Weight of the squared error of latents that are told, which have about unit spread."""


def stills(
    count: int, generator: torch.Generator, split: world.Split = "train"
) -> tuple[list[world.Scene], Float[Tensor, "b c h w"]]:
    """Scenes and one crisp frame of each, in [0, 1]."""
    first, second = torch.randint(2**40, (2,), generator=generator).tolist()
    scenes = world.draw(count, seed=first, split=split)
    return scenes, world.render(scenes, frames=1, size=networks.SIZE, seed=second)[:, 0]


@dataclass(frozen=True)
class Stage:
    """One stage of the training.

    Attributes:
        steps: steps of the stage.
        batch: stills a step; half of them crisp, a quarter degraded, a quarter in ink.
        rates: learning rate and averaging.
        colour: how much more an error of colour counts than one of brightness; hues come last.
        crop: side in pixels of a crop around the object; None takes whole frames.
        joint: part of the stage in which the encoder learns too.
    """

    steps: int
    batch: int
    rates: Rates
    colour: float = 3.0
    crop: int | None = None
    joint: float = 1.0


class Autoencoding:
    """L1 and squared error, and a tiny Kullback-Leibler term; at the end the encoder stands still.

    From then on the latents are what they will be, and models of them can be trained while the
    decoder is still getting better.
    """

    def __init__(
        self,
        stage: Stage,
        device: torch.device,
        *,
        weights: AutoencoderKL | None = None,
        on_frozen: Callable[[AutoencoderKL], None] | None = None,
        told: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        """Start from fresh weights.

        Args:
            stage: what is shown, and how errors count.
            device: where to train.
            weights: the autoencoder, trained in place; by default a fresh one of the zoo's.
            on_frozen: called when the encoder is frozen at its average, with the averaged network.
            told: the latents that pixels in [-1, 1] shall have; by default, any.
        """
        self.weights = (networks.vae() if weights is None else weights).to(device)
        self.stage, self.device, self.on_frozen, self.told = stage, device, on_frozen, told
        self.joint = max(1, round(stage.joint * stage.steps))

    def loss(self, step: int, generator: torch.Generator) -> Tensor:
        """Error in units of [-1, 1] pixels."""
        pixels = (_views(self.stage, generator) * 2 - 1).to(self.device)
        with torch.set_grad_enabled(step < self.joint):
            code = self.weights.encode(pixels).latent_dist
        noise = torch.randn(code.mean.shape, generator=generator).to(self.device)
        error = self.weights.decode(code.mean + code.std * noise).sample - pixels
        grey = error.mean(1, keepdim=True)
        error = grey + self.stage.colour * (error - grey)
        divergence = code.kl().mean() / code.mean[0].numel()
        loss = error.abs().mean() + error.square().mean() + DIVERGENCE * divergence
        if self.told is not None:
            loss = loss + AGREEMENT * mse_loss(code.mean, self.told(pixels))
        return loss

    def after(self, step: int, average: dict[str, Tensor]) -> None:
        """Freeze the encoder at its average when its time has come."""
        if step != self.joint or step == self.stage.steps:
            return
        encoder = {k: v for k, v in average.items() if k.startswith(("encoder.", "quant_conv."))}
        self.weights.load_state_dict(encoder, strict=False)
        if self.on_frozen:
            frozen = networks.vae()
            frozen.load_state_dict(average)
            self.on_frozen(frozen)


def _views(stage: Stage, generator: torch.Generator) -> Float[Tensor, "b c h w"]:
    """A batch of stills in all three looks, or of crops around their objects."""
    first, second = torch.randint(2**40, (2,), generator=generator).tolist()
    scenes = world.draw(stage.batch, seed=first)
    frames = world.render(scenes, frames=1, size=networks.SIZE, seed=second)[:, 0]
    quarter = stage.batch // 4
    frames[:quarter] = world.degrade(frames[:quarter])
    frames[quarter : 2 * quarter] = world.ink(frames[quarter : 2 * quarter])
    if stage.crop is None:
        return frames
    side = stage.crop
    centre = world.layout(scenes, frames=1, size=networks.SIZE, seed=second).centre[:, 0]
    jitter = side / 2 * (torch.rand(centre.shape, generator=generator) - 0.5)
    corner = (centre - side / 2 + jitter).round().long().clamp(0, networks.SIZE - side)
    places = zip(frames, corner.tolist(), strict=True)
    return torch.stack([f[:, y : y + side, x : x + side] for f, (x, y) in places])


@torch.no_grad()
def psnr(vae: AutoencoderKL, frames: Float[Tensor, "b c h w"]) -> float:
    """Mean peak signal-to-noise ratio, in dB, of frames in [0, 1] through the autoencoder."""
    latent = vae.encode((frames * 2 - 1).to(vae.device, vae.dtype)).latent_dist.mean
    seen = (vae.decode(latent).sample.float().cpu() / 2 + 0.5).clamp(0, 1)
    return float((-10 * torch.log10(((seen - frames) ** 2).mean((1, 2, 3)))).mean())


@torch.no_grad()
def save(vae: AutoencoderKL, folder: Path, seed: int) -> None:
    """Set `scaling_factor` from the spread of crisp stills' latents, and save in float16."""
    _, frames = stills(256, torch.Generator().manual_seed(seed))
    latent = vae.encode((frames * 2 - 1).to(vae.device)).latent_dist.mean
    spread = float(latent.std())
    if not math.isfinite(spread):
        raise ValueError(
            "The autoencoder's latents are not finite; train it anew with another seed."
        )
    vae.register_to_config(scaling_factor=round(1 / spread, 4))
    vae.to("cpu", torch.float16).save_pretrained(folder)
