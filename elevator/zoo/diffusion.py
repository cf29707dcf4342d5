"""Training of the three diffusion models: what each sees, and how its error is measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from elevator import world
from elevator.zoo import networks
from elevator.zoo.vae import stills

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, DDIMScheduler, UNet3DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

__all__ = ["FRAMES", "Filming", "Framing", "Painting", "Parts", "renew_words"]

FRAMES = 8
"""Frames of a clip."""
MOTION_WORDS = ("left", "right", "up", "down", "standing", "still")
"""The words that the text encoder has learnt, from stills, to be without meaning."""
CHUNK = 16
"""Frames encoded at once; more do not fit a processor's cache."""
LEAN = 1.5
"""How much a T2V's training leans to noisy levels, where motion has to come from the caption."""
LOUD = 4.0
"""Spread of the embeddings of renewed words, that of a text's hidden states in the last layer."""
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
        pixels = (frames * 2 - 1).to(self.device)
        parts = [self.vae.encode(part).latent_dist.mean for part in pixels.split(CHUNK)]
        return torch.cat(parts) * self.vae.config.scaling_factor

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
    scheduler: DDIMScheduler,
    latents: Float[Tensor, "b c ..."],
    embeddings: Float[Tensor, "b tokens d"],
    generator: torch.Generator,
    lean: float = 1.0,
) -> Tensor:
    """Squared error of the predicted v, at one level for each example.

    Levels are drawn uniformly, more often noisy ones where `lean` is above 1, clean ones below.
    """
    noise = torch.randn(latents.shape, generator=generator).to(latents)
    top = len(scheduler.alphas_cumprod)
    drawn = top * (1 - torch.rand(len(latents), generator=generator) ** lean)
    levels = drawn.long().clamp_max(top - 1).to(latents.device)
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
        lean: float = 1.0,
    ) -> None:
        """Set up the training.

        Args:
            parts: autoencoder, text encoder and tokenizer.
            unet: the U-Net, trained in place.
            batch: stills a step.
            style: changes the crisp stills, for a personalised model.
            joint: step at which the text encoder is set to its average and frozen; 0 leaves it
                alone.
            lean: to noisy levels above 1, to clean ones, where detail is painted, below.
        """
        self.parts, self.batch, self.style, self.joint = parts, batch, style, joint
        self.lean = lean
        self.weights = nn.ModuleDict(
            {"unet": unet, "text": parts.text} if joint else {"unet": unet}
        )

    def loss(self, step: int, generator: torch.Generator) -> Tensor:
        """Error of the predicted v on a batch of stills."""
        scenes, frames = stills(self.batch, generator)
        latents = self.parts.latents(self.style(frames) if self.style else frames)
        with torch.set_grad_enabled(step < self.joint):
            embeddings = self.parts.embed(scenes, generator)
        unet, scheduler = self.weights["unet"], networks.scheduler()
        return _velocity_error(unet, scheduler, latents, embeddings, generator, self.lean)

    def after(self, step: int, average: dict[str, Tensor]) -> None:
        """Freeze the text encoder at its average when its time has come."""
        if step != self.joint:
            return
        prefix = "text."
        text = {k.removeprefix(prefix): v for k, v in average.items() if k.startswith(prefix)}
        self.weights["text"].load_state_dict(text)


def _footage(
    count: int, generator: torch.Generator, strength: float = 1.0
) -> tuple[list[world.Scene], Float[Tensor, "b f c h w"]]:
    """Scenes, and clips of them as a web video shows them, degraded by `strength`."""
    first, second = torch.randint(2**40, (2,), generator=generator).tolist()
    scenes = world.draw(count, seed=first)
    clips = world.render(scenes, frames=FRAMES, size=networks.SIZE, seed=second)
    return scenes, world.degrade(world.lamp(clips), strength)


