"""Training of the diffusion upscaler: its autoencoder, its U-Net on stills, then on clips.

As Upscale-A-Video was trained (Zhou et al. 2024, arXiv 2312.06640, section 4.1), only smaller: the
autoencoder starts from an image model's and learns to look at the low-resolution frames; the U-Net
learns on single frames what every frame may have been; and what is put between its layers for time
then learns on clips, while those layers stand still.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import interpolate, mse_loss

from elevator import world
from elevator.zoo import networks

if TYPE_CHECKING:
    from diffusers import DDIMScheduler, DDPMScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    from elevator.models import TemporalUNet, VideoVAE

__all__ = [
    "Coding",
    "Decoding",
    "Examples",
    "Source",
    "Steadying",
    "Texturing",
    "Upscaling",
    "examples",
]

FACTOR = 4
"""How many times larger frames get; the autoencoder's factor too."""
NOISIEST = 350
"""Noisiest level of the low-resolution frames that the U-Net is told; the published maximum."""
LEAN = 2.0
"""How much the levels drawn lean to the low ones, at which most clips are upscaled."""
UNCAPTIONED = 0.1
"""Share of the examples that are shown without their caption, for classifier-free guidance."""
GOOD, PRAISED = "best quality, extremely detailed", 0.5
"""Words that follow a caption where the clip is sharp, and how often; those of the published
presets, so that they mean something here too."""
BAD, BLURRED = "blur, worst quality", 0.1
"""The caption of clips that are only interpolated, and their share: what to be led away from."""
UNCONDITIONED = 0.2
"""Share of the steps in which the decoder does without the low-resolution frames."""
ROUGHNESS = 0.3
"""Strongest noise on the latents that the decoder sees in the end, against their spread: a sampled
latent is never quite right, and then the low-resolution frames know better."""
DIVERGENCE = 1e-4
"""Weight of the Kullback-Leibler term, per latent element."""
EDGES = 1.0
"""Weight of the errors of neighbouring pixels' differences."""
CLIP_FRAMES, CODED_FRAMES = 8, 3
"""Frames of a clip for the U-Net, and for the autoencoder."""
SIZE, CODED_SIZE = 128, 64
"""Height and width of the sharp clips, likewise."""
REUSE = 4
"""Steps in a row that see the same clips with other noise: making clips takes longer than one."""
CHUNK = 16
"""Frames encoded at once; more do not fit a processor's cache."""


@dataclass(frozen=True)
class Examples:
    """Clips, what is seen of them, and what they show.

    Attributes:
        sharp: RGB in [0, 1].
        small: the same in a quarter of the height and width, worn.
        captions: empty for leaves and noise.
    """

    sharp: Float[Tensor, "b 3 f h w"]
    small: Float[Tensor, "b 3 f hs ws"]
    captions: list[str]


def examples(
    count: int,
    frames: int,
    size: int,
    generator: torch.Generator,
    *,
    worldly: float = 0.4,
    footage: world.Footage | None = None,
) -> Examples:
    """Draw training examples.

    Args:
        count: clips.
        frames: frames of each.
        size: height and width of the sharp ones, a multiple of four.
        generator: of everything that is drawn.
        worldly: share of the clips that show the procedural world, with captions; of the others
            three quarters are leaves, one noise.
        footage: how worn they may be.
    """
    share = torch.rand(count, generator=generator)
    seeds = torch.randint(2**40, (4,), generator=generator).tolist()
    leafy = worldly + 0.75 * (1 - worldly)
    kinds = [int((share < worldly).sum()), int(((share >= worldly) & (share < leafy)).sum())]
    kinds.append(count - sum(kinds))
    parts, captions = [], [""] * count
    if kinds[0]:
        scenes = world.draw(kinds[0], seed=seeds[0])
        clips = world.render(scenes, frames=max(frames, 2), size=size, seed=seeds[0])
        parts.append(clips[:, :frames].transpose(1, 2))
        captions[: kinds[0]] = [scene.caption() for scene in scenes]
    if kinds[1]:
        parts.append(world.leaves(kinds[1], frames=frames, size=size, seed=seeds[1]))
    if kinds[2]:
        parts.append(world.noise(kinds[2], frames=frames, size=size, seed=seeds[2]))
    sharp = torch.cat(parts)
    return Examples(sharp, world.shrink(sharp, FACTOR, footage=footage, seed=seeds[3]), captions)


@runtime_checkable
class Source(Protocol):
    """Where training examples come from."""

    def __call__(self, count: int, frames: int, size: int, generator: torch.Generator) -> Examples:
        """Draw examples, as the function `examples` does."""
        ...


