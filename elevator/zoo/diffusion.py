"""Training of the three diffusion models: what each sees, and how its error is measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from elevator import world
from elevator.zoo import networks
from elevator.zoo.vae import stills

if TYPE_CHECKING:
    from diffusers import AutoencoderKL
    from transformers import CLIPTextModel, CLIPTokenizer

__all__ = ["FRAMES", "Filming", "Painting", "Parts"]

FRAMES = 8
"""Frames of a clip."""
UNCAPTIONED = 0.1
"""Share of the examples that are shown without their caption, for classifier-free guidance."""


@dataclass(frozen=True)
class Parts:
    """What all three diffusion models have in common."""

    vae: AutoencoderKL
    text: CLIPTextModel
    tokenizer: CLIPTokenizer

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return self.vae.device

    @torch.no_grad()
    def latents(self, frames: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n c hl wl"]:
        """Frames in [0, 1] as latents of about unit spread."""
        code = self.vae.encode((frames * 2 - 1).to(self.device)).latent_dist.mean
        return code * self.vae.config.scaling_factor

    def embed(
        self, scenes: Sequence[world.Scene], generator: torch.Generator
    ) -> Float[Tensor, "b tokens c"]:
        """Embeddings of the captions, one in ten of them left out."""
        dropped = torch.rand(len(scenes), generator=generator) < UNCAPTIONED
        texts = [
            "" if drop else s.caption() for s, drop in zip(scenes, dropped.tolist(), strict=True)
        ]
        ids = self.tokenizer(
            texts,
            padding="max_length",
            max_length=self.tokenizer.model_max_length,
            return_tensors="pt",
        ).input_ids
        return self.text(ids.to(self.device))[0]


def _velocity_error(
    unet: nn.Module,
    latents: Float[Tensor, "b c ..."],
    embeddings: Float[Tensor, "b tokens d"],
    generator: torch.Generator,
) -> Tensor:
    """Squared error of the predicted v at levels drawn uniformly, one for each example."""
    scheduler = networks.scheduler()
    noise = torch.randn(latents.shape, generator=generator).to(latents)
    levels = torch.randint(len(scheduler.alphas_cumprod), (len(latents),), generator=generator)
    levels = levels.to(latents.device)
    noisy = scheduler.add_noise(latents, noise, levels)
    guess = unet(noisy, levels, encoder_hidden_states=embeddings).sample
    return mse_loss(guess, scheduler.get_velocity(latents, noise, levels))


class Painting:
    """The image U-Net on stills; up to step `joint` the text encoder learns with it."""

    def __init__(
        self,
        parts: Parts,
        unet: nn.Module,
        batch: int,
        *,
        style: Callable[[Tensor], Tensor] | None = None,
        joint: int = 0,
        on_frozen: Callable[[dict[str, Tensor]], None] | None = None,
    ) -> None:
        """Set up the training.

        Args:
            parts: autoencoder, text encoder and tokenizer.
            unet: the U-Net, trained in place.
            batch: stills a step.
            style: changes the crisp stills, for a personalised model.
            joint: step at which the text encoder is set to its average and frozen; 0 leaves it
                alone.
            on_frozen: called then, with the average of the weights.
        """
        self.parts, self.batch, self.style, self.joint = parts, batch, style, joint
        self.weights = nn.ModuleDict(
            {"unet": unet, "text": parts.text} if joint else {"unet": unet}
        )
        self.on_frozen = on_frozen

    def loss(self, step: int, generator: torch.Generator) -> Tensor:
        """Error of the predicted v on a batch of stills."""
        scenes, frames = stills(self.batch, generator)
        latents = self.parts.latents(self.style(frames) if self.style else frames)
        with torch.set_grad_enabled(step < self.joint):
            embeddings = self.parts.embed(scenes, generator)
        return _velocity_error(self.weights["unet"], latents, embeddings, generator)

    def after(self, step: int, average: dict[str, Tensor]) -> None:
        """Freeze the text encoder at its average when its time has come."""
        if step != self.joint:
            return
        prefix = "text."
        text = {k.removeprefix(prefix): v for k, v in average.items() if k.startswith(prefix)}
        self.weights["text"].load_state_dict(text)
        if self.on_frozen:
            self.on_frozen(average)


class Filming:
    """The video U-Net on degraded clips; its spatial layers start as the image U-Net's."""

    def __init__(self, parts: Parts, unet: nn.Module, painter: nn.Module, batch: int) -> None:
        """Take over the weights of `painter` and set the temporal layers to change nothing.

        Args:
            parts: autoencoder, text encoder and tokenizer; none of them is trained.
            unet: the video U-Net, trained in place.
            painter: the image U-Net.
            batch: clips a step.
        """
        from diffusers.models.transformers.transformer_temporal import TransformerTemporalModel

        unknown = unet.load_state_dict(painter.state_dict(), strict=False).unexpected_keys
        if unknown:
            raise ValueError(
                f"The video U-Net has no layer for {unknown[0]!r} ({len(unknown)} such names); "
                "build both U-Nets with the same blocks and use_linear_projection=True."
            )
        for module in unet.modules():
            if isinstance(module, TransformerTemporalModel):
                nn.init.zeros_(module.proj_out.weight)
                nn.init.zeros_(module.proj_out.bias)
        self.parts, self.weights, self.batch = parts, unet.eval(), batch  # eval: without dropout

    def loss(self, step: int, generator: torch.Generator) -> Tensor:
        """Error of the predicted v on a batch of clips."""
        first, second = torch.randint(2**40, (2,), generator=generator).tolist()
        scenes = world.draw(self.batch, seed=first)
        clips = world.degrade(world.render(scenes, frames=FRAMES, size=networks.SIZE, seed=second))
        latents = self.parts.latents(rearrange(clips, "b f c h w -> (b f) c h w"))
        latents = rearrange(latents, "(b f) c h w -> b c f h w", b=self.batch)
        with torch.no_grad():
            embeddings = self.parts.embed(scenes, generator)
        return _velocity_error(self.weights, latents, embeddings, generator)

    def after(self, step: int, average: dict[str, Tensor]) -> None:
        """Nothing to do between steps."""