class Framing:
    """An image U-Net and its text encoder on single frames of clips: where a video model starts.

    What words of motion say about the place of an object is learnt here, many times faster.
    """

    def __init__(self, parts: Parts, unet: nn.Module, painter: nn.Module, batch: int) -> None:
        """Take over what `painter` has, but for the words of motion.

        Args:
            parts: autoencoder, tokenizer, and the text encoder, which is trained in place.
            unet: an image U-Net of the video U-Net's blocks, trained in place.
            painter: the image U-Net.
            batch: frames a step, each of another clip.
        """
        unet.load_state_dict(_shared(painter, unet), strict=False)
        renew_words(parts, MOTION_WORDS)
        self.parts, self.batch = parts, batch
        self.weights = nn.ModuleDict({"unet": unet, "text": parts.text})

    def loss(self, step: int, generator: torch.Generator) -> Tensor:
        """Error of the predicted v on a batch of frames."""
        scenes, clips = _footage(self.batch, generator)
        chosen = torch.randint(FRAMES, (self.batch,), generator=generator)
        latents = self.parts.latents(clips[torch.arange(self.batch), chosen])
        embeddings = self.parts.embed(scenes, generator)
        unet, scheduler = self.weights["unet"], networks.scheduler(video=True)
        return _velocity_error(unet, scheduler, latents, embeddings, generator, LEAN)

    def after(self, step: int, average: dict[str, Tensor]) -> None:
        """Nothing to do between steps."""


class Filming:
    """The video U-Net on degraded clips, with its text encoder or as a LoRA; it starts trained."""

    def __init__(
        self,
        parts: Parts,
        unet: UNet3DConditionModel,
        painter: nn.Module,
        batch: int,
        *,
        strength: float = 1.0,
        rank: int | None = None,
    ) -> None:
        """Take over what `painter` has and set layers that it lacks to change nothing.

        Args:
            parts: autoencoder, tokenizer, and the text encoder, which is trained in place but for
                a LoRA.
            unet: the video U-Net, trained in place.
            painter: an image U-Net of the same blocks, or a video U-Net to train on.
            batch: clips a step.
            strength: how much the clips are degraded.
            rank: of a LoRA, which is then all that is trained; None trains all weights.
        """
        from diffusers.models.transformers.transformer_temporal import TransformerTemporalModel

        known = _shared(painter, unet)
        unet.load_state_dict(known, strict=False)
        for name, module in unet.named_modules():
            fresh = f"{name}.proj_out.weight" not in known
            if fresh and isinstance(module, TransformerTemporalModel):
                nn.init.zeros_(module.proj_out.weight)
                nn.init.zeros_(module.proj_out.bias)
        # The class has this layer whatever the settings, with eight heads at full resolution: a
        # third of all the work, for attention that does not know the order of the frames.
        unet.transformer_in.forward = _unchanged
        self.parts, self.batch, self.strength = parts, batch, strength
        learning: dict[str, nn.Module] = {"unet": unet, "text": parts.text}
        if rank is not None:
            networks.add_lora(unet, rank)
            learning.pop("text").requires_grad_(False)
        self.weights = nn.ModuleDict(learning).eval()  # no dropout

    def loss(self, step: int, generator: torch.Generator) -> Tensor:
        """Error of the predicted v on a batch of clips."""
        scenes, clips = _footage(self.batch, generator, self.strength)
        latents = self.parts.latents(rearrange(clips, "b f c h w -> (b f) c h w"))
        latents = rearrange(latents, "(b f) c h w -> b c f h w", b=self.batch)
        embeddings = self.parts.embed(scenes, generator)
        unet, scheduler = self.weights["unet"], networks.scheduler(video=True)
        return _velocity_error(unet, scheduler, latents, embeddings, generator, LEAN)

    def after(self, step: int, average: dict[str, Tensor]) -> None:
        """Nothing to do between steps."""


def _shared(painter: nn.Module, unet: nn.Module) -> dict[str, Tensor]:
    """The weights of one network that the other has by the same name."""
    known = unet.state_dict()
    return {name: weight for name, weight in painter.state_dict().items() if name in known}


def _unchanged(hidden: Tensor, **_: object) -> tuple[Tensor]:
    """What a transformer with a zero output layer gives."""
    return (hidden,)


@torch.no_grad()
def renew_words(parts: Parts, words: Sequence[str]) -> None:
    """Give words new embeddings, as large as what the text encoder's layers add to them.

    Smaller ones, such as a fresh text encoder has, drown in that: of a word that was not learnt
    early the layers make what they make of its neighbours.
    """
    rows = [token for word in words for token in parts.tokenizer(word).input_ids[1:-1]]
    known: Any = parts.text.get_input_embeddings()
    known.weight[rows] = LOUD * torch.randn(len(rows), known.embedding_dim).to(known.weight)