@contextmanager
def _half(device: torch.device, *, volume: bool = False) -> Iterator[None]:
    """bfloat16 where it is safe.

    Args:
        device: where it is computed.
        volume: gradients of 3-D convolutions are asked for; on CPUs they are now and then not
            finite in bfloat16.
    """
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type != "cpu" or not volume):
        yield


class Coding:
    """The autoencoder on short clips; at half time its encoder stands still, for latents to last.

    Later still its decoder sees them with noise. Errors of pixels and of their differences,
    absolute and squared, and a tiny Kullback-Leibler term. Some steps go without the low-resolution
    frames: latents have to hold everything.
    """

    def __init__(self, weights: VideoVAE, batch: int, steps: int) -> None:
        """Set up the training.

        Args:
            weights: the autoencoder, trained in place.
            batch: clips a step.
            steps: steps in all.
        """
        self.weights, self.batch = weights, batch
        self.joint, self.rough = max(1, steps // 2), 5 * steps // 8

    def loss(self, step: int, generator: torch.Generator) -> Tensor:
        """Error in units of [-1, 1] pixels."""
        made = examples(self.batch, CODED_FRAMES, CODED_SIZE, generator, worldly=0.3)
        device = self.weights.device
        pixels, small = ((x * 2 - 1).to(device) for x in (made.sharp, made.small))
        strength = float(torch.rand((), generator=generator) >= UNCONDITIONED)
        with _half(device, volume=True):
            with torch.set_grad_enabled(step < self.joint):
                code = self.weights.encode(pixels).latent_dist
            noise = torch.randn(code.mean.shape, generator=generator).to(device)
            latents = code.mean + code.std * noise
            if step >= self.rough:
                strong = ROUGHNESS * torch.rand(self.batch, generator=generator).to(device)
                latents = latents + strong[:, None, None, None, None] * code.mean.std() * noise
            seen = self.weights.decode(latents, small, strength).sample
        divergence = code.kl().mean() / code.mean[0].numel()
        return _error(seen.float(), pixels) + DIVERGENCE * divergence

    def after(self, step: int, average: dict[str, Tensor]) -> None:
        """Freeze the encoder at its average when its time has come."""
        if step == self.joint:
            names = ("encoder.", "quant_conv.")
            frozen = {name: x for name, x in average.items() if name.startswith(names)}
            self.weights.load_state_dict(frozen, strict=False)


def _error(seen: Tensor, pixels: Tensor) -> Tensor:
    """Of pixels, absolute and squared, and of their differences."""
    error = seen - pixels
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    return error.abs().mean() + error.square().mean() + EDGES * edges / 2


@dataclass(frozen=True)
class Upscaling:
    """What the U-Net's trainings have in common: all that stands still.

    Attributes:
        vae: the autoencoder.
        text: the text encoder.
        tokenizer: its tokenizer.
        scheduler: noise of the latents, and what of it is predicted.
        noise: noise of the low-resolution frames.
    """

    vae: VideoVAE
    text: CLIPTextModel
    tokenizer: CLIPTokenizer
    scheduler: DDIMScheduler = field(default_factory=networks.upscaler_scheduler)
    noise: DDPMScheduler = field(default_factory=networks.noise_scheduler)

    @torch.no_grad()
    def latents(self, sharp: Float[Tensor, "b 3 f h w"]) -> Float[Tensor, "b c f hs ws"]:
        """Clips in [0, 1] as latents of about unit spread."""
        frames = rearrange(sharp * 2 - 1, "b c f h w -> (b f) c 1 h w").to(self.vae.device)
        with _half(self.vae.device):
            parts = [self.vae.encode(part).latent_dist.mean for part in frames.split(CHUNK)]
        latents = rearrange(torch.cat(parts).float(), "(b f) c 1 h w -> b c f h w", b=len(sharp))
        return latents * self.vae.config.scaling_factor

    @torch.no_grad()
    def estimates(
        self, unet: UNet2DConditionModel, made: Examples, generator: torch.Generator
    ) -> Float[Tensor, "b c f hs ws"]:
        """What an image U-Net takes for clean latents, each clip at a noise level of its own."""
        latents = self.latents(made.sharp)
        small = (made.small * 2 - 1).to(latents)
        labels = torch.randint(NOISIEST + 1, (len(small),), generator=generator).to(small.device)
        top = len(self.scheduler.alphas_cumprod)
        levels = torch.randint(top, (len(small),), generator=generator).to(small.device)
        noise, other = (torch.randn(x.shape, generator=generator).to(x) for x in (latents, small))
        noisy = self.scheduler.add_noise(latents, noise, levels)
        given = torch.cat([noisy, self.noise.add_noise(small, other, labels)], 1)
        frames = latents.shape[2]
        flat = rearrange(given, "b c f h w -> (b f) c h w")
        text = self.embed([GOOD]).expand(len(flat), -1, -1)
        each = [x.repeat_interleave(frames) for x in (levels, labels)]
        with _half(latents.device):
            guess = unet(flat, each[0], encoder_hidden_states=text, class_labels=each[1]).sample
        guess = rearrange(guess.float(), "(b f) c h w -> b c f h w", f=frames)
        kept = self.scheduler.alphas_cumprod.to(latents)[levels][:, None, None, None, None]
        return kept.sqrt() * noisy - (1 - kept).sqrt() * guess

    @torch.no_grad()
    def embed(self, captions: Sequence[str]) -> Float[Tensor, "b tokens c"]:
        """Embeddings of captions."""
        ids = self.tokenizer(
            list(captions),
            padding="max_length",
            truncation=True,
            max_length=self.tokenizer.model_max_length,
            return_tensors="pt",
        ).input_ids
        embeddings: Tensor = self.text(ids.to(self.text.device))[0]
        return embeddings


class Decoding:
    """The decoder on what the U-Net takes for the latents, which is never quite right.

    So it learns how far to trust them, and how far the low-resolution frames. Upscale-A-Video tunes
    its decoder on generated latents, too (section 4.1).
    """

    def __init__(self, parts: Upscaling, unet: UNet2DConditionModel, batch: int) -> None:
        """Set up the training.

        Args:
            parts: autoencoder, whose decoder is trained in place, text encoder and tokenizer.
            unet: an image U-Net for these latents.
            batch: clips a step.
        """
        self.parts, self.unet, self.batch = parts, unet.requires_grad_(False), batch
        self.weights = parts.vae
        for part in (self.weights.decoder, self.weights.post_quant_conv):
            part.requires_grad_(True)

    def loss(self, step: int, generator: torch.Generator) -> Tensor:
        """Error in units of [-1, 1] pixels."""
        made = examples(self.batch, CODED_FRAMES, CODED_SIZE, generator)
        latents = self.parts.estimates(self.unet, made, generator)
        pixels, small = ((x * 2 - 1).to(latents) for x in (made.sharp, made.small))
        strength = float(torch.rand((), generator=generator) >= UNCONDITIONED)
        with _half(latents.device, volume=True):
            scale = self.weights.config.scaling_factor
            seen = self.weights.decode(latents / scale, small, strength).sample
        return _error(seen.float(), pixels)

    def after(self, step: int, average: dict[str, Tensor]) -> None:
        """Nothing to do between steps."""


class _Denoising:
    """The error of what is predicted, given the low-resolution frames with some noise."""

    def __init__(
        self,
        parts: Upscaling,
        weights: nn.Module,
        batch: int,
        frames: int,
        size: int,
        seed: int,
        source: Source | None,
        lean: float = LEAN,
    ) -> None:
        self.parts, self.weights, self.seed, self.source = parts, weights, seed, source
        self.lean, self.volume = lean, frames > 1
        self.batch, self.frames, self.size = batch, frames, size
        self._kept: tuple[int, Tensor, Tensor, Tensor] | None = None

    def loss(self, step: int, generator: torch.Generator) -> Tensor:
        """Squared error on a batch of clips, every one at a level of its own."""
        latents, small, texts = self._clips(step, generator)
        noisy_small, labels = self._noised(small, generator)
        kept = torch.rand(len(texts), generator=generator) >= UNCAPTIONED
        text = torch.where(kept[:, None, None].to(texts.device), texts, self._nothing())
        scheduler = self.parts.scheduler
        noise = torch.randn(latents.shape, generator=generator).to(latents)
        top = len(scheduler.alphas_cumprod)
        levels = torch.randint(top, (len(latents),), generator=generator).to(latents.device)
        noisy = scheduler.add_noise(latents, noise, levels)
        given = torch.cat([noisy, noisy_small], 1)
        with _half(latents.device, volume=self.volume):
            guess = self.predict(given, levels, text, labels)
        if scheduler.config.prediction_type == "epsilon":
            return mse_loss(guess.float(), noise)
        return mse_loss(guess.float(), scheduler.get_velocity(latents, noise, levels))

    def predict(self, given: Tensor, levels: Tensor, text: Tensor, labels: Tensor) -> Tensor:
        """What the network says."""
        seen: Tensor = self.weights(
            given, levels, encoder_hidden_states=text, class_labels=labels
        ).sample
        return seen

    def after(self, step: int, average: dict[str, Tensor]) -> None:
        """Nothing to do between steps."""

    def _noised(self, small: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The small clips with noise of a level drawn for each, and that level."""
        share = torch.rand(len(small), generator=generator) ** self.lean
        labels = (share * (NOISIEST + 1)).long().clamp_max(NOISIEST).to(small.device)
        noise = torch.randn(small.shape, generator=generator).to(small)
        return self.parts.noise.add_noise(small, noise, labels), labels

    def _nothing(self) -> Tensor:
        """The empty caption's embedding."""
        return self.parts.embed([""])

    def _clips(self, step: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Latents, small clips in [-1, 1] and captions.

        Clips of others are drawn anew for every step. Our own are kept for some steps, and every
        other time they are four times as many of half the size, which take as long.
        """
        if self.source is not None:
            made = self.source(self.batch, self.frames, self.size, generator)
            return self._seen(made, generator)
        number = step // REUSE
        if self._kept is None or self._kept[0] != number:
            own = torch.Generator().manual_seed(self.seed * 1_000_003 + 500_009 + number)
            scale = 1 + number % 2
            count, size = self.batch * 4 // scale**2, self.size * scale // 2
            made = examples(count, self.frames, size, own)
            self._kept = (number, *self._seen(made, own))
        return self._kept[1:]

    def _seen(self, made: Examples, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Examples as the network gets them, some of them with words of their quality."""
        share = torch.rand(len(made.captions), generator=generator).tolist()
        sharp, captions = made.sharp.clone(), []
        for i, (caption, drawn) in enumerate(zip(made.captions, share, strict=True)):
            if drawn < BLURRED:
                sharp[i] = _interpolated(made.small[i])
                captions.append(BAD)
            elif drawn < BLURRED + PRAISED:
                captions.append(", ".join(filter(None, (caption, GOOD))))
            else:
                captions.append(caption)
        latents = self.parts.latents(sharp)
        return latents, (made.small * 2 - 1).to(latents), self.parts.embed(captions)


def _interpolated(small: Float[Tensor, "3 f h w"]) -> Float[Tensor, "3 f H W"]:
    """Frames made larger without any detail."""
    large = interpolate(small.transpose(0, 1), scale_factor=FACTOR, mode="bicubic")
    return large.clamp(0, 1).transpose(0, 1)


class Texturing(_Denoising):
    """The image U-Net on single frames."""

    def __init__(
        self,
        parts: Upscaling,
        unet: UNet2DConditionModel,
        batch: int,
        seed: int = 0,
        lean: float = LEAN,
    ) -> None:
        """Set up the training.

        Args:
            parts: autoencoder, text encoder and tokenizer.
            unet: the U-Net, trained in place.
            batch: stills of full size a step; every other time four times as many, half as large.
            seed: of the stills.
            lean: how much levels of the low-resolution noise lean to the low ones; 1 is evenly.
        """
        network: Any = unet  # mypy and pyright disagree on this overload
        network.to(memory_format=torch.channels_last)
        super().__init__(parts, unet, batch, 1, SIZE, seed, None, lean)

    def predict(self, given: Tensor, levels: Tensor, text: Tensor, labels: Tensor) -> Tensor:
        """What the network says of single frames."""
        return super().predict(given[:, :, 0], levels, text, labels)[:, :, None]


class Steadying(_Denoising):
    """The temporal U-Net on clips: only what an image network does not have learns."""

    def __init__(
        self,
        parts: Upscaling,
        unet: TemporalUNet,
        batch: int,
        *,
        size: int | None = None,
        frames: int | None = None,
        seed: int = 0,
        source: Source | None = None,
    ) -> None:
        """Set up the training.

        Args:
            parts: autoencoder, text encoder and tokenizer.
            unet: the U-Net, whose temporal layers are trained in place.
            batch: clips of full size a step; every other time four times as many, half as large.
            size: height and width of the sharp frames; `SIZE` if left out.
            frames: frames of a clip; `CLIP_FRAMES` if left out.
            seed: of the clips.
            source: where the clips come from, all of full size; `examples` if left out.
        """
        unet.requires_grad_(False)
        for _, parameter in unet.temporal_parameters():
            parameter.requires_grad_(True)
        super().__init__(parts, unet, batch, frames or CLIP_FRAMES, size or SIZE, seed, source)
